"""docs/protocol.md: its bytes are what this other implementation makes and reads, and what the server answers to."""
import re
import struct

import msgpack
import pytest

from harness import AUTH, BAD_REQUEST, INTERNAL, PING, ROOT, UNSUPPORTED, WATCH, frame

PAGE = ROOT / "docs" / "protocol.md"
BLOCK = re.compile(r"<!-- hex: (?P<op>[A-Z_]+) (?P<kind>request|reply)(?P<rest>[^>]*?) ?-->\s*```hex\n(?P<hex>.*?)```", re.S)

if not PAGE.exists():
    pytest.skip("docs/protocol.md is not written yet", allow_module_level=True)

NUMBERS = {name: int(number, 16) for number, name in re.findall(r"^\| 0x([0-9a-f]{2}) \| (?:\[)?([A-Z_]+)", PAGE.read_text(), re.M)}
CODES = {name: int(number) for number, name in re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", PAGE.read_text(), re.M)}


def examples():
    for match in BLOCK.finditer(PAGE.read_text()):
        lines = [line for line in match["hex"].splitlines() if not line.startswith("#")]
        yield match["op"], match["kind"], match["rest"].strip(), bytes.fromhex(" ".join(lines))


EXAMPLES = list(examples())


def split(data):
    op, code, ident, meta_len, body_len = msgpack.unpackb(data[:28])
    assert len(data) == 28 + meta_len + body_len
    return op, code, ident, data[28:28 + meta_len], data[28 + meta_len:]


def test_every_op_has_a_request_and_a_reply():
    assert len(NUMBERS) >= 19
    for name in NUMBERS:
        for kind in ("request", "reply"):
            assert [1 for op, other, _, _ in EXAMPLES if (op, other) == (name, kind)], f"{name} has no {kind}"


@pytest.mark.parametrize("op,kind,rest,data", EXAMPLES, ids=lambda value: value if isinstance(value, str) else "")
def test_an_example_both_ways(op, kind, rest, data):
    number, code, ident, meta, body = split(data)
    assert number == NUMBERS[op]
    named = [word for word in rest.split() if word in CODES]
    assert code == (CODES[named[0]] if named else 0)
    decoded = msgpack.unpackb(meta, raw=False, strict_map_key=True) if meta else None
    assert decoded is None or isinstance(decoded, dict)
    again = frame(number, decoded, body, ident, code)
    assert again == data, "encoded again, the same bytes"
    assert code < 16 or isinstance(decoded["message"], str)


@pytest.mark.parametrize("op,rest,data", [(op, rest, data) for op, kind, rest, data in EXAMPLES if kind == "request"],
                         ids=lambda value: value if isinstance(value, str) else "")
def test_the_server_takes_each_request(kvd, op, rest, data):
    wire = kvd.wire()
    wire.send_raw(data)
    ident = struct.unpack_from(">Q", data, 6)[0]
    got = wire.reply(ident)
    assert got.op == NUMBERS[op]
    between_nodes = NUMBERS[op] >= NUMBERS["JOIN"]  # this one has no peers
    if between_nodes or NUMBERS[op] in (AUTH, WATCH):
        assert got.code == UNSUPPORTED
    elif rest == "teardown":
        assert got.code == BAD_REQUEST, "the page's node is not this one"
    else:
        assert got.code not in (BAD_REQUEST, UNSUPPORTED, INTERNAL), got
    assert kvd.wire().call(PING).code == 0


@pytest.mark.parametrize("name", ["HELLO", "PUT", "EXISTS", "MATCH", "REMOVE", "STAT", "SCAN", "PIN", "GET"])
def test_replies_have_the_fields_of_the_page(kvd, name):
    """What the server answers has every field that the page's reply to that op has, of the same type."""
    wire = kvd.wire()
    wire.put(b"block-1", b"kvd stores blocks", ack="disk")
    [request] = [data for op, kind, rest, data in EXAMPLES if (op, kind, rest) == (name, "request", "")]
    [reply] = [data for op, kind, rest, data in EXAMPLES if (op, kind, rest) == (name, "reply", "")]
    wire.send_raw(request)
    got = wire.reply(struct.unpack_from(">Q", request, 6)[0])
    if got.code == 1:
        return  # PUT: the key is there
    shown = msgpack.unpackb(split(reply)[3], raw=False)
    assert set(got.meta) == set(shown), (got, shown)
    for field, value in shown.items():
        assert type(got.meta[field]) is type(value), field
