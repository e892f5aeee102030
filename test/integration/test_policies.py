"""The persist policies on the real binary: what is on disk after a restart, what is counted, what changing them does."""
import random
import threading
import time

import pytest

from faultfs import FaultFs, why_not
from harness import BUSY, CONFIG, KIB, MIB, NOT_FOUND, OK, PRESENT, Wire, value_of, wait_until

POLICIES = ["write-through", "on-evict", "second-touch", "none"]


def keys_of(name, count):
    return [b"%s-%04d" % (name, i) for i in range(count)]


def adds_up(wire):
    """docs/protocol.md: what was put and what became of it, from INFO alone."""
    info = wire.info()
    objects = info["objects"]
    put = objects["puts_total"] + objects["found_total"]
    gone = sum(count for name, count in info["dropped"].items() if not name.startswith(("unwritten_", "read_")))
    there = objects["objects"] + objects["removed_total"] + objects["puts_replaced_total"] + objects["expired_total"]
    assert put == there + gone, (objects, info["dropped"])
    return info


def configure(wire, **settings):
    return wire.ok(CONFIG, {"set": {name.replace("_", "-"): value for name, value in settings.items()}})


def present(wire, keys):
    return {key for key, byte in zip(keys, wire.exists(keys)) if byte}


def on_disk(wire, keys):
    return {key for key, byte in zip(keys, wire.exists(keys)) if byte & 2}


# ---- what is there after a restart ----


@pytest.mark.parametrize("persist", POLICIES)
def test_what_sigterm_leaves(start, persist):
    kvd = start(memory="64m", args=["--persist", persist])
    wire = kvd.wire()
    once, twice = keys_of(b"once", 20), keys_of(b"twice", 20)
    for key in once + twice:
        wire.store(key, 100 * KIB)
    for key in twice:
        wire.holds(key, 100 * KIB)
    adds_up(wire)
    wire = kvd.restart().wire()
    expected = {"write-through": once + twice, "on-evict": once + twice, "second-touch": twice, "none": []}[persist]
    assert present(wire, once + twice) == set(expected)
    for key in expected:
        wire.holds(key, 100 * KIB)
    assert adds_up(wire)["objects"]["found_total"] == len(expected)


@pytest.mark.parametrize("persist", POLICIES)
def test_what_sync_leaves_after_kill_9(start, persist):
    kvd = start(memory="64m", args=["--persist", persist])
    wire = kvd.wire()
    once, twice = keys_of(b"once", 20), keys_of(b"twice", 20)
    for key in once + twice:
        wire.store(key, 100 * KIB)
    for key in twice:
        assert wire.put(key, b"something else").code == PRESENT
    wire.sync()
    wire = kvd.restart("kill").wire()
    expected = {"write-through": once + twice, "on-evict": once + twice, "second-touch": twice, "none": []}[persist]
    assert present(wire, once + twice) == set(expected)
    for key in expected:
        wire.holds(key, 100 * KIB)


# ---- each policy under its own load ----


def test_on_evict_loses_nothing_and_writes_only_what_leaves(start):
    kvd = start(memory="32m", disk="1g", args=["--persist", "on-evict"])
    wire = kvd.wire()
    keys = keys_of(b"k", 120)
    for key in keys[:24]:
        wire.store(key, MIB)
    assert wire.info("disk")["disk"]["writes_total"] == 0, "there is room"
    for key in keys[24:]:
        wire.store(key, MIB)
    info = adds_up(wire)
    assert sum(wire.dropped().values()) == 0 and present(wire, keys) == set(keys)
    assert info["disk"]["writes_total"] < 120, "not all of it had to go"
    for key in keys:
        wire.holds(key, MIB)
    wire = kvd.restart().wire()
    for key in keys:
        wire.holds(key, MIB)


def test_on_evict_what_is_removed_or_replaced_on_its_way_stays_so(start):
    kvd = start(memory="32m", disk="1g", args=["--persist", "on-evict"])
    wire = kvd.wire()
    rng = random.Random(11)
    alive, sizes = set(), {}
    for number in range(400):
        key = b"k-%d" % rng.randrange(60)
        if rng.random() < 0.3:
            wire.remove(key)
            alive.discard(key)
        else:
            size = 500_000 + number
            while (got := wire.put(key, value_of(key, size), replace=True)).code == BUSY:
                time.sleep(got.meta["retry_after_ms"] / 1000)
            assert got.code == OK
            alive.add(key)
            sizes[key] = size
    adds_up(wire)
    wire.sync()
    wire = kvd.restart("kill").wire()
    for key, size in sizes.items():
        if key in alive:
            wire.holds(key, size)
        else:
            wire.misses(key)


