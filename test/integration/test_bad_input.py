"""What no client should send: each gets a clear answer or a closed connection, and nothing is lost."""
import random
import socket
import time

import msgpack
import pytest

from harness import (BAD_REQUEST, EXISTS, GET, GIB, HELLO, INFO, KIB, MATCH, MAX_META_BYTES, MGET, MIB, NOT_FOUND, OK, PIN, PING, PUT, RELEASE, REMOVE,
                     REMOVE_PREFIX, SCAN, STAT, SANITIZED, TOO_LARGE, UNSUPPORTED, Closed, Kvd, frame, prefix, value_of, wait_until)

STORED = [(b"stored-%d" % i, size) for i, size in enumerate((0, 1, 5000, 100_000, MIB + 1))]


@pytest.fixture(scope="module")
def shared():
    with Kvd(memory="128m") as kvd:
        wire = kvd.wire()
        for key, size in STORED:
            wire.store(key, size)
        wire.sync()
        yield kvd


@pytest.fixture
def kvd(shared):
    """A server that must be none the worse for the test: alive, its data whole, other connections served."""
    witness = shared.wire()
    assert witness.call(PING).code == OK
    yield shared
    assert shared.alive(), shared.log()
    assert witness.call(PING, None, b"here").body == b"here"
    newcomer = shared.wire()
    for key, size in STORED:
        newcomer.holds(key, size)
    shared.close_wires()


def refused_and_closed(wire, code, op=0, ident=0):
    """One answer, then the end of the stream."""
    got = wire.recv()
    assert (got.code, got.op, got.id) == (code, op, ident), got
    assert wire.at_end(10)


def refused_and_alive(wire, code, op, meta, body=b""):
    codes = code if isinstance(code, tuple) else (code,)
    got = wire.call(op, meta, body)
    assert got.code in codes, got
    assert wire.call(PING, None, b"next").body == b"next"


# ---- prefixes ----

GOOD = prefix(PING, 7, 0, 0)


@pytest.mark.parametrize("offset", [0, 1, 3, 5, 14, 19])
def test_each_type_byte_of_a_prefix(kvd, offset):
    for byte in (0x00, 0xFF, GOOD[offset] ^ 1, 0xC1):
        wire = kvd.wire()
        broken = bytearray(GOOD)
        broken[offset] = byte
        wire.send_raw(broken)
        refused_and_closed(wire, BAD_REQUEST)


@pytest.mark.parametrize("text", [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\0" * 28, b"\xff" * 1000, b"*1\r\n$4\r\nPING\r\n" * 4,
                                  msgpack.packb([PING, 0, 1, 0, 0]) * 6], ids=["http", "zeros", "ones", "redis", "short msgpack"])
def test_what_is_no_prefix(kvd, text):
    wire = kvd.wire()
    wire.send_raw(text)
    refused_and_closed(wire, BAD_REQUEST)


def test_a_broken_prefix_after_good_requests(kvd):
    wire = kvd.wire()
    wire.send_raw(frame(GET, {"key": b"stored-3"}, ident=1) + frame(PING, ident=2) + b"\0" * 28)
    assert wire.reply(1).code == OK and wire.reply(2).code == OK
    refused_and_closed(wire, BAD_REQUEST)


def test_what_was_answered_before_a_broken_prefix_still_comes(kvd):
    """To one who has shut down its side and is slow to read, too."""
    wire = kvd.wire()
    wire.send_raw(b"".join(frame(GET, {"key": b"stored-4"}, ident=1 + i) for i in range(20)) + b"\0" * 28)
    wire.sock.shutdown(socket.SHUT_WR)
    time.sleep(0.4)  # longer than the server looks away; less than the second that it waits
    for i in range(20):
        wire.judge(*STORED[4], wire.reply(1 + i))
    refused_and_closed(wire, BAD_REQUEST)


def test_one_that_goes_on_sending_after_a_broken_prefix(kvd):
    wire = kvd.wire()
    wire.send_raw(b"\0" * 28)
    try:
        for _ in range(64):
            wire.send_raw(b"\0" * MIB)
    except (ConnectionError, TimeoutError):
        pass
    with pytest.raises((Closed, TimeoutError)):
        while True:
            wire.recv(10)


