"""The wire, op by op, as docs/protocol.md has it."""
import random
import threading

import pytest

from harness import (ADMIN, BAD_REQUEST, CONFIG, CORRUPT, EXISTS, GET, HELLO, INFO, KIB, MATCH, MAX_BATCH_KEYS, MAX_META_BYTES, MGET, MIB,
                     NOT_FOUND, OK, PIN, PING, PRESENT, PUT, RELEASE, REMOVE, REMOVE_ALL, REMOVE_PREFIX, SCAN, STAT, TOO_LARGE, UNSUPPORTED,
                     WATCH, checksum, frame, prefix, value_of, wait_until)

import msgpack

# ---- HELLO, PING ----


def test_hello_says_what_the_server_is(start):
    kvd = start(memory="64m")
    got = kvd.wire().hello()
    assert got["version"] == 1
    assert "kvd" in got["server"] and got["node"] == "n1"
    assert all(isinstance(name, str) for name in got["features"])
    limits = got["limits"]
    assert limits["key_bytes"] == 1024 and limits["batch_keys"] == MAX_BATCH_KEYS and limits["meta_bytes"] == MAX_META_BYTES
    assert limits["value_bytes"] == 16 * MIB, "a quarter of --memory, where that is less than 256 MiB"
    assert 0 < limits["inflight_bytes"] <= 32 * MIB
    assert isinstance(got["nonce"], bytes) and len(got["nonce"]) == 32
    assert isinstance(got["authenticated"], bool)


def test_hello_nonce_is_of_one_use(kvd):
    assert kvd.wire().hello()["nonce"] != kvd.wire().hello()["nonce"]


def test_hello_with_versions_we_do_not_speak(wire):
    assert wire.call(HELLO, {"versions": [7], "client": "tests"}).code in (BAD_REQUEST, UNSUPPORTED)
    assert wire.hello()["version"] == 1


def test_hello_takes_the_version_both_know(wire):
    assert wire.hello(versions=[1, 2, 3])["version"] == 1


def test_hello_may_be_left_out(wire):
    assert wire.call(PING).code == OK


@pytest.mark.parametrize("size", [0, 1, 1000, 64 * KIB])
def test_ping_sends_the_body_back(wire, size):
    body = value_of(b"ping", size)
    got = wire.call(PING, None, body)
    assert (got.code, got.body) == (OK, body)


def test_ping_with_a_body_over_the_limit(wire):
    assert wire.call(PING, None, b"x" * (64 * KIB + 1)).code in (BAD_REQUEST, TOO_LARGE)
    assert wire.call(PING, None, b"still there").body == b"still there"


def test_replies_repeat_op_and_id(wire):
    for ident in (0, 1, 2**32, 2**64 - 1):
        wire.send(PING, None, b"", ident=ident)
        got = wire.recv()
        assert (got.op, got.id, got.code) == (PING, ident, OK)


# ---- PUT and GET ----


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 64 * KIB, MIB - 1, MIB, MIB + 1, 5 * MIB + 12345])
def test_what_is_put_is_got(wire, size):
    key = b"size-%d" % size
    got = wire.put(key, value_of(key, size))
    assert got.code == OK and got.meta["version"] > 0 and got.body == b""
    read = wire.holds(key, size)
    assert read.meta["version"] == got.meta["version"] and read.meta["tier"] == "memory"


@pytest.mark.parametrize("key", [b"\0", b"k" * 1024, bytes(range(256)), "käse".encode()])
def test_any_bytes_are_a_key(wire, key):
    assert wire.put(key, b"value").code == OK
    assert wire.get(key).body == b"value"
    assert wire.exists([key])[0] & 1


def test_a_str_key_is_its_bytes(wire):
    assert wire.put("text", b"value").code == OK
    assert wire.get(b"text").body == b"value"
    assert wire.put(b"text", b"other").code == PRESENT


