"""What whoever runs a server has it do: evict, scrub, drain, teardown, segments, and kvctl's commands for them."""
import contextlib
import json
import subprocess
import time

import pytest

from harness import (ADMIN, BAD_REQUEST, BUILD, CLOSING, CONFIG, EXISTS, IO_ERROR, KIB, MATCH, MIB, OK, PING, Closed, die_with_parent, kvctl, kvctl_json,
                     value_of, wait_until)

SIZE = 300 * KIB


def admin(wire, action, **meta):
    return wire.ok(ADMIN, {"action": action, **meta}, timeout_s=60)


def fill(kvd, count=60, size=SIZE, name=b"k", **meta):
    """Objects in memory and on disk."""
    wire = kvd.wire()
    keys = [b"%s%03d" % (name, i) for i in range(count)]
    for key in keys:
        wire.store(key, size, **meta)
    wire.sync()
    return wire, keys


def in_memory(wire):
    return wire.info("memory")["memory"]["objects"]


def spoil(kvd, key, size):
    """A byte of its value on disk is another one."""
    start = value_of(key, size)[:64]
    for segment in kvd.segments():
        data = segment.read_bytes()
        at = data.find(start)
        if at >= 0:
            with open(segment, "r+b") as file:
                file.seek(at + size // 2)
                was = file.read(1)
                file.seek(at + size // 2)
                file.write(bytes([was[0] ^ 0x55]))
            return
    raise AssertionError(f"{key!r} is in no segment")


# ---- evict ----


def test_evict_takes_what_is_on_disk_and_no_more_than_asked_for(kvd):
    wire, keys = fill(kvd)
    got = admin(wire, "evict", bytes=10 * SIZE)
    assert got == {"objects": 10, "bytes": 10 * SIZE}
    assert in_memory(wire) == 50
    assert bytes(wire.exists(keys[:10])) == b"\2" * 10, "the least recently used"
    got = admin(wire, "evict")
    assert got["objects"] == 50 and in_memory(wire) == 0
    assert wire.info("memory")["memory"]["used_bytes"] == 0
    for key in keys:
        wire.holds(key, SIZE)


def test_evict_leaves_what_is_held_and_what_would_be_lost(start):
    kvd = start(args=["--persist", "none"])
    wire = kvd.wire()
    wire.store(b"only", SIZE)
    for key in (b"pinned", b"leased", b"disk"):
        wire.store(key, SIZE, ack="disk", pin=key == b"pinned")
    wire.ok(EXISTS, {"keys": [b"leased"], "lease_ms": 60_000})
    assert admin(wire, "evict") == {"objects": 1, "bytes": SIZE}
    assert bytes(wire.exists([b"only", b"pinned", b"leased", b"disk"])) == b"\1\3\3\2"
    assert sum(wire.dropped().values()) == 0


def test_evict_writes_first_what_belongs_on_disk(start):
    """Its segment went, or its write was not wanted: what the policy now has on disk gets there before it leaves memory."""
    kvd = start(args=["--persist", "none"])
    wire = kvd.wire()
    for i in range(150):
        wire.store(b"k%d" % i, SIZE)
    wire.ok(CONFIG, {"set": {"persist": "write-through"}})
    got = admin(wire, "evict")
    assert got == {"objects": 150, "bytes": 150 * SIZE}
    assert wire.info("disk")["disk"]["objects"] == 150 and sum(wire.dropped().values()) == 0
    for i in range(0, 150, 10):
        wire.holds(b"k%d" % i, SIZE)


# ---- scrub ----


def test_a_scrub_reads_everything_and_finds_nothing(kvd):
    wire, keys = fill(kvd, 20)
    wire.store(b"empty", 0, ack="disk")
    wire.store(b"large", 9 * MIB + 5, ack="disk")
    admin(wire, "evict")
    got = admin(wire, "scrub", wait=True)
    assert got == {"run": 1, "records": 22, "bytes": 20 * SIZE + 9 * MIB + 5, "bad": 0, "unreadable": 0}
    assert in_memory(wire) == 0, "nothing comes to memory by it"
    assert wire.info("scrub")["scrub"]["state"] == "idle"
    wire.holds(b"large", 9 * MIB + 5)


@pytest.mark.parametrize("size", [1000, SIZE, 3 * MIB])
def test_a_scrub_drops_what_is_bad(kvd, size):
    wire, keys = fill(kvd, 10, size)
    admin(wire, "evict", bytes=5 * size)
    bad = keys[1], keys[4], keys[8]
    for key in bad:
        spoil(kvd, key, size)
    got = admin(wire, "scrub", wait=True)
    assert got["records"] == 10 and got["bad"] == 3, got
    assert wire.dropped()["corrupt_total"] == 2, "of those that were on disk alone"
    for key in keys:
        if key in bad[:2]:
            assert "reason" not in wire.misses(key).meta
        else:
            wire.holds(key, size)
    assert wire.exists([keys[8]])[0] & 1, "what is in memory stays"
    wire.sync()
    assert admin(wire, "scrub", wait=True)["bad"] == 0
    kvd.restart("kill")
    wire = kvd.wire()
    for key in keys:
        if key in bad[:2]:
            wire.misses(key)
        else:
            wire.holds(key, size)


def test_a_scrub_keeps_to_its_rate_and_goes_on_with_gets(kvd):
    wire, keys = fill(kvd, 40)
    admin(wire, "evict")
    began = time.monotonic()
    assert admin(wire, "scrub", rate=8 * MIB) == {"run": 1}
    other = kvd.wire()
    slowest = 0
    for key in keys[:20]:
        asked = time.monotonic()
        other.holds(key, SIZE)
        slowest = max(slowest, time.monotonic() - asked)
    assert wire.info("scrub")["scrub"]["state"] == "running"
    wait_until(lambda: wire.info("scrub")["scrub"]["state"] == "idle", "the end of the scrub")
    assert time.monotonic() - began >= 40 * SIZE / (8 * MIB) * 0.9, "it went faster than was asked for"
    assert slowest < 1
    assert wire.info("scrub")["scrub"]["records"] == 40


def test_whoever_joins_a_slow_scrub_is_not_kept_by_its_rate(kvd):
    wire, _ = fill(kvd, 4)
    assert admin(wire, "scrub", rate=1) == {"run": 1}
    wait_until(lambda: wire.info("scrub")["scrub"]["bytes"] > 0, "the first piece, which costs days at this rate")
    began = time.monotonic()
    assert admin(wire, "scrub", rate=1 << 30, wait=True)["records"] == 4
    assert time.monotonic() - began < 5
    assert wire.info("scrub")["scrub"]["run"] == 1


def test_a_second_scrub_joins_the_first_and_an_end_breaks_it_off(kvd):
    wire, keys = fill(kvd, 40)
    assert admin(wire, "scrub", rate=100 * KIB)["run"] == 1
    assert admin(wire, "scrub", rate=100 * KIB)["run"] == 1
    ident = wire.send(ADMIN, {"action": "scrub", "wait": True, "rate": 100 * KIB})
    assert wire.info("scrub")["scrub"]["run"] == 1
    began = time.monotonic()
    kvd.process.terminate()
    assert wire.reply(ident).code == CLOSING
    kvd.close_wires()
    assert kvd.wait() == 0 and time.monotonic() - began < 5
    kvd.start()


def test_objects_come_and_go_under_a_scrub(kvd):
    wire, keys = fill(kvd, 60, 100 * KIB)
    admin(wire, "scrub", rate=6 * MIB)
    other = kvd.wire()
    for i, key in enumerate(keys):
        if i % 3 == 0:
            other.remove(key)
        elif i % 3 == 1:
            other.store(key, 100 * KIB, replace=True)
    admin(other, "evict")
    other.remove_prefix(b"k00")
    wait_until(lambda: wire.info("scrub")["scrub"]["state"] == "idle", "the end of the scrub")
    got = wire.info("scrub")["scrub"]
    assert got["bad"] == got["unreadable"] == 0
    for i, key in enumerate(keys[10:]):
        if (i + 10) % 3:
            wire.holds(key, 100 * KIB)
        else:
            wire.misses(key)


def test_a_rate_of_nothing_is_refused(wire):
    assert wire.call(ADMIN, {"action": "scrub", "rate": 0}).code == BAD_REQUEST


# ---- drain ----


def test_drain_refuses_puts_writes_and_keeps_reading(kvd):
    wire = kvd.wire()
    for i in range(100):
        wire.store(b"k%d" % i, SIZE)
    assert admin(wire, "drain") == {"unwritten": 0}
    assert wire.info("disk")["disk"]["objects"] == 100
    assert wire.info("server")["server"]["state"] == "draining"
    assert wire.put(b"new", b"value").code == CLOSING
    assert wire.put(b"k1", b"value", replace=True).code == CLOSING
    wire.holds(b"k1", SIZE)
    assert wire.ok(MATCH, {"keys": [b"k1", b"k2"], "lease_ms": 1000})["count"] == 2
    assert wire.remove(b"k2") == 1
    assert kvctl("put", "new", "-", port=kvd.port, stdin=b"x").returncode == 3
    began = time.monotonic()
    kvd.restart()
    assert time.monotonic() - began < 5
    wire = kvd.wire()
    assert wire.put(b"new", b"value").code == OK
    wire.holds(b"k1", SIZE)
    wire.misses(b"k2")


def test_drain_says_what_is_on_no_disk(start):
    kvd = start(args=["--persist", "none"])
    wire = kvd.wire()
    for i in range(7):
        wire.store(b"k%d" % i, 1000)
    assert admin(wire, "drain") == {"unwritten": 7}
    assert kvctl("drain", port=kvd.port).returncode == 1


# ---- teardown ----


def test_teardown_takes_everything_and_what_is_not_its_own_stays(kvd):
    wire, keys = fill(kvd)
    wire.remove(keys[0])
    folder = kvd.folder()
    foreign = {"notes.txt": b"mine", "0000000000000009.seg.bak": b"mine too", "node.old": b"and this"}
    for name, data in foreign.items():
        (folder / name).write_bytes(data)
    (folder / "sub").mkdir()
    (folder / "sub" / "0000000000000001.seg").write_bytes(b"not even this")
    other = folder.parent / "n2"
    other.mkdir()
    (other / "node").write_bytes(b"another node's")
    assert wire.call(ADMIN, {"action": "teardown", "node": "n2"}).code == BAD_REQUEST
    assert wire.call(ADMIN, {"action": "teardown"}).code == BAD_REQUEST
    wire.holds(keys[1], SIZE)
    assert admin(wire, "teardown", node="n1") == {"removed": len(keys) - 1}
    assert kvd.wait() == 0
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    assert left == sorted([*foreign, "sub", "sub/0000000000000001.seg"])
    for name, data in foreign.items():
        assert (folder / name).read_bytes() == data
        assert f"{folder}/{name}" in kvd.log()
    assert (other / "node").read_bytes() == b"another node's"
    kvd.close_wires()
    kvd.start()
    assert kvd.wire().info("objects")["objects"]["objects"] == 0


def test_teardown_leaves_no_folder(kvd):
    fill(kvd, 10)
    assert kvctl("teardown", port=kvd.port).returncode == 2
    assert kvctl("teardown", "--yes-delete", "other", port=kvd.port).returncode == 2
    assert kvd.alive() and kvd.folder().exists()
    folder = kvd.folder()
    done = kvctl("--json", "teardown", "--yes-delete", "n1", port=kvd.port)
    assert done.returncode == 0 and json.loads(done.stdout) == {"torn_down": True, "removed": 10}
    assert kvd.wait() == 0
    assert not folder.exists() and not folder.parent.exists() and kvd.data.exists()
    kvd.close_wires()


def test_while_it_is_torn_down_nobody_is_served(kvd):
    wire, keys = fill(kvd, 20)
    first, second = kvd.wire(), kvd.wire()
    ident = first.send(ADMIN, {"action": "teardown", "node": "n1"})
    assert first.reply(ident).code == OK
    with contextlib.suppress(Closed, OSError):  # the connection ends in the midst of it
        assert second.call(PING).code == OK
        assert second.get(keys[0]).code == CLOSING
        assert second.put(b"new", b"value").code == CLOSING
    assert kvd.wait() == 0


def test_teardown_leaves_what_other_nodes_have_in_a_shared_directory(start):
    kvd = start(segment_size="0")
    other = start(segment_size="0", data=kvd.data, args=["--node", "n2", "--probe"])
    wire, keys = fill(kvd, 10)
    theirs, their_keys = fill(other, 10, name=b"other")
    assert admin(wire, "scrub", wait=True)["records"] == 10
    assert admin(wire, "teardown", node="n1") == {"removed": 10}
    assert kvd.wait() == 0
    assert not (kvd.data / "kvd" / "n1").exists()
    admin(theirs, "evict")
    for key in their_keys:
        theirs.holds(key, SIZE)
    theirs.misses(keys[0])


@pytest.mark.parametrize("left", ["segments", "logs", "node"])
def test_a_teardown_that_was_cut_off_is_coped_with(kvd, left):
    """What a crash in the middle leaves, made by hand: the files that go first are gone."""
    wire, keys = fill(kvd, 20)
    folder = kvd.folder()
    wire.remove_all()
    kvd.kill()
    if left != "segments":
        for path in folder.glob("*.seg"):
            path.unlink()
    if left == "node":
        for path in folder.glob("removes-*.log"):
            path.unlink()
    kvd.start()
    wire = kvd.wire()
    assert wire.info("disk")["disk"]["state"] in ("on", "recovering")
    assert wire.scan() == []
    assert wire.put(b"new", b"value", ack="disk").code == OK


def test_no_teardown_where_the_disk_is_off(start):
    kvd = start()
    wire, keys = fill(kvd, 3)
    folder = kvd.folder()
    kvd.stop()
    node = folder / "node"
    data = node.read_bytes()
    node.write_bytes(b"\0" * len(data))
    kvd.start()
    wire = kvd.wire()
    before = sorted(folder.iterdir())
    assert wire.call(ADMIN, {"action": "teardown", "node": "n1"}).code == IO_ERROR
    assert sorted(folder.iterdir()) == before and wire.put(b"k", b"v").code == OK


# ---- segments ----


def test_segments_tells_what_lives_where(start):
    kvd = start(segment_size="1m")
    wire, keys = fill(kvd, 12)
    rows = admin(wire, "segments")
    assert rows["cursor"] == 0
    rows = rows["segments"]
    assert sorted(row["file"].rsplit("/")[-1] for row in rows) == [path.name for path in kvd.segments()]
    assert sum(row["live_objects"] for row in rows) == 12 and sum(row["live_bytes"] for row in rows) == 12 * SIZE
    assert all(0 <= row["age_ms"] < 600_000 and "idle_ms" not in row for row in rows)
    assert [row["state"] for row in rows[:-1]] == ["sealed"] * (len(rows) - 1)
    assert sum(row["bytes"] for row in rows) == wire.info("disk")["disk"]["used_bytes"]
    admin(wire, "evict")
    wire.holds(keys[0], SIZE)
    read = [row for row in admin(wire, "segments")["segments"] if "idle_ms" in row]
    assert len(read) == 1 and read[0]["idle_ms"] < 60_000 and read[0]["file"] == wire.stat(keys[0])["replicas"][-1]["file"]
    pages, cursor = [], 0
    while True:
        page = admin(wire, "segments", cursor=cursor, limit=2)
        pages += page["segments"]
        cursor = page["cursor"]
        if cursor == 0:
            break
        assert len(page["segments"]) == 2
    assert [row["file"] for row in pages] == [row["file"] for row in rows]
    for limit in (0, 1001):
        assert wire.call(ADMIN, {"action": "segments", "limit": limit}).code == BAD_REQUEST


# ---- kvctl ----


def test_kvctl_verify(kvd):
    wire, keys = fill(kvd, 10)
    admin(wire, "evict")
    got = kvctl_json("verify", port=kvd.port)
    assert got["records"] == 10 and got["bad"] == got["unreadable"] == 0 and got["bytes"] == 10 * SIZE
    spoil(kvd, keys[3], SIZE)
    done = kvctl("verify", "--rate", "1g", port=kvd.port)
    assert done.returncode == 1 and b"bad                        1\n" in done.stdout, done
    assert kvctl("verify", port=kvd.port).returncode == 0
    for bad in ("0", "fast", "-1"):
        assert kvctl("verify", "--rate", bad, port=kvd.port).returncode == 2
    wire.misses(keys[3])


def test_a_scrub_can_be_stopped(kvd):
    wire, keys = fill(kvd, 20)
    admin(wire, "evict")
    assert kvctl("verify", "--stop", port=kvd.port).returncode == 1, "none is under way"
    assert admin(wire, "scrub", stop=True)["run"] == 0
    assert kvctl("verify", "--stop", "--rate", "1g", port=kvd.port).returncode == 2
    run = admin(wire, "scrub", rate=KIB)["run"]
    waits = kvd.wire()
    waiting = waits.send(ADMIN, {"action": "scrub", "rate": KIB, "wait": True})
    follows = subprocess.Popen([str(BUILD / "kvctl"), "--server", f"127.0.0.1:{kvd.port}", "verify", "--rate", "1k"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=die_with_parent)
    wait_until(lambda: wire.info("scrub")["scrub"]["records"] > 0, "it to read")
    assert kvctl_json("verify", "--stop", port=kvd.port) == {"stopped": True}
    assert waits.reply(waiting).code == IO_ERROR
    out, err = follows.communicate(timeout=30)
    assert follows.returncode == 3 and b"records" in err, (out, err)
    got = wire.info("scrub")["scrub"]
    assert got["state"] == "stopped" and got["run"] == run and got["records"] < 20
    wait_until(lambda: kvctl("verify", port=kvd.port).returncode == 0, "another one")
    assert wire.info("scrub")["scrub"]["state"] == "idle"


def test_kvctl_says_what_there_is_not(start, folder):
    kvd = start(segment_size="0", args=["--persist", "none"])
    wire = kvd.wire()
    wire.store(b"k", 100)
    for command in ("seal", "segments"):
        done = kvctl(command, port=kvd.port)
        assert done.returncode == 0 and b"file of its own" in done.stderr, done
    done = kvctl("info", "nosuch", port=kvd.port)
    assert done.returncode == 3 and b"'nosuch'; there are server, auth, objects, memory, disk" in done.stderr, done
    for what in ("nosuch", "nosuch=1"):
        done = kvctl("config", what, port=kvd.port)
        assert done.returncode == 3 and b"'nosuch'; there are listen," in done.stderr and b"port-file" in done.stderr, done
    done = kvctl("config", "dir=x", port=kvd.port)
    assert done.returncode == 3 and b"needs a restart" in done.stderr
    done = kvctl("get", "k", "--offset", "101", port=kvd.port)
    assert done.returncode == 0 and done.stdout == b"" and b"has 100 bytes: nothing from 101 on" in done.stderr
    assert kvctl("get", "k", "--offset", "100", port=kvd.port).stderr == b""
    done = kvctl("drain", port=kvd.port)
    assert done.returncode == 1 and b"1 objects are in memory alone: nothing is written under persist none" in done.stderr
    for command, asks in (("get", True), ("locate", False), ("inspect", False), ("doctor", False)):
        assert (b"--server" in kvctl("help", command).stdout) == asks, command
    assert b"5m" in kvctl("help", "put").stdout
    assert kvd.wire().info("disk")["disk"]["reclaim_high_bytes"] < 2**63


def test_kvctl_the_others(kvd):
    wire, keys = fill(kvd, 10)
    assert kvctl_json("evict", "600k", port=kvd.port) == {"objects": 2, "bytes": 600 * KIB}
    assert kvctl_json("evict", port=kvd.port) == {"objects": 8, "bytes": 8 * SIZE}
    assert kvctl("evict", "much", port=kvd.port).returncode == 2
    assert kvctl_json("seal", port=kvd.port)["sealed"] is True
    assert kvctl_json("sync", port=kvd.port)["synced"] is True
    got = kvctl_json("segments", port=kvd.port)
    assert got["files"] == len(got["segments"]) == 1 and got["segments"][0]["state"] == "sealed"
    assert got["live_bytes"] == 10 * SIZE
    shown = kvctl("segments", port=kvd.port).stdout.decode()
    assert "0000000000000001.seg" in shown and "share" in shown and "sealed" in shown
    assert kvctl_json("drain", port=kvd.port) == {"drained": True, "unwritten": 0}
    assert b"draining" in kvctl("info", "server", port=kvd.port).stdout
    assert b"[scrub]" in kvctl("info", port=kvd.port).stdout
    for command in ("verify", "seal", "evict", "sync", "drain", "teardown", "segments"):
        assert command.encode() in kvctl("help").stdout
        assert kvctl("help", command).returncode == 0


def test_json_also_where_there_is_nothing_to_tell(kvd, folder):
    for args, code in ((("get", "no", "-o", folder / "out"), 1), (("stat", "no"), 1), (("info", "nothing"), 3), (("nope",), 2), (("get",), 2),
                       (("--bad",), 2), (("put", "k", folder / "missing"), 2), (("teardown", "--yes-delete", "other"), 2)):
        done = kvctl("--json", *args, port=kvd.port)
        assert done.returncode == code, done
        got = json.loads(done.stdout)
        assert got["exit"] == code and got["error"], got
        assert done.stderr
    done = kvctl("--json", "ping", port=1)
    assert done.returncode == 4 and json.loads(done.stdout)["exit"] == 4
    assert kvctl("stat", "no", port=kvd.port).stdout == b""
