"""Who is measured: kvd, and what it is compared with; each one's figures come as numbers of which the caller knows what they are.

A Place owns everything that a run starts and writes: a folder, mounts in it, processes. It is swept by a process of its own that
waits for the end of ours, so that nothing is left however that comes.
"""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "test" / "integration"))
import harness  # noqa: E402

BUILD, KIB, MIB, GIB = harness.BUILD, harness.KIB, harness.MIB, harness.GIB
PATIENCE_S = 60


class Failed(Exception):
    """It was there and could not be measured, or answered wrongly: no figure."""


class NotThere(Exception):
    """It is not there to be measured; the table says why."""


def need_program(name):
    if not shutil.which(name):
        raise NotThere(f"{name} is not installed")


def run(command, env=None, timeout_s=300):
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=timeout_s,
                              env={**os.environ, **(env or {})}, preexec_fn=harness.die_with_parent)
    except subprocess.TimeoutExpired:
        raise Failed(f"{words[0]} did not end within {timeout_s} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-300:]
        raise Failed(f"{' '.join(words)}: exit {done.returncode}: {said}")
    return done.stdout.decode()


# ---- the place ----

SWEEPER = """trap '' INT TERM HUP; read -r _; for m in "$1"/*/mount "$1"/mount; do fusermount3 -q -u -z "$m"; done 2>/dev/null; rm -rf "$1" """


class Place:
    def __init__(self, parent=None):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="kvd-bench-", dir=parent))
        self.sweeper = subprocess.Popen(["sh", "-c", SWEEPER, "sh", str(self.folder)], stdin=subprocess.PIPE, start_new_session=True)
        self.opened = contextlib.ExitStack()
        self.kept = contextlib.ExitStack()
        self.tools = {}
        tempfile.tempdir = str(self.folder)  # what the harness makes lies in it too

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
        self.kept.close()
        self.sweeper.stdin.close()
        self.sweeper.wait()

    def close(self):
        """End all that was opened, but for the tools."""
        self.opened.close()

    def open(self, thing):
        return self.opened.enter_context(thing)

    def tool(self, name, pool):
        """One whose pool has been made stays until the end of the run."""
        if name not in self.tools or self.tools[name].process.poll() is not None:
            self.tools[name] = self.kept.enter_context(Tool(name, pool))
        return self.tools[name]

    def sub(self, name):
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def need_free(self, size):
        free = shutil.disk_usage(self.folder).free
        if free < size + GIB:
            raise NotThere(f"{free / GIB:.1f} GiB free in {self.folder.parent}, {size / GIB + 1:.1f} are needed")


# ---- programs that run as long as the place ----


class Process:
    def __init__(self, command, **options):
        self.command = [str(word) for word in command]
        self.process = subprocess.Popen(self.command, preexec_fn=harness.die_with_parent, **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()


class Server(Process):
    """Somebody else's server, on a free port of the loopback."""

    def __init__(self, command, port):
        super().__init__(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.port = port
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.01)
        super().__exit__()
        raise Failed(f"{self.command[0]} does not serve")


class Tool(Process):
    """A program of ours that takes a job a line, and answers each by a line."""

    def __init__(self, name, pool):
        super().__init__([ROOT / "build" / "bench" / name, "--pool", pool], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.finish()  # it is ready

    def start(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def finish(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.command[0]} ended")
        got = json.loads(line)
        if isinstance(got, dict) and "error" in got:
            raise Failed(got["error"])
        return got

    def do(self, *words):
        self.start(*words)
        return self.finish()


def kvd(args=(), **options):
    """A server whose memory has been touched, as the others' will be by the keys that they are given."""
    try:
        server = harness.Kvd(args=[*args, "--disk-timeout", "60s"], **options)  # a slow minute is measured, not judged
        with contextlib.suppress(AssertionError), harness.Wire(server.port) as wire:  # it may end early, where memory is short
            harness.wait_until(lambda: wire.info("memory")["memory"]["touched_bytes"] >= wire.figure("memory_limit"), "its memory", 5)
        return server
    except AssertionError as error:
        raise Failed(str(error)) from error


def redis(memory):
    need_program("redis-server")
    port = harness.free_port()
    return Server(["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--maxmemory", memory,
                   "--maxmemory-policy", "allkeys-lru"], port)


def memcached(megabytes, largest, *more):
    need_program("memcached")
    port = harness.free_port()
    user = "root" if os.getuid() == 0 else "nobody"  # who may write where we may; it asks a root for one
    return Server(["memcached", "-u", user, "-l", "127.0.0.1", "-p", port, "-m", megabytes, "-I", largest, "-t", "1", *more], port)


def iperf3_server():
    need_program("iperf3")
    port = harness.free_port()
    return Server(["iperf3", "-s", "-B", "127.0.0.1", "-p", port], port)


# ---- programs that run once ----


def iperf3(port, size, connections, seconds):
    got = json.loads(run(["iperf3", "-c", "127.0.0.1", "-p", port, "-l", min(size, MIB), "-P", connections, "-n",
                          int(max(seconds, 0.1) * 4e9 / connections), "--json"]))
    return got["end"]["sum_received"]["bits_per_second"] / 8


def flush_redis(port):
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as sock:
        sock.sendall(b"FLUSHALL SYNC\r\n")
        if sock.recv(64) != b"+OK\r\n":
            raise Failed("redis-server does not flush")


def redis_benchmark(port, op, size, connections, depth, keys, count):
    need_program("redis-benchmark")
    out = run(["redis-benchmark", "-h", "127.0.0.1", "-p", port, "-t", op, "-d", size, "-c", connections, "-P", depth, "-r", keys, "-n", count,
               "--csv"])
    rate = [line.split(",")[1].strip('"') for line in out.splitlines() if line.lower().startswith(f'"{op}"')]
    if not rate:
        raise Failed(f"redis-benchmark says nothing of {op}: {out[-200:]}")
    return float(rate[0]) * size


FIO_WAYS = {
    "plain": ([], {}),
    "fixed buffers": (["--fixedbufs"], {}),
    "huge pages": (["--fixedbufs"], {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}),  # malloc() says MADV_HUGEPAGE of what it maps
}


def fio(way, rw, block, depth, *more):
    need_program("fio")
    flags, env = FIO_WAYS[way]
    got = json.loads(run(["fio", "--name=bench", f"--rw={rw}", f"--bs={block}", f"--iodepth={depth}", "--ioengine=io_uring", "--direct=1",
                          "--thread", "--randrepeat=0", "--output-format=json", *flags, *more], env))
    job = got["jobs"][0]
    if job["error"]:
        raise Failed(f"fio: {os.strerror(job['error'])}")
    return job["read" if "read" in rw else "write"], job


def forget_pages(folder):
    """What the kernel keeps of the files below is written and forgotten."""
    for path in pathlib.Path(folder).rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