def test_second_touch_writes_what_comes_back(start):
    kvd = start(memory="32m", disk="1g", args=["--persist", "second-touch"])
    wire = kvd.wire()
    keys = keys_of(b"k", 100)
    for key in keys:
        wire.store(key, MIB)
    gone = set(keys) - present(wire, keys)
    info = adds_up(wire)
    assert len(gone) >= 68 and info["dropped"]["untouched_total"] == len(gone) == sum(wire.dropped().values())
    assert info["disk"]["writes_total"] == 0, "nothing was touched twice"
    again = sorted(gone)[:10]
    for key in again:
        wire.store(key, MIB)
    wire.sync()
    assert on_disk(wire, keys) == set(again), "put again after it was dropped"
    wire.holds(keys[-1], MIB)
    leased = wire.match([keys[-2]], lease_ms=1000)
    wire.release(leased["lease"])
    wait_until(lambda: {keys[-1], keys[-2]} <= on_disk(wire, keys), "what was read and what was leased to be written")
    wire = kvd.restart("kill").wire()
    for key in again:
        wire.holds(key, MIB)


# ---- changes while it runs ----


@pytest.mark.parametrize("before", POLICIES)
@pytest.mark.parametrize("after", POLICIES)
def test_a_change_of_policy_is_sound(start, before, after):
    kvd = start(memory="32m", disk="1g", args=["--persist", before])
    wire = kvd.wire()
    first, second = keys_of(b"first", 45), keys_of(b"second", 45)
    for key in first:
        wire.store(key, MIB)
    for key in first[-4:]:
        wire.holds(key, MIB)
    kept = present(wire, first)
    assert configure(wire, persist=after)
    assert wire.ok(CONFIG, {"get": ["persist"]})["values"] == {"persist": after}
    wire.sync()
    if after in ("write-through", "on-evict"):
        assert on_disk(wire, first) == kept, "what was in memory is on disk now"
    elif after == "second-touch":
        assert set(first[-4:]) <= on_disk(wire, first)
    for key in second:
        wire.store(key, MIB)
    info = adds_up(wire)
    assert info["disk"]["persist"] == after
    if after in ("write-through", "on-evict"):
        assert present(wire, first + second) == kept | set(second)
    for key in first + second:
        wire.holds_or_misses(key, MIB)
    wire.sync()
    safe = on_disk(wire, first + second)
    wire = kvd.restart("kill").wire()
    assert present(wire, first + second) == safe
    for key in safe:
        wire.holds(key, MIB)


# ---- when the disk is behind ----

needs_fuse = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture
def slow(stack, folder, start):
    """kvd on a disk whose writes take a while."""
    fs = stack.enter_context(FaultFs(folder))

    def begin(delay_ms, **options):
        kvd = start(data=fs.point / "kvd", **options)
        kvd.wire().sync()
        fs.add(f"op=write name=*.seg delay={delay_ms}ms")
        return kvd

    return begin


@needs_fuse
@pytest.mark.parametrize("persist", ["write-through", "on-evict"])
def test_shed_refuses_no_put_and_counts_what_it_costs(slow, persist):
    kvd = slow(200, memory="32m", disk="1g", args=["--persist", persist, "--when-behind", "shed", "--write-queue", "4m"])
    wire = kvd.wire()
    keys = keys_of(b"k", 200)
    for key in keys:
        assert wire.put(key, value_of(key, 512 * KIB)).code == OK
    info = adds_up(wire)
    assert info["dropped"]["shed_total"] > 50
    assert len(present(wire, keys)) == 200 - sum(wire.dropped().values())
    if persist == "write-through":
        assert info["dropped"]["unwritten_shed_total"] >= info["dropped"]["shed_total"]
    for key in keys:
        wire.holds_or_misses(key, 512 * KIB)


