"""Look-ups are answered from memory: not one file operation, counted at the seam."""
from harness import MATCH, MAX_BATCH_KEYS, MIB, SCAN


def test_lookups_touch_no_file(start):
    kvd = start(memory="16m", segment_size="8m")
    wire = kvd.wire()
    keys = [b"k-%04d" % i for i in range(MAX_BATCH_KEYS)]
    for key in keys[:40]:
        wire.store(key, MIB)
    for key in keys[40:1000]:
        wire.store(key, 100)
    wire.sync()
    before = wire.file_counters()
    for _ in range(5):
        present = wire.exists(keys)
        assert sum(1 for byte in present if byte) == 1000
        assert wire.match(keys)["count"] == 1000
    wire.ok(MATCH, {"keys": keys[:10], "lease_ms": 100})
    assert 2 in present, "some are on disk alone"
    for key in keys[:100]:
        wire.stat(key)
    assert len(wire.scan(1000)) == 1000
    wire.ok(SCAN, {"limit": 10, "prefix": b"k-00"})
    assert wire.file_counters() == before


def test_the_counters_count(start):
    wire = start(memory="16m").wire()
    before = wire.file_counters()
    for number in range(40):
        wire.store(b"k-%d" % number, MIB)
    wire.sync()
    wire.holds(b"k-0", MIB)
    after = wire.file_counters()
    assert all(after[name] > before[name] for name in ("reads_total", "writes_total", "syncs_total")), (before, after)


def test_the_kind_of_io_is_said(start):
    assert start().wire().figure("io") in ("io_uring", "threads")
    assert start(args=["--io", "threads"]).wire().figure("io") == "threads"
