"""kvctl inspect: what it says of files that a kvd wrote, of files that were damaged at known places, and what kvd then makes of them."""
import json
import os
import pathlib
import resource
import shutil
import subprocess

import pytest

import faultfs
from faultfs import FaultFs
from harness import BUILD, GIB, MIB, die_with_parent, kvctl, kvctl_json, make_newer

GOOD, WRONG, CANNOT = 0, 1, 2
BLOCK = 4096


def inspect(path, *args):
    """(exit status, the JSON object)."""
    done = kvctl("--json", "inspect", path, *args)
    assert done.returncode in (GOOD, WRONG), done
    return done.returncode, json.loads(done.stdout)


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x20]))


def offsets(told):
    return [item["offset"] for item in told["wrong"]]


SIZES = {b"a": 100, b"b/\x00\xff": 300_000, b"c": 0, b"hex:d": 5 * MIB}


@pytest.fixture
def stored(start):
    """A kvd with one segment of SIZES, and its wire."""
    kvd = start(segment_size="64m")
    wire = kvd.wire()
    for key, size in SIZES.items():
        wire.store(key, size)
    wire.sync()
    return kvd, wire


@pytest.fixture
def sealed(stored):
    """The same, stopped: its folder's files do not change any more."""
    kvd, _ = stored
    kvd.stop()
    return kvd.segments()[0]


def test_a_sealed_segment(sealed, stored):
    code, told = inspect(sealed)
    assert code == GOOD and told["good"] and told["wrong"] == [] and told["notes"] == []
    assert told["kind"] == "segment" and told["end"] == "sealed" and told["node"] == "n1" and told["file_bytes"] == sealed.stat().st_size
    assert [(record["key"], record["size"], record["state"]) for record in told["records"]] == [
        ("a", 100, "indexed"), ("hex:622f00ff", 300_000, "indexed"), ("c", 0, "indexed"), ("hex:6865783a64", 5 * MIB, "indexed")]
    assert told["found"] == told["indexed"] == 4 and told["walked"] == 0
    kvd, _ = stored
    kvd.start()
    stat = kvctl_json("stat", "hex:622f00ff", port=kvd.port)
    record = told["records"][1]
    assert (stat["version"], stat["checksum"], stat["size"]) == (record["version"], record["checksum"], record["size"])
    assert [r["offset"] for r in stat["replicas"] if r["type"] == "disk"] == [record["offset"]]


def test_for_people(sealed):
    done = kvctl("inspect", sealed)
    assert done.returncode == GOOD
    text = done.stdout.decode()
    assert "nothing is wrong with it" in text and "by its indexes" in text
    assert [line.split()[-1] for line in text.splitlines() if " indexed " in line] == ["a", "hex:622f00ff", "c", "hex:6865783a64"]
    assert kvctl("inspect", sealed, "--keys-only").stdout.split() == [b"a", b"hex:622f00ff", b"c", b"hex:6865783a64"]
    assert json.loads(kvctl("--json", "inspect", sealed, "--keys-only").stdout) == ["a", "hex:622f00ff", "c", "hex:6865783a64"]


def test_one_that_is_being_written(stored):
    kvd, wire = stored
    code, told = inspect(kvd.segments()[0])
    assert code == GOOD and told["end"].startswith("open")
    assert [record["state"] for record in told["records"]] == ["walked"] * 4
    assert f"walks on from {told['records'][0]['offset']} and finds 4 more" in told["at_start"]
    wire.store(b"e", 1000)
    wire.sync()
    assert inspect(kvd.segments()[0])[1]["found"] == 5


def test_a_damaged_value(sealed, stored):
    """What is said to be damaged is what kvd then refuses to serve, and nothing else."""
    _, before = inspect(sealed)
    large = before["records"][3]
    flip(sealed, large["offset"] + BLOCK + 3 * 256 * 1024 + 77)
    code, told = inspect(sealed)
    assert code == WRONG and not told["good"]
    assert offsets(told) == [large["offset"] + BLOCK + 3 * 256 * 1024] and "chunk 4 of 20" in told["wrong"][0]["text"]
    assert [record["state"] for record in told["records"]] == ["indexed"] * 3 + ["damaged"]
    assert inspect(sealed, "--no-verify")[0] == GOOD
    done = kvctl("inspect", sealed, "--keys-only")
    assert done.returncode == WRONG and b"hex:6865783a64" not in done.stdout and b"chunk 4" in done.stderr
    kvd, _ = stored
    kvd.start()
    wire = kvd.wire()
    wire.misses(b"hex:d")
    for key in (b"a", b"b/\x00\xff", b"c"):
        wire.holds(key, SIZES[key])


