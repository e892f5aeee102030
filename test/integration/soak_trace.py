"""The long ones, for `make soak`: the whole conversation trace through both tiers (12 GiB of disk below TMPDIR)."""
import collections
import threading

import pytest

from harness import GIB, MIB, expected_hits, kvctl, read_trace
from test_replay import from_disk, hits, references, replay, whole_trace, wrong


@pytest.fixture(scope="module")
def trace():
    return whole_trace(21 * GIB)


def hits_beyond_memory(blocks_of_requests, capacity):
    """How many hits an LRU of `capacity` blocks leaves to the tier below it; a batch is touched last to first."""
    memory, stored, below = collections.OrderedDict(), set(), 0
    for ids in blocks_of_requests:
        for ident in ids:
            if ident not in stored:
                break
            below += ident not in memory
        for ident in reversed(ids):
            memory[ident] = True
            memory.move_to_end(ident)
            if len(memory) > capacity:
                memory.popitem(last=False)
        stored.update(ids)
    return below


@pytest.mark.limit(3000)
def test_the_whole_conversation_trace(start, trace):
    blocks = read_trace(trace)
    expected = expected_hits(blocks)
    assert expected == (105_710, 288_500)
    objects = len({ident for ids in blocks for ident in ids})
    kvd = start(memory="1g", disk="20g", segment_size="256m")
    bound = GIB + 64 * MIB + 256 * objects + 32 * objects
    largest, ended = [0], threading.Event()

    def watch():
        while not ended.wait(0.5):
            try:
                largest[0] = max(largest[0], kvd.rss_bytes())
            except (OSError, AttributeError):
                pass  # between two lives

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        first = replay(kvd, trace, "--speed", "max", timeout_s=2000)
        assert (hits(first), references(first)) == expected and wrong(first) == 0
        # One GiB holds 16,384 blocks of the trace's 182,790, of which the watermarks keep 94 to 97 % in use.
        fewest, most = hits_beyond_memory(blocks, 16_384), hits_beyond_memory(blocks, 15_000)
        assert fewest <= from_disk(first) <= most, f"an LRU of this size leaves {fewest} to {most} hits to the disk"
        assert sum(kvd.wire().dropped().values()) == 0
        assert kvctl("sync", port=kvd.port, timeout_s=600).returncode == 0
        kvd.restart("kill")
        second = replay(kvd, trace, "--speed", "max", timeout_s=2000)
        assert hits(second) == references(second) == expected[1] and wrong(second) == 0
    finally:
        ended.set()
        watcher.join()
    assert largest[0] <= bound, f"{largest[0]} bytes of memory, {bound} allowed"
    print(first, second, largest[0])
