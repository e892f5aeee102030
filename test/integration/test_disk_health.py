"""A disk that fails, hangs or is gone, and comes back: kvd turns away from it in time, and to it again by itself."""
import os
import time

import pytest

import faultfs
import harness
from faultfs import FaultFs
from harness import BUSY, GET, IO_ERROR, MIB, NOT_FOUND, OK, PUT, REMOVE, value_of, wait_until

pytestmark = pytest.mark.skipif(faultfs.why_not() is not None, reason=str(faultfs.why_not()))

TIMEOUT_S = 0.3
SIZE = 100_000


@pytest.fixture
def fs(stack, folder):
    return stack.enter_context(FaultFs(folder))


@pytest.fixture
def start_on(fs, start, stack):
    """A kvd on the mount that loses its patience soon. What hangs is let go before it is killed."""

    def make(args=(), **options):
        options = {"memory": "64m", "segment_size": "1m", **options}
        kvd = start(data=fs.point / "data", args=["--disk-timeout", f"{int(TIMEOUT_S * 1000)}ms", *args], **options)
        stack.callback(fs.let_go)
        return kvd

    return make


def keys_of(name, count):
    return [b"%s-%03d" % (name, number) for number in range(count)]


def on_disk_alone(start_on, count=20, **options):
    """A kvd that has just started over `count` objects, and its wire."""
    kvd = start_on(**options)
    wire = kvd.wire()
    keys = keys_of(b"k", count)
    for key in keys:
        wire.store(key, SIZE)
    until_synced(wire)
    return kvd, kvd.restart().wire(), keys


def until_state(wire, state):
    wait_until(lambda: wire.figure("disk_state") == state, f"the disk to be {state}", timeout_s=40, every_s=0.02)


def until_synced(wire):
    """On a busy machine a write may stand still for longer than the patience of these tests."""
    wait_until(lambda: wire.call(harness.ADMIN, {"action": "sync"}).code == OK, "all to be on disk")


def took_s(call):
    began = time.monotonic()
    call()
    return time.monotonic() - began


def files_below(folder):
    return [name for _, _, names in os.walk(folder) for name in names]


def misses_for(wire, key, reason):
    got = wire.misses(key)
    assert got.meta.get("reason") == reason, got


# ---- deadlines ----


def test_a_read_that_hangs_is_a_miss_in_time(fs, start_on):
    """Nor does it hold up others: of all bytes that may be read at a time it has had more than its share."""
    kvd, wire, keys = on_disk_alone(start_on, args=["--io-bytes", "64k"])
    wire.store(b"new", SIZE)
    rule = fs.add("op=read name=*.seg count=1 hang")
    took = took_s(lambda: misses_for(wire, keys[0], "timeout"))
    assert 0.9 * TIMEOUT_S <= took < TIMEOUT_S + 3
    # Who comes while it still hangs neither waits nor has it read once more.
    assert took_s(lambda: misses_for(wire, keys[0], "timeout")) < TIMEOUT_S / 2
    assert wire.info("memory")["memory"]["inflight_bytes"] >= SIZE, "the buffer is the kernel's"
    assert fs.seen(rule) == 1 and wire.info("dropped")["dropped"]["read_timeouts_total"] == 2
    wire.holds(b"new", SIZE)
    wire.holds(keys[1], SIZE)
    assert wire.remove(keys[0]) == 1 and wire.put(keys[0], b"other").code == OK
    fs.release()
    wait_until(lambda: wire.info("memory")["memory"]["inflight_bytes"] == 0, "the buffer to come back")
    assert wire.get(keys[0]).body == b"other", "what was read late is of an object that is gone"
    assert wire.figure("disk_state") == "on"


def test_a_late_read_is_kept_when_it_comes(fs, start_on):
    kvd, wire, keys = on_disk_alone(start_on)
    rule = fs.add("op=read name=*.seg count=1 hang")
    misses_for(wire, keys[0], "timeout")
    assert fs.fired(rule) == 1
    fs.release()
    wait_until(lambda: wire.exists(keys[:1])[0] & 1, "it in memory")
    wire.holds(keys[0], SIZE)


