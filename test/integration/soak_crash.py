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
POLICIES = ["write-through", "none"]


@pytest.mark.limit(SECONDS + 300)
def test_a_crash_after_every_operation(stack, folder, start):
    end = time.monotonic() + SECONDS
    seed, total = SEED, Sum()
    while seed < SEED + len(POLICIES) or time.monotonic() < end:
        with FaultFs(folder / f"s{seed}") as fs:
            total.add(crash_at_every_write(fs, start, seed=seed, turns=25, args=["--persist", POLICIES[seed % len(POLICIES)]]))
        seed += 1
    harness.tell(f"crash at every write: seeds {SEED} to {seed - 1}: {total}")
