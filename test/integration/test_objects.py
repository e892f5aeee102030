"""A file for each object (--segment-size 0): one host, then two that share a directory (--probe)."""
import contextlib
import pathlib
import time

import pytest
import xxhash

import faultfs
from faultfs import FaultFs
from harness import ADMIN, KIB, MIB, OK, PRESENT, PUT, Kvd, kvctl, value_of, wait_until

# docs/operations.md: an object that another host has removed or replaced is served no longer than this, and than the file system takes
# to show it.
CHECK_S = 3
SLACK_S = 1.5


def object_path(data, key):
    name = xxhash.xxh3_128_hexdigest(key)
    return pathlib.Path(data) / "kvd" / "objects" / name[:2] / name


def objects_of(data):
    return sorted(path.name for path in (pathlib.Path(data) / "kvd" / "objects").rglob("*") if path.is_file())


def bytes_in(folder):
    """What its files have in bytes; one that goes meanwhile counts nothing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


@contextlib.contextmanager
def node(name, data=None, args=(), **options):
    with Kvd(segment_size="0", data=data, args=args, start=False, **options) as kvd:
        kvd.options["--node"] = name
        yield kvd.start()


def dropped(wire):
    return wire.info("dropped")["dropped"]


# ---- one host ----


def test_each_object_is_a_file_and_survives():
    sizes = {b"empty": 0, b"small": 100, b"block": 64 * KIB, b"large": 5 * MIB + 1}
    with node("n1") as kvd:
        wire = kvd.wire()
        for key, size in sizes.items():
            assert wire.put(key, value_of(key, size), ack="disk").code == OK
            assert object_path(kvd.data, key).is_file()
        assert wire.put(b"small", value_of(b"small", 100), ack="disk").code == PRESENT
        [file] = [replica["file"] for replica in wire.stat(b"block")["replicas"] if replica["type"] == "disk"]
        assert file == str(object_path("", b"block"))
        for how in ("kill", "stop"):
            kvd.restart(how)
            wire = kvd.wire()
            for key, size in sizes.items():
                assert wire.exists([key]) == b"\x02"
                wire.holds(key, size)
        got = wire.get(b"large", offset=3 * MIB, length=1000)
        assert got.body == value_of(b"large", sizes[b"large"])[3 * MIB:3 * MIB + 1000]


def test_removed_ones_stay_removed():
    with node("n1") as kvd:
        wire = kvd.wire()
        for i in range(20):
            wire.put(b"p/%d" % i, b"x" * 100, ack="disk")
            wire.put(b"q/%d" % i, b"y" * 100)
        wire.put(b"r", value_of(b"r", 1000), ack="disk")
        assert wire.put(b"r", value_of(b"r", 2000), replace=True).code == OK
        assert wire.remove(b"p/0", b"p/1") == 2
        assert wire.remove_prefix(b"p/") == 18
        kvd.restart("kill")
        wire = kvd.wire()
        for i in range(20):
            wire.misses(b"p/%d" % i)
        wire.holds_or_misses(b"r", 2000)
        wire.remove_all()
        assert objects_of(kvd.data) == []
        kvd.restart("kill")
        assert kvd.wire().info("objects")["objects"]["objects"] == 0


def test_what_a_kill_cut_off_is_cleared_away():
    with node("n1") as kvd:
        wire = kvd.wire()
        for i in range(300):
            wire.send(PUT, {"key": b"k%d" % i}, value_of(b"k%d" % i, 64 * KIB))
        wire.reply(300)
        kvd.kill()
        path = object_path(kvd.data, b"left")
        path.parent.mkdir(mode=0o700, exist_ok=True)
        left = path.with_name(f"{path.name}.{xxhash.xxh3_64_intdigest(b'n1'):016x}.tmp")
        other = path.with_name(f"{path.name}.{xxhash.xxh3_64_intdigest(b'n2'):016x}.tmp")
        left.write_bytes(b"x")
        other.write_bytes(b"x")
        kvd.start()
        wire = kvd.wire()
        wait_until(lambda: wire.figure("disk_state") == "on", "the end of recovery")
        assert not left.exists() and other.exists()
        assert [name for name in objects_of(kvd.data) if name.endswith(".tmp")] == [other.name]
        for i in range(300):
            wire.holds_or_misses(b"k%d" % i, 64 * KIB)


def test_the_least_used_go_when_it_is_full():
    """Never above the limit; what is asked for again and again stays; all that went is counted."""
    with node("n1", memory="8m", disk="8m") as kvd:
        wire = kvd.wire()
        puts = 400
        for i in range(puts):
            key = b"k%d" % i
            while (got := wire.put(key, value_of(key, 64 * KIB))).code != OK:
                time.sleep(got.meta["retry_after_ms"] / 1000)
            for hot in range(8):
                wire.get(b"k%d" % hot)
            if i % 10 == 0:
                used = bytes_in(kvd.data / "kvd" / "objects")
                assert used <= 8 * MIB
        kvd.settle(wire)
        assert wire.info("disk")["disk"]["reclaimed_objects_total"] > 200
        lost = sum(wire.dropped().values())
        present = wire.info("objects")["objects"]["objects"]
        assert lost + present == puts
        kvd.restart("kill")  # what memory held is no merit of the disk's
        wire = kvd.wire()
        assert sum(wire.get(b"k%d" % hot).code == OK for hot in range(8)) >= 7


def test_a_key_whose_hash_another_has_is_counted():
    with node("n1") as kvd:
        wire = kvd.wire()
        wire.put(b"first", b"x" * 100, ack="disk")
        target = object_path(kvd.data, b"second")
        target.parent.mkdir(mode=0o700, exist_ok=True)
        target.write_bytes(object_path(kvd.data, b"first").read_bytes())
        assert wire.put(b"second", b"y" * 100).code == OK
        kvd.settle(wire)
        assert dropped(wire)["unwritten_collision_total"] == 1
        assert wire.get(b"second").body == b"y" * 100 and wire.get(b"first").body == b"x" * 100
        assert wire.put(b"second", b"y" * 100, ack="disk").code not in (OK, PRESENT)
        wire.remove(b"second")
        assert target.exists()


def test_a_flipped_bit_is_a_miss():
    with node("n1") as kvd:
        wire = kvd.wire()
        wire.store(b"k", 300 * KIB, ack="disk")
        kvd.restart("kill")
        path = object_path(kvd.data, b"k")
        bytes_ = bytearray(path.read_bytes())
        bytes_[200 * KIB] ^= 1
        path.write_bytes(bytes_)
        wire = kvd.wire()
        assert wire.misses(b"k").meta["reason"] == "corrupt"
        wait_until(lambda: not path.exists(), "the file to go")


def test_an_object_with_an_end_leaves_no_file():
    with node("n1") as kvd:
        wire = kvd.wire()
        wire.put(b"k", b"x" * 100, ack="disk", ttl_ms=300)
        wait_until(lambda: not object_path(kvd.data, b"k").exists(), "the file to go")
        wire.misses(b"k")


def test_locate_says_where():
    with node("n1") as kvd:
        kvd.wire().put(b"some key", b"x", ack="disk")
        done = kvctl("locate", "some key", "--dir", str(kvd.data))
        assert done.returncode == 0 and pathlib.Path(done.stdout.decode().strip()) == object_path(kvd.data, b"some key")
        assert pathlib.Path(done.stdout.decode().strip()).is_file()
    done = kvctl("locate", "hex:6b6579", "--cluster", "c1")
    assert done.stdout == b"c1/objects/a4/a4bdf4e564564cf8bbea0d63a05165e3\n"


# ---- two hosts ----


@contextlib.contextmanager
def two(first, second=None, **options):
    with node("n1", data=first, args=["--probe"], **options) as one, node("n2", data=second or one.data, args=["--probe"], **options) as other:
        yield one.wire(), other.wire()


def served_for(wire, key, bound_s):
    """How long a get still finds it; fails beyond the bound."""
    begun = time.monotonic()
    while wire.get(key).code == OK:
        assert time.monotonic() - begun < bound_s, f"{key!r} is still served after {bound_s} s"
        time.sleep(0.02)
    return time.monotonic() - begun


def value_changes_within(wire, key, new, bound_s):
    begun = time.monotonic()
    while (got := wire.get(key)).code != OK or got.body != new:
        assert time.monotonic() - begun < bound_s, f"{key!r} is still the old one after {bound_s} s"
        time.sleep(0.02)


def share_and_remove(one, other, names_s, missing_s):
    bound_s = CHECK_S + names_s + SLACK_S
    # What one stores the other serves, also what it has missed before.
    other.misses(b"a")
    one.store(b"a", 300 * KIB, ack="disk")
    wait_until(lambda: other.get(b"a").code == OK, "the other host's object", timeout_s=missing_s + 1 + SLACK_S)
    other.holds(b"a", 300 * KIB)
    assert other.get(b"a").meta["tier"] == "memory"
    # What the one removes the other no longer serves, though it is in its memory; and the other way round.
    assert one.remove(b"a") == 1
    one.misses(b"a")
    served_for(other, b"a", bound_s)
    one.store(b"b", 10 * KIB, ack="disk")
    one.holds(b"b", 10 * KIB)
    assert other.remove(b"b") == 1
    served_for(one, b"b", bound_s)
    assert dropped(one)["elsewhere_total"] >= 1
    # Replaced: the old value goes, from disk and from memory.
    one.put(b"c", b"old" * 1000, ack="disk")
    wait_until(lambda: other.get(b"c").code == OK, "the object", timeout_s=missing_s + 1 + SLACK_S)
    other.put(b"c", b"new" * 5000, replace=True, ack="disk")
    value_changes_within(one, b"c", b"new" * 5000, bound_s)
    assert other.get(b"c").body == b"new" * 5000
    # All of them, of whichever host.
    one.store(b"d", 1000, ack="disk")
    other.store(b"e", 1000, ack="disk")
    other.remove_all()
    for wire in (one, other):
        for key in (b"c", b"d", b"e"):
            served_for(wire, key, bound_s)


def test_two_hosts_over_one_directory(tmp_path):
    data = tmp_path / "data"
    with two(data) as (one, other):
        share_and_remove(one, other, 0, 0)
        assert objects_of(data) == []


def test_what_was_not_asked_for_lately_is_looked_at_first(tmp_path):
    """The first get after the bound does not give the old value back, though it is in memory and nobody has looked since."""
    with two(tmp_path / "data") as (one, other):
        for key in (b"gone", b"new"):
            one.put(key, b"old" * 1000, ack="disk")
            assert other.get(key).code == OK
        one.remove(b"gone")
        one.put(b"new", b"other" * 1000, replace=True, ack="disk")
        time.sleep(CHECK_S + 0.2)
        other.misses(b"gone")
        assert other.get(b"new").body == b"other" * 1000


def test_what_is_hot_does_not_wait(tmp_path):
    """Looked at in the background while it is served; seldom, whatever the number of gets."""
    with two(tmp_path / "data") as (one, other):
        one.store(b"k", 1000, ack="disk")
        begun = time.monotonic()
        gets = 0
        while time.monotonic() - begun < 4:
            other.holds(b"k", 1000)
            gets += 1
        assert gets > 100
        assert other.info("disk")["disk"]["probes_total"] <= 6


def test_a_miss_is_remembered_for_a_moment(tmp_path):
    with two(tmp_path / "data") as (one, other):
        begun = time.monotonic()
        while time.monotonic() - begun < 2:
            other.misses(b"none")
        assert other.info("disk")["disk"]["probes_total"] <= 3
        assert other.exists([b"none2"]) == b"\x00"
        assert other.info("disk")["disk"]["probes_total"] <= 3


def test_a_host_that_ends_leaves_its_objects_to_the_other(tmp_path):
    with node("n1", data=tmp_path / "data", args=["--probe"]) as one, node("n2", data=tmp_path / "data", args=["--probe"]) as other:
        one.wire().store(b"k", 100 * KIB, ack="disk")
        one.kill()
        wire = other.wire()
        wire.holds(b"k", 100 * KIB)
        assert wire.remove(b"never") == 0
        assert wire.remove(b"k") == 1
        one.start()
        one.wire().misses(b"k")


def test_what_was_replaced_unseen_does_not_come_back_by_a_crash(tmp_path):
    """A replace of another host's object, which this one knows nothing of, and whose new value was in memory alone."""
    data = tmp_path / "data"
    with node("n1", data=data, args=["--probe"]) as one, node("n2", data=data, args=["--probe", "--persist", "none"]) as other:
        one.wire().put(b"k", b"old" * 1000, ack="disk")
        assert other.wire().put(b"k", b"new" * 1000, replace=True).code == OK
        other.kill()
        other.start()
        other.wire().misses(b"k")


