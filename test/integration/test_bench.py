"""scripts/bench: wrong and missing data make no figure, what is not there is said, and nothing is left however it ends."""
import contextlib
import json
import os
import pathlib
import signal
import stat
import subprocess
import sys

import pytest

from harness import ROOT, die_with_parent, wait_until

sys.path.insert(0, str(ROOT / "test" / "bench"))
import report  # noqa: E402
import rows  # noqa: E402

ROW = "get 64 KiB, memory, 1 conn, depth 8"
FIELDS = {"row", "kvd", "against", "ratio", "goal", "met"}

# Enough of redis-server for SET and GET; what it answers to GET depends on the mode.
FAKE = '''#!/usr/bin/python3
import socketserver, sys, threading
MODE, PORT = {mode!r}, int(sys.argv[sys.argv.index("--port") + 1])
values = {{}}

def answer(key):
    value = values.get(key)
    if value is None or MODE == "lost":
        return b"$-1\\r\\n"
    if MODE == "wrong":
        value = value[:-1] + bytes([value[-1] ^ 1])
    if MODE == "short":
        value = value[:-1]
    return b"$%d\\r\\n%s\\r\\n" % (len(value), value)

class Client(socketserver.StreamRequestHandler):
    rbufsize, disable_nagle_algorithm = 1 << 20, True
    def words(self):
        head = self.rfile.readline()
        for _ in range(int(head[1:]) if head else 0):
            size = int(self.rfile.readline()[1:])
            yield self.rfile.read(size + 2)[:size]
    def handle(self):
        while words := list(self.words()):
            if words[0] == b"SET":
                values[words[1]] = words[2]
            self.wfile.write(b"+OK\\r\\n" if words[0] == b"SET" else answer(words[1]))

class Server(socketserver.ThreadingTCPServer):
    daemon_threads = allow_reuse_address = True

Server(("127.0.0.1", PORT), Client).serve_forever()
'''


@pytest.fixture
def bench(tmp_path):
    """Run scripts/bench, with a redis-server of ours: (exit status, what build/bench.json would be, its output)."""
    path = tmp_path / "bin"
    path.mkdir()
    for program in ("sh", "rm", "findmnt"):
        path.joinpath(program).symlink_to(f"/usr/bin/{program}")

    def run(*args, redis=None):
        if redis:
            fake = path / "redis-server"
            fake.write_text(FAKE.format(mode=redis))
            fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
        env = {**os.environ, "PATH": str(path), "TMPDIR": str(tmp_path)}
        out = tmp_path / "bench.json"
        done = subprocess.run([ROOT / "scripts" / "bench", "--tiny", "--rounds", "1", "--json", out, "--svg", tmp_path / "bench.svg", *args],
                              env=env, capture_output=True, text=True, check=False, preexec_fn=die_with_parent, timeout=60)
        assert not list(tmp_path.glob("kvd-*")), "a run leaves nothing"
        return done.returncode, json.loads(out.read_text()) if out.exists() else None, done.stdout + done.stderr

    return run


def test_figures_have_their_fields_and_what_is_missing_is_said(bench):
    status, results, said = bench("--rows", ROW, redis="right")
    assert status == 0, said
    by = {result["against"]: result for result in results}
    assert set(by) == {"redis", "memcached", "bare pair"} and all(FIELDS <= set(result) for result in results)
    assert by["redis"]["kvd"] > 0 and by["redis"]["ratio"] > 0
    assert by["memcached"]["ratio"] is None and "memcached is not installed" in said


@pytest.mark.parametrize(("mode", "why"), [("wrong", "wrong bytes"), ("lost", "a miss"), ("short", "65535 bytes instead of 65536")])
def test_wrong_and_missing_data_make_no_figure(bench, mode, why):
    status, results, said = bench("--rows", ROW, redis=mode)
    assert status == 1 and why in said, said
    assert results and all(result["failed"] and result["ratio"] is None and result["kvd"] is None for result in results)


def test_ratios_are_medians_of_rounds_and_the_best_way_counts():
    row = rows.Row("r", {}, {"fio": 0.9, "pair": 2.0}, ("x", 1), rows.AT_LEAST)
    measured = {name: [(figure, {}) for figure in figures] for name, figures in
                {"kvd": [1, 2, 9], "fio: a": [1, 1, 1], "fio: b": [1, 4, 10], "pair": [1, 1, 1]}.items()}
    fio, pair = report.results_of(row, measured)
    assert (fio["against"], fio["way"], fio["theirs"], fio["ratio"], fio["met"]) == ("fio", "b", 4, 0.9, True)
    assert (pair["kvd"], pair["ratio"], pair["met"]) == (2, 2, True)
    row.goal_is, row.goals = rows.AT_MOST, {"fio": 0.8}
    assert [result["met"] for result in report.results_of(row, measured)] == [False, None]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_however_it_ends(tmp_path, how):
    process = subprocess.Popen([ROOT / "scripts" / "bench", "--tiny", "--seconds", "60", "--rows", ROW, "--json", tmp_path / "json"],
                               env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               preexec_fn=die_with_parent)
    with contextlib.ExitStack() as opened:
        opened.callback(process.wait)
        opened.callback(process.kill)
        wait_until(lambda: list(tmp_path.glob("kvd-bench-*/*/port")), "its kvd")
        process.send_signal(how)
        status = process.wait(20)
        assert status == (-how if how == signal.SIGKILL else 128 + how)
        wait_until(lambda: not list(tmp_path.iterdir()), "all to be gone")
        wait_until(lambda: not servers_below(tmp_path), "its servers to be gone")


def servers_below(folder):
    """Processes that were started to work below it."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in entry.read_bytes():
                found.append(entry.parent.name)
    return found
