"""A crash after every disk operation of a real process, on a real directory: crash.py says how. All of them are in soak_crash.py."""
import pytest

import faultfs
import harness
from crash import crash_at_every_write
from faultfs import FaultFs
from harness import SANITIZED

pytestmark = pytest.mark.skipif(faultfs.why_not() is not None, reason=str(faultfs.why_not()))


@pytest.mark.parametrize("persist", ["write-through", "none"])
def test_a_crash_after_each_operation(stack, folder, start, persist):
    fs = stack.enter_context(FaultFs(folder))
    total = crash_at_every_write(fs, start, stride=16 if SANITIZED else 4, args=["--persist", persist])
    harness.tell(f"crash at every write, {persist}: {total}")
    assert total.operations > 40 and total.objects > 100
