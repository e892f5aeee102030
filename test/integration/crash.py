"""A crash after every disk operation of a real process: kvd's whole life on faultfs, one operation after the other.

Before each operation that changes something the file system is held, and what a kill or a power cut would leave just then is copied, with
what clients had been told by then. Each copy is opened by a fresh kvd afterwards, and judged: what `ack: disk` acknowledged is there,
whole; what was removed is not; nothing is torn; kvd starts.
"""
import contextlib
import os
import pathlib
import random
import shutil
import tempfile
import threading
import time

import xxhash

from harness import ADMIN, IO_ERROR, KIB, OK, REMOVE_ALL, Closed, Kvd, value_of, wait_until
from ledger import Ledger

BLOCK_BYTES = 4096
# What is left of what was not synced: all of it (kill -9), nothing, a part by chance (power cuts).
CRASHES = {"kill": 1, "power": 0, "torn": 0.5}


class Images:
    """Copies of folders, each block of them once."""

    def __init__(self):
        self.blocks = {}

    def take(self, folder):
        """[(path, mode, length or None, [(offset, block)])], folders first."""
        image = []
        for root, folders, names in os.walk(folder):
            for name in folders:
                path = os.path.join(root, name)
                image.append((os.path.relpath(path, folder), os.stat(path).st_mode & 0o777, None, ()))
            for name in sorted(names):
                path = os.path.join(root, name)
                image.append((os.path.relpath(path, folder), *self._take_file(path)))
        return image

    def _take_file(self, path):
        fd = os.open(path, os.O_RDONLY)
        try:
            stat = os.fstat(fd)
            return stat.st_mode & 0o777, stat.st_size, list(self._blocks_of(fd, stat.st_size))
        finally:
            os.close(fd)

    def _blocks_of(self, fd, length):
        offset = 0
        while offset < length:
            try:
                offset = os.lseek(fd, offset, os.SEEK_DATA) // BLOCK_BYTES * BLOCK_BYTES
            except OSError:
                return
            end = os.lseek(fd, offset, os.SEEK_HOLE)
            data = os.pread(fd, end - offset, offset)
            for at in range(0, len(data), BLOCK_BYTES):
                block = data[at:at + BLOCK_BYTES]
                if block.strip(b"\0"):
                    name = xxhash.xxh3_128_digest(block)
                    self.blocks.setdefault(name, block)
                    yield offset + at, name
            offset = end

    def put(self, image, folder):
        """Make `folder` what it was."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for path, mode, length, blocks in image:
            if length is None:
                (folder / path).mkdir(mode=mode)
                continue
            fd = os.open(folder / path, os.O_CREAT | os.O_WRONLY, mode)
            for offset, name in blocks:
                os.pwrite(fd, self.blocks[name], offset)
            os.ftruncate(fd, length)
            os.close(fd)


# ---- the life ----

SIZES = (10, 5_000, 40_000, 300 * KIB)


class Client(threading.Thread):
    """Puts, replaces and removes of keys of its own, one call after the other, the same ones for each seed."""

    def __init__(self, kvd, name, seed, turns):
        super().__init__(daemon=True)
        self.kvd, self.name_bytes, self.rng, self.turns = kvd, name, random.Random(f"{seed} {name}"), turns
        self.ledger = Ledger()
        self.error = None

    def again(self):
        """The same client's next thread."""
        super().__init__(daemon=True)
        return self

    def run(self):
        try:
            wire = self.kvd.wire()
            for number in range(self.turns):
                self.turn(wire, number)
        except (Closed, OSError) as error:
            if self.kvd.alive():
                self.error = error
        except AssertionError as error:
            self.error = error

    def turn(self, wire, number):
        key = self.name_bytes + b"-%d%d" % (self.rng.randrange(2), self.rng.randrange(3))
        lot = self.rng.random()
        if lot < 0.65:
            self.ledger.put(wire, key, value_of(b"%d" % self.rng.getrandbits(60), self.rng.choice(SIZES)), self.rng.choice(("memory", "disk")))
        elif lot < 0.85:
            self.ledger.remove(wire, key, self.name_bytes + b"-00")
        elif lot < 0.92:
            self.ledger.remove_prefix(wire, self.name_bytes + b"-1")
        else:
            assert wire.call(ADMIN, {"action": self.rng.choice(("seal", "sync"))}).code in (OK, IO_ERROR)