def test_a_put_of_a_present_key_changes_nothing(wire):
    first = wire.put(b"k", b"first")
    second = wire.put(b"k", b"second, longer")
    assert second.code == PRESENT and second.meta["version"] == first.meta["version"]
    assert wire.get(b"k").body == b"first"


def test_replace_replaces(wire):
    first = wire.put(b"k", b"first")
    second = wire.put(b"k", b"second", replace=True)
    assert second.code == OK and second.meta["version"] > first.meta["version"]
    got = wire.get(b"k")
    assert got.body == b"second" and got.meta["version"] == second.meta["version"]


def test_replace_of_an_absent_key_stores(wire):
    assert wire.put(b"k", b"value", replace=True).code == OK
    assert wire.get(b"k").body == b"value"


def test_put_with_its_checksum(wire):
    assert wire.put(b"k", b"value", checksum=checksum(b"value")).code == OK
    assert wire.get(b"k").meta["checksum"] == checksum(b"value")


@pytest.mark.parametrize("size", [0, 10, MIB + 3])
def test_put_with_another_checksum_is_refused(wire, size):
    value = value_of(b"k", size)
    assert wire.put(b"k", value, checksum=checksum(value) ^ 1).code == CORRUPT
    wire.misses(b"k")
    assert wire.put(b"k", value).code == OK


def test_a_refused_replace_leaves_the_old_value(wire):
    wire.put(b"k", b"old")
    assert wire.put(b"k", b"new", replace=True, checksum=1).code == CORRUPT
    assert wire.get(b"k").body == b"old"


@pytest.mark.parametrize("ack", ["memory", "disk"])
def test_put_ack(wire, ack):
    assert wire.put(b"k", b"value", ack=ack).code == OK
    assert wire.put(b"k", b"value", ack=ack).code == PRESENT
    if ack == "disk":
        assert wire.exists([b"k"]) == b"\3"


def test_hints_are_taken(wire):
    assert wire.put(b"k", b"value", parent=b"before", cost_us=1234).code == OK


def test_a_miss(wire):
    got = wire.get(b"nothing")
    assert got.code == NOT_FOUND and got.body == b""


RANGES = [(0, 10), (5, 0), (100, 1), (0, 3 * MIB), (MIB, MIB), (MIB - 1, 2), (3 * MIB - 1, 100), (3 * MIB, 1), (2**40, 5), (2**64 - 1, 2**64 - 1)]


@pytest.mark.parametrize("offset,length", RANGES)
def test_ranges(wire, offset, length):
    value = value_of(b"k", 3 * MIB)
    wire.put(b"k", value)
    got = wire.get(b"k", offset=offset, length=length, body_checksum=True)
    assert got.code == OK
    assert got.body == value[offset:offset + length]
    assert got.meta["size"] == 3 * MIB and got.meta["checksum"] == checksum(value)
    assert got.meta["body_checksum"] == checksum(got.body)


def test_a_range_without_length_is_the_rest(wire):
    value = value_of(b"k", 100_000)
    wire.put(b"k", value)
    got = wire.get(b"k", offset=70_000)
    assert got.body == value[70_000:] and "body_checksum" not in got.meta


def test_the_largest_value(start):
    wire = start(memory="64m").wire()
    wire.store(b"largest", 16 * MIB)
    wire.holds(b"largest", 16 * MIB)
    assert wire.put(b"larger", bytes(16 * MIB + 1)).code == TOO_LARGE
    wire.misses(b"larger")
    wire.holds(b"largest", 16 * MIB)


# ---- P2: invisible until complete; two puts at once ----


