"""A remove costs what its entry in the remove log costs (twice, for every frame is written twice), and fsyncs are shared."""
import pytest

from harness import PUT, REMOVE, SANITIZED, frame

ENTRY_BYTES, FRAME_BYTES, COPIES = 12, 56, 2  # docs/disk-format.md


def on_disk(wire, count):
    """Small objects, all of them on disk, so that each remove needs its entry."""
    keys = [b"key-%08d" % i for i in range(count)]
    for at in range(0, count, 200):
        for ident in [wire.send(PUT, {"key": key}, b"x" * 64) for key in keys[at:at + 200]]:
            assert wire.reply(ident).code == 0
    wire.sync()
    assert wire.info("disk")["disk"]["objects"] == count
    return keys


def remove_all(wire, keys, batch, depth):
    """{figure: what it grew by}."""
    before = {**wire.info("disk")["disk"], "written": wire.info("files")["files"]["written_bytes_total"]}
    batches = [keys[i:i + batch] for i in range(0, len(keys), batch)]
    removed = 0
    for at in range(0, len(batches), depth):
        together = [(next(wire.ids), some) for some in batches[at:at + depth]]
        wire.send_raw(b"".join(frame(REMOVE, {"keys": some}, ident=ident) for ident, some in together))
        for ident, _ in together:
            got = wire.reply(ident)
            assert got.code == 0, got
            removed += got.meta["removed"]
    assert removed == len(keys)
    after = {**wire.info("disk")["disk"], "written": wire.info("files")["files"]["written_bytes_total"]}
    return {name: after[name] - before[name] for name in ("kills_total", "kill_batches_total", "written")}


@pytest.mark.parametrize("batch,depth", [(4096, 1), (64, 32), (1, 256)])
def test_removes_cost_their_entries(kvd, batch, depth):
    count = 20_000 if batch > 1 else 5_000
    wire = kvd.wire()
    keys = on_disk(wire, count)
    grew = remove_all(wire, keys, batch, depth)
    entry = COPIES * (ENTRY_BYTES + len(keys[0]))
    frames = grew["kill_batches_total"]
    assert count <= grew["kills_total"] <= count + 8, "an entry each, and those of segments that hold nothing any more"
    shared = 8 if SANITIZED else 2  # a slow server has fewer of them at one time
    assert frames <= max(8, shared * count // (batch * depth) + 8), "removes that wait at the same time share a write and an fsync"
    assert grew["written"] <= count * entry + frames * COPIES * FRAME_BYTES + 16384, f"{grew['written'] / count:.0f} bytes a remove"
