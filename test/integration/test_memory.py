"""What kvd takes of the machine's memory: bounded by --memory, the objects and their keys."""
import random
import resource
import socket

import msgpack
import pytest

from harness import KIB, MIB, PING, PUT, SANITIZED, Wire, prefix, wait_until

pytestmark = pytest.mark.skipif(SANITIZED, reason="a sanitizer's own memory would be measured")


AS_USED = ["--prefault", "no"]


def bound(memory, objects, key_bytes):
    return memory + 64 * MIB + 256 * objects + key_bytes


def test_rss_with_both_tiers_full(start):
    kvd = start(memory="64m", disk="256m", segment_size="16m")
    wire = kvd.wire()
    for number in range(600):
        wire.store(b"k-%04d" % number, 500_000)
        if number % 50 == 0:
            assert kvd.rss_bytes() <= bound(64 * MIB, number, number * 6)
    rng = random.Random(1)
    for _ in range(300):
        wire.get(b"k-%04d" % rng.randrange(600))
    assert kvd.rss_bytes() <= bound(64 * MIB, 600, 600 * 6)


def test_all_of_the_pool_is_touched_at_start(start):
    kvd = start(memory="256m", disk="256m")
    wire = kvd.wire()
    wait_until(lambda: wire.figure("memory_touched") == 256 * MIB, "the pool to be touched")
    if wire.info()["memory"]["huge_pages"] != "explicit":
        assert kvd.rss_bytes() >= 256 * MIB
    assert kvd.rss_bytes() <= bound(256 * MIB, 0, 0)


def test_what_is_not_to_be_touched_is_not(start):
    kvd = start(memory="256m", disk="256m", args=AS_USED)
    wire = kvd.wire()
    wire.store(b"k", MIB)
    assert wire.figure("memory_touched") == 0
    assert kvd.rss_bytes() <= 64 * MIB


def test_rss_of_many_small_objects(start):
    kvd = start(memory="128m", disk="1g", segment_size="64m", args=["--persist", "none", *AS_USED])
    wire = kvd.wire()
    count, key_len = 30_000, 200
    base = kvd.rss_bytes()
    assert base <= 64 * MIB
    value = b"v" * 64
    ids = []
    for number in range(count):
        key = b"%d-" % number
        ids.append(wire.send(PUT, {"key": key + b"k" * (key_len - len(key))}, value))
        if len(ids) == 500:
            for ident in ids:
                assert wire.reply(ident).code == 0
            ids = []
    objects = wire.figure("memory_objects")
    used = wire.figure("memory_used")
    assert objects > 20_000
    assert kvd.rss_bytes() <= bound(used, objects, objects * key_len)


def test_rss_of_objects_that_are_on_disk_alone(start):
    kvd = start(memory="16m", disk="1g", segment_size="64m")
    wire = kvd.wire()
    count = 20_000
    ids = []
    for number in range(count):
        ids.append((number, wire.send(PUT, {"key": b"key-%06d" % number}, b"v" * 2000)))
        if len(ids) == 100:
            for number, ident in ids:
                got = wire.reply(ident)
                if got.code != 0:
                    wire.store(b"key-%06d" % number, 2000)
            ids = []
    wire.sync()
    assert wire.figure("disk_objects") >= count * 0.99
    assert kvd.rss_bytes() <= bound(16 * MIB, count, count * 10)


def test_an_idle_connection(start):
    kvd = start(memory="64m", args=AS_USED)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = 2000
    if hard < 2 * count:
        pytest.skip(f"only {hard} descriptors are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 3 * count)), hard))
    kvd.restart()
    wire = kvd.wire()
    for _ in range(3):
        with Wire(kvd.port) as warm:
            warm.call(PING)
    socks = []
    try:
        before = kvd.rss_bytes()
        socks = [socket.create_connection(("127.0.0.1", kvd.port)) for _ in range(count)]
        wait_until(lambda: wire.figure("connections") >= count, "all to be accepted")
        assert kvd.rss_bytes() - before <= count * 4 * KIB
    finally:
        for sock in socks:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait_until(lambda: wire.figure("connections") < 10, "all to be gone")


def test_a_connection_that_was_busy_and_is_idle_again(start):
    kvd = start(memory="64m", args=AS_USED)
    wires = [kvd.wire() for _ in range(200)]
    before = kvd.rss_bytes()
    keys = [b"%04d" % i * 16 for i in range(4096)]
    for wire in wires:
        wire.exists(keys)
    assert kvd.rss_bytes() - before <= 16 * MIB


def test_puts_that_are_announced_and_not_sent_take_no_room(start):
    """Room is taken as bytes arrive."""
    kvd = start(memory="64m")
    other = kvd.wire()
    before = other.figure("memory_used")
    for number in range(50):
        meta = msgpack.packb({"key": b"k-%d" % number}, use_bin_type=True)
        kvd.wire().send_raw(prefix(PUT, 1, len(meta), 16 * MIB) + meta)
    other.call(PING)
    assert other.figure("memory_used") - before <= 8 * MIB
    for number in range(20):
        other.store(b"o-%d" % number, MIB)
        other.holds(b"o-%d" % number, MIB)


def test_puts_that_stop_half_way_do_not_keep_others_out(start):
    """Bodies under way share a bounded part of the pool; the slowest goes first."""
    kvd = start(memory="64m")
    stalled = []
    for number in range(20):
        meta = msgpack.packb({"key": b"stalled-%d" % number}, use_bin_type=True)
        wire = kvd.wire(timeout_s=2)
        try:
            wire.send_raw(prefix(PUT, 1, len(meta), 16 * MIB) + meta + bytes(4 * MIB))
        except (TimeoutError, ConnectionError):
            pass
        stalled.append(wire)
    other = kvd.wire()
    for number in range(20):
        other.store(b"o-%d" % number, MIB)
    other.holds(b"o-19", MIB)
    assert kvd.rss_bytes() <= bound(64 * MIB, 100, 2000)
