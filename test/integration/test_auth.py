"""Who is served: with --token-file nobody without a token, and each with his rights alone. The file, how it is read again, what never shows."""
import os
import pathlib
import re
import secrets
import signal
import socket
import stat
import subprocess
import threading

import pytest

from harness import (ADMIN, AUTH, BAD_REQUEST, BUILD, CONFIG, DENIED, EXISTS, GET, HELLO, INFO, KIB, MATCH, MGET, MIB, NOT_FOUND, OK, PATIENCE_S, PIN,
                     PING, PUT, RELEASE, REMOVE, REMOVE_ALL, REMOVE_PREFIX, ROOT, SCAN, STAT, UNSUPPORTED, WATCH, Closed, Wire, die_with_parent, frame,
                     kvctl, kvctl_json, prefix, value_of, wait_until)

TOKENS = {"reader": "read", "writer": "write", "admin": "admin", "trainer": "read,write", "root": "read,write,admin"}
REQUESTS = {
    "PING": (PING, {}, b""), "PUT": (PUT, {"key": b"k"}, b"value"), "GET": (GET, {"key": b"k"}, b""), "MGET": (MGET, {"keys": [b"k"]}, b""),
    "EXISTS": (EXISTS, {"keys": [b"k"]}, b""), "MATCH": (MATCH, {"keys": [b"k"], "lease_ms": 1000, "warm": True}, b""),
    "RELEASE": (RELEASE, {"lease": 1}, b""), "REMOVE": (REMOVE, {"keys": [b"k"]}, b""), "REMOVE_PREFIX": (REMOVE_PREFIX, {"prefix": b"k"}, b""),
    "REMOVE_ALL": (REMOVE_ALL, {}, b""), "PIN": (PIN, {"keys": [b"k"], "pinned": True}, b""), "STAT": (STAT, {"key": b"k"}, b""), "SCAN": (SCAN, {}, b""),
    "INFO": (INFO, {}, b""), "CONFIG": (CONFIG, {"get": ["memory"]}, b""), "CONFIG with `set`": (CONFIG, {"set": {"log-level": "info"}}, b""),
    "ADMIN": (ADMIN, {"action": "sync"}, b""), "WATCH": (WATCH, {}, b""),
}


