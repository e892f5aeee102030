"""Objects that end (`ttl_ms`), on the real server: by every tier, across a restart and kill -9."""
import json
import time

import pytest

from harness import EXISTS, KIB, MATCH, MIB, PRESENT, kvctl, kvctl_json, value_of, wait_until

FILE_SYSTEMS = ["local", "faultfs"]
IN_MEMORY, ON_DISK = 1, 2
GRACE_MS = 2000  # a start takes what ends so soon for ended: docs/architecture.md


def gone_in_time(wire, key, began, ttl_ms):
    """It goes, and not before its time; `began`: before it was put."""
    wait_until(lambda: wire.exists([key]) == b"\0", f"the end of {key!r}")
    assert time.monotonic() - began >= (ttl_ms - 2) / 1000, "gone before its time"
    wire.misses(key)


def test_it_is_there_until_its_time_and_then_gone(wire):
    began = time.monotonic()
    assert wire.put(b"k", b"value", ttl_ms=700).code == 0
    wire.put(b"other", b"value")
    if wire.get(b"k").code:
        assert time.monotonic() - began >= 0.698
    else:
        assert 0 <= wire.stat(b"k").get("ttl_ms", 0) <= 700
    gone_in_time(wire, b"k", began, 700)
    assert wire.exists([b"other"]) != b"\0"
    assert "ttl_ms" not in wire.stat(b"other")
    assert wire.info("objects")["objects"]["expired_total"] == 1
    assert wire.put(b"k", b"again").code == 0, "PRESENT, by what is over"


def test_what_nobody_asks_for_gives_its_memory_back(wire):
    for i in range(200):
        wire.store(b"k%d" % i, 64 * KIB, ttl_ms=300)
    wait_until(lambda: wire.info("objects")["objects"]["objects"] == 0, "the sweep")
    wait_until(lambda: wire.info("memory")["memory"]["used_bytes"] == 0, "the memory")
    figures = wire.info("objects")["objects"]
    assert figures["expired_total"] == 200 and figures["mortal"] == 0


def test_neither_lease_nor_pin_keeps_it(wire):
    began = time.monotonic()
    wire.put(b"leased", b"value", ttl_ms=1000)
    wire.put(b"pinned", b"value", ttl_ms=1000, pin=True)
    wire.ok(MATCH, {"keys": [b"leased"], "lease_ms": 60_000})
    wire.ok(EXISTS, {"keys": [b"pinned"], "lease_ms": 60_000})
    for key in (b"leased", b"pinned"):
        gone_in_time(wire, key, began, 1000)
    assert wire.info("objects")["objects"]["lease_holds"] == 0


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_it_keeps_its_end_across_a_restart(kvd, how):
    wire = kvd.wire()
    began = time.monotonic()
    ttl_ms = 2000 + GRACE_MS
    wire.store(b"short", 300 * KIB, ttl_ms=ttl_ms, ack="disk")
    wire.store(b"long", 300 * KIB, ttl_ms=3_600_000, ack="disk")
    wire.store(b"plain", 300 * KIB, ack="disk")
    kvd.restart(how)
    wire = kvd.wire()
    assert wire.exists([b"long", b"plain"]) == bytes([ON_DISK, ON_DISK])
    wire.holds(b"long", 300 * KIB)
    assert 3_500_000 < wire.stat(b"long")["ttl_ms"] <= 3_600_000
    if time.monotonic() - began < 1.9:
        wire.holds(b"short", 300 * KIB)
    gone_in_time(wire, b"short", began, ttl_ms - GRACE_MS - 100)
    wire.holds(b"plain", 300 * KIB)
    kvd.restart(how)
    wire = kvd.wire()
    wire.misses(b"short")
    wire.holds(b"long", 300 * KIB)


def test_it_is_over_when_kvd_was_down_meanwhile(kvd):
    wire = kvd.wire()
    wire.store(b"k", 4096, ttl_ms=500, ack="disk")
    over = time.monotonic() + 0.5
    kvd.kill()
    time.sleep(max(0, over - time.monotonic()))
    kvd.start()
    wire = kvd.wire()
    wire.misses(b"k")
    assert wire.info("disk")["disk"]["recovered_expired"] == 1
    assert wire.put(b"k", b"new", ack="disk").code == 0
    kvd.restart("kill")
    assert kvd.wire().get(b"k").body == b"new", "the newer one is what counts"


def test_what_has_ended_costs_no_entry_of_the_remove_log(wire):
    for i in range(20):
        wire.store(b"k%d" % i, 4096, ttl_ms=300, ack="disk")
    wait_until(lambda: wire.info("objects")["objects"]["objects"] == 0, "the sweep")
    for i in range(20):
        wire.store(b"k%d" % i, 4096, ack="disk")
    assert wire.info("disk")["disk"]["kills_total"] <= 1, "one at most: of a segment"


def test_a_present_does_not_change_the_end(wire):
    began = time.monotonic()
    wire.put(b"k", b"value", ttl_ms=1500)
    assert wire.put(b"k", b"value", ttl_ms=3_600_000).code in (0, PRESENT)
    if wire.stat(b"k")["ttl_ms"] < 10_000:
        gone_in_time(wire, b"k", began, 1500)


def test_kvctl_puts_with_an_end(kvd):
    done = kvctl("put", "k", "-", "--ttl", "1h", port=kvd.port, stdin=value_of(b"k", MIB))
    assert done.returncode == 0, done
    stat = kvctl_json("stat", "k", port=kvd.port)
    assert 3_500_000 < stat["ttl_ms"] <= 3_600_000
    assert b"ttl ms" in kvctl("stat", "k", port=kvd.port).stdout
    assert "ttl_ms" not in json.dumps(kvctl_json("put", "other", "-", port=kvd.port, stdin=b"x"))
    for bad in ("0s", "soon", "-1s"):
        assert kvctl("put", "bad", "-", "--ttl", bad, port=kvd.port, stdin=b"x").returncode == 2
    assert kvd.wire().exists([b"k", b"bad"])[1] == 0
    assert kvd.wire().exists([b"k"])[0] & IN_MEMORY