def test_an_object_is_invisible_until_its_put_is_complete(kvd):
    putter, other = kvd.wire(), kvd.wire()
    value = value_of(b"k", 2 * MIB)
    meta = msgpack.packb({"key": b"k"}, use_bin_type=True)
    putter.send_raw(prefix(PUT, 5, len(meta), len(value)) + meta + value[:MIB])
    other.misses(b"k")
    assert other.exists([b"k"]) == b"\0" and other.match([b"k"])["count"] == 0
    assert other.call(STAT, {"key": b"k"}).code == NOT_FOUND
    assert b"k" not in [item["key"] for item in other.scan()]
    putter.send_raw(value[MIB:])
    assert putter.reply(5).code == OK
    other.holds(b"k", 2 * MIB)


def test_of_two_puts_at_once_the_first_to_complete_wins(kvd):
    slow, fast = kvd.wire(), kvd.wire()
    meta = msgpack.packb({"key": b"k"}, use_bin_type=True)
    slow.send_raw(prefix(PUT, 1, len(meta), 1000) + meta + b"s" * 500)
    slow.send_raw(b"s" * 100)
    assert fast.put(b"k", b"fast").code == OK
    slow.send_raw(b"s" * 400)
    assert slow.reply(1).code == PRESENT
    assert fast.get(b"k").body == b"fast"


def test_of_two_replaces_at_once_the_last_to_complete_stays(kvd):
    slow, fast = kvd.wire(), kvd.wire()
    meta = msgpack.packb({"key": b"k", "replace": True}, use_bin_type=True)
    slow.send_raw(prefix(PUT, 1, len(meta), 1000) + meta + b"s" * 500)
    fast.call(PING)
    assert fast.put(b"k", b"fast", replace=True).code == OK
    slow.send_raw(b"s" * 500)
    assert slow.reply(1).code == OK
    assert fast.get(b"k").body == b"s" * 1000


# ---- pipelining ----


def test_requests_on_one_key_take_effect_in_order(wire):
    one = b"1" * 100_000
    ids = [wire.send(GET, {"key": b"k"}), wire.send(PUT, {"key": b"k"}, one), wire.send(GET, {"key": b"k"}), wire.send(PUT, {"key": b"k"}, b"no"),
           wire.send(PUT, {"key": b"k", "replace": True}, b"2"), wire.send(GET, {"key": b"k"}), wire.send(REMOVE, {"keys": [b"k"]}),
           wire.send(GET, {"key": b"k"}), wire.send(PUT, {"key": b"k", "ack": "disk"}, b"3"), wire.send(GET, {"key": b"k"}),
           wire.send(EXISTS, {"keys": [b"k"]})]
    got = [wire.reply(ident) for ident in ids]
    assert [reply.code for reply in got[:10]] == [NOT_FOUND, OK, OK, PRESENT, OK, OK, OK, NOT_FOUND, OK, OK]
    assert [got[i].body for i in (2, 5, 9)] == [one, b"2", b"3"]
    assert got[6].meta["removed"] == 1 and got[10].meta["present"][0] & 1


def test_a_remove_does_not_overtake_an_mget(wire):
    """An mget of more than is sent at once is begun in parts; what comes behind it takes effect behind all of them."""
    wire.store(b"large", 4 * MIB)
    wire.store(b"last", 1000)
    keys = [b"large"] * 40 + [b"last"]
    wire.send_raw(frame(MGET, {"keys": keys}, ident=1001) + frame(REMOVE, {"keys": [b"last"]}, ident=1002) + frame(GET, {"key": b"last"}, ident=1003))
    found = {}
    while "hits" not in (got := wire.reply(1001)).meta:
        found[got.meta["index"]] = got.code
    assert found == dict.fromkeys(range(41), OK)
    assert wire.reply(1002).meta == {"removed": 1}
    assert wire.reply(1003).code == NOT_FOUND


def test_replaces_behind_a_remove_come_to_an_end(wire):
    for number in range(5):
        assert wire.put(b"key", b"old", ack="disk").code in (OK, PRESENT)
        ids = [wire.send(PUT, {"key": b"key", "replace": True}, b"new-%d" % i) if i else wire.send(REMOVE, {"keys": [b"key"]}) for i in range(4)]
        assert [wire.reply(ident).code for ident in ids] == [OK] * 4, number
        assert wire.get(b"key").body == b"new-3"
        wire.remove(b"key")