class Life(threading.Thread):
    """Starts, clients, a kill, an orderly end, another start and end."""

    def __init__(self, kvd, seed, turns):
        super().__init__(daemon=True)
        self.kvd = kvd
        self.clients = [Client(kvd, name, seed, turns) for name in (b"a", b"b")]
        self.last = Ledger()
        self.error = None

    def ledgers(self):
        return [client.ledger.copy() for client in self.clients] + [self.last.copy()]

    def run(self):
        try:
            for how in ("kill", "stop"):
                self.kvd.start()
                for client in self.clients:
                    client.again().start()
                for client in self.clients:
                    client.join()
                    if client.error:
                        raise client.error
                getattr(self.kvd, how)()
            self.end()
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def end(self):
        wire = self.kvd.start().wire()
        self.last.put(wire, b"last-0", b"first", "disk")
        self.last.put(wire, b"last-0", value_of(b"last", 700_000))
        ledgers = [client.ledger for client in self.clients] + [self.last]
        for ledger in ledgers:
            with ledger.lock:
                ledger.durable.clear()
        assert wire.call(REMOVE_ALL).code == OK
        for ledger in ledgers:
            with ledger.lock:
                ledger.may.clear()
        self.last.put(wire, b"last-1", b"after all", "disk")
        self.kvd.stop()


def crashes_of(fs, kvd, life, images, settle_s=0.001):
    """Run the life; yields (k, how, image, ledgers) for each operation."""
    fs.add("op=change step")
    life.start()
    k = 0
    while True:
        wait_until(lambda: fs.counters()["hung"] > 0 or not life.is_alive(), "the next operation", every_s=0.0003)
        if fs.counters()["hung"] == 0:
            break
        time.sleep(settle_s)  # for what was let go before, and for what clients are told meanwhile
        ledgers = life.ledgers()
        k += 1
        for how, keep in CRASHES.items():
            with fs.held(seed=k, keep=keep) as backing:
                image = images.take(backing)
            yield k, how, image, ledgers
        fs.next()
    fs.clear()
    if life.error:
        raise life.error


def judge(kvd, ledgers):
    """Start kvd over what a crash left."""
    wire = kvd.start().wire()
    wait_until(lambda: wire.figure("disk_state") in ("on", "off"), "the disk tier", every_s=0.001)
    assert wire.figure("disk_state") == "on" and wire.info("disk")["disk"]["trouble"] == "", wire.info("disk")
    there = sum(ledger.judge(wire, crashed=True) for ledger in ledgers)
    gone = [key for ledger in ledgers for key in ledger.keys if not ledger.may.get(key)]
    assert not gone or not any(wire.exists(gone)), "a removed object is there"
    kvd.kill()
    return there


class Sum:
    def __init__(self):
        self.operations = self.judged = self.objects = 0

    def add(self, other):
        self.operations += other.operations
        self.judged += other.judged
        self.objects += other.objects

    def __str__(self):
        return f"{self.operations} operations, {self.judged} crashes judged, {self.objects} objects seen"


def folder_in_memory():
    """For what is made and opened hundreds of times."""
    return tempfile.mkdtemp(prefix="kvd-it-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


def crash_at_every_write(fs, start, seed=1, turns=25, stride=1, segment_size="1m", args=()):
    """Every operation; of the copies one in `stride` is opened, each kind in its turn. Returns a Sum."""
    images, total = Images(), Sum()
    with contextlib.ExitStack() as stack:
        options = {"memory": "32m", "segment_size": segment_size, "args": args}
        kvd = start(start=False, data=fs.point / "data", **options)
        stack.callback(fs.let_go)
        folder = pathlib.Path(folder_in_memory())
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        fresh = stack.enter_context(Kvd(start=False, data=folder / "image" / "data", **options))
        chosen = []
        for number, (k, how, image, ledgers) in enumerate(crashes_of(fs, kvd, Life(kvd, seed, turns), images)):
            total.operations = k
            if number % stride == 0:
                chosen.append((k, how, image, ledgers))
        for k, how, image, ledgers in chosen:
            images.put(image, folder / "image")
            try:
                total.objects += judge(fresh, ledgers)
                if k % 10 == 0:
                    judge(fresh, ledgers)  # what recovery has made of it
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, {how} after operation {k}: {error}\n{fresh.log()[-3000:]}") from error
            total.judged += 1
    return total
