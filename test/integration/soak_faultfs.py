"""Many clients on a file system that fails at random, with kills, power cuts and vanishing mounts in the midst; not part of `make test`.

KVD_SOAK_SECONDS (600) says how long, KVD_SOAK_SEED where chance begins. What clients were told is judged by history.py. Threads make no two
runs alike; a failure prints the seed of its directory all the same, with the calls of the key and what was going on.
"""
import collections
import os
import pathlib
import random
import threading
import time

import pytest

import faultfs
import harness
from faultfs import FaultFs
from harness import (ADMIN, BUSY, CLOSING, CONFIG, EXISTS, GET, IO_ERROR, KIB, MATCH, NO_SPACE, NOT_FOUND, OK, PIN, PRESENT, PUT, RELEASE, REMOVE,
                     REMOVE_ALL, REMOVE_PREFIX, SCAN, STAT, TIMEOUT, TOO_LARGE, UNSUPPORTED, Closed, wait_until)
from history import DONE, PRESENT as FOUND, UNSURE, VOID, History, Wrong

pytestmark = pytest.mark.skipif(faultfs.why_not() is not None, reason=str(faultfs.why_not()))

SECONDS = int(os.environ.get("KVD_SOAK_SECONDS", "600"))
SEED = int(os.environ.get("KVD_SOAK_SEED", "1"))
CLIENTS = 4
LIVES = 6  # of one directory
KEYS = [b"%s-%d%d" % (prefix, tens, ones) for prefix in (b"aa", b"bb") for tens in range(3) for ones in range(8)]
SIZES = (40, 5_000, 70 * KIB, 300 * KIB, 600 * KIB)
FAULTS = [
    "op=write name=*.seg err=EIO p=0.1",
    "op=write name=*.seg err=EIO anyway p=0.1",
    "op=write name=*.seg err=ENOSPC nth=3 count=4",
    "op=write name=*.seg short=0.3 p=0.2",
    "op=write delay=5ms p=0.2",
    "op=names,truncate,fsyncdir name=*.seg err=EIO p=0.2",
    "op=create,unlink name=*.seg err=EIO anyway p=0.3",
    "op=read name=*.seg err=EIO p=0.3",
    "op=read name=*.seg flip p=0.3",
    "op=read name=*.seg zero=0.5 p=0.3",
    "op=read name=*.seg short=0.5 p=0.3",
    "op=read name=*.seg delay=300ms p=0.1",
    "op=fsync delay=20ms",
    "op=fsync name=*.seg err=EIO p=0.2",
    "op=read name=removes-* short=0.5 p=0.3",
    "op=write,fsync,create name=removes-* err=EIO p=0.2",
    "op=write name=removes-* short=0.4 p=0.3",
    "op=write name=removes-* err=EIO anyway p=0.2",
    "op=change name=*.seg nth=30 err=EIO",
    "op=change nth=50 err=EROFS count=30",
    "op=any delay=2s nth=40 count=1",
    "op=write,fsync hang nth=20 count=2",
    "op=read hang nth=5 count=2",
]
# Is what a put said of the disk then worth nothing: bytes that are read wrong are dropped for good, and so are those that were read as zeros?
LOSES = ("op=read", "hang")