def test_a_long_pipeline_of_mixed_requests(wire):
    rng = random.Random(7)
    held, expected = {}, {}
    keys = [b"key-%d" % i for i in range(40)]

    def send_some():
        for step in range(50):
            key = rng.choice(keys)
            what = rng.choice((PUT, PUT, GET, GET, REMOVE))
            if what == PUT:
                value, replace = value_of(key + b"%d" % rng.randrange(10**6), rng.choice((0, 10, 5000, 70_000))), rng.random() < 0.5
                ident = wire.send(PUT, {"key": key, "replace": replace}, value)
                expected[ident] = (OK if replace or key not in held else PRESENT, b"")
                if replace or key not in held:
                    held[key] = value
            elif what == GET:
                expected[wire.send(GET, {"key": key})] = (OK, held[key]) if key in held else (NOT_FOUND, b"")
            else:
                expected[wire.send(REMOVE, {"keys": [key]})] = (OK, b"")
                held.pop(key, None)

    for _ in range(12):
        send_some()
        for ident in list(expected):
            code, body = expected.pop(ident)
            got = wire.reply(ident)
            assert (got.code, got.body) == (code, body), got


def test_many_connections_at_once(kvd):
    wrong = []

    def work(number):
        try:
            with kvd.wire() as wire:
                for i in range(20):
                    key = b"%d-%d" % (number, i)
                    wire.store(key, 100_000)
                    wire.holds(key, 100_000)
                    shared = b"shared-%d" % i
                    wire.store(shared, 50_000)
                    wire.holds(shared, 50_000)
        except BaseException as error:  # noqa: BLE001 - told to the main thread
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong


def test_a_frame_byte_by_byte(wire):
    meta = msgpack.packb({"key": b"k"}, use_bin_type=True)
    for byte in prefix(PUT, 9, len(meta), 5) + meta + b"value":
        wire.send_raw(bytes([byte]))
    assert wire.reply(9).code == OK
    assert wire.get(b"k").body == b"value"


# ---- MGET ----


def test_mget(wire):
    keys = [b"m-%d" % i for i in range(20)]
    for key in keys[:10]:
        wire.store(key, 70_000)
    found, last = wire.mget(keys)
    assert sorted(found) == list(range(20))
    assert last.code == OK and last.meta["hits"] == 10 and last.body == b""
    for index, key in enumerate(keys):
        if index < 10:
            assert found[index].code == OK and found[index].meta["tier"] == "memory"
            wire.judge(key, 70_000, found[index])
        else:
            assert found[index].code == NOT_FOUND and found[index].body == b""


def test_mget_of_a_range(wire):
    wire.store(b"a", 10_000)
    wire.store(b"b", 200)
    found, last = wire.mget([b"a", b"b"], offset=100, length=300)
    assert found[0].body == value_of(b"a", 10_000)[100:400] and found[1].body == value_of(b"b", 200)[100:]
    assert last.meta["hits"] == 2


def test_mget_of_one_key_twice(wire):
    wire.store(b"a", 10_000)
    found, last = wire.mget([b"a", b"a"])
    assert [found[i].code for i in (0, 1)] == [OK, OK] and last.meta["hits"] == 2


def test_mget_of_nothing(wire):
    found, last = wire.mget([])
    assert not found and last.code == OK and last.meta["hits"] == 0


def test_mget_answers_an_ill_formed_key_with_a_frame(wire):
    wire.store(b"a", 100)
    found, last = wire.mget([b"a", b"", b"x" * 1025])
    assert [found[i].code for i in range(3)] == [OK, BAD_REQUEST, BAD_REQUEST]
    assert last.meta["hits"] == 1


