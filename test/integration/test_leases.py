"""Leases: what is held stays until it is released, runs out, or the connection that took it ends."""
import time

import pytest

from harness import BAD_REQUEST, BUSY, EXISTS, MATCH, MIB, OK, PIN, PING, wait_until

BLOCK = 512 * 1024


@pytest.fixture
def kvd(start):
    """64 MiB of memory and nothing below it, so that what is evicted is gone."""
    return start(memory="64m", args=["--persist", "none"])


def keys_of(name, count):
    return [b"%s-%03d" % (name, i) for i in range(count)]


def store_all(wire, keys, size=BLOCK):
    for key in keys:
        wire.store(key, size)


def flood(wire, name=b"flood", mib=160):
    """Put more than the memory holds."""
    store_all(wire, keys_of(name, mib * MIB // BLOCK))


def test_what_is_leased_is_not_evicted(wire):
    held, free = keys_of(b"held", 20), keys_of(b"free", 20)
    store_all(wire, held + free)
    got = wire.match(held, lease_ms=60_000)
    assert got["count"] == 20
    flood(wire)
    assert all(wire.exists(held)) and not any(wire.exists(free))
    found, last = wire.mget(held)
    assert last.meta["hits"] == 20
    for index, key in enumerate(held):
        wire.judge(key, BLOCK, found[index])


def test_a_probe_holds_nothing(wire):
    held = keys_of(b"held", 20)
    store_all(wire, held)
    assert "lease" not in wire.match(held)
    assert wire.stat(held[0])["leased"] is False
    flood(wire)
    assert not any(wire.exists(held))


def test_a_released_lease_holds_nothing(wire):
    held = keys_of(b"held", 20)
    store_all(wire, held)
    lease = wire.match(held, lease_ms=60_000)["lease"]
    wire.release(lease)
    assert wire.stat(held[0])["leased"] is False
    flood(wire)
    assert not any(wire.exists(held))


def test_some_keys_of_a_lease_can_be_released(wire):
    held = keys_of(b"held", 20)
    store_all(wire, held)
    lease = wire.match(held, lease_ms=60_000)["lease"]
    wire.release(lease, keys=held[10:])
    flood(wire)
    assert wire.exists(held) == b"\1" * 10 + b"\0" * 10


def test_a_lease_runs_out(wire):
    held = keys_of(b"held", 10)
    store_all(wire, held)
    wire.match(held, lease_ms=300)
    assert wire.stat(held[0])["leased"] is True
    began = time.monotonic()
    wait_until(lambda: not wire.stat(held[0])["leased"], "the lease to run out", 5)
    assert time.monotonic() - began > 0.2
    flood(wire)
    assert not any(wire.exists(held))


def test_a_lease_ends_with_its_connection(kvd, wire):
    held = keys_of(b"held", 10)
    store_all(wire, held)
    other = kvd.wire()
    other.match(held, lease_ms=60_000)
    assert wire.stat(held[0])["leased"] is True
    other.close()
    wait_until(lambda: not wire.stat(held[0])["leased"], "the lease to end with its connection", 5)


def test_a_lease_serves_from_any_connection(kvd, wire):
    held = keys_of(b"held", 10)
    store_all(wire, held)
    lease = kvd.wire().match(held, lease_ms=60_000)["lease"]
    assert wire.stat(held[0])["leased"] is True
    wire.release(lease)
    assert wire.stat(held[0])["leased"] is False


def test_two_leases_of_one_object(wire):
    wire.store(b"k", BLOCK)
    first, second = (wire.match([b"k"], lease_ms=60_000)["lease"] for _ in range(2))
    assert first != second
    wire.release(first)
    assert wire.stat(b"k")["leased"] is True
    wire.release(second)
    assert wire.stat(b"k")["leased"] is False


def test_lease_ms_0_is_ten_seconds(wire):
    wire.store(b"k", 100)
    wire.match([b"k"], lease_ms=0)
    time.sleep(0.5)  # what is looked at is that nothing happens
    assert wire.stat(b"k")["leased"] is True


def test_a_lease_longer_than_a_minute(wire):
    wire.store(b"k", 100)
    got = wire.call(MATCH, {"keys": [b"k"], "lease_ms": 10**12})
    assert got.code in (OK, BAD_REQUEST)
    assert wire.call(PING).code == OK


@pytest.mark.parametrize("how", ["remove", "replace"])
def test_a_remove_or_a_replace_ends_it_for_that_object(wire, how):
    held = keys_of(b"held", 10)
    store_all(wire, held)
    wire.match(held, lease_ms=60_000)
    if how == "remove":
        assert wire.remove(held[0]) == 1
        wire.misses(held[0])
        wire.store(held[0], BLOCK)
    else:
        assert wire.put(held[0], bytes(BLOCK), replace=True).code == OK
    assert wire.stat(held[0])["leased"] is False and wire.stat(held[1])["leased"] is True
    flood(wire)
    assert wire.exists(held) == b"\0" + b"\1" * 9


def test_exists_with_a_lease_holds_all_that_is_there(wire):
    held = keys_of(b"held", 10)
    store_all(wire, held[:5] + held[6:])
    got = wire.ok(EXISTS, {"keys": held, "lease_ms": 60_000})
    assert got["lease"] > 0 and got["count"] == 9
    flood(wire)
    assert wire.exists(held) == b"\1" * 5 + b"\0" + b"\1" * 4


def test_what_only_memory_has_is_leased_up_to_half_the_pool(wire):
    held = keys_of(b"held", 110)  # 55 MiB
    store_all(wire, held)
    got = wire.match(held, lease_ms=60_000)
    assert 55 <= got["count"] <= 64, "MATCH counts only what it could lease: 32 MiB"
    flood(wire)
    present = wire.exists(held)
    assert all(present[:got["count"]]), "32 blocks are there means that all 32 can be read"
    found, last = wire.mget(held[:got["count"]])
    assert last.meta["hits"] == got["count"]


def test_leases_do_not_starve_puts(wire):
    held = keys_of(b"held", 110)
    store_all(wire, held)
    wire.match(held, lease_ms=60_000)
    flood(wire, b"more", 64)
    wire.holds(keys_of(b"more", 128)[-1], BLOCK)


def test_pins_are_bounded_as_leases_are(wire):
    keys = keys_of(b"pin", 110)
    store_all(wire, keys)
    for key in keys:
        got = wire.call(PIN, {"keys": [key], "pinned": True})
        assert got.code in (OK, BUSY)
    pinned = sum(1 for key in keys if wire.stat(key)["pinned"])
    assert 50 <= pinned <= 64
    flood(wire)
    assert sum(1 for byte in wire.exists(keys) if byte) >= pinned


def test_what_is_on_disk_too_is_leased_beyond_half_the_pool(start):
    wire = start(memory="64m", disk="1g").wire()
    held = keys_of(b"held", 110)
    store_all(wire, held)
    wire.sync()
    assert wire.match(held, lease_ms=60_000)["count"] == 110
    flood(wire)
    found, last = wire.mget(held)
    assert last.meta["hits"] == 110
