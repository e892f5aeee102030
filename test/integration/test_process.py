"""kvd as a program: flags, the config file, its log, how it begins and how it ends."""
import json
import os
import re
import signal
import socket
import subprocess
import time

import msgpack
import pytest

from harness import (BUILD, CLOSING, CONFIG, GET, MIB, OK, PATIENCE_S, PING, PUT, REMOVE_PREFIX, SANITIZED, Kvd, Wire, check_log, die_with_parent, free_port, kvctl,
                     prefix, readable, value_of, wait_until)


def run(*args, cwd=None, env=None, user=None):
    """Run kvd to its end; one that serves is a failure."""

    def prepare():
        die_with_parent()
        if user is not None:
            os.setgid(user)
            os.setuid(user)

    return subprocess.run([str(BUILD / "kvd"), *map(str, args)], capture_output=True, text=True, timeout=PATIENCE_S, cwd=cwd, preexec_fn=prepare,
                          env={**os.environ, **(env or {})}, check=False)


def one_clear_line(done):
    """A refusal: a non-zero exit status and one line that says why."""
    assert done.returncode > 0, done
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert 1 <= len(lines) <= 2, done.stderr
    return lines[0]


def test_version(folder):
    done = run("--version", cwd=folder)
    assert done.returncode == 0 and re.fullmatch(r"kvd \d+\.\d+\.\d+\n", done.stdout)
    assert not list(folder.iterdir())


def test_help_names_every_key(folder):
    done = run("--help", cwd=folder)
    assert done.returncode == 0
    for flag in ("--listen", "--dir", "--memory", "--disk", "--node", "--config", "--persist", "--segment-size", "--no-auth-anywhere",
                 "--wait-for-index", "--check-config", "--version"):
        assert flag in done.stdout, flag
    assert not list(folder.iterdir())


@pytest.mark.parametrize("args", [
    ["--no-such-flag"], ["surprise"], ["--memory"], ["--memory", "lots"], ["--memory", "-1"], ["--memory", "1x"], ["--memory", ""],
    ["--memory", "99999999999999999999g"], ["--listen", "nowhere"], ["--listen", "127.0.0.1:99999"], ["--listen", ":"], ["--persist", "sometimes"],
    ["--segment-size", "1k"], ["--node", "../x"], ["--node", ""], ["--node", "a/b"], ["--cluster", ".."], ["--config", "/no/such/file"],
])
def test_a_wrong_flag(folder, args):
    done = run("--dir", folder / "data", "--listen", "127.0.0.1:0", *args, cwd=folder)
    one_clear_line(done)
    assert not list(folder.iterdir()), "nothing is touched"


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_it_does_not_listen_beyond_loopback_unasked(folder, host):
    done = run("--listen", f"{host}:0", "--dir", folder / "data", cwd=folder)
    assert "no-auth-anywhere" in one_clear_line(done)
    assert not list(folder.iterdir())


def test_it_listens_anywhere_when_told_so(start):
    kvd = start(args=["--no-auth-anywhere", "--listen", "0.0.0.0:0"])
    assert kvd.wire().call(PING).code == OK


def test_a_port_that_is_taken(kvd, folder):
    done = run("--listen", f"127.0.0.1:{kvd.port}", "--dir", folder / "data", cwd=folder)
    assert str(kvd.port) in one_clear_line(done)
    assert not list((folder / "data").rglob("*.seg")) if (folder / "data").exists() else True
    assert kvd.wire().call(PING).code == OK


def test_a_directory_that_is_a_file(folder):
    (folder / "data").write_text("precious")
    done = run("--listen", "127.0.0.1:0", "--dir", folder / "data", cwd=folder)
    assert str(folder / "data") in done.stderr and done.returncode > 0
    assert (folder / "data").read_text() == "precious"


def test_a_directory_that_cannot_be_made(folder):
    (folder / "file").write_text("precious")
    done = run("--listen", "127.0.0.1:0", "--dir", folder / "file" / "below", cwd=folder)
    assert str(folder / "file") in done.stderr and done.returncode > 0
    assert (folder / "file").read_text() == "precious"


