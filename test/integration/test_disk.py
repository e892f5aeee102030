"""The disk tier: what survives what, and what is never served."""
import contextlib
import random
import shutil
import subprocess
import threading
import time

import pytest

import harness
from harness import (ADMIN, BUSY, GET, IO_ERROR, KIB, MIB, NO_SPACE, NOT_FOUND, OK, PING, PRESENT, PUT, REMOVE, SANITIZED, TIMEOUT, value_of,
                     wait_until)


FILE_SYSTEMS = ["local", "bindfs", "faultfs"]


def keys_of(name, count):
    return [b"%s-%04d" % (name, i) for i in range(count)]


SIZES = [0, 1, 100, 4095, 4096, 5000, 64 * KIB, 256 * KIB, 256 * KIB + 1, MIB + 17, 3 * MIB]


def store_sizes(wire, name=b"size", **meta):
    sizes = {b"%s-%d" % (name, size): size for size in SIZES}
    for key, size in sizes.items():
        wire.store(key, size, **meta)
    return sizes


# ---- P5, P7: what survives ----


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_what_is_synced_survives(kvd, how):
    wire = kvd.wire()
    sizes = store_sizes(wire)
    versions = {key: wire.stat(key)["version"] for key in sizes}
    wire.sync()
    wire = kvd.restart(how).wire()
    assert wire.exists(list(sizes)) == b"\2" * len(sizes)
    for key, size in sizes.items():
        got = wire.holds(key, size)
        assert got.meta["tier"] == "disk" and got.meta["version"] == versions[key]


def test_sigterm_writes_what_is_queued(kvd):
    wire = kvd.wire()
    sizes = store_sizes(wire)
    wire = kvd.restart().wire()
    for key, size in sizes.items():
        wire.holds(key, size)


@pytest.mark.parametrize("persist", ["write-through", "on-evict", "second-touch", "none"])
@pytest.mark.parametrize("number", range(3))
def test_ack_disk_survives_kill_9(start, persist, number):
    kvd = start(args=["--persist", persist])
    wire = kvd.wire()
    for key in keys_of(b"before", 5 * number):
        wire.store(key, 10_000)
    sizes = store_sizes(wire, b"acked", ack="disk")
    wire = kvd.restart("kill").wire()
    for key, size in sizes.items():
        wire.holds(key, size)


@pytest.mark.parametrize("persist", ["write-through", "on-evict", "second-touch", "none"])
def test_ack_disk_of_a_present_object_survives_kill_9(start, persist):
    kvd = start(args=["--persist", persist])
    wire = kvd.wire()
    for size in SIZES:
        assert wire.put(b"p-%d" % size, value_of(b"p-%d" % size, size)).code == OK
        assert wire.put(b"p-%d" % size, b"others", ack="disk").code == PRESENT
    wire = kvd.restart("kill").wire()
    for size in SIZES:
        wire.holds(b"p-%d" % size, size)


def test_an_acknowledged_put_is_there_or_counted_after_sigterm(start):
    """Nothing is on disk with persist none, and a SIGTERM keeps it so."""
    kvd = start(args=["--persist", "none"])
    wire = kvd.wire()
    wire.store(b"k", 10_000)
    wire = kvd.restart().wire()
    wire.misses(b"k")


def test_many_restarts(kvd):
    sizes = {}
    for turn in range(6):
        wire = kvd.wire()
        for key in keys_of(b"turn-%d" % turn, 10):
            wire.store(key, 50_000 + turn)
            sizes[key] = 50_000 + turn
        wire.sync()
        kvd.restart("kill" if turn % 2 else "stop")
    wire = kvd.wire()
    for key, size in sizes.items():
        wire.holds(key, size)
    assert len(wire.scan()) == 60


def test_versions_go_on_after_kill_9(kvd):
    wire = kvd.wire()
    before = [wire.put(b"k", b"%d" % i, replace=True).meta["version"] for i in range(50)]
    assert before == sorted(set(before))
    wire = kvd.restart("kill").wire()
    assert wire.put(b"other", b"1").meta["version"] > before[-1]


# ---- P3, P4: what never comes back ----


@pytest.mark.parametrize("settled", [True, False])
def test_a_replaced_value_never_comes_back(kvd, settled):
    wire = kvd.wire()
    keys = keys_of(b"k", 40)
    for key in keys:
        wire.store(key, 20_000)
    if settled:
        wire.sync()
    for key in keys:
        assert wire.put(key, b"new " + key, replace=True).code == OK
    wire = kvd.restart("kill").wire()
    for key in keys:
        got = wire.get(key)
        assert got.code == NOT_FOUND or got.body == b"new " + key