def test_a_damaged_header_and_index(sealed, stored):
    _, before = inspect(sealed)
    records = before["records"]
    flip(sealed, records[1]["offset"] + 50)
    code, told = inspect(sealed)
    assert code == WRONG and offsets(told) == [records[1]["offset"]] and "sum is wrong" in told["wrong"][0]["text"]
    assert told["records"][1]["key"] == "hex:622f00ff" and told["records"][1]["state"] == "damaged"
    # Without its index the walk ends at the damaged header: kvd finds the first one alone.
    flip(sealed, before["end_offset"] - BLOCK + 80)
    code, told = inspect(sealed)
    assert code == WRONG and told["bad_indexes"] == 1
    assert [(record["key"], record["state"]) for record in told["records"]] == [("a", "walked")]
    assert "cuts it there: the torn tail is gone" in told["at_start"] and told["end_offset"] == records[1]["offset"]
    kvd, _ = stored
    kvd.start()
    wire = kvd.wire()
    assert wire.figure("disk_objects") == 1
    wire.holds(b"a", 100)


def test_a_torn_tail(stored):
    kvd, wire = stored
    segment = kvd.segments()[0]
    last = inspect(segment)[1]["records"][3]
    kvd.kill()
    flip(segment, last["offset"] + 100)
    code, told = inspect(segment)
    assert code == WRONG and "the tail is torn here" in told["wrong"][0]["text"] and offsets(told) == [last["offset"]]
    assert f"last index at {last['offset']} and cuts it there" in told["at_start"]
    kvd.start()
    assert kvd.wire().figure("disk_objects") == 3
    kvd.stop()
    code, told = inspect(segment)
    assert code == GOOD and told["end"] == "sealed" and told["found"] == 3, "what kvd made of it"


def test_cut_off(sealed):
    _, before = inspect(sealed)
    for length in (0, 100, BLOCK, 5 * BLOCK, before["records"][3]["offset"] + MIB, sealed.stat().st_size - BLOCK, sealed.stat().st_size - 1):
        os.truncate(sealed, length)
        code, told = inspect(sealed)
        assert code == WRONG and told["wrong"]
        os.truncate(sealed, before["file_bytes"])  # zeros now: it is damaged all the same
        assert inspect(sealed)[0] == WRONG


def test_another_format_or_name(sealed):
    copy = sealed.with_name("00000000000000aa.seg")
    shutil.copy(sealed, copy)
    code, told = inspect(copy)
    assert code == WRONG and offsets(told) == [8] and told["at_start"] == "kvd leaves it alone"
    make_newer(sealed)
    code, told = inspect(sealed)
    assert code == WRONG and "newer format" in told["wrong"][0]["text"] and told["at_start"] == "kvd leaves it alone"


def test_the_small_files(stored):
    kvd, wire = stored
    assert wire.remove(b"a", b"c") == 2
    kvd.stop()
    code, told = inspect(next(kvd.folder().glob("removes-*.log")))
    assert code == GOOD and told["kind"] == "remove log"
    assert sorted((entry["kind"], entry["name"]) for entry in told["entries"]) == [("key", "a"), ("key", "c")]
    code, told = inspect(kvd.folder() / "node")
    assert code == GOOD and told["kind"] == "node file" and told["node"] == "n1" and told["cluster"] == "kvd"
    assert told["ceiling"] >= max(record["version"] for record in inspect(kvd.segments()[0])[1]["records"])
    flip(kvd.folder() / "node", 10)
    code, told = inspect(kvd.folder() / "node")
    assert code == WRONG and offsets(told) == [0] and told["node"] == "n1", "the other copy is good"