def test_mget_refused_as_a_whole_has_one_frame(wire):
    found, last = wire.mget([b"k"] * (MAX_BATCH_KEYS + 1))
    assert not found and last.code in (BAD_REQUEST, TOO_LARGE)


# ---- EXISTS, MATCH, leases' ids ----


def test_exists(wire):
    wire.put(b"a", b"1", ack="disk")
    present = wire.exists([b"a", b"no", b"", b"x" * 1025, b"a"])
    assert present == bytes([3, 0, 0, 0, 3])
    assert "lease" not in wire.ok(EXISTS, {"keys": [b"a"]})
    assert wire.ok(EXISTS, {"keys": [b"a"], "lease_ms": 1000})["lease"] > 0


def test_match_counts_up_to_the_first_gap(wire):
    keys = [b"p-%d" % i for i in range(10)]
    for index in (0, 1, 2, 4, 5):
        wire.put(keys[index], b"value")
    got = wire.match(keys)
    assert got["count"] == 3 and got["memory"] == 3 and "lease" not in got
    assert wire.match(keys[3:])["count"] == 0
    assert wire.match([])["count"] == 0
    assert wire.match([keys[0], b"", keys[1]])["count"] == 1
    assert wire.match(keys, lease_ms=1000)["lease"] > 0


def test_match_warm_is_taken(wire):
    wire.put(b"a", b"1")
    assert wire.match([b"a"], warm=True)["count"] == 1


def test_release_of_an_unknown_lease_is_ok(wire):
    assert wire.call(RELEASE, {"lease": 123456789}).code == OK
    assert wire.call(RELEASE, {"lease": 2**64 - 1, "keys": [b"a"]}).code == OK


def test_a_batch_of_4096_keys_and_no_more(wire):
    keys = [b"b-%04d" % i for i in range(MAX_BATCH_KEYS)]
    wire.put(keys[0], b"1")
    wire.put(keys[-1], b"1")
    assert wire.exists(keys) == b"\1" + bytes(MAX_BATCH_KEYS - 2) + b"\1" or wire.exists(keys)[0] & 1
    found, last = wire.mget(keys)
    assert len(found) == MAX_BATCH_KEYS and last.meta["hits"] == 2
    for op, extra in ((EXISTS, {}), (MATCH, {}), (REMOVE, {}), (PIN, {"pinned": True})):
        assert wire.call(op, {"keys": keys + [b"one more"], **extra}).code in (BAD_REQUEST, TOO_LARGE)
    assert wire.get(keys[0]).code == OK, "a batch that was refused did nothing"


# ---- REMOVE and its like ----


def test_remove(wire):
    for key in (b"a", b"b", b"c"):
        wire.put(key, b"value")
    assert wire.remove(b"a", b"b", b"no", b"", b"a") == 2
    wire.misses(b"a")
    wire.misses(b"b")
    assert wire.get(b"c").code == OK
    assert wire.remove(b"a") == 0
    assert wire.put(b"a", b"again").code == OK
    assert wire.get(b"a").body == b"again"


def test_remove_prefix(wire):
    for key in (b"p/a", b"p/b", b"p", b"q/a", b"p/"):
        wire.put(key, b"value")
    assert wire.remove_prefix(b"p/") == 3
    assert wire.exists([b"p/a", b"p/b", b"p/"]) == bytes(3)
    assert all(wire.exists([b"p", b"q/a"]))
    assert wire.call(REMOVE_PREFIX, {"prefix": b""}).code == BAD_REQUEST
    assert wire.call(REMOVE_PREFIX, {}).code == BAD_REQUEST
    assert all(wire.exists([b"p", b"q/a"]))
    assert wire.remove_prefix(b"\xff\xff") == 0


def test_remove_all(wire):
    for i in range(300):
        wire.put(b"%d" % i, b"value")
    assert wire.remove_all() == 300
    assert wire.scan() == [] and wire.remove_all() == 0
    assert wire.put(b"1", b"again").code == OK


