"""Replies that are not copied to the socket (--zero-copy-sends): the same bytes, counted; and who hangs up meanwhile leaves nothing behind."""
import random
import signal
import socket
import threading

import pytest

from harness import GET, KIB, MIB, OK, value_of, wait_until

ON = ["--zero-copy-sends", "on"]
SIZES = [0, 1, 100, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 200_003, MIB, 5 * MIB + 7, 16 * MIB]


def figures(wire):
    server = wire.info("server")["server"]
    return {name[len("zero_copy_"):]: value for name, value in server.items() if name.startswith("zero_copy_")}


def test_values_of_all_sizes_one_by_one_and_many_under_way(start):
    wire = start(args=ON).wire()
    values = {b"key %d" % i: value_of(b"key %d" % i, size) for i, size in enumerate(SIZES)}
    for key, value in values.items():
        assert wire.put(key, value).code == OK
    for key, value in values.items():
        assert wire.get(key).body == value
    first = figures(wire)
    assert first["lent_bytes"] == 0
    assert first["sends_total"] > 0 and first["bytes_total"] > 16 * MIB
    assert first["copied_total"] == first["sends_total"]  # over loopback
    rng = random.Random(1)
    for _ in range(5):
        asked = {wire.send(GET, {"key": key}): key for key in rng.choices(sorted(values), k=20)}
        for ident, key in asked.items():
            assert wire.reply(ident).body == values[key]
    wait_until(lambda: figures(wire)["lent_bytes"] == 0, "the kernel to let go")
    assert wire.info("server")["server"]["reply_bytes"] < 64 * KIB


@pytest.mark.parametrize("args", [[], ["--zero-copy-sends", "off"]], ids=["by default", "off"])
def test_off(start, args):
    wire = start(args=args).wire()
    wire.store(b"key", 4 * MIB)
    assert len(wire.get(b"key").body) == 4 * MIB
    assert set(figures(wire).values()) == {0}


def test_a_reply_is_what_was_asked_for_though_all_of_memory_is_used_anew_meanwhile(start):
    kvd = start(memory="64m", args=ON)
    asker, other = kvd.wire(), kvd.wire()
    value = value_of(b"asked for", 12 * MIB)
    assert other.put(b"asked for", value).code == OK
    ident = asker.send(GET, {"key": b"asked for"})
    wait_until(lambda: figures(other)["lent_bytes"] > 0, "the first bytes to be on their way")
    assert other.put(b"asked for", b"another", replace=True).code == OK
    for i in range(60):
        other.store(b"filler %d" % i, 3 * MIB)
    assert figures(other)["lent_bytes"] > 0
    assert asker.reply(ident).body == value
    assert asker.get(b"asked for").body == b"another"


def test_who_has_said_all_gets_all(start):
    """The last replies are not cut off by the end of a connection on which nothing is under way any more."""
    kvd = start(args=ON)
    kvd.wire().store(b"key", 8 * MIB)
    for _ in range(5):
        wire = kvd.wire()
        asked = [wire.send(GET, {"key": b"key"}) for _ in range(3)]
        wire.sock.shutdown(socket.SHUT_WR)
        for ident in asked:
            assert wire.reply(ident).body == value_of(b"key", 8 * MIB)
        assert wire.at_end()


def test_an_orderly_end_sends_what_was_asked_for(start):
    kvd = start(args=ON)
    wire, other = kvd.wire(), kvd.wire()
    other.store(b"key", 16 * MIB)
    asked = [wire.send(GET, {"key": b"key"}) for _ in range(3)]
    wait_until(lambda: figures(other)["lent_bytes"] > 0, "the first bytes to be on their way")
    kvd.process.send_signal(signal.SIGTERM)
    for ident in asked:
        assert wire.reply(ident).body == value_of(b"key", 16 * MIB)
    assert wire.at_end()
    assert kvd.wait() == 0


@pytest.mark.parametrize("loops", ["1", "3"])
def test_who_hangs_up_at_any_moment_leaves_nothing_behind(start, loops):
    kvd = start(memory="128m", args=ON + ["--loops", loops])
    sizes = {b"key %d" % i: size for i, size in enumerate([64 * KIB, 300 * KIB, MIB, 5 * MIB])}
    wire = kvd.wire()
    for key, size in sizes.items():
        wire.store(key, size)
    wrong, through = [], []

    def client(seed):
        rng = random.Random(seed)
        for _ in range(15):
            with kvd.wire() as mine:
                asked = {mine.send(GET, {"key": key}): key for key in rng.choices(sorted(sizes), k=10)}
                for ident, key in list(asked.items())[:rng.randrange(11)]:
                    if mine.reply(ident).body != value_of(key, sizes[key]):
                        wrong.append(key)
        through.append(seed)

    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(4)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert not wrong and len(through) == 4
    wait_until(lambda: wire.info("server")["server"]["connections"] == 1, "them to be gone")
    assert figures(wire)["lent_bytes"] == 0
    assert wire.info("server")["server"]["reply_bytes"] < 64 * KIB
    assert figures(wire)["sends_total"] > 100


def test_who_takes_nothing_is_cut_off(start):
    kvd = start(args=ON + ["--send-timeout", "300ms"])
    reader, other = kvd.wire(), kvd.wire()
    other.store(b"key", 16 * MIB)
    reader.send(GET, {"key": b"key"})
    wait_until(lambda: other.info("server")["server"]["cut_slow_readers_total"] == 1, "it to be cut off")
    wait_until(lambda: other.info("server")["server"]["connections"] == 1, "it to be gone")
    assert figures(other)["lent_bytes"] == 0