def test_an_object_with_a_file_of_its_own(start, folder):
    kvd = start(segment_size="0")
    wire = kvd.wire()
    wire.store(b"one", 700_000)
    wire.sync()
    path = pathlib.Path(kvctl("locate", "one", "--dir", kvd.data).stdout.decode().strip())
    code, told = inspect(path)
    assert code == GOOD and not told["notes"] and told["kind"] == "object" and told["at_start"] == "kvd finds it"
    assert [(record["key"], record["size"], record["state"]) for record in told["records"]] == [("one", 700_000, "alone")]
    shutil.copy(path, folder / path.name.replace(path.name[0], "0" if path.name[0] != "0" else "1"))
    code, told = inspect(next(folder.glob("?" * 32)))
    assert code == WRONG and "is not that of its key" in told["wrong"][0]["text"]
    kvd.stop()
    flip(path, BLOCK + 300_000)
    code, told = inspect(path)
    assert code == WRONG and "chunk 2 of 3" in told["wrong"][0]["text"]
    kvd.start()
    kvd.wire().misses(b"one")


@pytest.mark.skipif(faultfs.why_not() is not None, reason=str(faultfs.why_not()))
def test_on_a_disk_that_fails(stack, start, folder):
    """What cannot be read is said, at its offset; the rest is judged."""
    fs = stack.enter_context(FaultFs(folder))
    kvd = start(data=fs.point / "data")
    wire = kvd.wire()
    for number in range(4):
        wire.store(b"k%d" % number, 50_000)
    kvd.stop()
    [segment] = kvd.segments()
    assert inspect(segment)[0] == GOOD
    fs.remount()
    fs.add("op=read err=EIO")
    assert kvctl("inspect", segment).returncode == CANNOT
    fs.remount()
    fs.clear()
    fs.add("op=read err=EIO nth=2")
    code, told = inspect(segment)
    assert code == WRONG and "input/output error" in json.dumps(told["wrong"]).lower()


def test_on_bindfs(start, bindfs):
    kvd = start(data=bindfs.point / "data")
    kvd.wire().store(b"key", 3 * MIB)
    kvd.stop()
    code, told = inspect(kvd.segments()[0])
    assert code == GOOD and told["found"] == 1


def test_what_cannot_be_inspected(folder):
    (folder / "text").write_text("hello\n")
    os.mkfifo(folder / "fifo")
    for path, why in ((folder / "text", "no file of kvd's"), (folder / "none", "no such file"), (folder, "not an ordinary file"),
                      (folder / "fifo", "not an ordinary file")):
        done = kvctl("inspect", path)
        assert done.returncode == CANNOT and why in done.stderr.decode().lower(), done
        done = kvctl("--json", "inspect", path)
        assert done.returncode == CANNOT and json.loads(done.stdout)["exit"] == CANNOT
    assert kvctl("inspect").returncode == CANNOT


def test_memory_is_bounded(sealed, folder):
    """A file of 64 GiB with a header that says so, and one slot of each kind damaged: read with little memory."""
    path = folder / "0000000000000001.seg"
    shutil.copy(sealed, path)
    os.truncate(path, 64 * GIB)

    def limit():
        die_with_parent()
        resource.setrlimit(resource.RLIMIT_AS, (200 * MIB, 200 * MIB))

    if "asan" in str(BUILD) or "tsan" in str(BUILD):
        pytest.skip("sanitizers need address space")
    done = subprocess.run([str(BUILD / "kvctl"), "--json", "inspect", "--no-verify", str(path)], capture_output=True, preexec_fn=limit, check=False)
    told = json.loads(done.stdout)
    assert done.returncode == WRONG and told["found"] == 4
    assert "longer than its header allows" in " ".join(item["text"] for item in told["wrong"])


def test_many_segments_and_indexes(start):
    """Several indexes in a segment, and records of every shape: nothing is wrong with what kvd writes."""
    kvd = start(segment_size="64m", disk="512m")
    wire = kvd.wire()
    for number in range(200):
        wire.store(b"x/%d" % number, [0, 1, 3000, 4096, 70_000, 256 * 1024, 256 * 1024 + 1, MIB][number % 8])
    for number in range(150):
        wire.store(b"y/%d" % number, MIB - 100)
    wire.remove_prefix(b"x/1")
    kvd.stop()
    found = 0
    for segment in kvd.segments():
        code, told = inspect(segment)
        assert code == GOOD, told["wrong"]
        assert told["indexes"] > 1 or len(told["records"]) < 20
        found += told["found"]
    assert found == 350