def test_a_remove_does_not_pull_bytes_from_under_a_reply(kvd):
    reader, other = kvd.wire(), kvd.wire()
    reader.store(b"k", 8 * MIB)
    ids = [reader.send(GET, {"key": b"k"}) for _ in range(3)]
    first = reader.recv()
    other.remove(b"k")
    for i in range(20):
        other.store(b"fill-%d" % i, 4 * MIB)
    reader.judge(b"k", 8 * MIB, first)
    for ident in ids[1:]:
        got = reader.reply(ident)
        if got.code == OK:
            reader.judge(b"k", 8 * MIB, got)


# ---- PIN, STAT, SCAN ----


def test_pin(wire):
    wire.put(b"a", b"1")
    wire.put(b"b", b"1", pin=True)
    assert wire.stat(b"a")["pinned"] is False and wire.stat(b"b")["pinned"] is True
    assert wire.pin(b"a", b"b", b"no", b"") == 1
    assert wire.stat(b"a")["pinned"] is True
    assert wire.pin(b"a", b"b", pinned=False) == 2
    assert wire.stat(b"a")["pinned"] is False and wire.stat(b"b")["pinned"] is False


def test_stat(kvd, wire):
    version = wire.put(b"k", value_of(b"k", 5000), ack="disk").meta["version"]
    for _ in range(3):
        wire.get(b"k")
    lease = wire.match([b"k"], lease_ms=5000)["lease"]
    got = wire.stat(b"k")
    assert got["size"] == 5000 and got["version"] == version and got["checksum"] == checksum(value_of(b"k", 5000))
    assert got["hits"] >= 3 and got["leased"] is True and got["pinned"] is False
    assert 0 <= got["idle_ms"] <= got["age_ms"] < 60_000
    by_type = {replica["type"]: replica for replica in got["replicas"]}
    assert set(by_type) == {"memory", "disk"}
    assert all(replica["state"] == "complete" and replica["node"] == "n1" for replica in by_type.values())
    assert (kvd.data / by_type["disk"]["file"]).is_file() and by_type["disk"]["offset"] % 4096 == 0
    assert "file" not in by_type["memory"]
    wire.release(lease)
    assert wire.stat(b"k")["leased"] is False
    assert wire.call(STAT, {"key": b"no"}).code == NOT_FOUND


def test_ages_grow(wire):
    """By whole seconds, perhaps: an object's record is small."""
    wire.put(b"k", b"1")
    got = wait_until(lambda: (found := wire.stat(b"k"))["idle_ms"] >= 1000 and found, "the object to age", every_s=0.1)
    assert got["age_ms"] >= got["idle_ms"]
    wire.get(b"k")
    after = wire.stat(b"k")
    assert after["idle_ms"] < after["age_ms"]


@pytest.mark.parametrize("limit", [1, 7, 100, 1000])
def test_scan_shows_everything(wire, limit):
    keys = {b"scan-%d" % i for i in range(250)}
    for key in keys:
        wire.put(key, key)
    objects = wire.scan(limit)
    assert {item["key"] for item in objects} == keys
    assert all(item["size"] == len(item["key"]) and item["memory"] is True and isinstance(item["disk"], bool) for item in objects)


def test_scan_by_prefix(wire):
    for i in range(50):
        wire.put(b"a/%d" % i, b"1")
        wire.put(b"b/%d" % i, b"1")
    assert {item["key"] for item in wire.scan(9, prefix=b"a/")} == {b"a/%d" % i for i in range(50)}
    assert wire.scan(prefix=b"c") == []