def test_an_unreadable_directory(folder):
    data = folder / "data"
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        folder.chmod(0o755)
        if subprocess.run(["test", "-x", str(BUILD / "kvd")], preexec_fn=lambda: os.setuid(65534), check=False).returncode != 0:
            pytest.skip("the programs lie where another user cannot run them")
        done = run("--listen", "127.0.0.1:0", "--dir", data, cwd=folder, user=65534)
    else:
        data.chmod(0)
        done = run("--listen", "127.0.0.1:0", "--dir", data, cwd=folder)
        data.chmod(0o700)
    assert done.returncode > 0 and str(data) in done.stderr
    assert not list(data.iterdir())


def test_a_directory_that_others_can_write(folder):
    data = folder / "data"
    data.mkdir()
    data.chmod(0o777)
    done = run("--listen", "127.0.0.1:0", "--dir", data, cwd=folder)
    assert done.returncode > 0 and str(data) in done.stderr and "chmod go-w" in done.stderr
    assert not list(data.iterdir()), "a folder was made in it all the same"


# ---- the config file ----


def test_check_config(folder):
    config = folder / "kvd.conf"
    config.write_text("# a comment\nmemory = 64m\ndisk = 1g\npersist = none\nlisten = 127.0.0.1:0\n")
    done = run("--config", config, "--check-config", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in folder.iterdir()] == ["kvd.conf"]


@pytest.mark.parametrize("text", ["memory = lots\n", "colour = blue\n", "memory\n", "[other]\nmemory = 64m\n", "persist = sometimes\n",
                                  "listen = 0.0.0.0:7950\n", "\0\1\2\3", "memory = 64m\n" * 3 + "x" * 5000 + "\n", "io = auto|threads\n",
                                  "dir = /var/lib/kvd\n  memory = 64m\n", "# " + "x" * 197 + " memory = 64m\n"])
def test_check_config_refuses(folder, text):
    config = folder / "kvd.conf"
    config.write_text(text)
    line = one_clear_line(run("--config", config, "--check-config", "--dir", folder / "data", cwd=folder))
    assert "kvd" in line
    one_clear_line(run("--config", config, "--dir", folder / "data", cwd=folder))


def test_check_config_names_the_line_and_what_is_wrong_with_it(folder):
    config = folder / "kvd.conf"
    config.write_text("memory = 64m\n\nmemory = lots\ncolour = blue\n")
    line = one_clear_line(run("--config", config, "--check-config", "--dir", folder / "data", cwd=folder))
    assert "line 3" in line and "lots" in line and "colour" not in line


def test_a_long_line_of_a_config_file(folder):
    config = folder / "kvd.conf"
    for length, status in ((198, 0), (199, 2)):
        config.write_text("memory = 64m\ndir = /" + "x" * (length - 7) + "\n  # memory = lots\npersist = none ; for now\n")
        assert run("--config", config, "--check-config", cwd=folder).returncode == status


def test_flags_win_over_the_file(start, folder):
    config = folder / "kvd.conf"
    config.write_text("memory = 100m\npersist = none\n")
    kvd = start(start=False, args=["--config", str(config)])
    kvd.options["--memory"] = "64m"
    kvd.start()
    values = kvd.wire().ok(CONFIG, {"get": ["memory", "persist"]})["values"]
    assert values == {"memory": "64m", "persist": "none"}


def test_with_no_arguments_it_serves_loopback_and_names_its_directory(folder):
    """But for the port, which may be taken here, and the port file."""
    kvd = Kvd(start=False)
    try:
        home = {"HOME": str(kvd.dir), "XDG_STATE_HOME": "", "XDG_DATA_HOME": "", "XDG_CACHE_HOME": ""}
        kvd.command = lambda: [str(BUILD / "kvd"), "--listen", "127.0.0.1:0", "--port-file", str(kvd.port_file)]
        kvd.env = home
        kvd.start()
        named = re.findall(r'dir="?([^" ]+)', kvd.log())
        assert named, kvd.log()
        assert named[0].startswith(str(kvd.dir)), "below the home directory"
        kvd.wire().store(b"k", 1000, ack="disk")
        kvd.stop()
        assert list((kvd.dir / named[0]).rglob("*.seg"))
    finally:
        kvd.fini()


# ---- its log ----


def test_every_line_of_its_log_is_key_value(kvd):
    kvd.wire().store(b"k", 1000, ack="disk")
    broken = kvd.wire()
    broken.send_raw(b"\0" * 28)
    broken.at_end()
    kvd.stop()
    lines = kvd.log().splitlines()
    assert lines and all(line.startswith("ts=") for line in lines)
    check_log(kvd.log())
    listening = [line for line in lines if "event=listening" in line]
    assert len(listening) == 1 and f"addr=127.0.0.1:{kvd.port}" in listening[0]


