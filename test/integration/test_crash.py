"""A crash after every disk operation of a real process, on a real directory: crash.py says how. All of them are in soak_crash.py."""
import pytest

import faultfs
import harness
from crash import crash_at_every_write
from faultfs import FaultFs
from harness import SANITIZED

pytestmark = pytest.mark.skipif(faultfs.why_not() is not None, reason=str(faultfs.why_not()))


@pytest.mark.limit(200)
@pytest.mark.parametrize("persist, segment_size, stride", [("write-through", "1m", 5), ("on-evict", "1m", 9), ("none", "1m", 9), ("write-through", "0", 10)])
def test_a_crash_after_each_operation(stack, folder, start, persist, segment_size, stride):
    fs = stack.enter_context(FaultFs(folder))
    total = crash_at_every_write(fs, start, stride=4 * stride if SANITIZED else stride, segment_size=segment_size, args=["--persist", persist])
    harness.tell(f"crash at every write, {persist}, segments of {segment_size}: {total}")
    assert total.operations > 40 and total.objects > 50