def test_a_remove_whose_log_hangs_is_answered(fs, start_on):
    """IO_ERROR: it may come back. The entry still gets there, and then it does not."""
    kvd, wire, keys = on_disk_alone(start_on)
    fs.add("op=fsync name=removes-* hang")
    with_timeout = wire.send(REMOVE, {"keys": keys[:1], "timeout_ms": 50})
    assert wire.reply(with_timeout).code == harness.TIMEOUT
    other = kvd.wire()
    took = took_s(lambda: other.call(REMOVE, {"keys": keys[1:2]}).code == IO_ERROR)
    assert took < 2 * TIMEOUT_S + 3
    assert other.call(REMOVE, {"keys": keys[2:3]}).code == IO_ERROR
    other.store(b"new", SIZE)
    other.holds(b"new", SIZE)
    assert not any(other.exists(keys[:3]))
    fs.release()
    until_state(other, "on")
    wait_until(lambda: other.info("disk")["disk"]["kills_owed"] == 0, "the entries to be logged")
    kvd.kill()
    fs.power_cut(keep=0)
    wire = kvd.start().wire()
    assert not any(wire.exists(keys[:3]))
    wire.holds(keys[3], SIZE)


OBJECT_FILES = "?" * 32 + "*"  # and the names that they have at first


@pytest.mark.parametrize("segment_size, rule", [
    ("1m", "op=write name=*.seg hang"), ("1m", "op=fsync name=*.seg hang"), ("1m", "op=create name=*.seg hang"),
    ("0", f"op=write name={OBJECT_FILES} hang"), ("0", f"op=fsync name={OBJECT_FILES} hang"), ("0", f"op=create name={OBJECT_FILES} hang")])
def test_an_ack_of_the_disk_is_not_waited_for_without_end(fs, start_on, segment_size, rule):
    """IO_ERROR: it may be durable yet. One thing that hangs is no reason to turn away from the disk."""
    kvd, wire, keys = on_disk_alone(start_on, segment_size=segment_size, args=["--disk-timeout", "4s"])
    if "create" not in rule:
        wire.store(b"open", SIZE, ack="disk")
    rule = fs.add(rule + " count=1")
    assert wire.put(b"hangs", value_of(b"hangs", SIZE), ack="disk").code == IO_ERROR
    assert fs.fired(rule) == 1 and wire.info("disk")["disk"]["trips_total"] == 0
    wire.holds(b"hangs", SIZE)
    fs.release()
    wait_until(lambda: wire.put(b"hangs", b"", ack="disk").code == harness.PRESENT, "it to be durable")
    kvd.kill()
    fs.power_cut(keep=0)
    kvd.start().wire().holds(b"hangs", SIZE)


@pytest.mark.parametrize("segment_size, name", [("1m", "*.seg"), ("0", OBJECT_FILES)])
def test_a_sync_and_an_evict_do_not_wait_for_a_write_that_hangs(fs, start_on, segment_size, name):
    kvd, wire, keys = on_disk_alone(start_on, segment_size=segment_size)
    rule = fs.add(f"op=write name={name} hang count=1")
    wire.store(b"hangs", SIZE)
    wait_until(lambda: fs.fired(rule) == 1, "the write to hang")
    assert wire.call(harness.ADMIN, {"action": "sync"}).code == IO_ERROR
    assert wire.call(harness.ADMIN, {"action": "evict"}).code == OK
    wire.holds(b"hangs", SIZE)
    fs.release()
    until_state(wire, "on")
    until_synced(wire)


def test_a_mount_where_nothing_but_names_can_be_read_trips_it(fs, start_on):
    """The file system says every few seconds how much room it has, and that is all that it says."""
    kvd, wire, keys = on_disk_alone(start_on, args=["--disk-timeout", "4s"])
    fs.add("op=create name=*.seg hang")
    wire.store(b"hangs", SIZE)
    until_state(wire, "tripped")
    fs.release()
    fs.clear()
    until_state(wire, "on")


# ---- the breaker ----