def test_a_replace_acknowledged_by_the_disk_is_there(kvd):
    wire = kvd.wire()
    keys = keys_of(b"k", 20)
    for key in keys:
        wire.store(key, 20_000, ack="disk")
    for key in keys:
        assert wire.put(key, b"new " + key, replace=True, ack="disk").code == OK
    wire = kvd.restart("kill").wire()
    assert [wire.get(key).body for key in keys] == [b"new " + key for key in keys]


def remove_by(wire, how, keys):
    if how == "key":
        assert wire.remove(*keys) == len(keys)
    elif how == "prefix":
        assert wire.remove_prefix(b"gone") == len(keys)
    else:
        wire.remove_all()


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("how", ["key", "prefix", "all"])
def test_what_is_removed_never_comes_back(kvd, how, settled):
    wire = kvd.wire()
    gone, kept = keys_of(b"gone", 40), keys_of(b"kept", 10)
    for key in gone + kept:
        wire.store(key, 20_000)
    if settled:
        wire.sync()
    remove_by(wire, how, gone)
    wire = kvd.restart("kill").wire()
    assert not any(wire.exists(gone))
    for key in gone:
        wire.misses(key)
    if settled and how != "all":
        for key in kept:
            wire.holds(key, 20_000)
    assert not {item["key"] for item in wire.scan()} & set(gone)


def test_a_put_after_a_remove_stays(kvd):
    wire = kvd.wire()
    for turn in range(5):
        for how in ("key", "prefix", "all"):
            wire.store(b"gone-1", 1000 + turn, ack="disk")
            remove_by(wire, how, [b"gone-1"])
    wire.store(b"gone-1", 7777, ack="disk")
    wire = kvd.restart("kill").wire()
    wire.holds(b"gone-1", 7777)
    wire.remove(b"gone-1")
    wire = kvd.restart("kill").wire()
    wire.misses(b"gone-1")


@pytest.mark.limit(200)
def test_kill_9_at_once_after_each_acknowledgement(kvd):
    """A long life of puts, replaces and removes, each kind followed by a kill now and then: whatever was acknowledged holds."""
    rng = random.Random(11)
    keys = keys_of(b"life", 12)
    newest = {}  # key: the value that alone may be served; absent: none may
    durable = {}
    number = 0
    for turn in range(6 if SANITIZED else 20):
        wire = kvd.wire()
        for _ in range(rng.randrange(1, 25)):
            key, number = rng.choice(keys), number + 1
            if rng.random() < 0.3:
                wire.remove(key)
                newest.pop(key, None)
                durable.pop(key, None)
                continue
            value = value_of(b"%d" % number, rng.choice((10, 5000, 100_000)))
            ack = rng.choice(("memory", "disk"))
            assert wire.put(key, value, replace=True, ack=ack).code == OK
            newest[key] = value
            durable.pop(key, None)
            if ack == "disk":
                durable[key] = value
        wire = kvd.restart("kill").wire()
        for key in keys:
            got = wire.get(key)
            if got.code == NOT_FOUND:
                assert key not in durable, f"turn {turn}: {key} was on disk"
                newest.pop(key, None)
            else:
                assert got.body == newest.get(key), f"turn {turn}: {key} came back from the dead"


def test_removes_while_writes_are_under_way(kvd):
    wire = kvd.wire()
    keys = keys_of(b"k", 200)
    for start in range(0, 200, 20):
        ids = []
        for key in keys[start:start + 20]:
            ids.append(wire.send(PUT, {"key": key}, value_of(key, 100_000)))
            ids.append(wire.send(REMOVE, {"keys": [key]}))
        for ident in ids:
            assert wire.reply(ident).code == OK
    assert not any(wire.exists(keys))
    wire = kvd.restart("kill").wire()
    assert not any(wire.exists(keys)) and wire.scan() == []


# ---- damage: never a wrong byte, never a removed object ----