def test_keys_do_not_reach_the_log(kvd):
    wire = kvd.wire()
    wire.store(b"secret-name", 1000, ack="disk")
    wire.remove(b"secret-name")
    kvd.stop()
    assert "secret" not in kvd.log()


# ---- its end ----


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_ends_with_0(kvd, signum):
    kvd.wire().store(b"k", 1000)
    assert kvd.terminate(signum) == 0


def test_the_port_file_goes_with_it(start, folder):
    kvd = start()
    port_file = kvd.port_file
    assert int(port_file.read_text()) == kvd.port
    kvd.stop()
    assert not port_file.exists()
    kvd.start()
    port_file.write_text("1\n")  # another kvd has written there meanwhile
    kvd.stop()
    assert port_file.read_text() == "1\n"


def test_its_log_says_what_the_directory_is(start):
    kvd = start()
    [line] = [line for line in kvd.log().splitlines() if "event=disk_dir" in line]
    fields = dict(field.split("=", 1) for field in line.split())
    space = os.statvfs(kvd.data)
    told = json.loads(kvctl("--json", "doctor", kvd.root).stdout)
    assert fields["fs"] == told["mount_type"] and int(fields["total_bytes"]) == space.f_blocks * space.f_frsize
    assert int(fields["free_bytes"]) > 0 and fields["async"] == ("yes" if told["fuse"] else "no")
    direct = next(check["result"] for check in told["checks"] if check["name"] == "direct_open")
    assert fields["direct"] == ("yes" if direct == "ok" else "no")


def test_its_log_says_what_the_mount_is(start, bindfs):
    log = start(data=bindfs.point / "data").log()
    [line] = [line for line in log.splitlines() if "event=disk_dir" in line]
    assert " fs=fuse" in line and " async=yes" in line


def test_what_is_under_way_is_finished(kvd):
    """A put whose body is on its way when SIGTERM comes: the listener is closed, the put is answered, and it is on disk."""
    wire = kvd.wire()
    value = value_of(b"k", 3 * MIB)
    meta = msgpack.packb({"key": b"k"}, use_bin_type=True)
    wire.send_raw(prefix(PUT, 1, len(meta), len(value)) + meta + value[:MIB])
    wait_until(lambda: kvd.wire().figure("memory_used") > 0, "the put to have begun")
    for other in kvd.wires[1:]:
        other.close()
    kvd.process.send_signal(signal.SIGTERM)

    def refused():
        try:
            socket.create_connection(("127.0.0.1", kvd.port), 1).close()
            return False
        except ConnectionRefusedError:
            return True

    wait_until(refused, "the listener to be closed")
    wire.send_raw(value[MIB:])
    assert wire.reply(1).code == OK
    assert kvd.wait() == 0
    kvd.close_wires()
    kvd.start()
    kvd.wire().holds(b"k", 3 * MIB)


def test_requests_after_sigterm_are_told(kvd):
    """A connection that goes on asking does not keep it: CLOSING, or the end of the stream."""
    wire, busy = kvd.wire(), kvd.wire()
    value = value_of(b"k", MIB)
    meta = msgpack.packb({"key": b"k"}, use_bin_type=True)
    busy.send_raw(prefix(PUT, 1, len(meta), len(value)) + meta + value[:1000])
    wait_until(lambda: wire.info("memory")["memory"]["inflight_bytes"] > 0, "the put under way")
    kvd.process.send_signal(signal.SIGTERM)
    codes = set()
    try:
        for number in range(1000):
            codes.add(wire.put(b"n-%d" % number, b"x").code)
            if CLOSING in codes:
                break
            time.sleep(0.002)
    except Exception:  # noqa: BLE001 - a closed connection, in one of its forms
        codes.add(CLOSING)
    assert CLOSING in codes
    busy.send_raw(value[1000:])
    assert busy.reply(1).code == OK
    assert kvd.wait() == 0


def test_a_remove_whose_client_is_gone_is_finished(start):
    kvd = start(memory="64m", args=["--persist", "none"])
    wire, other = kvd.wire(), kvd.wire()
    for first in range(0, 50_000, 1000):
        ids = [wire.send(PUT, {"key": b"key-%d" % i}, b"v") for i in range(first, first + 1000)]
        assert all(wire.reply(ident).code == OK for ident in ids)
    asked = 150
    gone = [kvd.wire() for _ in range(asked)]
    for one in gone:
        one.send(REMOVE_PREFIX, {"prefix": b"nobody"})
    wait_until(lambda: other.info("ops")["ops"]["REMOVE_PREFIX"] == asked, "the removes", every_s=0)
    for one in gone:
        one.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        one.close()
    kvd.stop()


