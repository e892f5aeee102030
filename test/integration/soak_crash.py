"""A crash after every disk operation, all of them and with other lives: crash.py says how. KVD_SOAK_SECONDS (600) in all, a fifth of it here."""
import os
import time

import pytest

import faultfs
import harness
from crash import Sum, crash_at_every_write
from faultfs import FaultFs

pytestmark = pytest.mark.skipif(faultfs.why_not() is not None, reason=str(faultfs.why_not()))

SECONDS = int(os.environ.get("KVD_SOAK_SECONDS", "600")) // 5
SEED = int(os.environ.get("KVD_SOAK_SEED", "1"))
LIVES = [(persist, segment_size) for segment_size in ("1m", "0") for persist in ("write-through", "on-evict", "second-touch", "none")]


@pytest.mark.limit(SECONDS + 300)
def test_a_crash_after_every_operation(stack, folder, start):
    end = time.monotonic() + SECONDS
    seed, total = SEED, Sum()
    while seed < SEED + len(LIVES) or time.monotonic() < end:
        with FaultFs(folder / f"s{seed}") as fs:
            persist, segment_size = LIVES[seed % len(LIVES)]
            total.add(crash_at_every_write(fs, start, seed=seed, segment_size=segment_size, args=["--persist", persist]))
        seed += 1
    harness.tell(f"crash at every write: seeds {SEED} to {seed - 1}: {total}")
