"""Who sends or reads slowly: what it may hold, for how long, and who has to wait for it."""
import select
import socket
import threading

import msgpack
import pytest

import faultfs
from faultfs import FaultFs
from harness import ADMIN, BUSY, EXISTS, GET, KIB, MGET, MIB, OK, PUT, checksum, prefix, value_of, wait_until

needs_fuse = pytest.mark.skipif(faultfs.why_not() is not None, reason=str(faultfs.why_not()))
SIZE = 4 * MIB


def begin_put(wire, key, size, ident):
    """Send the head of a put."""
    meta = msgpack.packb({"key": key}, use_bin_type=True)
    wire.send_raw(prefix(PUT, ident, len(meta), size) + meta)


def memory(wire):
    return wire.info("memory")["memory"]


def server(wire):
    return wire.info("server")["server"]


def last_frame(wire, ident):
    """Of an MGET."""
    while True:
        got = wire.reply(ident)
        if "index" not in got.meta:
            return got


def closed(sock, pace_s):
    """Has the server closed it? Looks for `pace_s`."""
    if not select.select([sock], [], [], pace_s)[0]:
        return False
    try:
        return sock.recv(65536) == b""
    except ConnectionError:
        return True


def test_a_put_that_has_stopped_makes_room_for_those_who_wait(start):
    """All but its last byte has come: it holds room for all of it, and no other put fits."""
    kvd = start(memory="32m", args=["--inflight", f"{SIZE + MIB}", "--persist", "none"])
    slow, wire = kvd.wire(), kvd.wire()
    value = value_of(b"slow", SIZE)
    begin_put(slow, b"slow", SIZE, 7)
    slow.send_raw(value[:-1])
    wait_until(lambda: memory(wire)["inflight_bytes"] == SIZE, "its bytes")
    wire.store(b"other", 2 * MIB)
    got = slow.recv()
    assert (got.id, got.code) == (7, BUSY), got
    assert got.meta["retry_after_ms"] > 0
    slow.send_raw(value[-1:])
    assert slow.put(b"slow", value).code == OK, "the connection lives"
    figures = memory(wire)
    assert figures["given_up_total"] == 1 and figures["waits_total"] > 0
    assert server(wire)["busy_total"] >= 1
    wait_until(lambda: memory(wire)["inflight_bytes"] == 0, "the room to come back")
    wire.holds(b"slow", SIZE)
    wire.holds(b"other", 2 * MIB)


def test_a_put_that_has_stopped_stays_while_nobody_waits(start):
    kvd = start(memory="32m", args=["--inflight", f"{SIZE + MIB}", "--persist", "none"])
    slow, wire = kvd.wire(), kvd.wire()
    value = value_of(b"slow", SIZE)
    begin_put(slow, b"slow", SIZE, 7)
    slow.send_raw(value[:-1])
    wait_until(lambda: memory(wire)["inflight_bytes"] == SIZE, "its bytes")
    assert not closed(slow.sock, 1.5), "a second of silence is not its end"
    wire.store(b"small", 64 * KIB)
    slow.send_raw(value[-1:])
    assert slow.recv().code == OK
    assert memory(wire)["given_up_total"] == 0
    slow.holds(b"slow", SIZE)