def test_a_teardown_takes_what_is_ones_own(tmp_path):
    data = tmp_path / "data"
    with node("n1", data=data) as one, node("n2", data=data, args=["--probe"]) as other:
        one.wire().store(b"mine", 1000, ack="disk")
        other.wire().store(b"theirs", 1000, ack="disk")
        assert one.wire().call(ADMIN, {"action": "teardown", "node": "n1"}).code == OK
        assert one.wait() == 0
        assert objects_of(data) == [object_path(data, b"theirs").name] and not (data / "kvd" / "n1").exists()
        other.wire().holds(b"theirs", 1000)
        assert other.wire().call(ADMIN, {"action": "teardown", "node": "n2"}).code == OK
        assert other.wait() == 0
        assert not (data / "kvd").exists()


@pytest.mark.skipif(faultfs.why_not() is not None, reason=str(faultfs.why_not()))
def test_two_hosts_over_3fs(tmp_path):
    """Two mounts of one backing, whose caches nothing invalidates across them: the bound grows by how long names are cached."""
    names_s, missing_s = 2, 1
    with FaultFs(tmp_path, attr_timeout=names_s, entry_timeout=names_s, negative_timeout=missing_s) as fs:
        second = fs.second()
        for mount in (fs, second):
            (mount.point / "data").mkdir(mode=0o700, exist_ok=True)
        with two(fs.point / "data", second.point / "data") as (one, other):
            share_and_remove(one, other, names_s, missing_s)


@pytest.mark.skipif(faultfs.why_not() is not None, reason=str(faultfs.why_not()))
def test_a_power_cut_takes_nothing_that_was_acknowledged(tmp_path):
    with FaultFs(tmp_path) as fs:
        (fs.point / "data").mkdir(mode=0o700)
        with node("n1", data=fs.point / "data") as kvd:
            wire = kvd.wire()
            for i in range(40):
                wire.put(b"k%d" % i, value_of(b"k%d" % i, 20 * KIB), ack="disk")
            for i in range(0, 40, 2):
                assert wire.remove(b"k%d" % i) == 1
            kvd.kill()
            fs.power_cut(seed=7)
            kvd.start()
            wire = kvd.wire()
            for i in range(40):
                if i % 2:
                    wire.holds(b"k%d" % i, 20 * KIB)
                else:
                    wire.misses(b"k%d" % i)