def test_scan_shows_what_stays_while_others_come_and_go(wire):
    stay = {b"stay-%d" % i for i in range(200)}
    for key in stay:
        wire.put(key, b"1")
    for i in range(200):
        wire.put(b"go-%d" % i, b"1")
    seen, cursor, step = set(), b"", 0
    while True:
        got = wire.ok(SCAN, {"limit": 10, **({"cursor": cursor} if cursor else {})})
        seen |= {item["key"] for item in got["objects"]}
        cursor = got["cursor"]
        if not cursor:
            break
        for _ in range(10):
            wire.remove(b"go-%d" % step)
            wire.put(b"new-%d" % step, b"1")
            step += 1
    assert stay <= seen


@pytest.mark.parametrize("limit", [0, 1001, 2**63])
def test_scan_limit_out_of_range(wire, limit):
    assert wire.call(SCAN, {"limit": limit}).code == BAD_REQUEST


def test_scan_with_a_cursor_of_nobodys(wire):
    wire.put(b"a", b"1")
    for cursor in (b"x", b"\xff" * 8, b"\0" * 100, b"y" * 1024):
        assert wire.call(SCAN, {"cursor": cursor}).code in (OK, BAD_REQUEST)
    assert [item["key"] for item in wire.scan()] == [b"a"]


# ---- INFO, CONFIG, ADMIN ----


def test_info(wire):
    sections = wire.info()
    assert {"server", "memory", "disk", "files", "dropped"} <= set(sections)
    for figures in sections.values():
        assert all(isinstance(value, (int, float, str)) for value in figures.values())
    assert list(wire.info("memory")) == ["memory"]
    assert wire.figure("memory_limit") == 256 * MIB
    assert wire.call(INFO, {"section": "no such"}).code in (OK, NOT_FOUND, BAD_REQUEST)


def test_config_get(wire):
    values = wire.ok(CONFIG, {"get": ["memory", "persist"]})["values"]
    assert set(values) == {"memory", "persist"}
    assert wire.call(CONFIG, {"get": ["no such"]}).code in (OK, NOT_FOUND, BAD_REQUEST)
    assert wire.call(CONFIG, {"set": {"memory": "1g"}}).code in (OK, BAD_REQUEST, UNSUPPORTED)


def test_admin_sync_puts_everything_on_disk(wire):
    keys = [b"s-%d" % i for i in range(50)]
    for key in keys:
        wire.store(key, 20_000)
    wire.sync()
    assert all(byte & 2 for byte in wire.exists(keys))


def test_admin_seal(kvd, wire):
    wire.put(b"a", value_of(b"a", 10_000), ack="disk")
    assert wire.call(ADMIN, {"action": "seal"}).code == OK
    assert [path.stat().st_size < 16 * MIB for path in kvd.segments()] == [True], "cut to its length"
    wire.put(b"b", b"2", ack="disk")
    wire.holds(b"a", 10_000)


def test_admin_of_nobodys(wire):
    assert wire.call(ADMIN, {"action": "dance"}).code in (BAD_REQUEST, UNSUPPORTED)
    assert wire.call(ADMIN, {}).code == BAD_REQUEST


# ---- what is not there ----


@pytest.mark.parametrize("op", [WATCH, 0x00, 0x04, 0x0f, 0x1a, 0x26, 0x40, 0x5f, 0x80, 0xff])
def test_unsupported_ops(wire, op):
    assert wire.call(op).code == UNSUPPORTED
    assert wire.call(op, {"name": "x"}, b"a body, skipped").code in (UNSUPPORTED, BAD_REQUEST)
    assert wire.call(PING).code == OK


def test_a_time_to_live_is_a_number_of_any_size(wire):
    for ttl_ms in (0, 1 << 49, (1 << 64) - 1):
        assert wire.put(b"%d" % ttl_ms, b"value", ttl_ms=ttl_ms).code == OK
        assert "ttl_ms" not in wire.stat(b"%d" % ttl_ms)
    assert wire.put(b"k", b"value", ttl_ms=1 << 48).code == OK
    assert 0 <= (1 << 48) - wire.stat(b"k")["ttl_ms"] < 100_000
    assert wire.put(b"other", b"value", ttl_ms="1s").code == BAD_REQUEST
    wire.misses(b"other")