def trips_by_reads(wire, keys):
    """Each of them is tried until the tier is off; then nothing is."""
    for key in keys:
        assert wire.misses(key).meta["reason"] in ("io error", "disk off")
    until_state(wire, "tripped")
    misses_for(wire, keys[0], "disk off")


def test_errors_trip_it_and_it_comes_back_with_what_it_held(fs, start_on):
    kvd, wire, keys = on_disk_alone(start_on)
    wire.store(b"new", SIZE)
    wire.ok(harness.ADMIN, {"action": "seal"})  # whose end cannot be synced is not vouched for again before a restart
    rule = fs.add("op=read,write,fsync,create err=EIO")
    trips_by_reads(wire, keys[:6])
    disk = wire.info("disk")["disk"]
    assert disk["trips_total"] == 1 and disk["trouble"] != ""
    fired = fs.fired(rule)
    assert took_s(lambda: [misses_for(wire, key, "disk off") for key in keys]) < 2
    assert all(wire.exists(keys)), "what it holds stays known"
    for key in keys_of(b"memory", 10):
        wire.store(key, SIZE)
        wire.holds(key, SIZE)
    dropped = wire.info("dropped")["dropped"]
    assert dropped["unwritten_off_total"] >= 10
    assert wire.put(b"acked", b"v", ack="disk").code == IO_ERROR
    assert wire.call(harness.ADMIN, {"action": "sync"}).code == IO_ERROR
    assert fs.fired(rule) - fired < 10, "but for probes, it is left alone"
    fs.clear()
    until_state(wire, "on")
    for key in keys:
        wire.holds(key, SIZE)
    until_synced(wire)
    assert kvd.log().count("event=disk_tripped") == 1 and kvd.log().count("event=disk_back") == 1
    kvd.kill()
    fs.power_cut(keep=0)
    wire = kvd.start().wire()
    for key in [*keys, *keys_of(b"memory", 10)]:
        wire.holds(key, SIZE)


def test_removes_while_it_is_tripped_do_not_rise(fs, start_on):
    kvd, wire, keys = on_disk_alone(start_on)
    fs.add("op=any name=data/* err=EIO")
    fs.add("op=read,write,fsync,create err=EIO")
    trips_by_reads(wire, keys[:6])
    assert wire.call(REMOVE, {"keys": keys[:3]}).code == IO_ERROR
    assert wire.call(harness.REMOVE_PREFIX, {"prefix": b"k-01"}).code == IO_ERROR
    assert wire.put(keys[0], b"put again").code == OK, "memory goes on"
    assert wire.info("disk")["disk"]["kills_owed"] >= 4
    fs.clear()
    until_state(wire, "on")
    wait_until(lambda: wire.info("disk")["disk"]["kills_owed"] == 0, "the entries to be logged")
    assert wire.get(keys[0]).body == b"put again"
    until_synced(wire)
    kvd.kill()
    fs.power_cut(keep=0)
    wire = kvd.start().wire()
    assert wire.get(keys[0]).body == b"put again"
    assert not any(wire.exists([*keys[1:3], *keys[10:20]])), "what was removed has risen"
    for key in keys[3:10]:
        wire.holds(key, SIZE)


@pytest.mark.parametrize("kinds", ["read", "write", "change", "any"])
def test_a_hung_mount_trips_it_and_memory_keeps_its_latency(fs, start_on, kinds):
    kvd, wire, keys = on_disk_alone(start_on, args=["--write-queue", "8m"])
    wire.store(b"new", SIZE)
    fs.add(f"op={kinds} hang")
    other = kvd.wire()
    asked = [other.send(GET, {"key": key}) for key in keys[:8]]
    sent = [other.send(PUT, {"key": key}, value_of(key, SIZE)) for key in keys_of(b"hung", 10)]
    slowest = 0
    began = time.monotonic()
    while wire.figure("disk_state") != "tripped":
        slowest = max(slowest, took_s(lambda: wire.holds(b"new", SIZE)))
        assert time.monotonic() - began < 40
    assert slowest < 0.25, f"a get from memory took {slowest:.3f} s"
    for ident in sent:
        assert other.reply(ident).code in (OK, BUSY)
    for ident in asked:
        assert other.reply(ident).code in (OK, NOT_FOUND)
    while_tripped = keys_of(b"tripped", 20)
    for key in while_tripped:
        wire.store(key, MIB)
        wire.holds(key, MIB)
    fs.release()
    until_state(wire, "on")
    wait_until(lambda: all(wire.get(key).code == OK for key in keys), "what it held")
    for key in keys:
        wire.holds(key, SIZE)
    until_synced(wire)