class Secrets:
    """A token file of the server's, and one for each client."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.server = self.folder / "tokens"
        self.of = {}
        for name in TOKENS:
            self.renew(name)
        self.write()

    def renew(self, name):
        self.of[name] = secrets.token_hex(20)
        return self.of[name]

    def lines(self, rights=None):
        return "# who may what\n\n" + "".join(f"{name} {(rights or {}).get(name, TOKENS[name])}\t{self.of[name]}\n" for name in self.of)

    def write(self, text=None, mode=0o600, **rights):
        self.private(self.server, self.lines(rights) if text is None else text, mode)

    def client(self, name, form="{name} {rights} {token}\n", mode=0o600):
        path = self.folder / f"client-{name}"
        self.private(path, form.format(name=name, rights=TOKENS[name], token=self.of[name]), mode)
        return path

    def private(self, path, text, mode):
        """A new file in its place, as rotating tools and editors do it."""
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="latin-1") as out:
            out.write(text)
        fresh.chmod(mode)
        fresh.rename(path)


@pytest.fixture
def held(folder):
    return Secrets(folder)


@pytest.fixture
def kvd(start, held):
    return start(args=["--token-file", str(held.server), "--log-level", "debug"])


@pytest.fixture
def as_(kvd, held):
    """as_(name): a connection that has shown that token."""

    def connect(name):
        wire = kvd.wire()
        got = wire.auth(held.of[name])
        assert got.code == OK, got
        assert got.meta == {"rights": TOKENS[name].split(",")}
        return wire

    return connect


def reload(kvd, event="tokens_read"):
    """SIGHUP, until the log says what came of it. Returns that line."""
    before = kvd.log().count(f"event={event}")
    kvd.process.send_signal(signal.SIGHUP)
    wait_until(lambda: kvd.log().count(f"event={event}") > before, event)
    return [line for line in kvd.log().splitlines() if f"event={event}" in line][-1]


def is_denied(got):
    """A failed AUTH tells nothing: always the very same answer."""
    return (got.op, got.code, got.meta, got.body) == (AUTH, DENIED, {"message": "authentication failed"}, b"")


# ---- before AUTH ----


def test_without_a_token_every_op_is_denied(kvd, as_):
    wire = kvd.wire()
    assert wire.hello()["authenticated"] is False
    asked = [(op, meta) for name, (op, meta, _) in REQUESTS.items()] + [(op, {}) for op in (0x00, 0x04, 0x40, 0x5f, 0xff)]
    for op, meta in asked:
        got = wire.call(op, meta)
        assert (got.code, got.meta) == (DENIED, {"message": "authenticate first"}), got
    assert wire.call(GET, b"\xc1 no meta at all").code == DENIED
    assert wire.call(GET, {"key": b"k"}, code=3).code == DENIED
    root = as_("root")
    assert root.scan() == [] and root.ok(CONFIG, {"get": ["log-level"]})["values"] == {"log-level": "debug"}
    figures = root.info("auth")["auth"]
    assert figures["denied_total"] == len(asked) + 2 and figures["required"] == "yes" and figures["tokens"] == len(TOKENS)
    assert (figures["successes_total"], figures["failures_total"], figures["cut_strangers_total"]) == (1, 0, 0)


@pytest.mark.parametrize("op,meta_len,body_len", [(PUT, 20, 1), (PUT, 20, 1 << 20), (PING, 0, 1), (HELLO, 20, 5), (AUTH, 50, 1 << 40), (GET, 16 * KIB + 1, 0),
                                                  (HELLO, 16 * KIB + 1, 0), (AUTH, 1 << 31, 0)])
def test_a_body_or_a_long_meta_before_auth_closes(kvd, op, meta_len, body_len):
    wire = kvd.wire()
    wire.send_raw(prefix(op, 9, meta_len, body_len))  # the answer does not wait for what is announced
    got = wire.recv()
    assert (got.op, got.id, got.code) == (op, 9, DENIED)
    assert wire.at_end()


def test_a_meta_of_16_kib_before_auth_does_not_close(kvd, held):
    wire = kvd.wire()
    assert wire.call(GET, b"\xc0" * 16 * KIB).code == DENIED
    assert wire.auth(held.of["reader"]).code == OK


def test_hello_auth_and_more_at_once(kvd, held, as_):
    value = value_of(b"k", 300 * KIB)
    wire = kvd.wire()
    nonce = wire.hello()["nonce"]
    wire.send_raw(frame(AUTH, {"mac": wire.mac(held.of["trainer"], nonce), "name": "trainer"}, ident=100) + frame(PUT, {"key": b"k"}, value, ident=101) +
                  frame(GET, {"key": b"k"}, ident=102) + frame(HELLO, {"versions": [1]}, ident=103))
    assert wire.reply(100).meta == {"rights": ["read", "write"]}
    assert wire.reply(101).code == OK and wire.reply(102).body == value
    assert wire.reply(103).meta["authenticated"] is True
    blind = kvd.wire()
    blind.send_raw(frame(HELLO, {"versions": [1]}, ident=1) + frame(AUTH, {"mac": bytes(32)}, ident=2) + frame(GET, {"key": b"k"}, ident=3))
    assert blind.reply(1).code == OK and is_denied(blind.reply(2)) and blind.reply(3).code == DENIED


def test_auth_that_comes_byte_by_byte(kvd, held):
    wire = kvd.wire()
    nonce = wire.hello()["nonce"]
    for byte in frame(AUTH, {"mac": wire.mac(held.of["trainer"], nonce)}, ident=1) + frame(PUT, {"key": b"k"}, b"value", ident=2):
        wire.send_raw(bytes([byte]))
    assert wire.reply(1).code == OK and wire.reply(2).code == OK


def test_who_shows_no_token_is_cut_in_time(start, held):
    kvd = start(args=["--token-file", str(held.server), "--frame-timeout", "300ms"])
    known = kvd.wire()
    assert known.auth(held.of["root"]).code == OK
    silent, busy = kvd.wire(), kvd.wire()
    assert silent.at_end(), "before that it was told nothing"
    with pytest.raises((Closed, ConnectionError)):  # it may be busy as it likes
        while busy.call(PING).code == DENIED:
            pass
    assert known.call(PING).code == OK
    assert known.info("auth")["auth"]["cut_strangers_total"] == 2


def test_a_long_frame_timeout_leaves_a_stranger_no_longer(start, held):
    """Else whoever connects holds a connection for as long as he likes."""
    kvd = start(args=["--token-file", str(held.server), "--frame-timeout", "1h"])
    silent = kvd.wire()
    silent.hello()
    assert silent.at_end()
    assert "reason=no_token" in kvd.log()


def test_a_stranger_who_does_not_read_is_not_collected_for(kvd, as_):
    wire, root = kvd.wire(), as_("root")
    wire.sock.settimeout(1)
    with pytest.raises(TimeoutError):
        for _ in range(1000):
            wire.sock.sendall(frame(GET, {"key": b"k"}) * 10000)
    assert root.info("server")["server"]["reply_bytes"] < 4 * KIB


# ---- AUTH ----


def test_what_fails_and_that_it_all_looks_the_same(kvd, held):
    token = held.of["reader"]
    other = kvd.wire()
    other_nonce = other.hello()["nonce"]
    wire = kvd.wire()
    good = wire.mac(token, other_nonce)
    cases = {
        "a token that is none": lambda w: {"mac": w.mac("x" * 40)},
        "an unknown name": lambda w: {"mac": w.mac(token), "name": "nobody"},
        "another one's name": lambda w: {"mac": w.mac(token), "name": "writer"},
        "an empty name": lambda w: {"mac": w.mac(token), "name": ""},
        "no nonce": lambda w: {"mac": w.mac(token, bytes(32))},
        "another connection's nonce": lambda w: {"mac": good},
        "a nonce before the last": lambda w: {"mac": w.mac(token, [w.hello()["nonce"], w.hello()["nonce"]][0])},
        "a mac too short": lambda w: {"mac": w.mac(token)[:31]},
        "a mac too long": lambda w: {"mac": w.mac(token) + b"\0"},
        "no mac": lambda w: {"mac": b""},
    }
    for what, meta in cases.items():
        with Wire(kvd.port) as wire:
            assert is_denied(wire.call(AUTH, meta(wire))), what
            assert wire.call(GET, {"key": b"k"}).code == DENIED, what
            got = wire.auth(token, name="reader")
            assert got.code == OK, f"{what}, and then right"
    assert other.call(AUTH, {"mac": good}).code == OK, "its own nonce still serves"
    figures = other.info("auth")["auth"]
    assert figures["failures_total"] == len(cases) and figures["successes_total"] == len(cases) + 1


def test_a_nonce_serves_once(kvd, held):
    wire = kvd.wire()
    nonces = {bytes(wire.hello()["nonce"]) for _ in range(50)}
    assert len(nonces) == 50 and all(len(nonce) == 32 for nonce in nonces)
    nonce = wire.hello()["nonce"]
    assert wire.auth(held.of["reader"], nonce).code == OK
    assert is_denied(wire.auth(held.of["root"], nonce)), "used"
    assert wire.put(b"k", b"v").code == DENIED and wire.get(b"k").code == NOT_FOUND, "as it was before"
    nonce = wire.hello()["nonce"]
    assert is_denied(wire.auth("x" * 40, nonce))
    assert wire.auth(held.of["root"], wire.hello()["nonce"]).code == OK, "another token on the same connection"
    assert wire.put(b"k", b"v").code == OK


def test_a_failed_auth_uses_the_nonce_up(kvd, held):
    wire = kvd.wire()
    nonce = wire.hello()["nonce"]
    assert is_denied(wire.auth("x" * 40, nonce)) and is_denied(wire.auth(held.of["root"], nonce))


def test_what_was_heard_on_the_wire_serves_nobody_else(kvd, held):
    """A replay of all that a client has sent."""
    wire = kvd.wire()
    sent = frame(HELLO, {"versions": [1]}, ident=1)
    wire.send_raw(sent)
    auth = frame(AUTH, {"mac": wire.mac(held.of["root"], wire.reply(1).meta["nonce"])}, ident=2)
    wire.send_raw(auth)
    assert wire.reply(2).code == OK
    thief = kvd.wire()
    thief.send_raw(sent + auth + frame(REMOVE_ALL, ident=3))
    assert thief.reply(1).code == OK and is_denied(thief.reply(2)) and thief.reply(3).code == DENIED


@pytest.mark.parametrize("shown_before", [False, True])
def test_the_third_failure_closes(kvd, held, as_, shown_before):
    wire = as_("reader") if shown_before else kvd.wire()
    for _ in range(2):
        assert is_denied(wire.auth("x" * 40))
    wire.send_raw(frame(AUTH, {"mac": bytes(32)}, ident=99) + frame(PING, ident=100))
    assert is_denied(wire.reply(99)) and wire.at_end()
    assert f"reason=failed_auths peer=127.0.0.1:{wire.sock.getsockname()[1]} " in kvd.log()


def test_ill_formed_auths(kvd, held):
    wire = kvd.wire()
    for meta in ({}, {"mac": 5}, {"mac": wire.mac(held.of["root"]), "name": 5}, {"mac": [b"x"]}):
        assert wire.call(AUTH, meta).code == BAD_REQUEST
    assert wire.call(AUTH, {"mac": bytes(32), "!new": 1}).code == UNSUPPORTED
    assert wire.auth(held.of["root"]).code == OK, "none of it was a failed try"


def test_a_server_without_tokens(start, held):
    kvd = start()
    wire = kvd.wire()
    assert wire.hello()["authenticated"] is True
    assert wire.auth(held.of["root"]).code == UNSUPPORTED
    assert wire.info("auth")["auth"]["required"] == "no"
    done = kvctl("ping", "--token-file", held.client("root"), port=kvd.port)
    assert done.returncode == 0, "a client with a token is served"


# ---- rights ----

PAGE = (ROOT / "docs" / "protocol.md").read_text()


def rights_on_the_page():
    rows = re.findall(r"^\| ((?:`?[A-Z_]+`?(?: with `set`)?(?:, )?)+) \| ((?:none|any|`read`|`write`|`admin`)(?: or `admin`)?) \|", PAGE, re.M)
    return {op: rights for ops, rights in rows for op in ops.split(", ")}


def test_the_page_has_every_op():
    assert set(rights_on_the_page()) == set(REQUESTS) | {"HELLO", "AUTH"}


@pytest.mark.parametrize("name", ["reader", "writer", "admin"])
def test_each_right_allows_what_the_page_says(as_, name):
    wire, right = as_(name), TOKENS[name]
    for what, rights in rights_on_the_page().items():
        if what in REQUESTS:
            op, meta, body = REQUESTS[what]
            allowed = rights == "any" or f"`{right}`" in rights
            got = wire.reply(wire.send(op, meta, body))
            assert (got.code == DENIED) == (not allowed), (what, got)
            assert allowed or "not allowed" in got.meta["message"], got
            while op == MGET and allowed and "index" in got.meta:
                got = wire.recv()
    assert wire.call(0x40).code == UNSUPPORTED, "an op that nobody knows is no secret"


def test_a_put_that_is_not_allowed_is_skipped_and_leaves_nothing(as_):
    reader, trainer = as_("reader"), as_("trainer")
    for size in (0, 5, 3 * MIB):
        assert reader.put(b"k%d" % size, bytes(size)).code == DENIED
        assert reader.get(b"k%d" % size).code == NOT_FOUND
    trainer.store(b"key", MIB)
    assert reader.call(REMOVE, {"keys": [b"key"]}).code == DENIED
    reader.holds(b"key", MIB)
    writer = as_("writer")
    assert writer.get(b"key").code == DENIED and writer.remove(b"key") == 1


def test_config_is_set_by_an_admin_alone(as_):
    reader, admin = as_("reader"), as_("admin")
    assert reader.call(CONFIG, {"set": {"log-level": "error"}}).code == DENIED
    assert reader.ok(CONFIG, {"get": ["log-level"]})["values"] == {"log-level": "debug"}
    assert admin.ok(CONFIG, {"set": {"log-level": "info"}})["values"]["log-level"] == "info"


# ---- the file ----


def run_kvd(*args, cwd):
    return subprocess.run([str(BUILD / "kvd"), "--listen", "127.0.0.1:0", "--dir", str(cwd / "data"), *map(str, args)], capture_output=True, text=True,
                          timeout=PATIENCE_S, cwd=cwd, preexec_fn=die_with_parent, check=False)


def refused(held, *args):
    """kvd does not start with that file, says why in a line, and shows nothing of it."""
    done = run_kvd("--token-file", held.server, *args, cwd=held.folder)
    assert done.returncode == 2 and not (held.folder / "data").exists(), done
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(f"kvd: token-file {held.server}: "), done.stderr
    for token in held.of.values():
        assert token[:12] not in done.stderr + done.stdout
    return done.stderr.removeprefix(f"kvd: token-file {held.server}: ").strip()


def test_a_file_that_others_may_read_or_write(held):
    for bit in (0o040, 0o020, 0o010, 0o004, 0o002, 0o001):
        held.write(mode=0o600 | bit)
        assert "chmod 600" in refused(held)
    held.write(mode=0o644)
    assert "chmod 600" in refused(held, "--check-config")
    if os.geteuid() == 0:
        held.write()
        os.chown(held.server, 65534, -1)
        assert "this user's or root's" in refused(held)


def test_a_file_that_is_none(held):
    held.server.unlink()
    assert "o such file" in refused(held)
    held.server.mkdir(mode=0o700)
    assert refused(held) == "not an ordinary file"
    held.server.rmdir()
    os.mkfifo(held.server, 0o600)
    assert refused(held) == "not an ordinary file"
    held.server.unlink()
    held.write("#" * 200 + "\n" + ("# padding\n" * 7000) + held.lines())
    assert refused(held) == "longer than 64 KiB"


@pytest.mark.parametrize("change,why", [
    (lambda text, token: "", "there is no token in it"),
    (lambda text, token: text + "another read " + token + "\n", "line 8: the token stands in line 3, too"),
    (lambda text, token: text + "reader admin " + token[::-1] + "\n", "line 8: the name stands in line 3, too"),
    (lambda text, token: text + token + " read another\n", "line 8: the token is shorter than 16 bytes"),
    (lambda text, token: text + "another " + token[::-1] + " read\n", "line 8: the rights are not read, write, admin, with commas between"),
    (lambda text, token: text + token[::-1] + "\n", "line 8: not NAME RIGHTS TOKEN"),
    (lambda text, token: text + "another read " + token[:15] + "\n", "line 8: the token is shorter than 16 bytes"),
    (lambda text, token: text + "another read " + token * 4 + "\n", "line 8: the token is longer than 128 bytes"),
    (lambda text, token: text + "a b c d\n", "line 8: more than NAME RIGHTS TOKEN"),
    (lambda text, token: text + "another read " + token[::-1] + "\0\n", "line 8: a byte that is no printable ASCII"),
    (lambda text, token: text + "".join(f"n{i} read {token[:30]}{i:04}\n" for i in range(60)), "line 67: more than 64 tokens"),
])
def test_a_file_that_makes_no_sense(held, change, why):
    held.write(change(held.lines(), held.of["reader"]))
    assert refused(held) == why
    assert refused(held, "--check-config") == why


def test_a_file_without_a_name(held):
    """A variable that is not set: that is not to be taken for "no tokens"."""
    config = held.folder / "kvd.conf"
    config.write_text("token-file =\n")
    for args in (["--token-file", ""], ["--token-file="], ["--config", config]):
        done = run_kvd(*args, "--check-config", cwd=held.folder)
        assert done.returncode == 2 and "token-file must not be empty" in done.stderr, done


def test_a_good_file_passes_the_check(held):
    done = run_kvd("--token-file", held.server, "--check-config", cwd=held.folder)
    assert (done.returncode, done.stderr) == (0, "")
    held.write(mode=0o400)
    assert run_kvd("--token-file", held.server, "--check-config", cwd=held.folder).returncode == 0


# ---- where it listens ----


def test_with_tokens_it_listens_anywhere(start, held):
    kvd = start(args=["--listen", "0.0.0.0:0", "--token-file", str(held.server)])
    assert kvd.wire().call(PING).code == DENIED
    mine = socket.gethostbyname(socket.gethostname())
    if not mine.startswith("127."):
        with Wire(kvd.port, host=mine) as wire:
            assert wire.call(PING).code == DENIED and wire.auth(held.of["reader"]).code == OK and wire.call(PING).code == OK


def test_without_them_it_does_not(held):
    done = run_kvd("--listen", "0.0.0.0:0", cwd=held.folder)
    assert done.returncode == 2 and "--token-file" in done.stderr and "--no-auth-anywhere" in done.stderr
    done = run_kvd("--listen", "0.0.0.0:0", "--token-file", held.server, "--no-auth-anywhere", cwd=held.folder)
    assert done.returncode == 2 and "contradict" in done.stderr


# ---- reading it again ----


def test_tokens_come_and_go(kvd, held, as_):
    reader, trainer = as_("reader"), as_("trainer")
    trainer.store(b"k", MIB)
    held.of["late"] = secrets.token_hex(20)
    with open(held.server, "a", encoding="ascii") as file:
        file.write(f"late read {held.of['late']}\n")
    assert "tokens=6" in reload(kvd)
    late = kvd.wire()
    assert late.auth(held.of["late"], name="late").code == OK
    late.holds(b"k", MIB)
    reader.holds(b"k", MIB)

    del held.of["reader"], held.of["late"]
    held.write()
    assert "tokens=4" in reload(kvd)
    for gone in (reader, late):
        assert gone.at_end(), "it is cut though it asks for nothing"
    trainer.holds(b"k", MIB)
    with Wire(kvd.port) as wire:
        assert is_denied(wire.auth("late"))
    figures = as_("root").info("auth")["auth"]
    assert (figures["tokens"], figures["cut_token_gone_total"], figures["file_reads_total"], figures["file_failures_total"]) == (4, 2, 2, 0)


def test_other_rights_or_another_token_cut_too(kvd, held, as_):
    trainer, writer, reader = as_("trainer"), as_("writer"), as_("reader")
    held.renew("writer")
    held.write(trainer="read")
    reload(kvd)
    assert trainer.at_end() and writer.at_end()
    assert reader.call(PING).code == OK
    again = kvd.wire()
    assert again.auth(held.of["trainer"]).meta == {"rights": ["read"]}
    assert again.put(b"k", b"v").code == DENIED


def test_a_put_whose_token_goes_half_way_leaves_nothing(kvd, held, as_):
    writer, root = as_("writer"), as_("root")
    writer.send_raw(frame(PUT, {"key": b"k"}, bytes(MIB))[:MIB // 2])
    held.renew("writer")
    held.write()
    reload(kvd)
    assert writer.at_end()
    root.misses(b"k")


def test_a_request_right_behind_the_news_is_not_served(kvd, held, as_):
    """Not only at the next look that kvd has at all connections: no request gets through once the file has been read."""
    writers = [as_("writer") for _ in range(50)]
    root = as_("root")
    held.renew("writer")
    held.write()
    reload(kvd)
    for i, writer in enumerate(writers):
        try:
            writer.send_raw(frame(PUT, {"key": b"k%d" % i}, b"v"))
            assert writer.at_end()
        except ConnectionError:
            pass
    assert root.scan() == []


def test_a_broken_file_leaves_the_old_tokens(kvd, held, as_):
    wire = as_("reader")
    new = secrets.token_hex(20)
    held.write(held.lines() + f"another read {new}\nbroken\n")
    line = reload(kvd, "tokens_kept")
    assert "line 9: not NAME RIGHTS TOKEN" in line and "level=error" in line
    held.write(mode=0o644)
    assert "chmod 600" in reload(kvd, "tokens_kept")
    held.server.unlink()
    assert "o such file" in reload(kvd, "tokens_kept")
    held.write("")
    assert "there is no token in it" in reload(kvd, "tokens_kept")
    assert wire.call(PING).code == OK
    assert is_denied(kvd.wire().auth(new)), "half a file is not taken"
    figures = as_("root").info("auth")["auth"]
    assert (figures["tokens"], figures["file_reads_total"], figures["file_failures_total"]) == (5, 0, 4)
    held.write()
    reload(kvd)
    assert wire.call(PING).code == OK


def test_who_keeps_his_token_notices_nothing(kvd, held, as_):
    """The file is read again and again under load; one token is another each time."""
    stop, failures = threading.Event(), []

    def work(number):
        try:
            with Wire(kvd.port) as wire:
                assert wire.auth(held.of["trainer"]).code == OK
                turn = 0
                while not stop.is_set() or turn < 10:
                    turn += 1
                    wire.store(b"%d-%d" % (number, turn % 4), 40 * KIB)
                    wire.holds(b"%d-%d" % (number, turn % 4), 40 * KIB)
        except Exception as error:  # noqa: BLE001
            failures.append(repr(error))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(20):
            reader = as_("reader")
            held.renew("reader")
            held.write()
            reload(kvd)
            assert reader.at_end()
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert not failures, failures
    assert as_("root").info("auth")["auth"]["cut_token_gone_total"] == 20


def test_many_hang_ups_at_once_and_an_end_among_them(kvd, held, as_):
    wire = as_("root")
    for _ in range(50):
        kvd.process.send_signal(signal.SIGHUP)
    reload(kvd)
    held.renew("reader")
    held.write()
    reload(kvd)
    assert is_denied(wire.auth("reader")) and wire.auth(held.of["reader"]).code == OK
    for _ in range(20):
        kvd.process.send_signal(signal.SIGHUP)
    kvd.stop()


def hang_up(kvd, wire):
    kvd.process.send_signal(signal.SIGHUP)
    for _ in range(20):
        assert wire.call(PING).code == OK, "kvd serves while it waits for the file"


def test_a_file_that_hangs_holds_nobody_up(start, bindfs):
    held = Secrets(bindfs.point)
    kvd = start(args=["--token-file", str(held.server)])
    wire = kvd.wire()
    assert wire.auth(held.of["root"]).code == OK
    held.renew("reader")
    held.write()
    bindfs.freeze()
    for _ in range(3):
        hang_up(kvd, wire)
    assert is_denied(wire.auth(held.of["reader"]))
    assert wire.info("auth")["auth"]["file_reads_total"] == 0
    bindfs.thaw()
    wait_until(lambda: wire.info("auth")["auth"]["file_reads_total"] == 2, "the one that hung, and one for those behind it")
    assert wire.auth(held.of["reader"]).code == OK


def test_an_end_while_the_file_hangs(start, bindfs):
    held = Secrets(bindfs.point)
    kvd = start(args=["--token-file", str(held.server)])
    wire = kvd.wire()
    assert wire.auth(held.of["root"]).code == OK
    bindfs.freeze()
    hang_up(kvd, wire)
    kvd.process.send_signal(signal.SIGTERM)
    assert wire.at_end()
    bindfs.thaw()
    assert kvd.wait() == 0


# ---- what never shows ----


def test_tokens_show_nowhere(kvd, held, as_, folder):
    root = as_("root")
    shown = []
    for name in held.of:
        path = held.client(name)
        for args in (["ping"], ["info"], ["config"], ["--json", "config"], ["put", "k", "/dev/null"], ["ls"], ["sync"]):
            done = kvctl(*args, "--token-file", path, port=kvd.port)
            shown += [done.stdout, done.stderr]
    bad = folder / "bad"
    for text in (held.of["root"] + " " + held.of["reader"], held.of["root"][:15], "root read " + held.of["root"] + "\x01", held.of["root"] * 9):
        held.private(bad, text, 0o600)
        done = kvctl("ping", "--token-file", bad, port=kvd.port)
        assert done.returncode in (2, 3)
        shown += [done.stdout, done.stderr]
    kvd.wire().auth("y" * 40)
    held.write(held.lines() + held.of["root"])
    reload(kvd, "tokens_kept")
    held.renew("writer")
    held.write()
    reload(kvd)
    shown += [repr(root.info()).encode(), repr(root.ok(CONFIG)).encode()]
    proc = pathlib.Path(f"/proc/{kvd.process.pid}")
    shown += [(proc / "cmdline").read_bytes(), (proc / "environ").read_bytes()]
    kvd.stop()
    assert "authenticated token=reader" in kvd.log(), "the log tells all that it ever does"
    shown += [kvd.log().encode(), *(path.read_bytes() for path in kvd.data.rglob("*") if path.is_file())]
    for token in held.of.values():
        for text in shown:
            assert token.encode() not in text and token[:15].encode() not in text


def places_in_memory(pid, text):
    """How often it is in what that process may read."""
    count = 0
    with open(f"/proc/{pid}/maps", encoding="ascii") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            if " r" not in line or end - begin > 256 * MIB:  # a sanitizer's shadow
                continue
            try:
                memory.seek(begin)
                count += memory.read(end - begin).count(text)
            except OSError:
                pass  # a page of the kernel's
    return count


def test_a_token_that_is_gone_is_in_no_memory(kvd, held, as_):
    reader = as_("reader")
    gone = held.of["reader"].encode()
    assert places_in_memory(kvd.process.pid, gone) == 1
    for _ in range(2):
        held.renew("reader")
        held.write()
        reload(kvd)
    assert reader.at_end()
    wait_until(lambda: places_in_memory(kvd.process.pid, gone) == 0, "it to be wiped")


# ---- kvctl, and so libkvd ----


def test_kvctl_with_a_token(kvd, held):
    trainer = held.client("trainer")
    assert kvctl("put", "k", "-", "--token-file", trainer, port=kvd.port, stdin=b"value").returncode == 0
    for form in ("{token}", "# mine\n{name} {token}\n", "{name} {rights} {token}\n", "{name}\t{rights}\t{token}\r\n\n"):
        path = held.client("reader", form)
        assert kvctl("get", "k", port=kvd.port, env={"KVD_TOKEN_FILE": str(path)}).stdout == b"value"
    done = kvctl("get", "k", "--token-file", trainer, port=kvd.port, env={"KVD_TOKEN_FILE": "/nowhere"})
    assert done.stdout == b"value", "the option counts"


def complains(done, code, *words):
    assert done.returncode == code, done
    text = done.stderr.decode()
    assert all(word in text for word in words) and text.count("\n") == 1, text


def test_kvctl_says_what_is_wrong(kvd, held, folder):
    complains(kvctl("ping", port=kvd.port), 3, "asks for a token", "KVD_TOKEN_FILE")
    reader = held.client("reader")
    complains(kvctl("put", "k", "-", "--token-file", reader, port=kvd.port), 3, "not allowed", "right write")
    complains(kvctl("rm", "--all", "--token-file", held.client("trainer"), port=kvd.port), 3, "right admin")
    complains(kvctl("bench", "--op", "put", "--count", "10", "--size", "4k", "--token-file", reader, port=kvd.port), 3, "refused", "denied")
    trace = folder / "trace.jsonl"
    trace.write_text('{"timestamp": 0, "hash_ids": [1, 2]}\n')
    complains(kvctl("replay", trace, "--token-file", reader, port=kvd.port), 3, "2 blocks were refused", "denied")
    complains(kvctl("ping", "--token-file", folder / "none", port=kvd.port), 2, "none", "o such file")
    complains(kvctl("ping", "--token-file", folder, port=kvd.port), 2, "not an ordinary file")
    reader.chmod(0o640)
    complains(kvctl("ping", "--token-file", reader, port=kvd.port), 2, str(reader)[:80], "chmod 600")
    held.of["reader"] = "z" * 40
    complains(kvctl("ping", "--token-file", held.client("reader"), port=kvd.port), 3, "does not take the token")
    held.of["reader"] = "short"
    complains(kvctl("ping", "--token-file", held.client("reader"), port=kvd.port), 2, "line 1: the token is shorter than 16 bytes")


def test_kvctl_makes_tokens(start, held, folder):
    lines = {}
    for name, rights in (("a-1", "read"), ("b.2", "write,read"), ("c_3", "admin")):
        done = kvctl("token", name, rights)
        assert done.returncode == 0 and re.fullmatch(rf"{name} {rights} [0-9a-f]{{64}}\n", done.stdout.decode()), done
        lines[name] = done.stdout.decode()
    made = kvctl_json("token", "d", "read,write,admin")
    assert (made["name"], made["rights"]) == ("d", "read,write,admin") and len(made["token"]) == 64
    assert len({line.split()[2] for line in lines.values()} | {made["token"]}) == 4
    for args in ([], ["a"], ["a", "read", "more"], ["a/b", "read"], ["", "read"], ["a" * 65, "read"], ["a", "reed"], ["a", ""], ["a", "read,read"]):
        done = kvctl("token", *args)
        assert done.returncode == 2 and done.stdout == b"", done
    held.write("".join(lines.values()))
    kvd = start(args=["--token-file", str(held.server)])
    held.private(folder / "mine", lines["b.2"], 0o600)
    assert kvctl("put", "k", "-", "--token-file", folder / "mine", port=kvd.port, stdin=b"v").returncode == 0


def test_a_replay_over_many_connections_shows_its_token_on_each(kvd, held, folder):
    trace = folder / "trace.jsonl"
    trace.write_text("".join(f'{{"timestamp": {i}, "hash_ids": [{i}, {i + 1}, {i + 2}]}}\n' for i in range(40)))
    done = kvctl_json("replay", trace, "--connections", "4", "--verify", "--block-size", "64k", "--token-file", held.client("trainer"), port=kvd.port)
    assert done["requests"] == 40
    with Wire(kvd.port) as wire:
        wire.auth(held.of["root"])
        assert wire.info("auth")["auth"]["successes_total"] >= 5


def test_files_that_kvctl_token_makes_are_private_with_umask_077(folder):
    path = folder / "new"
    subprocess.run(["sh", "-c", f"umask 077; {BUILD}/kvctl token n read > {path}"], check=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