REQUESTS = [
    (HELLO, {"versions": [1]}), (PING, {}), (GET, {"key": b"k"}), (MGET, {"keys": [b"k"]}), (EXISTS, {"keys": [b"k"]}), (MATCH, {"keys": [b"k"]}),
    (RELEASE, {"lease": 1}), (REMOVE, {"keys": [b"k"]}), (REMOVE_PREFIX, {"prefix": b"k"}), (REMOVE_ALL, {}), (PIN, {"keys": [b"k"], "pinned": True}),
    (STAT, {"key": b"k"}), (SCAN, {}), (INFO, {}), (CONFIG, {"get": []}), (ADMIN, {"action": "sync"}),
]


@pytest.mark.parametrize("op,meta", REQUESTS + [(PUT, {"key": b"other"})])
def test_a_key_that_must_be_known_makes_an_op_unsupported(wire, op, meta):
    wire.put(b"k", b"value")
    assert wire.call(op, {**meta, "!urgent": True}).code == UNSUPPORTED
    assert wire.get(b"k").body == b"value", "nothing was done"
    wire.misses(b"other")


@pytest.mark.parametrize("op,meta", REQUESTS)
def test_other_unknown_keys_are_ignored(wire, op, meta):
    wire.put(b"k", b"value")
    ident = wire.send(op, {**meta, "colour": "blue", "nested": {"a": [1, {}]}, "timeout_ms": 10_000})
    got = wire.reply(ident)
    assert got.code == OK, got


@pytest.mark.parametrize("op,meta", [item for item in REQUESTS if item[0] != PING])
def test_a_body_where_none_is_defined(wire, op, meta):
    wire.put(b"k", b"value")
    assert wire.call(op, meta, b"surprise").code == BAD_REQUEST
    assert wire.get(b"k").body == b"value", "nothing was done"


@pytest.mark.parametrize("op,meta", REQUESTS + [(PUT, {"key": b"other"})])
def test_a_code_in_a_request(wire, op, meta):
    wire.put(b"k", b"value")
    assert wire.call(op, meta, b"", code=3).code == BAD_REQUEST
    assert wire.get(b"k").body == b"value"
    wire.misses(b"other")


def test_integers_of_any_width(wire):
    wire.put(b"k", b"0123456789")
    wide = b"\x83" + b"\xa3key" + b"\xc4\x01k" + b"\xa6offset" + b"\xcf" + (2).to_bytes(8, "big") + b"\xa6length" + b"\xd1\x00\x03"
    assert wire.call(GET, wide).body == b"234"


def test_a_map_in_its_widest_form(wire):
    wire.put(b"k", b"value")
    wide = b"\xdf\0\0\0\1" + b"\xdb\0\0\0\3key" + b"\xc6\0\0\0\1k"
    assert wire.call(GET, wide).body == b"value"


def test_a_put_behind_a_replace_of_its_key_finds_the_new_value(wire):
    """The replace waits for the remove log; the puts behind it are of the same key, and of others."""
    wire.store(b"k", 1000, ack="disk")
    idents = [wire.send(PUT, {"key": b"k", "replace": True}, b"first"), wire.send(PUT, {"key": b"k"}, b"not taken"),
              wire.send(PUT, {"key": b"other"}, b"o"), wire.send(PUT, {"key": b"k", "replace": True}, b"second"),
              wire.send(PUT, {"key": b"k"}, b"nor this")]
    first, present, other, second, again = [wire.reply(ident) for ident in idents]
    assert (first.code, present.code, other.code, second.code, again.code) == (OK, PRESENT, OK, OK, PRESENT)
    assert present.meta["version"] == first.meta["version"]
    assert again.meta["version"] == second.meta["version"] > first.meta["version"]
    assert wire.get(b"k").body == b"second"