def test_it_trips_less_often_when_it_does_not_hold(fs, start_on):
    """Probes work and reads do not: the pauses get longer, and no read waits for them."""
    kvd, wire, keys = on_disk_alone(start_on)
    fs.add("op=read name=*.seg err=EIO")
    end = time.monotonic() + 5
    while time.monotonic() < end:
        for key in keys:
            wire.misses(key)
        time.sleep(0.05)
    assert 3 <= wire.info("disk")["disk"]["trips_total"] <= 5  # after 0.3, 0.6, 1.2, 2.4 s


# ---- a mount that goes and returns ----


@pytest.mark.parametrize("how, segment_size", [("vanish", "1m"), ("bare", "1m"), ("abort", "1m"), ("vanish", "0")])
def test_a_mount_that_goes_and_returns(fs, start_on, how, segment_size):
    kvd, wire, keys = on_disk_alone(start_on, segment_size=segment_size)
    for key in keys_of(b"open", 3):
        wire.store(key, SIZE, ack="disk")
    removed = keys[:4]
    getattr(fs, how)()
    if how == "abort":
        fs._end_process()
    for key in keys_of(b"more", 30):
        wire.store(key, SIZE)
    until_state(wire, "tripped")
    assert wire.call(REMOVE, {"keys": removed}).code == IO_ERROR
    misses_for(wire, keys[5], "disk off")
    wait_until(lambda: wire.info("disk")["disk"]["trip_probes_total"] >= 2, "probes", timeout_s=30)
    if how == "bare":
        assert files_below(fs.point) == [], "on the root disk"
    fs.unmount()
    assert files_below(fs.point) == []
    fs.start()
    until_state(wire, "on")
    for key in [*keys[4:], *keys_of(b"open", 3)]:
        wire.holds(key, SIZE)
    for key in keys_of(b"more", 30):
        wire.holds(key, SIZE)
    wire.store(b"after", SIZE, ack="disk")
    wait_until(lambda: wire.info("disk")["disk"]["kills_owed"] == 0, "the entries to be logged")
    until_synced(wire)
    assert harness.kvctl_json("info", port=kvd.port)["disk"]["trips_total"] == 1
    kvd.kill()
    fs.power_cut(keep=0)
    wire = kvd.start().wire()
    assert not any(wire.exists(removed)), "what was removed has risen"
    for key in [*keys[4:], *keys_of(b"open", 3), *keys_of(b"more", 30), b"after"]:
        wire.holds(key, SIZE)


def test_a_folder_that_another_has_used_is_not_taken_back(fs, start_on, start):
    kvd, wire, keys = on_disk_alone(start_on)
    fs.vanish()
    until = time.monotonic() + 20
    while wire.figure("disk_state") != "tripped" and time.monotonic() < until:
        wire.misses(keys[0])
    other = start(data=fs.backing / "data", memory="64m", segment_size="1m")
    other.wire().remove(*keys[:4])
    fs.unmount()
    fs.start()
    probes = wire.info("disk")["disk"]["trip_probes_total"]
    wait_until(lambda: wire.info("disk")["disk"]["trip_probes_total"] >= probes + 2, "probes", timeout_s=40)
    assert wire.figure("disk_state") == "tripped"
    assert "another process" in wire.info("disk")["disk"]["trouble"]
    for key in keys[:4]:
        wire.misses(key)
    for key in keys[4:]:
        other.wire().holds(key, SIZE)


def test_another_folder_in_its_place_is_left_alone(fs, start_on):
    """The folders are there on the disk below: a kvd has run before the mount came up."""
    kvd, wire, keys = on_disk_alone(start_on)
    node = kvd.folder()
    fs.bare()
    node.mkdir(parents=True)
    for key in keys_of(b"more", 30):
        wire.store(key, SIZE)
    until_state(wire, "tripped")
    wait_until(lambda: wire.info("disk")["disk"]["trip_probes_total"] >= 2, "probes", timeout_s=30)
    assert files_below(fs.point) == []