@needs_fuse
@pytest.mark.parametrize("persist", ["write-through", "on-evict"])
def test_wait_loses_nothing_and_says_when_to_come_back(slow, persist):
    """Several at once: whoever comes back when told gets in soon, and nobody is told nonsense."""
    kvd = slow(300, memory="32m", disk="1g", args=["--persist", persist, "--when-behind", "wait", "--write-queue", "4m"])
    busy = []

    def store(name):
        with Wire(kvd.port) as wire:
            for key in keys_of(name, 16):
                while (got := wire.put(key, value_of(key, 512 * KIB))).code == BUSY:
                    assert 1 <= got.meta["retry_after_ms"] <= 5000
                    busy.append((key, got.meta["retry_after_ms"]))
                    time.sleep(got.meta["retry_after_ms"] / 1000)
                assert got.code == OK

    names = [b"c%d" % i for i in range(8)]
    threads = [threading.Thread(target=store, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wire = kvd.wire()
    keys = [key for name in names for key in keys_of(name, 16)]
    assert present(wire, keys) == set(keys) and sum(wire.dropped().values()) == 0
    adds_up(wire)
    assert busy, "the disk was not behind"
    assert 0 < wire.info("disk")["disk"]["drain_bytes_per_s"] < 100 * MIB, "4 MiB in 300 ms, at best"
    tries = [sum(1 for key, _ in busy if key == one) for one in {key for key, _ in busy}]
    assert sum(tries) / len(tries) < 4, f"told to come back too early: {sorted(tries)}"


@needs_fuse
def test_ack_disk_waits_where_others_are_shed(slow):
    kvd = slow(100, memory="32m", disk="1g", args=["--when-behind", "shed", "--write-queue", "1m"])
    wire = kvd.wire()
    for key in keys_of(b"shed", 20):
        assert wire.put(key, value_of(key, 512 * KIB)).code == OK
    keys = keys_of(b"safe", 6)
    for key in keys:
        wire.store(key, 100 * KIB, ack="disk")
    wire = kvd.restart("kill").wire()
    for key in keys:
        wire.holds(key, 100 * KIB)


@needs_fuse
def test_an_end_that_takes_too_long_keeps_the_hottest(slow):
    kvd = slow(300, memory="64m", disk="1g", args=["--persist", "on-evict", "--drain-timeout", "2s", "--write-queue", "2m"])
    wire = kvd.wire()
    keys = keys_of(b"k", 40)
    for key in keys:
        wire.store(key, MIB)
    assert wire.info("disk")["disk"]["writes_total"] == 0
    kvd.close_wires()
    assert kvd.terminate() == 1
    log = kvd.log()
    assert "event=drain_timeout" in log and "event=stopped" in log
    lost = int(log.split("not_on_disk=")[-1].split()[0])
    wire = kvd.start().wire()
    there = present(wire, keys)
    assert 0 < len(there) == 40 - lost < 40
    assert there == set(keys[-len(there):]), "the hottest are written first"
    disk = wire.info("disk")["disk"]
    assert disk["recovered_walked"] == 0 and disk["torn_tails"] == 0, "it ended in order"
    for key in there:
        wire.holds(key, MIB)


def test_when_behind_changes_while_it_runs(start):
    wire = start(memory="32m").wire()
    assert wire.info("disk")["disk"]["when_behind"] == "wait"
    configure(wire, when_behind="shed", persist="on-evict")
    info = wire.info("disk")["disk"]
    assert info["when_behind"] == "shed" and info["persist"] == "on-evict"


# ---- the sum ----


@pytest.mark.parametrize("persist", POLICIES)
def test_what_was_put_and_what_became_of_it_adds_up(start, persist):
    kvd = start(memory="16m", disk="48m", segment_size="4m", args=["--persist", persist])
    rng = random.Random(5)
    for life in range(3):
        wire = kvd.wire()
        for number in range(300):
            key = b"k-%d" % rng.randrange(250)
            what = rng.random()
            if what < 0.6:
                meta = {"replace": rng.random() < 0.2, **({"ttl_ms": 200} if rng.random() < 0.1 else {})}
                assert wire.put(key, value_of(key, 256 * KIB), **meta).code in (OK, PRESENT, BUSY)
            elif what < 0.9:
                assert wire.get(key).code in (OK, NOT_FOUND, BUSY)
            else:
                wire.remove(key)
            if number % 50 == 0:
                adds_up(wire)
        wire.remove_prefix(b"k-1")
        info = adds_up(wire)
        assert info["objects"]["get_bytes_total"] >= info["objects"]["get_disk_bytes_total"]
        assert info["disk"]["written_bytes_total"] >= info["disk"]["written_value_bytes_total"]
        kvd.restart("kill" if life == 1 else "stop")