@pytest.fixture(scope="module")
def original():
    """A directory with some of everything: sealed and torn segments, their indexes, removes of each kind, replaces."""
    with harness.Kvd(segment_size="1m") as kvd:
        wire = kvd.wire()
        sizes = {}
        for key in keys_of(b"old", 12):
            wire.store(key, 30_000, ack="disk")
            sizes[key] = 30_000
        for key in keys_of(b"gone", 3) + [b"dead-1", b"dead-2", b"live-1"]:
            wire.store(key, 9_000, ack="disk")
        wire.ok(ADMIN, {"action": "seal"})
        wire.remove(*keys_of(b"gone", 3))
        wire.remove_prefix(b"dead")
        assert wire.put(b"live-1", value_of(b"live-1", 5_000), replace=True, ack="disk").code == OK
        sizes[b"live-1"] = 5_000
        for key in keys_of(b"new", 40):
            wire.store(key, 30_000, ack="disk")
            sizes[key] = 30_000
        gone = keys_of(b"gone", 3) + [b"dead-1", b"dead-2"]
        folder = kvd.folder().relative_to(kvd.data)
        kvd.kill()
        yield kvd.data, folder, sizes, gone


def copy_of(original, kvd):
    data, folder, sizes, gone = original
    shutil.copytree(data, kvd.data, symlinks=True)
    return kvd.data / folder, sizes, gone


def flip(path, offset, mask=0x40):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def judge_damaged(kvd, sizes, gone):
    """How many objects are still served; all of them must be right, and none a removed one."""
    wire = kvd.wire()
    there = sum(1 for key, size in sizes.items() if wire.holds_or_misses(key, size))
    for key in gone:
        wire.misses(key)
    assert not any(wire.exists(gone))
    assert wire.call(PING).code == OK
    wire.store(b"afterwards", 10_000)
    wire.holds(b"afterwards", 10_000)
    return there