# ---- what is required of the directory ----


def test_require_fs(fs, start_on, start, folder):
    kvd = start_on(args=["--require-fs", "fuse.hf3fs"])
    wire = kvd.wire()
    wire.store(b"k", SIZE, ack="disk")
    kvd.stop()
    plain = folder / "plain"
    plain.mkdir()
    refused = start(data=plain, args=["--require-fs", "fuse.hf3fs"], start=False)
    refused.spawn()
    assert refused.wait() != 0
    assert "require-fs says fuse.hf3fs" in refused.log() and files_below(plain) == [] and os.listdir(plain) == []
    kvd.start().wire().holds(b"k", SIZE)


def test_what_a_failed_create_left_is_taken_away(fs, start_on):
    kvd, wire, keys = on_disk_alone(start_on)
    segments = len(kvd.segments())
    fs.add("op=write,unlink name=*.seg err=EIO")
    fs.add("op=fsync name=*.seg err=EIO")
    for key in keys_of(b"more", 4):
        wire.store(key, SIZE)
    wait_until(lambda: wire.info("disk")["disk"]["write_errors_total"] > 0, "a create to fail")
    kvd.kill()
    fs.clear()
    assert len(kvd.segments()) > segments
    wire = kvd.start().wire()
    assert "event=segment_empty" in kvd.log() and len(kvd.segments()) == segments
    assert wire.info("disk")["disk"]["unreadable_segments"] == 0
    for key in keys:
        wire.holds(key, SIZE)


def test_a_segment_that_cannot_be_read_is_left_alone_and_named(fs, start_on):
    kvd, wire, keys = on_disk_alone(start_on)
    bad = kvd.segments()[1]
    kvd.kill()
    fs.add(f"op=read name={bad.name} err=EIO")
    wire = kvd.start().wire()
    assert wire.info("disk")["disk"]["unreadable_segments"] == 1
    assert f"event=segment_unreadable file=kvd/n1/{bad.name}" in kvd.log()
    assert bad.exists()
    there = sum(wire.holds_or_misses(key, SIZE) for key in keys)
    assert 0 < there < len(keys)
    kvd.kill()
    fs.clear()
    wire = kvd.start().wire()
    for key in keys:
        wire.holds(key, SIZE)


@pytest.mark.parametrize("how", ["errors", "vanish"])
def test_it_goes_while_it_starts(fs, start_on, how):
    """Nothing is known of most segments yet when the disk goes: they are read when it is back, and what was removed meanwhile is not found."""
    kvd, wire, keys = on_disk_alone(start_on, count=100, args=["--wait-for-index", "50ms"])
    kvd.kill()
    slow = fs.add("op=read name=*.seg delay=100ms")
    wire = kvd.start().wire()
    fs.await_fired(slow, 6)
    if how == "errors":
        fs.clear()
        fs.add("op=open,read err=ENOTCONN")
    else:
        fs.vanish()
    until_state(wire, "tripped")
    assert wire.call(REMOVE, {"keys": keys[-4:]}).code == IO_ERROR
    wire.store(b"new", SIZE)
    if how == "errors":
        fs.clear()
    else:
        fs.unmount()
        fs.start()
    until_state(wire, "on")
    disk = wire.info("disk")["disk"]
    assert disk["unreadable_segments"] == 0
    there = sum(wire.holds_or_misses(key, SIZE) for key in keys[:-4])
    assert there >= len(keys) - 4 - 10 * disk["damaged_segments"]
    assert not any(wire.exists(keys[-4:]))
    wire.holds(b"new", SIZE)
    wait_until(lambda: wire.info("disk")["disk"]["kills_owed"] == 0, "the entries to be logged")
    wire = kvd.restart("kill").wire()
    until_state(wire, "on")
    assert not any(wire.exists(keys[-4:]))
    for key in keys[:-4]:
        wire.holds(key, SIZE)
