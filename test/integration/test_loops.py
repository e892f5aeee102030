"""Several loops: connections are spread over them, what one does the others see, and who hangs up at any moment leaves nothing behind."""
import random
import threading

import pytest

from harness import CONFIG, GET, KIB, MIB, NOT_FOUND, OK, PUT, frame, value_of, wait_until

LOOPS = 3


@pytest.fixture
def kvd(start):
    return start(memory="64m", args=["--loops", str(LOOPS)])


def connections(wire):
    return [int(text) for text in wire.info("loops")["loops"]["connections"].split()]


def test_connections_go_to_the_loop_with_the_fewest(kvd):
    wires = [kvd.wire() for _ in range(2 * LOOPS)]
    for wire in wires:
        wire.hello()
    assert connections(wires[0]) == [2] * LOOPS
    for wire in wires[1], wires[4]:
        wire.close()
    wait_until(lambda: sorted(connections(wires[0])) == [0, 2, 2], "two to be gone")
    more = [kvd.wire() for _ in range(2)]
    for wire in more:
        wire.hello()
    assert connections(wires[0]) == [2] * LOOPS


def test_what_is_done_on_one_loop_is_seen_on_the_others(kvd):
    wires = [kvd.wire() for _ in range(LOOPS)]
    for i, wire in enumerate(wires):
        other = wires[(i + 1) % LOOPS]
        key, value = b"key %d" % i, value_of(b"key %d" % i, 300 * KIB)
        assert wire.put(key, value, ack="disk").code == OK
        assert other.get(key).body == value
        assert other.put(key, b"new", replace=True).code == OK
        assert wire.get(key).body == b"new"
        assert other.remove(key) == 1
        assert wire.get(key).code == NOT_FOUND
        other.ok(CONFIG, {"set": {"send-timeout": f"{10 + i}s"}})
        assert wire.ok(CONFIG, {"get": ["send-timeout"]})["values"]["send-timeout"] in (f"{10 + i}s", f"{10000 + 1000 * i}ms")
    sums = wires[0].info()
    assert sums["server"]["connections"] == LOOPS and sums["ops"]["REMOVE"] == LOOPS
    assert sums["loops"]["lock_taken_total"] > 0
    assert sum(count for name, count in sums["loops"].items() if name.startswith("lock_holds_") and name != "lock_holds_sampled_total") == \
        sums["loops"]["lock_holds_sampled_total"]


def test_one_loop_takes_no_lock(start):
    wire = start(args=["--loops", "1"]).wire()
    wire.store(b"key", MIB)
    assert wire.info("loops")["loops"]["lock_taken_total"] == 0


def busy_client(kvd, seed, failures):
    """Puts, replaces, gets, removes of its own keys: what it was told holds; and now and then it hangs up in the midst of it."""
    chance = random.Random(seed)
    known = {}
    try:
        wire = kvd.wire()
        for _ in range(300):
            key = b"%d-%d" % (seed, chance.randrange(6))
            what = chance.randrange(8)
            if what < 3:
                size = chance.choice((0, 5 * KIB, 200 * KIB, 3 * MIB))
                value = value_of(b"%d" % chance.randrange(1 << 30), size)
                got = wire.put(key, value, replace=True, ack=chance.choice(("memory", "disk")))
                if got.code == OK:
                    known[key] = value
                else:
                    known.pop(key, None)
            elif what < 6:
                got = wire.get(key)
                if got.code == OK:
                    assert known.get(key, got.body) == got.body, "stale"
                else:
                    assert got.code == NOT_FOUND, got
            elif what == 6:
                wire.remove(key)
                assert wire.get(key).code == NOT_FOUND
                known.pop(key, None)
            else:
                if chance.randrange(2):
                    wire.send(GET, {"key": key})
                else:
                    put = frame(PUT, {"key": b"cut", "replace": True}, value_of(b"cut", MIB), 1)
                    wire.send_raw(put[:chance.randrange(len(put))])
                wire.close()
                wire = kvd.wire()
    except Exception as error:  # noqa: BLE001
        failures.append(error)


@pytest.mark.limit(180)
def test_clients_that_come_and_go_on_all_loops_leave_nothing_behind(start):
    kvd = start(memory="24m", disk="256m", segment_size="8m", args=["--loops", str(LOOPS), "--inflight", "8m"])
    failures = []
    threads = [threading.Thread(target=busy_client, args=(kvd, seed, failures)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    kvd.close_wires()
    wire = kvd.wire()
    wait_until(lambda: wire.info("memory")["memory"]["inflight_bytes"] == 0, "what was under way to end")
    wire.remove_all()
    wait_until(lambda: wire.info("memory")["memory"]["used_bytes"] == 0, "memory to be empty")
    kvd.stop()