# ---- lengths ----


@pytest.mark.parametrize("meta_len", [MAX_META_BYTES + 1, 2**32 - 1])
def test_meta_beyond_the_limit(kvd, meta_len):
    wire = kvd.wire()
    wire.send_raw(prefix(EXISTS, 11, meta_len, 0))
    refused_and_closed(wire, TOO_LARGE, EXISTS, 11)


def test_meta_at_the_limit(kvd):
    wire = kvd.wire()
    meta = msgpack.packb({"keys": [b"stored-1"], "padding": b"\0" * (MAX_META_BYTES - 28)}, use_bin_type=True)
    meta = meta if len(meta) == MAX_META_BYTES else msgpack.packb({"keys": [b"stored-1"], "padding": b"\0" * (2 * MAX_META_BYTES - 28 - len(meta))})
    assert len(meta) == MAX_META_BYTES
    assert wire.call(EXISTS, meta).meta["count"] == 1


@pytest.mark.parametrize("body_len", [GIB + 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("op", [PUT, PING, GET])
def test_a_body_that_is_not_even_skipped(kvd, op, body_len):
    wire = kvd.wire()
    meta = msgpack.packb({"key": b"k"}, use_bin_type=True)
    wire.send_raw(prefix(op, 12, len(meta), body_len) + meta)
    refused_and_closed(wire, TOO_LARGE, op, 12)


def test_a_body_beyond_the_limit_is_skipped(kvd):
    wire = kvd.wire()
    refused_and_alive(wire, TOO_LARGE, PUT, {"key": b"k"}, bytes(32 * MIB + 1))
    wire.misses(b"k")


def test_a_body_for_an_unknown_op_is_skipped(kvd):
    refused_and_alive(kvd.wire(), UNSUPPORTED, 0x77, {"a": 1}, bytes(3 * MIB))


# ---- meta ----

BAD_META = {
    "nil": b"\xc0",
    "integer": b"\x01",
    "array": b"\x91\xa1a",
    "str": b"\xa5hello",
    "never used": b"\xc1",
    "map that ends early": b"\x82\xa3key\xc4\x01k",
    "key that ends early": b"\x81\xa9ke",
    "bin that ends early": b"\x81\xa3key\xc4\xffk",
    "bytes after the map": b"\x81\xa3key\xc4\x01k\x00",
    "two maps": b"\x80\x80",
    "key is an integer": b"\x81\x01\xc4\x01k",
    "key is a bin": b"\x81\xc4\x03key\xc4\x01k",
    "array32 of 2^32-1": b"\xdd\xff\xff\xff\xff",
    "map32 of 2^32-1": b"\xdf\xff\xff\xff\xff",
    "array of 2^32-1 inside": b"\x81\xa4keys\xdd\xff\xff\xff\xff",
    "map of 2^32-1 inside": b"\x81\xa1x\xdf\xff\xff\xff\xff",
    "array16 of 65535 inside": b"\x81\xa4keys\xdc\xff\xff\xc4\x01k",
    "bin of 4 GiB": b"\x81\xa3key\xc6\xff\xff\xff\xff",
    "str of 4 GiB": b"\x81\xdb\xff\xff\xff\xff",
    "ext of 4 GiB": b"\x81\xa1x\xc9\xff\xff\xff\xff\x01",
    "five levels": b"\x81\xa1x\x91\x91\x91\x91\x00",
    "a thousand levels": b"\x81\xa1x" + b"\x91" * 1000 + b"\x00",
    "a million levels": b"\x81\xa1x" + b"\x91" * 1_000_000 + b"\x00",
    "a million levels of maps": b"\x81\xa1x" * 1_000_000 + b"\xc0",
    "a million levels unfinished": b"\x91" * 1_000_000,
}


@pytest.mark.parametrize("op", [GET, PUT, EXISTS, INFO])
@pytest.mark.parametrize("name", BAD_META)
def test_bad_meta(kvd, name, op):
    before = kvd.rss_bytes()
    refused_and_alive(kvd.wire(), BAD_REQUEST, op, BAD_META[name], b"body" if op == PUT else b"")
    assert SANITIZED or kvd.rss_bytes() < before + 32 * MIB


def test_four_levels_are_fine(kvd):
    assert kvd.wire().call(PING, b"\x81\xa1x\x91\x91\x91\x00").code == OK
    assert kvd.wire().call(PING, {"x": {"y": {"z": 1}}}).code == OK


WRONG_TYPES = [
    (GET, {}), (GET, {"key": 1}), (GET, {"key": None}), (GET, {"key": [b"k"]}), (GET, {"key": b"k", "offset": -1}), (GET, {"key": b"k", "offset": "1"}),
    (GET, {"key": b"k", "length": 1.5}), (GET, {"key": b"k", "body_checksum": 1}), (GET, {"key": b"k", "timeout_ms": -5}),
    (GET, {"key": b"k", "timeout_ms": "soon"}), (GET, {"key": b""}), (GET, {"key": b"x" * 1025}), (GET, {"key": b"x" * 100_000}),
    (PUT, {}), (PUT, {"key": b""}), (PUT, {"key": b"x" * 1025}), (PUT, {"key": 7}), (PUT, {"key": b"k", "replace": "yes"}),
    (PUT, {"key": b"k", "ack": "tape"}), (PUT, {"key": b"k", "ack": 1}), (PUT, {"key": b"k", "pin": 1}), (PUT, {"key": b"k", "checksum": b"12345678"}),
    (PUT, {"key": b"k", "checksum": -1}), (PUT, {"key": b"k", "parent": 5}), (PUT, {"key": b"k", "cost_us": []}),
    (MGET, {}), (MGET, {"keys": b"k"}), (MGET, {"keys": [b"k", 1]}), (MGET, {"keys": {b"k": 1}}),
    (EXISTS, {}), (EXISTS, {"keys": "k"}), (EXISTS, {"keys": [None]}), (EXISTS, {"keys": [b"k"], "lease_ms": -1}),
    (EXISTS, {"keys": [b"k"], "lease_ms": "long"}),
    (MATCH, {}), (MATCH, {"keys": 3}), (MATCH, {"keys": [[b"k"]]}), (MATCH, {"keys": [b"k"], "warm": "very"}),
    (RELEASE, {}), (RELEASE, {"lease": b"1"}), (RELEASE, {"lease": 1, "keys": 2}),
    (REMOVE, {}), (REMOVE, {"keys": [b"stored-1", 5]}), (REMOVE, {"keys": b"stored-1"}),
    (REMOVE_PREFIX, {"prefix": 1}), (REMOVE_PREFIX, {"prefix": b""}),
    (PIN, {"keys": [b"stored-1"]}), (PIN, {"keys": [b"stored-1"], "pinned": 1}), (PIN, {"pinned": True}),
    (STAT, {}), (STAT, {"key": b""}), (STAT, {"key": b"x" * 1025}), (STAT, {"key": 1.0}),
    (SCAN, {"limit": "all"}), (SCAN, {"limit": 0}), (SCAN, {"limit": 1001}), (SCAN, {"prefix": 1}), (SCAN, {"cursor": 1}),
    (HELLO, {"versions": 1}), (HELLO, {"versions": ["1"]}), (0x22, {"section": 1}), (0x23, {"get": "memory"}), (0x24, {"action": 1}), (0x24, {}),
]


@pytest.mark.parametrize("op,meta", WRONG_TYPES, ids=lambda value: repr(value)[:40] if isinstance(value, dict) else hex(value))
def test_wrong_types(kvd, op, meta):
    refused_and_alive(kvd.wire(), BAD_REQUEST, op, meta)


def test_a_field_twice(kvd):
    refused_and_alive(kvd.wire(), BAD_REQUEST, GET, b"\x82\xa3key\xc4\x01a\xa3key\xc4\x01b")


# ---- bodies and silences ----


def test_a_put_cut_off_half_way(kvd):
    other = kvd.wire()
    used = other.figure("memory_used")
    meta = msgpack.packb({"key": b"cut"}, use_bin_type=True)
    for sent in (0, 1, 4096, MIB, 3 * MIB):
        wire = kvd.wire()
        wire.send_raw(prefix(PUT, 1, len(meta), 4 * MIB) + meta + value_of(b"cut", sent))
        wire.close()
    wait_until(lambda: other.figure("memory_used") <= used, "the room of the puts that were cut off")
    other.misses(b"cut")
    assert other.exists([b"cut"]) == b"\0"
    other.store(b"cut", 1000)
    other.remove(b"cut")


def test_a_put_reset_half_way(kvd):
    other = kvd.wire()
    used = other.figure("memory_used")
    meta = msgpack.packb({"key": b"cut"}, use_bin_type=True)
    wire = kvd.wire()
    wire.send_raw(prefix(PUT, 1, len(meta), 4 * MIB) + meta + bytes(2 * MIB))
    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wire.close()
    wait_until(lambda: other.figure("memory_used") <= used, "the room of the put that was cut off")
    other.misses(b"cut")


def test_one_that_never_reads_its_replies(kvd):
    rss = kvd.rss_bytes()
    deaf = kvd.wire(timeout_s=1)
    deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
    request = frame(GET, {"key": b"stored-4"}) * 100
    sent = 0
    try:
        while sent < 400:
            deaf.send_raw(request)
            sent += 1
    except TimeoutError:
        pass  # the server has stopped taking more: that is the bound
    other = kvd.wire()
    for _ in range(20):
        other.holds(*STORED[3])
    assert SANITIZED or kvd.rss_bytes() < rss + 64 * MIB


@pytest.mark.parametrize("request_frame", [frame(GET, {"key": b"stored-4"}) * 120, frame(MGET, {"keys": [b"stored-4"] * 120}) + frame(PING) * 3],
                         ids=["gets", "an mget"])
def test_one_that_never_reads_and_is_gone(kvd, request_frame):
    """The server has stopped reading from it, so only sending can say that nobody is there."""
    other = kvd.wire()
    before = other.figure("connections")
    sent = other.info("server")["server"]["sent_bytes_total"]
    deaf = kvd.wire()
    deaf.send_raw(request_frame)
    wait_until(lambda: other.info("server")["server"]["sent_bytes_total"] > sent + 64 * KIB, "replies under way")
    deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    deaf.close()
    wait_until(lambda: other.figure("connections") == before, "the connection to be forgotten")


def test_one_with_much_to_look_up_lets_others_in(start):
    kvd = start(memory="64m", args=["--persist", "none"])
    wire, other = kvd.wire(), kvd.wire()
    for first in range(0, 16384, 1024):
        ids = [wire.send(PUT, {"key": b"key-%d" % i}, b"v") for i in range(first, first + 1024)]
        assert all(wire.reply(ident).code == OK for ident in ids)
    count = 2000
    wire.send_raw(frame(SCAN, {"prefix": b"nobody"}) * count)
    seen = set()
    wait_until(lambda: seen.add(other.info("ops")["ops"]["SCAN"]) or max(seen) == count, "the scans", every_s=0)
    assert any(0 < number < count for number in seen), f"nobody was served meanwhile: {seen}"


@pytest.mark.parametrize("op", [MGET, REMOVE])
def test_one_that_asks_for_more_while_the_disk_hangs(start, bindfs, op):
    """What unanswered requests remember is bounded for a connection."""
    kvd = start(data=bindfs.point / "data", memory="4m")
    wire = kvd.wire()
    keys = [b"key-%d" % i for i in range(2500)]
    for key in keys:
        wire.store(key, 3000)
    wire.sync()
    on_disk = [key for key, where in zip(keys, wire.exists(keys)) if where == 2]
    assert len(on_disk) > 1000
    bindfs.freeze()
    before = kvd.rss_bytes()
    request_frame = frame(op, {"keys": (on_disk * 4)[:4096]})
    greedy = kvd.wire(timeout_s=1)
    try:
        for _ in range(600):
            greedy.send_raw(request_frame)
    except TimeoutError:
        pass  # the server has stopped taking more: that is the bound
    assert kvd.wire().call(PING).code == OK
    assert SANITIZED or kvd.rss_bytes() < before + 48 * MIB
    bindfs.thaw()
    kvd.kill()


def test_one_that_never_reads_look_ups(kvd):
    rss = kvd.rss_bytes()
    deaf = kvd.wire(timeout_s=1)
    request = frame(EXISTS, {"keys": [b"stored-%d" % (i % 5) for i in range(4096)]}) * 10
    try:
        for _ in range(300):
            deaf.send_raw(request)
    except (TimeoutError, ConnectionError):
        pass  # it takes no more; or, where all that has taken longer than send-timeout, has cut it off
    kvd.wire().holds(*STORED[3])
    assert SANITIZED or kvd.rss_bytes() < rss + 64 * MIB


def test_one_that_sends_half_a_frame_and_waits(kvd):
    whole = frame(PUT, {"key": b"half"}, b"value")
    halves = []
    for cut in (1, 27, 28, 30, len(whole) - 5, len(whole) - 1):
        wire = kvd.wire()
        wire.send_raw(whole[:cut])
        halves.append((wire, whole[cut:]))
    other = kvd.wire()
    for _ in range(20):
        other.holds(*STORED[2])
    other.misses(b"half")
    for wire, rest in halves:
        wire.send_raw(rest)
        assert wire.reply(1).code in (OK, 1)
    other.remove(b"half")


def test_one_that_shuts_down_its_side_still_gets_its_replies(kvd):
    wire = kvd.wire()
    ids = [wire.send(GET, {"key": b"stored-4"}) for _ in range(5)]
    wire.sock.shutdown(socket.SHUT_WR)
    for ident in ids:
        wire.judge(*STORED[4], wire.reply(ident))
    assert wire.at_end()


def test_connections_that_come_and_go(kvd):
    for _ in range(300):
        kvd.wire().close()
    connections = kvd.wire()
    wait_until(lambda: connections.figure("connections") <= 4, "connections to be forgotten")


# ---- chance ----


def mutated(rng, good):
    data = bytearray(good)
    for _ in range(rng.randrange(1, 5)):
        what = rng.randrange(4)
        at = rng.randrange(len(data)) if data else 0
        if what == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif what == 1 and data:
            data[at] = rng.choice((0x00, 0x7F, 0x80, 0xC1, 0xDD, 0xDF, 0xFF))
        elif what == 2:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif data:
            del data[at:at + rng.randrange(1, 9)]
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_meta_gets_an_answer_each(kvd, seed):
    """The frame is right, what is in it is not: every request is answered and the connection lives."""
    rng = random.Random(seed)
    wire = kvd.wire()
    shapes = [(GET, {"key": b"nobody", "offset": 1, "length": 2}), (PUT, {"key": b"mutant", "replace": True, "ack": "memory"}),
              (MGET, {"keys": [b"n1", b"n2"]}), (EXISTS, {"keys": [b"n1", b"n2"], "lease_ms": 10}), (MATCH, {"keys": [b"n1"]}),
              (REMOVE, {"keys": [b"n1", b"n2"]}), (PIN, {"keys": [b"n1"], "pinned": False}), (STAT, {"key": b"n"}), (SCAN, {"limit": 5, "prefix": b"n"})]
    for number in range(1000, 1400):
        op, meta = rng.choice(shapes)
        wire.send(op, mutated(rng, msgpack.packb(meta, use_bin_type=True)), b"body" if op == PUT else b"", ident=number)
        got = wire.reply(number)
        while op == MGET and "index" in got.meta:
            got = wire.reply(number)
        assert got.op == op and got.code in (OK, 1, NOT_FOUND, BAD_REQUEST, UNSUPPORTED, TOO_LARGE, 22), got
    for item in wire.scan(prefix=b"mut"):
        wire.remove(item["key"])


@pytest.mark.parametrize("seed", range(8))
def test_mutated_streams_harm_nobody(kvd, seed):
    rng = random.Random(1000 + seed)
    good = b"".join(frame(op, meta, body) for op, meta, body in (
        (PING, None, b"x"), (GET, {"key": b"nobody"}, b""), (PUT, {"key": b"mutant-%d" % seed}, b"value"), (EXISTS, {"keys": [b"nobody"] * 5}, b"")))
    for _ in range(30):
        wire = kvd.wire()
        try:
            wire.send_raw(mutated(rng, good))
            wire.sock.shutdown(socket.SHUT_WR)
            while True:
                wire.recv(15)
        except (Closed, ConnectionError, OSError):
            pass
        wire.close()
    cleaner = kvd.wire()
    for item in cleaner.scan():
        if not item["key"].startswith(b"stored-"):
            cleaner.remove(item["key"])
