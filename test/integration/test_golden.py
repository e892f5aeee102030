"""Folders as each released format of the disk wrote them (test/golden/make says what is in them): every kvd opens them."""
import json
import pathlib
import re
import struct
import tarfile

import pytest

from harness import OK, checksum, wait_until

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"
NAMES = sorted(path.name.removesuffix(".json") for path in GOLDEN.glob("*.json"))


class Golden:
    def __init__(self, name, data):
        told = json.loads((GOLDEN / f"{name}.json").read_text())
        self.objects = {bytes.fromhex(item["key"]): item for item in told["objects"]}
        self.gone = [bytes.fromhex(key) for key in told["gone"]]
        data.mkdir(mode=0o700)
        with tarfile.open(GOLDEN / f"{name}.tar.gz") as tar:
            for info in tar:
                path = data / info.name
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.parent.chmod(0o700)
                path.parent.parent.chmod(0o700)
                path.write_bytes(tar.extractfile(info).read())
                path.chmod(0o600)
        [self.folder] = data.glob("*/n1")

    def judge(self, wire):
        assert {item["key"]: item["size"] for item in wire.scan()} == {key: item["size"] for key, item in self.objects.items()}
        for key, item in self.objects.items():
            got = wire.get(key)
            assert got.code == OK, (key, got)
            assert len(got.body) == item["size"] and f"{checksum(got.body):016x}" == item["checksum"], key
            assert got.meta["version"] == item["version"] and f"{got.meta['checksum']:016x}" == item["checksum"]
        for key in self.gone:
            wire.misses(key)
        assert not any(wire.exists(self.gone))


@pytest.fixture(params=NAMES)
def golden(request, folder):
    return Golden(request.param, folder / "data")


def test_there_is_one_of_the_first_format():
    assert NAMES[0] == "format-1"


def kinds_in(log):
    """The kinds of the entries of a remove log: docs/disk-format.md."""
    data, at, kinds = log.read_bytes(), 80, set()
    while data[at:at + 4] == b"KVDF":
        length, count = struct.unpack_from("<II", data, at + 32)
        entry = at + 56
        for _ in range(count):
            kind, _, name, _ = struct.unpack_from("<BBHQ", data, entry)
            kinds.add(kind)
            entry += 12 + name
        assert entry == at + 56 + length
        at += 2 * (56 + length)
    return kinds


def test_they_have_some_of_everything(golden):
    segments = [path.read_bytes() for path in sorted(golden.folder.glob("*.seg"))]
    assert len(segments[-1]) == 1 << 20 and all(len(data) < 1 << 20 for data in segments[:-1]), "sealed ones, and one that is not"
    [log] = golden.folder.glob("removes-*.log")
    assert kinds_in(log) == {1, 2, 3, 4}


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_all_of_it_is_served_and_nothing_else(golden, start, folder, how):
    """After another restart too, and after what was opened has been written to."""
    kvd = start(data=folder / "data", segment_size="1m")
    wire = kvd.wire()
    golden.judge(wire)
    wire = kvd.restart(how).wire()
    golden.judge(wire)
    wire.store(b"new", 50_000, ack="disk")
    newest = max(item["version"] for item in golden.objects.values())
    assert wire.stat(b"new")["version"] > newest
    wire.remove(b"new")
    wire = kvd.restart(how).wire()
    golden.judge(wire)


def newer(path):
    """The next format's number wherever this file has one, with the right sums."""
    data = bytearray(path.read_bytes())
    if path.suffix == ".log":
        for at in (0, 40):
            struct.pack_into("<H", data, at + 4, struct.unpack_from("<H", data, at + 4)[0] + 1)
            struct.pack_into("<Q", data, at + 32, checksum(bytes(data[at:at + 32])))
    else:
        for at in (0, 4096) if path.name == "node" else (0,):
            struct.pack_into("<H", data, at + 4, struct.unpack_from("<H", data, at + 4)[0] + 1)
            struct.pack_into("<Q", data, at + 4088, checksum(bytes(data[at:at + 4088])))
    path.write_bytes(data)
    return bytes(data)


@pytest.mark.parametrize("pattern", ["node", "removes-*.log"])
def test_a_newer_node_file_or_log_keeps_the_tier_off(golden, start, folder, pattern):
    for path in golden.folder.glob(pattern):
        newer(path)
    before = {path.name: path.read_bytes() for path in golden.folder.iterdir()}
    kvd = start(data=folder / "data", segment_size="1m")
    wire = kvd.wire()
    wait_until(lambda: wire.figure("disk_state") == "off", "the disk tier")
    assert re.search("newer|unknown format", kvd.log())
    wire.store(b"k", 1000)
    wire.holds(b"k", 1000)
    kvd.kill()
    assert {path.name: path.read_bytes() for path in golden.folder.iterdir()} == before, "not a byte of it is touched"


def test_a_newer_segment_is_left_alone(golden, start, folder):
    first = sorted(golden.folder.glob("*.seg"))[0]
    bytes_of_it = newer(first)
    kvd = start(data=folder / "data", segment_size="1m")
    wire = kvd.wire()
    present = {item["key"] for item in wire.scan()}
    assert present < set(golden.objects), "what is in the others"
    for key in golden.gone:
        wire.misses(key)
    assert "newer" in kvd.log()
    wire.store(b"new", 10_000, ack="disk")
    kvd.stop()
    assert first.read_bytes() == bytes_of_it
