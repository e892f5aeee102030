"""Long lives on a file system that fails at random, with kills and power cuts in the midst; not part of `make test`.

KVD_SOAK_SECONDS (600) says how long, KVD_SOAK_SEED where chance begins; a failure prints the seed of its life.
"""
import os
import random
import time

import pytest

import faultfs
from faultfs import FaultFs
from harness import ADMIN, KIB, wait_until
from ledger import Ledger

pytestmark = pytest.mark.skipif(faultfs.why_not() is not None, reason=str(faultfs.why_not()))

SECONDS = int(os.environ.get("KVD_SOAK_SECONDS", "600"))
SEED = int(os.environ.get("KVD_SOAK_SEED", "1"))
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
    "op=fsync delay=20ms",
    "op=fsync name=*.seg err=EIO p=0.2",
    "op=read name=removes-* short=0.5 p=0.3",
    "op=write,fsync,create name=removes-* err=EIO p=0.2",
    "op=write name=removes-* short=0.4 p=0.3",
    "op=change name=*.seg nth=30 err=EIO",
]


def may_lose(fault):
    """Does a get that meets this fault give the replica up for good?"""
    return "op=read" in fault and "EIO" not in fault


def one_turn(rng, wire, ledger, keys, number):
    key = rng.choice(keys)
    lot = rng.random()
    if lot < 0.45:
        value = b"%d " % number + rng.randbytes(rng.choice((10, 5000, 70 * KIB, 300 * KIB)))
        ledger.put(wire, key, value, rng.choice(("memory", "disk")))
    elif lot < 0.6:
        ledger.remove(wire, *rng.sample(keys, rng.randrange(1, 4)))
    elif lot < 0.63:
        ledger.remove_prefix(wire, key[:3])
    elif lot < 0.68:
        wire.call(ADMIN, {"action": rng.choice(("sync", "seal"))})
    else:
        ledger.judge_one(wire, key, crashed=False)


def one_life(fs, kvd, rng, ledger, keys):
    """Faults, requests, an end, and what was found after it."""
    faults = rng.sample(FAULTS, rng.randrange(0, 3))
    for fault in faults:
        fs.add(fault)
    wire = kvd.wire()
    for number in range(rng.randrange(10, 120)):
        one_turn(rng, wire, ledger, keys, number)
    if any(may_lose(fault) for fault in faults) or wire.info("disk")["disk"]["reclaimed_segments_total"] > 0:
        ledger.durable.clear()
    how = rng.choice(("kill", "power", "power", "stop"))
    if how == "stop":
        kvd.close_wires()
        kvd.terminate()
    else:
        kvd.kill()
    fs.clear()
    if how == "power":
        fs.power_cut(seed=rng.randrange(1 << 30), keep=rng.choice((0, 0.5, 0.9)))
    wire = kvd.start().wire()
    wait_until(lambda: wire.figure("disk_state") in ("on", "off"), "the disk tier")
    assert wire.figure("disk_state") == "on"
    ledger.judge(wire, crashed=True)


@pytest.mark.limit(SECONDS + 300)
def test_lives_with_faults_at_random(stack, folder, start):
    fs = stack.enter_context(FaultFs(folder, seed=SEED))
    end = time.monotonic() + SECONDS
    lives, seed = 0, SEED
    while time.monotonic() < end:
        rng = random.Random(seed)
        kvd = start(data=fs.point / f"d{seed}", memory="16m", segment_size="1m", disk="64m")
        stack.callback(fs.let_go)
        ledger, keys = Ledger(), [b"%s%02d" % (prefix, number) for prefix in (b"aa-", b"bb-") for number in range(8)]
        try:
            for _ in range(6):
                one_life(fs, kvd, rng, ledger, keys)
                lives += 1
        except AssertionError as error:
            raise AssertionError(f"KVD_SOAK_SEED={seed}: {error}\n{kvd.log()[-4000:]}") from error
        kvd.fini()
        seed += 1
    print(f"{lives} lives, seeds {SEED} to {seed - 1}")