def test_puts_that_wait_for_each_other_do_not_all_go(start):
    """Each has half of its room, and there is none left: some are BUSY, at least one is stored."""
    kvd = start(memory="32m", args=["--inflight", "8m", "--persist", "none"])
    wire = kvd.wire()
    wires = [kvd.wire() for _ in range(8)]
    for number, one in enumerate(wires):
        begin_put(one, b"k%d" % number, SIZE, 1)
        one.send_raw(value_of(b"k%d" % number, SIZE)[:MIB])
    wait_until(lambda: memory(wire)["inflight_bytes"] == 8 * MIB, "all of them to have their first MiB")
    codes = []

    def finish(number):
        wires[number].send_raw(value_of(b"k%d" % number, SIZE)[MIB:])
        codes.append(wires[number].recv().code)

    threads = [threading.Thread(target=finish, args=(number,)) for number in range(len(wires))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(codes) <= {OK, BUSY} and OK in codes, codes
    assert memory(wire)["inflight_bytes"] == 0
    assert server(wire)["busy_total"] == codes.count(BUSY)


def test_a_byte_of_a_value_now_and_then_is_not_enough(start):
    kvd = start(args=["--frame-timeout", "1s"])
    slow, wire = kvd.wire(), kvd.wire()
    value = value_of(b"slow", SIZE)
    begin_put(slow, b"slow", SIZE, 7)
    slow.send_raw(value[: SIZE - 200])
    sent = SIZE - 200
    while not closed(slow.sock, 0.2):
        assert sent < SIZE, "it was let have its way"
        try:
            slow.send_raw(value[sent : sent + 1])
        except ConnectionError:
            break
        sent += 1
    wait_until(lambda: memory(wire)["inflight_bytes"] == 0, "its room")
    assert server(wire)["cut_slow_senders_total"] == 1
    wire.misses(b"slow")


def test_a_few_bytes_of_a_reply_now_and_then_are_not_enough(start):
    kvd = start(args=["--send-timeout", "1s"])
    slow, wire = kvd.wire(), kvd.wire()
    wire.store(b"k", SIZE)
    slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    for _ in range(8):
        slow.send(GET, {"key": b"k"})
    wait_until(lambda: server(wire)["reply_bytes"] > 0, "its replies")
    read = 0
    while server(wire)["connections"] > 1:
        assert read < SIZE, "640 KiB a second were enough"
        if select.select([slow.sock], [], [], 0.05)[0]:
            try:
                read += len(slow.sock.recv(32 * KIB))
            except ConnectionError:
                break
        select.select([], [], [], 0.05)
    wait_until(lambda: server(wire)["reply_bytes"] < SIZE, "its replies to be dropped")
    assert server(wire)["cut_slow_readers_total"] == 1
    wire.holds(b"k", SIZE)


def test_replies_are_bounded_over_all_connections(start):
    """Eight clients ask for twenty times 2 MiB each and read nothing: no more than half the pool and a value each is queued, and when they read,
    all of them get all."""
    kvd = start(memory="32m", args=["--persist", "none"])
    wire = kvd.wire()
    wire.store(b"k", 2 * MIB)
    readers = [kvd.wire() for _ in range(8)]
    for reader in readers:
        reader.idents = [reader.send(GET, {"key": b"k"}) for _ in range(20)]
    limit = server(wire)["reply_limit_bytes"]
    assert limit == 16 * MIB
    wait_until(lambda: server(wire)["reply_bytes"] > limit, "their replies to pile up")
    for _ in range(20):
        assert server(wire)["reply_bytes"] <= limit + len(readers) * (2 * MIB + KIB)
    right = checksum(value_of(b"k", 2 * MIB))
    for reader in readers:
        for ident in reader.idents:
            assert checksum(reader.reply(ident).body) == right
    wait_until(lambda: server(wire)["reply_bytes"] < MIB, "all to be taken")


def test_metas_that_arrive_slowly_are_bounded_over_all_connections(start):
    """Each is whole but for a byte. Beyond the bound a request is BUSY, its connection lives, and small ones are served all along."""
    kvd = start(args=["--request-memory", "16m"])
    wire = kvd.wire()
    wire.store(b"k", 1000)
    meta = msgpack.packb({"keys": [b"k"] + [b"%01000d" % number for number in range(4000)]}, use_bin_type=True)
    count = 16 * MIB // len(meta)
    assert 3 <= count <= 4
    slow = [kvd.wire() for _ in range(count)]
    for one in slow:
        one.send_raw(prefix(EXISTS, 5, len(meta), 0) + meta[:-1])
    wait_until(lambda: server(wire)["request_bytes"] == count * len(meta), "their metas")
    refused = kvd.wire()
    refused.send_raw(prefix(EXISTS, 6, len(meta), 0) + meta)
    got = refused.recv()
    assert (got.id, got.code) == (6, BUSY) and got.meta["retry_after_ms"] > 0, got
    begin_put(refused, b"p", SIZE, 7)
    refused.send_raw(value_of(b"p", SIZE))
    assert refused.recv().code == OK
    wire.holds(b"k", 1000)
    figures = server(wire)
    assert figures["request_bytes"] <= figures["request_limit_bytes"] == 16 * MIB and figures["busy_total"] == 1
    slow.pop().close()
    wait_until(lambda: server(wire)["request_bytes"] == (count - 1) * len(meta), "room for another")
    refused.send_raw(prefix(EXISTS, 8, len(meta), 0) + meta)
    assert refused.recv().meta["count"] == 1
    for one in slow:
        one.send_raw(meta[-1:])
        assert one.recv().meta["count"] == 1
    assert server(wire)["request_bytes"] == 0


@needs_fuse
def test_keys_that_requests_remember_are_bounded_over_all_connections(start, stack, folder):
    """While the disk hangs: of many keys, one of which is on disk alone."""
    fs = stack.enter_context(FaultFs(folder))
    kvd = start(data=fs.point / "d", args=["--request-memory", "16m", "--disk-timeout", "60s"])
    stack.callback(fs.let_go)
    wire = kvd.wire()
    wire.store(b"k", 1000, ack="disk")
    wire.call(ADMIN, {"action": "evict"})
    fs.add("op=read hang name=*.seg")
    keys = [b"k"] + [b"%01000d" % number for number in range(4000)]
    waiting, refused = [kvd.wire() for _ in range(2)], kvd.wire()
    for number, one in enumerate(waiting):
        one.ident = one.send(MGET, {"keys": keys})
        wait_until(lambda: 5 < server(wire)["request_bytes"] / (number + 1) / MIB < 5.5, "its keys, without the meta that they came in")
    got = refused.call(MGET, {"keys": keys})
    assert got.code == BUSY and got.meta["retry_after_ms"] > 0, got
    assert 8 * MIB < server(wire)["request_bytes"] <= 16 * MIB
    wire.misses(b"another")
    fs.release()
    fs.clear()
    assert [last_frame(one, one.ident).code for one in waiting] == [OK, OK]
    wait_until(lambda: server(wire)["request_bytes"] == 0, "the keys to be forgotten")