def interesting_offsets(path, rng, count):
    """Places in a file: its head, its end, and by chance, with a liking for 4 KiB blocks that are not zero."""
    data = path.read_bytes()
    size = len(data)
    if size == 0:
        return []
    picked = {0, 4, 8, 16, size // 2, size - 1}
    blocks = [at for at in range(0, size, 4096) if data[at:at + 4096].strip(b"\0")]
    while len(picked) < min(count, size) and blocks:
        at = rng.choice(blocks)
        used = len(data[at:at + 4096].rstrip(b"\0"))
        picked.add(at + rng.randrange(min(used, 300) if rng.random() < 0.6 else used))
    return sorted(offset for offset in picked if offset < size)


def files_of(original):
    data, folder, _, _ = original
    return sorted(path.relative_to(data / folder) for path in (data / folder).iterdir() if path.is_file())


@pytest.mark.limit(300)
def test_a_flipped_byte_anywhere(original, start, file_system):
    """Each file of the node, byte after byte by chance: headers, indexes, keys, values, the remove log, the node file."""
    rng = random.Random(5)
    names = files_of(original)
    assert any(name.suffix == ".seg" for name in names) and len(names) > 2
    started = 0
    for name in names:
        count = (3 if name.suffix == ".seg" else 8) if SANITIZED or file_system else (14 if name.suffix == ".seg" else 40)
        for offset in interesting_offsets(original[0] / original[1] / name, rng, count):
            kvd = start(start=False, segment_size="1m")
            folder, sizes, gone = copy_of(original, kvd)
            flip(folder / name, offset, rng.choice((1, 0x40, 0x80, 0xFF)))
            kvd.spawn()
            wait_until(lambda: kvd.port_file.exists() or kvd.process.poll() is not None, "the start")
            if kvd.process.poll() is None:
                kvd.port = int(kvd.port_file.read_text())
                judge_damaged(kvd, sizes, gone)
                started += 1
            else:
                assert kvd.process.returncode > 0, f"{name} at {offset}: {kvd.log()}"
            kvd.fini()
    assert started > 0


def test_the_undamaged_directory_is_served_whole(original, start):
    kvd = start(start=False, segment_size="1m")
    _, sizes, gone = copy_of(original, kvd)
    kvd.start()
    assert judge_damaged(kvd, sizes, gone) == len(sizes)


def test_a_byte_flipped_in_each_value(start):
    """While it runs and after a restart: a miss with its reason, counted, and a new put of the key is served."""
    kvd = start(memory="32m")
    wire = kvd.wire()
    keys = keys_of(b"v", 8)
    for key in keys:
        wire.store(key, 600_000, ack="disk")
    kvd.stop()
    [segment] = kvd.segments()
    data = segment.read_bytes()
    for number, key in enumerate(keys):
        at = data.index(value_of(key, 600_000)[:64])
        flip(segment, at + number * 85_000)
    wire = kvd.start().wire()
    for key in keys:
        got = wire.misses(key)
        assert isinstance(got.meta.get("reason"), str)
    assert not any(wire.exists(keys)), "a replica that is wrong is dropped"
    for key in keys:
        assert wire.put(key, value_of(key, 600_000), ack="disk").code == OK
        wire.holds(key, 600_000)
    wire = kvd.restart("kill").wire()
    for key in keys:
        wire.holds(key, 600_000)


def test_a_range_of_a_damaged_value(start):
    """A range may be checked without the rest, but never served wrong."""
    kvd = start(memory="32m")
    wire = kvd.wire()
    size = 3 * MIB
    wire.store(b"k", size, ack="disk")
    kvd.stop()
    [segment] = kvd.segments()
    flip(segment, segment.read_bytes().index(value_of(b"k", size)[:64]) + 2 * MIB + 5)
    wire = kvd.start().wire()
    whole = value_of(b"k", size)
    for offset, length in ((0, 1000), (MIB, MIB), (2 * MIB, 100), (0, size)):
        got = wire.get(b"k", offset=offset, length=length)
        assert got.code == NOT_FOUND or got.body == whole[offset:offset + length]
    wire.misses(b"k")


@pytest.mark.limit(200)
def test_a_torn_tail(original, start):
    """The newest segment cut at any length, as a crash would leave it."""
    rng = random.Random(9)
    newest = [name for name in files_of(original) if name.suffix == ".seg"][-1]
    length = (original[0] / original[1] / newest).stat().st_size
    cuts = [0, 1, 4095, 4096, 8192, length - 1] + [rng.randrange(length) for _ in range(3 if SANITIZED else 10)]
    for cut in cuts:
        kvd = start(start=False, segment_size="1m")
        folder, sizes, gone = copy_of(original, kvd)
        with open(folder / newest, "r+b") as file:
            file.truncate(cut)
        kvd.start()
        there = judge_damaged(kvd, sizes, gone)
        assert there >= 12, "what lies in other segments is served"
        kvd.fini()


def test_a_tail_of_garbage(original, start):
    rng = random.Random(10)
    newest = [name for name in files_of(original) if name.suffix == ".seg"][-1]
    for _ in range(3):
        kvd = start(start=False, segment_size="1m")
        folder, sizes, gone = copy_of(original, kvd)
        with open(folder / newest, "r+b") as file:
            data = file.read()
            used = len(data.rstrip(b"\0"))
            file.seek((used + 4095) // 4096 * 4096)
            file.write(rng.randbytes(20_000))
        kvd.start()
        assert judge_damaged(kvd, sizes, gone) == len(sizes)
        kvd.fini()


def test_a_value_that_contains_whole_forged_records(kvd):
    """A value made of the bytes of real segments, cut off in the middle: nothing in it is taken for a record."""
    wire = kvd.wire()
    for key in keys_of(b"victim", 4):
        wire.store(key, 5_000, ack="disk")
    wire.remove(*keys_of(b"victim", 4))
    [segment] = kvd.segments()
    forged = segment.read_bytes()
    forged = forged[:(len(forged.rstrip(b"\0")) + 4095) // 4096 * 4096]
    wire.store(b"before", 5_000, ack="disk")
    assert wire.put(b"carrier", forged * 3, ack="disk").code == OK
    assert wire.put(b"torn", forged * 20).code == OK
    kvd.settle(wire)
    kvd.kill()
    [segment] = kvd.segments()
    data = segment.read_bytes()
    where = data.rindex(forged[:4096])
    with open(segment, "r+b") as file:
        file.truncate(where - 4096)  # into the value of "torn", so that a forged record comes last
    wire = kvd.start().wire()
    assert not any(wire.exists(keys_of(b"victim", 4)))
    wire.misses(b"torn")
    wire.holds(b"before", 5_000)
    assert wire.get(b"carrier").body == forged * 3


def test_segments_in_anothers_place(original, start):
    """Two segments that have changed names, and one that is there twice: what is served is right."""
    kvd = start(start=False, segment_size="1m")
    folder, sizes, gone = copy_of(original, kvd)
    names = sorted(folder.glob("*.seg"))
    shutil.copy(names[0], folder / "copy.tmp")
    names[1].rename(names[0])
    (folder / "copy.tmp").rename(names[1])
    kvd.start()
    judge_damaged(kvd, sizes, gone)


def test_a_segment_of_a_newer_format_is_left_alone(original, start):
    kvd = start(start=False, segment_size="1m")
    folder, sizes, gone = copy_of(original, kvd)
    first = sorted(folder.glob("*.seg"))[0]
    harness.make_newer(first)
    before = first.read_bytes()
    kvd.start()
    judge_damaged(kvd, sizes, gone)
    wire = kvd.wire()
    for key in keys_of(b"more", 20):
        wire.store(key, 100_000)
    kvd.stop()
    assert first.read_bytes() == before
    assert "newer" in kvd.log(), "and it says so"


FOREIGN = ["README", "core.1234", "0000000000000001.seg.bak", "notes.seg", "00.seg", ".hidden", "zzzzzzzzzzzzzzzz.seg", "0000000000009999.tmp"]


def test_foreign_files_are_left_alone(original, start):
    kvd = start(start=False, segment_size="1m")
    folder, sizes, gone = copy_of(original, kvd)
    for name in FOREIGN:
        (folder / name).write_bytes(b"not kvd's: " + name.encode())
    (folder / "a-folder").mkdir()
    (folder / "a-folder" / "inside").write_bytes(b"x")
    (folder / "a-link.seg").symlink_to("/etc/passwd")
    (kvd.data / "beside").write_bytes(b"y")
    kvd.start()
    assert judge_damaged(kvd, sizes, gone) == len(sizes)
    kvd.stop()
    for name in FOREIGN:
        assert (folder / name).read_bytes() == b"not kvd's: " + name.encode()
    assert (folder / "a-folder" / "inside").read_bytes() == b"x" and (folder / "a-link.seg").is_symlink()
    assert (kvd.data / "beside").read_bytes() == b"y"


def test_a_segment_that_vanishes_while_it_runs(start):
    """As when somebody cleans up: what memory holds is served, the rest is a miss."""
    kvd = start(memory="16m", segment_size="4m")
    wire = kvd.wire()
    keys = keys_of(b"k", 60)
    for key in keys:
        wire.store(key, 500_000)
    wire.sync()
    for path in kvd.segments():
        path.unlink()
    for key in keys:
        wire.holds_or_misses(key, 500_000)
    for key in keys_of(b"new", 60):
        wire.store(key, 500_000)
    wire.holds(b"new-0059", 500_000)


def test_a_segment_cut_short_while_it_runs(start):
    kvd = start(memory="16m", segment_size="4m")
    wire = kvd.wire()
    keys = keys_of(b"k", 60)
    for key in keys:
        wire.store(key, 500_000)
    wire.sync()
    for path in kvd.segments():
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size // 2)
    there = sum(1 for key in keys if wire.holds_or_misses(key, 500_000))
    assert 0 < there < 60


# ---- the bound ----


def test_the_limit_bounds_what_the_directory_takes(start):
    kvd = start(memory="16m", disk="64m", segment_size="8m")
    wire = kvd.wire()
    keys = keys_of(b"k", 400)
    largest, ended = [0], threading.Event()

    def watch():
        while not ended.wait(0.01):
            largest[0] = max(largest[0], kvd.disk_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for key in keys:
            wire.store(key, 500_000)
        wire.sync()
    finally:
        ended.set()
        watcher.join()
    assert largest[0] <= 64 * MIB, f"{largest[0] / MIB} MiB"
    assert wire.figure("disk_used") <= 64 * MIB
    present = wire.exists(keys)
    kept = sum(1 for byte in present if byte)
    assert kept >= 60 and all(present[400 - 40:]), "the oldest went"
    assert 400 == kept + sum(wire.dropped().values()), "and were counted"
    wire = kvd.restart("kill").wire()
    for key, byte in zip(keys, present):
        if byte & 2:
            wire.holds(key, 500_000)
        else:
            wire.holds_or_misses(key, 500_000)
    for key in keys_of(b"again", 100):
        wire.store(key, 500_000)
    wire.sync()
    assert kvd.disk_bytes() <= 64 * MIB


def test_a_smaller_limit_after_a_restart(start):
    kvd = start(memory="16m", disk="64m", segment_size="8m")
    wire = kvd.wire()
    for key in keys_of(b"k", 100):
        wire.store(key, 500_000)
    wire.sync()
    kvd.options["--disk"] = "32m"
    wire = kvd.restart().wire()
    wait_until(lambda: kvd.disk_bytes() <= 32 * MIB, "the directory to shrink")
    for key in keys_of(b"new", 50):
        wire.store(key, 500_000)
    wire.sync()
    assert kvd.disk_bytes() <= 32 * MIB
    wire.holds(b"new-0049", 500_000)


def test_segments_without_a_live_record_go(start):
    kvd = start(segment_size="4m")
    wire = kvd.wire()
    for key in keys_of(b"k", 60):
        wire.store(key, 500_000)
    wire.sync()
    before = len(kvd.segments())
    assert before >= 7
    wire.remove_all()
    wait_until(lambda: len(kvd.segments()) <= 1, "the segments to go")


# ---- P8, P9: a slow disk ----


def test_a_full_write_queue_answers_busy(start, bindfs):
    kvd = start(data=bindfs.point / "data", memory="64m", args=["--write-queue", "8m"])
    wire, lookups = kvd.wire(), kvd.wire()
    wire.store(b"first", MIB)
    wire.sync()
    bindfs.freeze()
    stored, busy = [], None
    for number in range(60):
        key = b"k-%d" % number
        got = wire.put(key, value_of(key, MIB))
        if got.code == BUSY:
            busy = got
            break
        assert got.code == OK
        stored.append(key)
    assert busy, "a queue of 8 MiB took 60 MiB"
    assert isinstance(busy.meta["retry_after_ms"], int) and busy.meta["retry_after_ms"] > 0
    assert len(stored) <= 40
    began = time.monotonic()
    for key in stored:
        lookups.holds(key, MIB)
    lookups.match(stored)
    assert time.monotonic() - began < 5, "memory keeps its latency"
    wire.misses(b"k-%d" % len(stored))
    bindfs.thaw()
    wire.store(b"k-%d" % len(stored), MIB)
    wire.sync()
    for key in stored:
        wire.holds(key, MIB)


def test_a_get_from_a_hung_disk_times_out(start, bindfs):
    kvd = start(data=bindfs.point / "data", memory="16m")
    wire, other = kvd.wire(), kvd.wire()
    keys = keys_of(b"k", 40)
    for key in keys:
        wire.store(key, MIB)
    wire.sync()
    assert wire.exists(keys[:1]) == b"\2"
    bindfs.freeze()
    began = time.monotonic()
    got = wire.get(keys[0], timeout_ms=300)
    assert got.code in (TIMEOUT, NOT_FOUND) and 0.2 < time.monotonic() - began < 5
    other.holds(keys[-1], MIB)
    bindfs.thaw()
    wire.holds(keys[0], MIB)


def test_a_frozen_disk_does_not_stall_lookups(start, bindfs):
    kvd = start(data=bindfs.point / "data", memory="16m")
    wire, other = kvd.wire(), kvd.wire()
    keys = keys_of(b"k", 40)
    for key in keys:
        wire.store(key, MIB)
    wire.sync()
    bindfs.freeze()
    pending = [wire.send(GET, {"key": key}) for key in keys[:4]]
    slowest = 0.0
    for _ in range(100):
        began = time.monotonic()
        assert all(other.exists(keys))
        slowest = max(slowest, time.monotonic() - began)
    bindfs.thaw()
    assert slowest < 1
    for ident, key in zip(pending, keys):
        wire.judge(key, MIB, wire.reply(ident))


# ---- the directory ----


def test_a_directory_that_a_running_kvd_holds(kvd, start):
    wire = kvd.wire()
    wire.store(b"k", 10_000, ack="disk")
    second = start(data=kvd.data, start=False)
    second.spawn()
    assert second.wait() > 0
    assert len(second.log().strip().splitlines()) <= 3 and str(kvd.data) in second.log()
    wire.holds(b"k", 10_000)
    wire = kvd.restart("kill").wire()
    wire.holds(b"k", 10_000)


def test_two_nodes_share_a_directory(kvd, start):
    second = start(data=kvd.data, start=False)
    second.options["--node"] = "n2"
    second.start()
    one, two = kvd.wire(), second.wire()
    one.store(b"one", 10_000, ack="disk")
    two.store(b"two", 10_000, ack="disk")
    two.misses(b"one")
    assert {path.parent.name for path in kvd.data.rglob("*.seg")} == {"n1", "n2"}


def test_keys_are_not_in_file_names(kvd):
    wire = kvd.wire()
    wire.store(b"secret-name", 10_000, ack="disk")
    assert not [path for path in kvd.data.rglob("*") if "secret" in path.name]


def test_files_are_private(kvd):
    kvd.wire().store(b"k", 10_000, ack="disk")
    for path in [kvd.folder(), *kvd.folder().iterdir()]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_segments_are_cut_to_their_length_at_the_end(kvd):
    wire = kvd.wire()
    wire.store(b"k", 10_000)
    kvd.stop()
    [segment] = kvd.segments()
    assert 10_000 < segment.stat().st_size < 100_000


@contextlib.contextmanager
def small_mount(folder, room):
    """tmpfs of so many bytes: ENOSPC, long before kvd's own limit."""
    mount = folder / "small"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(mount)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=False)


def test_a_file_system_that_is_full(start, folder):
    """A smaller cache, not a wrong one."""
    with small_mount(folder, "6m") as mount:
        kvd = start(data=mount / "data", memory="64m", segment_size="4m")
        wire = kvd.wire()
        keys = keys_of(b"k", 40)
        for key in keys:
            wire.store(key, 500_000)
        for key in keys:
            wire.holds(key, 500_000)
        assert wire.put(b"durable", bytes(5 * MIB), ack="disk").code in (NO_SPACE, BUSY, IO_ERROR), "not OK: it cannot be on disk"
        kvd.kill()
        wire = kvd.start().wire()
        for key in keys:
            wire.holds_or_misses(key, 500_000)
        kvd.kill()


def test_a_full_file_system_gives_up_its_oldest_segment(start, folder):
    """It goes on writing, as it does at its own limit, and fills the file system no further than it must."""
    with small_mount(folder, "40m") as mount:
        kvd = start(data=mount / "data", memory="32m", segment_size="8m", disk="1g")
        wire = kvd.wire()
        keys = keys_of(b"k", 200)
        for key in keys:
            wire.store(key, 300_000)
        kvd.settle(wire)
        assert wire.info("disk")["disk"]["reclaimed_segments_total"] > 0
        assert wire.info("disk")["disk"]["trouble"] == ""
        assert all(wire.exists(keys[-20:])), "what came last is there"
        assert shutil.disk_usage(mount).free >= MIB, "the remove log has room"
        assert wire.put(b"last", value_of(b"last", 300_000), ack="disk").code == OK
        kvd.kill()
        wire = kvd.start().wire()
        wire.holds(b"last", 300_000)
        assert wire.remove_all() > 0
        wait_until(lambda: wire.info("disk")["disk"]["used_bytes"] <= 8 * MIB, "the segments to go")
        kvd.stop()


def test_no_room_at_all_is_said(start, folder):
    """No segment fits: everything stays in memory, sync says so, and the last line of the log counts what is lost."""
    with small_mount(folder, "6m") as mount:
        kvd = start(data=mount / "data", memory="64m", segment_size="16m")
        wire = kvd.wire()
        for key in keys_of(b"k", 5):
            wire.store(key, 10_000)
        for _ in range(2):
            assert wire.call(ADMIN, {"action": "sync"}).code == IO_ERROR, "each time, not only the first"
        assert wire.info("disk")["disk"]["trouble"] == "No space left on device"
        assert wire.info("dropped")["dropped"]["unwritten_full_total"] >= 5
        kvd.stop()
        assert "event=stopped" in kvd.log() and "not_on_disk=5" in kvd.log()
        assert kvd.log().count("event=cannot_write") == 1, "said once, however often it was tried"


def test_sync_writes_what_is_in_memory_alone(start, folder):
    """Its segment was given up while it was in memory; there is room again, and sync finds it."""
    with small_mount(folder, "6m") as mount:
        ballast = mount / "ballast"
        ballast.write_bytes(bytes(3 * MIB))
        kvd = start(data=mount / "data", memory="64m", segment_size="4m")
        wire = kvd.wire()
        for key in keys_of(b"k", 5):
            wire.store(key, 10_000)
        assert wire.call(ADMIN, {"action": "sync"}).code == IO_ERROR
        ballast.unlink()
        wait_until(lambda: wire.call(ADMIN, {"action": "sync"}).code == OK, "the disk to be tried again", timeout_s=20)
        kvd.kill()
        wire = kvd.start().wire()
        for key in keys_of(b"k", 5):
            wire.holds(key, 10_000)
        kvd.stop()