def test_idle_connections_do_not_keep_it(kvd):
    wires = [kvd.wire() for _ in range(20)]
    wires[0].send_raw(b"\x95\xcc")
    began = time.monotonic()
    assert kvd.terminate() == 0
    assert time.monotonic() - began < 10


def test_a_put_that_never_ends_does_not_keep_it_for_ever(start):
    kvd = start(args=["--drain-timeout", "1s"])
    wire = kvd.wire()
    meta = msgpack.packb({"key": b"k"}, use_bin_type=True)
    wire.send_raw(prefix(PUT, 1, len(meta), MIB) + meta + b"x" * 1000)
    began = time.monotonic()
    kvd.terminate()
    assert time.monotonic() - began < 15
    kvd.close_wires()
    kvd.start()
    kvd.wire().misses(b"k")


def test_a_second_signal_ends_it_at_once_or_changes_nothing(kvd):
    kvd.wire().store(b"k", MIB)
    kvd.process.send_signal(signal.SIGTERM)
    kvd.process.send_signal(signal.SIGTERM)
    assert kvd.wait() is not None


def test_the_port_is_free_afterwards(kvd):
    port = kvd.port
    kvd.stop()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))


def test_a_port_of_ones_own(start):
    port = free_port()
    kvd = start(args=["--listen", f"127.0.0.1:{port}"])
    assert kvd.port == port
    with Wire(port) as wire:
        assert wire.call(PING).code == OK


def test_ipv6_loopback(start):
    if not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6") or "00000000000000000000000000000001" not in open("/proc/net/if_inet6").read():
        pytest.skip("no ::1 here")
    kvd = start(args=["--listen", "[::1]:0"])
    with Wire(kvd.port, host="::1") as wire:
        assert wire.call(PING).code == OK


def test_a_half_sent_frame_has_its_time(start):
    kvd = start(args=["--frame-timeout", "300ms"])
    slow, idle = kvd.wire(), kvd.wire()
    slow.send_raw(b"\x95\xcc\x03")
    assert readable(slow.sock, 10)
    try:
        slow.recv(5)  # an answer first, perhaps
    except Exception:  # noqa: BLE001
        pass
    assert idle.call(PING).code == OK, "one that is between two frames may wait as long as it likes"


def test_a_client_that_takes_no_replies_has_its_time(start):
    kvd = start(args=["--send-timeout", "500ms"])
    wire, other = kvd.wire(timeout_s=2), kvd.wire()
    wire.store(b"k", 4 * MIB)
    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    for _ in range(20):
        wire.send(GET, {"key": b"k"})
    wait_until(lambda: other.figure("connections") == 1, "it to be cut off")
    other.holds(b"k", 4 * MIB)


def test_a_time_needs_a_unit(folder):
    for arg in ("--drain-timeout=5", "--send-timeout=30"):
        assert "such as 250ms or 5s" in one_clear_line(run(arg, "--check-config", "--dir", folder / "data", cwd=folder))


def test_a_note_behind_a_value_is_not_a_part_of_it(folder):
    config = folder / "kvd.conf"
    config.write_text(f"dir = {folder}/data # mine\n")
    assert "line 1" in one_clear_line(run("--config", config, "--check-config", cwd=folder))
    config.write_text(f"dir = {folder}/data ; mine\n")
    assert run("--config", config, "--check-config", cwd=folder).returncode == 0


def test_few_open_files_allow_fewer_connections(start):
    """Some are kept back for the disk tier: what is accepted is served, what is put reaches the disk."""
    kvd = start(wrapper=["prlimit", "--nofile=128:128"], segment_size="256m")
    assert "event=fewer_connections" in kvd.log()
    wires = [Wire(kvd.port) for _ in range(100)]
    wire = wires[0]
    wire.store(b"k", 1000, ack="disk")
    assert wire.info("server")["server"]["connections"] <= 64
    for other in wires:
        other.close()


@pytest.mark.skipif(SANITIZED, reason="a sanitizer takes so much of the addresses that there is no room for it")
def test_more_memory_than_there_is_is_said(start):
    assert "event=more_memory_than_there_is" in start(memory="15t").log()
