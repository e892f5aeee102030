"""Memory that io_uring has fixed: used for what is large, as far as it may be locked; what is read and written is the same without."""
import os
import shutil

import pytest

import harness
from harness import MIB, wait_until

VALUES = [(b"k-%d" % number, size) for number, size in enumerate([MIB, 4 * MIB, MIB, 100, 300_001, 3 * MIB + 5, 64 * 1024, 5 * MIB])]


SMALL_PAGES = ["python3", "-c", "import ctypes, os, sys; ctypes.CDLL(None).prctl(41, 1, 0, 0, 0); os.execvp(sys.argv[1], sys.argv[1:])"]  # PR_SET_THP_DISABLE


def touched(wire):
    wait_until(lambda: wire.figure("memory_touched") == wire.figure("memory_limit"), "the pool to be touched")


def write_and_read_back(wire):
    """Returns how many reads and writes went by fixed memory."""
    wire.remove_all()
    before = [wire.figure(name) for name in ("fixed_reads", "fixed_writes")]
    for key, size in VALUES:
        wire.store(key, size)
    wire.sync()
    wire.ok(harness.ADMIN, {"action": "evict"})
    for key, size in VALUES:
        wire.holds(key, size)
    return [wire.figure(name) - then for name, then in zip(("fixed_reads", "fixed_writes"), before)]


def fixed(kvd):
    """A connection, once all of the pool is fixed."""
    wire = kvd.wire()
    touched(wire)
    if wire.figure("io") == "threads" or wire.info()["memory"]["huge_pages"] == "explicit":
        pytest.skip("not where there is no ring, or pages are large")
    wait_until(lambda: wire.figure("fixed_bytes") == 192 * MIB or "event=fixed_buffers" in kvd.log(), "the pool to be fixed")
    if "event=fixed_buffers_ended" in kvd.log():
        pytest.skip("not where the limit of locked memory is small")
    assert wire.info()["files"]["fixed_slices"] == 3
    return wire


def test_where_pages_are_small_the_pool_is_fixed(start):
    kvd = start(memory="192m", wrapper=SMALL_PAGES)
    wire = fixed(kvd)
    reads, writes = write_and_read_back(wire)
    if "fs=fuse" in kvd.log():
        assert reads >= 9, "of the large ones each MiB but the first, which goes with the header before it"
    else:
        assert reads >= 14 and writes >= 3


def test_where_pages_are_large_it_is_not(start):
    wire = start(memory="192m").wire()
    touched(wire)
    wait_until(lambda: wire.info()["memory"]["huge_bytes"] > 0, "the pages to be counted")
    assert write_and_read_back(wire) == [0, 0] and wire.figure("fixed_bytes") == 0


@pytest.mark.parametrize("args", [["--fixed-buffers", "off"], ["--prefault", "no"], ["--io", "threads"]], ids=lambda args: args[0][2:])
def test_not_where_it_is_not_wanted(start, args):
    kvd = start(memory="64m", args=args, wrapper=SMALL_PAGES)
    wire = kvd.wire()
    if "--prefault" not in args:
        touched(wire)
    assert write_and_read_back(wire) == [0, 0]
    assert wire.figure("fixed_bytes") == 0
    assert "fixed_buffers" not in kvd.log()


@pytest.mark.skipif(not shutil.which("setpriv") or os.getuid() != 0, reason="only root has a capability to lose")
def test_the_limit_of_locked_memory(start):
    """By a user of its own, for locked memory is counted for each user."""
    limit, user = 4 * MIB, 100_000 + os.getpid()
    kvd = start(memory="192m", wrapper=[*SMALL_PAGES, "prlimit", f"--memlock={limit}:{limit}", "setpriv", f"--ruid={user}", "--bounding-set=-ipc_lock"])
    wire = kvd.wire()
    touched(wire)
    if wire.figure("io") == "threads":
        pytest.skip("there is no ring")
    assert wire.figure("fixed_bytes") == 0
    wait_until(lambda: "event=fixed_buffers_ended" in kvd.log(), "the limit")
    assert kvd.log().count("event=fixed_buffers_ended") == 1
    assert f"level=info event=fixed_buffers_ended fixed=0 of={192 * MIB} memlock={limit} " in kvd.log()
    assert write_and_read_back(wire) == [0, 0]
