"""kvctl replay: a trace through both tiers, every byte verified, the hits those that the trace itself has."""
import json
import random
import shutil
import tempfile

import pytest

from harness import MIB, STRACE_WITHOUT_RING, expected_hits, kvctl, read_trace, trace_file, why_no_strace

REQUESTS = 2000


def whole_trace(free_bytes):
    """The conversation trace, for a test that needs so much of TMPDIR; skips where either is missing."""
    path = trace_file()
    if not path:
        pytest.skip("the conversation trace is not beside this checkout")
    if shutil.disk_usage(tempfile.gettempdir()).free < free_bytes:
        pytest.skip(f"{tempfile.gettempdir()} has less than {free_bytes >> 30} GiB free")
    return path


def make_trace(path, requests, seed=1):
    """Conversations that grow and are taken up again; a hot first block; a few that nobody comes back to."""
    rng = random.Random(seed)
    talks, fresh, lines = [[0]], 1, []
    for number in range(requests):
        if rng.random() < 0.35 or len(talks) < 5:
            talk = [0]
        else:
            talk = list(rng.choice(talks[-60:] if rng.random() < 0.5 else talks))
        for _ in range(rng.randrange(1, 12)):
            talk.append(fresh)
            fresh += 1
        talks.append(talk)
        lines.append({"timestamp": number * 30, "input_length": 512 * len(talk), "output_length": 100, "hash_ids": talk})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def replay(kvd, trace, *args, block="64k", requests=None, timeout_s=200):
    limit = ["--requests", requests] if requests else []
    done = kvctl("--json", "replay", trace, "--block-size", block, "--verify", *limit, *args, port=kvd.port, timeout_s=timeout_s)
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
    return json.loads(done.stdout)


# What `kvctl --json replay` calls its figures.
def hits(result):
    assert result["hits"] == result["hits_memory"] + result["hits_disk"] + result["hits_peer"]
    return result["hits"]


def from_disk(result):
    return result["hits_disk"]


def references(result):
    return result["references"]


def wrong(result):
    return result["wrong"]


def goes_right(kvd, trace, expected, **options):
    """The trace once; sync, kill -9, start again: the same trace hits everything."""
    first = replay(kvd, trace, **options)
    assert (hits(first), references(first)) == expected and wrong(first) == 0
    wire = kvd.wire()
    assert sum(wire.dropped().values()) == 0, "nothing was lost"
    assert kvctl("sync", port=kvd.port).returncode == 0
    kvd.restart("kill")
    second = replay(kvd, trace, **options)
    assert hits(second) == references(second) == expected[1] and wrong(second) == 0
    return first, second


@pytest.fixture
def trace(folder):
    """The first requests of the conversation trace where it is at hand, else one made on the spot. (path, requests)"""
    path = trace_file()
    return path if path else make_trace(folder / "trace.jsonl", REQUESTS)


@pytest.mark.limit(200)
def test_a_trace_through_both_tiers(start, trace):
    expected = expected_hits(read_trace(trace, REQUESTS))
    kvd = start(memory="256m", disk="20g", segment_size="256m")
    first, second = goes_right(kvd, trace, expected, requests=REQUESTS)
    assert from_disk(first) > 0 and from_disk(second) > expected[1] / 4


def test_the_conversation_trace_is_here():
    if not trace_file():
        pytest.skip("the conversation trace is not beside this checkout: a generated one stood in for it")


@pytest.mark.limit(200)
def test_a_trace_on_a_fuse_mount(start, trace, bindfs):
    requests = REQUESTS
    expected = expected_hits(read_trace(trace, requests))
    kvd = start(memory="128m", disk="20g", segment_size="256m", data=bindfs.point / "data")
    first, _ = goes_right(kvd, trace, expected, requests=requests)
    assert from_disk(first) > 0


@pytest.mark.limit(200)
def test_a_trace_without_io_uring(start, trace):
    why = why_no_strace()
    if why:
        pytest.skip(why)
    requests = REQUESTS
    expected = expected_hits(read_trace(trace, requests))
    kvd = start(memory="128m", disk="20g", segment_size="256m", wrapper=STRACE_WITHOUT_RING)
    assert kvd.wire().figure("io") == "threads" and "io_uring" in kvd.log()
    first, _ = goes_right(kvd, trace, expected, requests=requests)
    assert from_disk(first) > 0


def test_a_made_trace_with_small_memory(start, folder):
    trace = make_trace(folder / "trace.jsonl", 400, seed=2)
    expected = expected_hits(read_trace(trace))
    kvd = start(memory="32m", disk="2g", segment_size="32m")
    first, _ = goes_right(kvd, trace, expected, block="128k")
    assert from_disk(first) > 0


def test_many_connections(start, folder):
    """Requests overlap, so the hits are not fixed; the bytes are."""
    trace = make_trace(folder / "trace.jsonl", 600, seed=3)
    kvd = start(memory="64m", disk="2g")
    result = replay(kvd, trace, "--connections", 8)
    assert wrong(result) == 0 and references(result) == expected_hits(read_trace(trace))[1] and hits(result) > 0


def test_less_disk_than_the_trace_needs(start, folder):
    """A cache that must forget: fewer hits, no wrong byte, and what was forgotten is counted."""
    trace = make_trace(folder / "trace.jsonl", 600, seed=4)
    expected = expected_hits(read_trace(trace))
    kvd = start(memory="32m", disk="64m", segment_size="8m")
    result = replay(kvd, trace)
    assert wrong(result) == 0 and 0 < hits(result) < expected[0]
    assert sum(kvd.wire().dropped().values()) > 0
    assert kvd.disk_bytes() <= 64 * MIB


def test_with_the_pace_of_the_trace(start, folder):
    trace = make_trace(folder / "trace.jsonl", 40, seed=5)
    result = replay(start(), trace, "--speed", 2)
    assert wrong(result) == 0 and hits(result) > 0


def test_bytes_of_another_block_size_are_no_hits_of_this_one(start, folder):
    trace = make_trace(folder / "trace.jsonl", 30, seed=6)
    kvd = start()
    replay(kvd, trace, block="64k")
    result = replay(kvd, trace, block="128k")
    assert wrong(result) == 0


def test_wrong_bytes_are_found(start, folder):
    """A block under replay's key that is not replay's: --verify must say so."""
    trace = make_trace(folder / "trace.jsonl", 30, seed=7)
    kvd = start()
    replay(kvd, trace)
    wire = kvd.wire()
    victim = max(wire.scan(), key=lambda item: item["key"])
    assert wire.put(victim["key"], bytes(victim["size"]), replace=True).code == 0
    done = kvctl("--json", "replay", trace, "--block-size", "64k", "--verify", port=kvd.port)
    assert done.returncode == 3, done


def test_the_latencies_are_there(start, folder):
    result = replay(start(), make_trace(folder / "trace.jsonl", 50, seed=8))
    text = json.dumps(result)
    for word in ("match", "first", "get", "put", "p50", "p99"):
        assert word in text, word