class Chance:
    """What makes one directory's life: which options, which faults, which ends."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.memory = self.rng.choice(("16m", "4m"))
        self.disk = self.rng.choice(("64m", "64m", "8m"))
        self.persist = self.rng.choice(("write-through", "write-through", "on-evict", "second-touch", "none"))
        self.when_behind = self.rng.choice(("wait", "shed"))
        self.segment_size = self.rng.choice(("1m", "1m", "1m", "0"))
        self.buffered = self.rng.random() < 0.3
        self.loops = os.environ.get("KVD_TEST_LOOPS") or self.rng.choice(("1", "1", "2"))

    def faults(self):
        faults = self.rng.sample(FAULTS, self.rng.choice((0, 1, 1, 1, 2, 3)))
        return [fault.replace("*.seg", "?" * 32) for fault in faults] if self.segment_size == "0" else faults

    def end(self):
        return self.rng.choice(("kill", "kill", "power", "power", "power", "stop", "vanish"))


class Client(threading.Thread):
    """Calls at random until the server is gone or `over` is set."""

    def __init__(self, kvd, history, seed, over, bad_bytes=False):
        super().__init__(daemon=True)
        self.wire, self.history, self.rng, self.over = harness.Wire(kvd.port, timeout_s=60), history, random.Random(seed), over
        self.wrong = None
        self.codes = collections.Counter()
        self.leases, self.disk_reads = [], 0
        self.bad_bytes = bad_bytes  # are dropped, though leased: when a scrub or another's read meets them
        self.ops = [(25, self.put), (40, self.get), (6, self.get_range), (4, self.mget), (5, self.exists), (4, self.match), (3, self.remove),
                    (0.2, self.remove_prefix), (4, self.lease), (4, self.release), (2, self.stat), (1, self.pin), (2, self.admin),
                    (0.3, self.config), (0.03, self.remove_all), (0.5, self.scan)]

    def run(self):
        ops, weights = [op for _, op in self.ops], [weight for weight, _ in self.ops]
        try:
            while not self.over.is_set():
                self.rng.choices(ops, weights)[0]()
        except (Closed, ConnectionError):
            pass
        except (AssertionError, TimeoutError) as error:
            self.wrong = error
        finally:
            self.wire.close()

    def call(self, op, meta, body=b""):
        got = self.wire.call(op, meta, body)
        self.codes[got.code] += 1
        return got

    def key(self):
        return self.rng.choice(KEYS)

    def keys(self, most=4):
        return self.rng.sample(KEYS, self.rng.randrange(1, most + 1))

    # -- ops

    def put(self):
        durable, replace, ttl_ms = self.rng.random() < 0.4, self.rng.random() < 0.7, self.rng.choice((0,) * 9 + (50, 1000))
        put = self.history.put_begins(self.key(), self.rng.choice(SIZES), durable, replace, ttl_ms / 1000)
        meta = {"key": put.key, "replace": replace, "ack": "disk" if durable else "memory", **({"ttl_ms": ttl_ms} if ttl_ms else {})}
        code = self.call(PUT, meta, put.bytes()).code
        if code == OK:
            self.history.put_ends(put, DONE)
        elif code == PRESENT:
            self.history.put_ends(put, FOUND)
        elif code in (BUSY, NO_SPACE, TOO_LARGE, CLOSING, UNSUPPORTED):
            self.history.put_ends(put, VOID)
        else:
            assert code in (IO_ERROR, TIMEOUT), code
            self.history.put_ends(put, UNSURE)

    def judge_get(self, key, begin, got, offset=0, length=None):
        if got.code == OK:
            self.disk_reads += got.meta["tier"] == "disk"
            self.history.is_hit(key, begin, got.body, offset, length, got.meta["size"])
        elif got.code == NOT_FOUND:
            self.history.is_missed(key, begin, got.meta.get("reason"))
        else:
            assert got.code in (BUSY, TIMEOUT, CLOSING), got

    def get(self):
        key, begin = self.key(), time.monotonic()
        self.judge_get(key, begin, self.call(GET, {"key": key}))

    def get_range(self):
        key, offset, length, begin = self.key(), self.rng.choice((0, 20, 1000, 65_536)), self.rng.choice((16, 5_000, 100_000)), time.monotonic()
        got = self.call(GET, {"key": key, "offset": offset, "length": length})
        if got.code != OK or len(got.body) >= 16:
            self.judge_get(key, begin, got, offset, length)

    def mget(self):
        keys, begin = self.keys(8), time.monotonic()
        found, _ = self.wire.mget(keys)
        for index, got in found.items():
            self.judge_get(keys[index], begin, got)

    def exists(self):
        keys, begin = self.keys(8), time.monotonic()
        got = self.call(EXISTS, {"keys": keys})
        if got.code == OK:
            for key, byte in zip(keys, got.meta["present"]):
                if byte:
                    self.history.is_seen(key, begin, "EXISTS")

    def match(self):
        keys, begin = self.keys(4), time.monotonic()
        got = self.call(MATCH, {"keys": keys})
        if got.code == OK:
            for key in keys[:got.meta["count"]]:
                self.history.is_seen(key, begin, "MATCH")

    def lease(self):
        keys, begin = self.keys(3), time.monotonic()
        got = self.call(MATCH, {"keys": keys, "lease_ms": 2_000})
        if got.code == OK and got.meta.get("lease") and not self.bad_bytes:
            lease = self.history.is_leased(keys[:got.meta["count"]], begin, 2)
            self.leases.append((got.meta["lease"], lease))

    def release(self):
        if self.leases:
            number, lease = self.leases.pop()
            lease.until = min(lease.until, time.monotonic())
            self.call(RELEASE, {"lease": number})

    def removed(self, keys, op, meta):
        begin, name = time.monotonic(), {REMOVE: "remove", REMOVE_PREFIX: "prefix remove", REMOVE_ALL: "remove of all"}[op]
        try:
            code = self.call(op, meta).code
        except (Closed, OSError):
            self.history.is_removed(keys, begin, False, what=name)
            raise
        assert code in (OK, IO_ERROR, TIMEOUT, BUSY, CLOSING), code
        if code not in (BUSY, CLOSING):
            self.history.is_removed(keys, begin, code == OK, code != OK, name)

    def remove(self):
        keys = self.keys(2)
        self.removed(keys, REMOVE, {"keys": keys})

    def remove_prefix(self):
        prefix = self.key()[:self.rng.choice((3, 4))]
        self.removed([key for key in KEYS if key.startswith(prefix)], REMOVE_PREFIX, {"prefix": prefix})

    def remove_all(self):
        self.removed(KEYS, REMOVE_ALL, None)

    def stat(self):
        key, begin = self.key(), time.monotonic()
        if self.call(STAT, {"key": key}).code == OK:
            self.history.is_seen(key, begin, "STAT")

    def scan(self):
        begin = time.monotonic()
        for item in self.call(SCAN, {"limit": 1000}).meta.get("objects", ()):
            self.history.is_seen(item["key"], begin, "SCAN")

    def pin(self):
        self.call(PIN, {"keys": self.keys(2), "pinned": self.rng.random() < 0.4})

    def admin(self):
        self.call(ADMIN, {"action": self.rng.choice(("sync", "seal", "evict", "scrub"))})

    def config(self):
        self.call(CONFIG, {"set": {"persist": self.rng.choice(("write-through", "on-evict", "second-touch", "none")),
                                   "when-behind": self.rng.choice(("wait", "shed"))}})


class Run:
    """The figures of all of it."""

    def __init__(self):
        self.calls = self.puts = self.disk_reads = 0
        self.faults, self.ends, self.codes = collections.Counter(), collections.Counter(), collections.Counter()

    def __str__(self):
        faults = ", ".join(f"{count} of {name}" for name, count in sorted(self.faults.items()))
        ends = ", ".join(f"{count} x {name}" for name, count in sorted(self.ends.items()))
        return (f"{self.calls} calls, {self.puts} of them puts, {self.disk_reads} values read off the disk; ends: {ends}; faults: {faults or 'none'}; "
                f"answers by code: {dict(sorted(self.codes.items()))}")


def look_at_all(kvd, history):
    """After a start, without a fault: what must be there is there."""
    client = Client(kvd, history, 0, threading.Event())
    for key in KEYS:
        begin = time.monotonic()
        client.judge_get(key, begin, client.call(GET, {"key": key}))
    client.wire.close()


def kind_of(rule):
    words = rule.split()
    what = next((word.split("=")[0] if not word.startswith("err") else word[4:] for word in words
                 if word.split("=")[0] in ("err", "short", "zero", "flip", "delay", "hang")), "?")
    return f"{words[0][3:].split(',')[0]} {what}"


def come_and_go(fs, rng):
    """The mount vanishes under kvd, and is there again; without faults."""
    fs.vanish()
    time.sleep(rng.random() * 0.3)
    fs.unmount()
    fs.start()


def die(fs, kvd, rng, how, clients, over):
    """One of the ends. Returns when it began."""
    begin = time.monotonic()
    if how == "stop":
        over.set()
        for client in clients:
            client.join()
        begin = time.monotonic()
        fs.clear()
        fs.release()
        kvd.close_wires()
        kvd.terminate(timeout_s=60)
    elif how == "vanish":
        come_and_go(fs, rng)
        time.sleep(rng.random() * 0.3)
        kvd.kill()
    else:
        kvd.process.kill()  # while clients call and the disk is at work
        fs.release()
        kvd.kill()
        fs.clear()
    for client in clients:
        client.join()
    if how == "power":
        fs.power_cut(seed=rng.randrange(1 << 30), keep=rng.choice((0, 0.5, 0.9)))
    return begin


def one_life(fs, kvd, chance, history, run, seed):
    """Faults, clients, an end, and what was found after it."""
    faults = chance.faults()
    rules = {fs.add(fault): fault for fault in faults}
    over = threading.Event()
    bad_bytes = any("op=read" in fault for fault in faults)
    clients = [Client(kvd, history, f"{seed} {number}", over, bad_bytes) for number in range(CLIENTS)]
    stays = gives_up_files(chance) and any("names" in fault for fault in faults)
    begin = time.monotonic()
    for client in clients:
        client.start()
    time.sleep(chance.rng.choice((0.05, 0.3, 0.5, 1.0)))
    for rule, fault in rules.items():
        run.faults[kind_of(fault)] += fs.fired(rule)
    lot = chance.rng.random()
    if lot < 0.4:
        fs.clear()
        fs.release()
    elif lot < 0.5:
        history.note("the mount vanishes")
        stays |= gives_up_files(chance)
        come_and_go(fs, chance.rng)
        history.note("the mount is back")
        run.ends["vanished and returned"] += 1
    time.sleep(chance.rng.choice((0.05, 0.1, 0.5, 1.5)))
    how = chance.end()
    lost = any(word in fault for fault in faults for word in LOSES) or chance.disk == "8m" or gave_up(kvd)
    died = die(fs, kvd, chance.rng, how, clients, over)
    if bad_bytes or stays:
        history.untold.append((begin, died))
    if not faults and chance.disk != "8m" and chance.memory != "4m" and how != "vanish":
        history.strict.append((begin, died))
    for client in clients:
        run.codes.update(client.codes)
        run.disk_reads += client.disk_reads
        if client.wrong:
            raise client.wrong
    run.ends[how] += 1
    kvd.start()
    wire = kvd.wire()
    wait_until(lambda: wire.figure("disk_state") in ("on", "off"), "the disk tier")
    assert wire.figure("disk_state") == "on", wire.info("disk")
    crash = history.crashed(died, time.monotonic(), kept_durable=not lost)
    look_at_all(kvd, history)
    crash.until = time.monotonic()
    return faults, how


def gives_up_files(chance):
    """Is each object a file, of which reclaim unlinks some? One that it cannot unlink is forgotten all the same."""
    return chance.segment_size == "0" and chance.disk == "8m"


def gave_up(kvd):
    """Were segments given up to make room? Asked while faults last."""
    try:
        with harness.Wire(kvd.port, timeout_s=5) as wire:
            return wire.info("disk")["disk"]["reclaimed_segments_total"] > 0
    except (OSError, Closed, TimeoutError):
        return True


def one_directory(fs, start, stack, seed, run, end):
    chance = Chance(seed)
    kvd = start(data=fs.point / f"d{seed}", memory=chance.memory, segment_size=chance.segment_size, disk=chance.disk,
                args=["--persist", chance.persist, "--when-behind", chance.when_behind, "--loops", chance.loops])
    stack.callback(fs.let_go)
    history, done = History(), []
    try:
        for number in range(LIVES):
            done.append(one_life(fs, kvd, chance, history, run, f"{seed} {number}"))
            if time.monotonic() > end:
                break
        history.judge()
    except AssertionError as error:
        log = kvd.log()
        pathlib.Path(harness.BUILD / "log").mkdir(exist_ok=True)
        (harness.BUILD / "log" / "lives.kvd.log").write_text(log)
        began = f"now is {time.monotonic():.6f} and {time.strftime('%H:%M:%S', time.gmtime())}"
        raise Wrong(f"KVD_SOAK_SEED={seed}: {vars(chance)} {done}: {error}\n{began}; kvd's log is in {harness.BUILD}/log/lives.kvd.log") from error
    run.calls += history.calls
    run.puts += history.idents
    kvd.fini()


@pytest.mark.limit(SECONDS + 300)
def test_lives_with_faults_at_random(stack, folder, start):
    end, run, seed = time.monotonic() + SECONDS, Run(), SEED
    while time.monotonic() < end:
        fs = stack.enter_context(FaultFs(folder, name=f"m{seed}", backing=folder / f"b{seed}", seed=seed, **({"buffered": True} if seed % 3 == 0 else {})))
        one_directory(fs, start, stack, seed, run, end)
        fs.stop()
        seed += 1
    harness.tell(f"faults at random, seeds {SEED} to {seed - 1}: {run}")
    assert run.calls > 100 * SECONDS and sum(run.ends.values()) > SECONDS / 10
