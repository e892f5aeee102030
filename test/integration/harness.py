"""Run the real programs and speak to them.

`Kvd` is one server process with a fresh directory, `Wire` a client of the protocol of its own: it shares no code with the C side,
so that the two check each other. `kvctl()` runs the command-line tool. What INFO calls its figures is in FIGURES, once.
"""
import collections
import contextlib
import ctypes
import hashlib
import hmac
import itertools
import json
import os
import pathlib
import random
import re
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

import msgpack
import xxhash

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("KVD_BUILD", ROOT / "build")).resolve()
SANITIZED = bool(os.environ.get("KVD_SANITIZED"))
PATIENCE_S = 60 if SANITIZED else 20  # after which what is awaited will not come
DATA_ROOT = os.environ.get("KVD_DATA_ROOT")  # where servers have their directories, instead of beside their logs

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# ---- the protocol's numbers ----

HELLO, AUTH, PING = 0x01, 0x02, 0x03
PUT, GET, MGET, EXISTS, MATCH, RELEASE = 0x10, 0x11, 0x12, 0x13, 0x14, 0x15
REMOVE, REMOVE_PREFIX, REMOVE_ALL, PIN = 0x16, 0x17, 0x18, 0x19
STAT, SCAN, INFO, CONFIG, ADMIN, WATCH = 0x20, 0x21, 0x22, 0x23, 0x24, 0x25

OK, PRESENT, NOT_FOUND = 0, 1, 2
BAD_REQUEST, UNSUPPORTED, TOO_LARGE, NO_SPACE, BUSY, DENIED, CORRUPT = 16, 17, 18, 19, 20, 21, 22
IO_ERROR, TIMEOUT, CLOSING, INTERNAL = 23, 24, 25, 26

MAX_KEY_BYTES = 1024
MAX_BATCH_KEYS = 4096
MAX_META_BYTES = 4 * MIB + 64 * KIB
MAX_SKIPPED_BODY_BYTES = GIB

# ---- what INFO calls things: (section, figure) ----

FIGURES = {
    "version": ("server", "version"),
    "connections": ("server", "connections"),
    "memory_limit": ("memory", "limit_bytes"),
    "memory_used": ("memory", "used_bytes"),
    "memory_touched": ("memory", "touched_bytes"),
    "memory_objects": ("memory", "objects"),
    "evicted": ("memory", "evicted_total"),
    "disk_state": ("disk", "state"),
    "disk_limit": ("disk", "limit_bytes"),
    "disk_used": ("disk", "used_bytes"),
    "disk_segments": ("disk", "segments"),
    "disk_objects": ("disk", "objects"),
    "disk_queued": ("disk", "queued_bytes"),
    "io": ("files", "io"),
    "fixed_bytes": ("files", "fixed_bytes"),
    "fixed_reads": ("files", "fixed_reads_total"),
    "fixed_writes": ("files", "fixed_writes_total"),
}
FILE_COUNTERS = ("reads_total", "writes_total", "syncs_total", "other_total")
# Figures of `dropped` that are no objects lost: what was not written is still in memory, until it is evicted and counted as that.
NOT_LOST = ("unwritten_", "read_")


def checksum(data):
    return xxhash.xxh3_64_intdigest(data)


def value_of(key, size):
    """The bytes that `key` stands for: the same ones each time, others for each key and size."""
    return random.Random(hashlib.blake2b(key + b"/%d" % size, digest_size=8).digest()).randbytes(size)


def wait_until(condition, what, timeout_s=None, every_s=0.005):
    """Poll for what nobody announces. Returns the condition's value."""
    end = time.monotonic() + (timeout_s or PATIENCE_S)
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"still waiting for {what}"
        time.sleep(every_s)


# ---- the wire ----

PREFIX_BYTES = 28


def prefix(op, ident, meta_len, body_len, code=0):
    return struct.pack(">BBBBBBQBIBQ", 0x95, 0xCC, op, 0xCC, code, 0xCF, ident, 0xCE, meta_len, 0xCF, body_len)


def frame(op, meta=None, body=b"", ident=1, code=0):
    """A whole request. `meta` is a dict, or bytes that are sent as they are; None is an empty meta."""
    packed = b"" if meta is None else bytes(meta) if isinstance(meta, (bytes, bytearray)) else msgpack.packb(meta, use_bin_type=True)
    return prefix(op, ident, len(packed), len(body), code) + packed + body


class Reply:
    def __init__(self, op, code, ident, meta, body):
        self.op, self.code, self.id, self.meta, self.body = op, code, ident, meta, body

    def __repr__(self):
        return f"Reply(op={self.op:#x}, code={self.code}, id={self.id}, meta={self.meta!r}, body={len(self.body)} bytes)"


class Closed(Exception):
    """The server has closed the connection."""


class Wire:
    """One connection. Requests may be pipelined by send(); reply(id) waits for one reply and keeps the others."""

    def __init__(self, port, host="127.0.0.1", timeout_s=None):
        self.timeout_s = timeout_s or PATIENCE_S
        self.sock = socket.create_connection((host, port), self.timeout_s)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        self.kept = collections.defaultdict(collections.deque)
        self.ids = itertools.count(1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    # -- bytes

    def send_raw(self, data):
        self.sock.settimeout(self.timeout_s)
        self.sock.sendall(data)

    def _take(self, count, deadline):
        while len(self.received) < count:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no reply within the deadline; {len(self.received)} of {count} bytes are here")
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(min(max(count - len(self.received), 65536), 1 << 20))
            except ConnectionError as error:
                raise Closed(str(error)) from error
            if not data:
                raise Closed(f"end of stream with {len(self.received)} bytes of a frame")
            self.received += data
        taken = bytes(self.received[:count])
        del self.received[:count]
        return taken

    def recv(self, timeout_s=None):
        """The next frame, whichever it is."""
        deadline = time.monotonic() + (timeout_s or self.timeout_s)
        head = self._take(PREFIX_BYTES, deadline)
        a, b, op, c, code, d, ident, e, meta_len, f, body_len = struct.unpack(">BBBBBBQBIBQ", head)
        assert (a, b, c, d, e, f) == (0x95, 0xCC, 0xCC, 0xCF, 0xCE, 0xCF), f"a reply with a broken prefix: {head.hex()}"
        assert msgpack.unpackb(head) == [op, code, ident, meta_len, body_len]
        meta = self._take(meta_len, deadline)
        meta = msgpack.unpackb(meta, raw=False, strict_map_key=True) if meta else {}
        assert isinstance(meta, dict)
        body = self._take(body_len, deadline)
        assert code < 16 or isinstance(meta.get("message"), str), f"code {code} without a message: {meta}"
        return Reply(op, code, ident, meta, body)

    def at_end(self, timeout_s=None):
        """Read on until the server closes; True if nothing more came before."""
        deadline = time.monotonic() + (timeout_s or self.timeout_s)
        try:
            self._take(1, deadline)
        except Closed:
            return True
        return False

    # -- requests

    def send(self, op, meta=None, body=b"", ident=None, code=0):
        """Send a request and return its id."""
        ident = next(self.ids) if ident is None else ident
        self.send_raw(frame(op, meta, body, ident, code))
        return ident

    def reply(self, ident, timeout_s=None):
        while not self.kept[ident]:
            got = self.recv(timeout_s)
            self.kept[got.id].append(got)
        return self.kept[ident].popleft()

    def call(self, op, meta=None, body=b"", timeout_s=None, code=0):
        ident = self.send(op, meta, body, code=code)
        got = self.reply(ident, timeout_s)
        assert got.op == op, f"a reply to {op:#x} says {got!r}"
        return got

    def ok(self, op, meta=None, body=b"", timeout_s=None):
        got = self.call(op, meta, body, timeout_s)
        assert got.code == OK, got
        return got.meta

    # -- the ops, as one uses them

    def hello(self, **meta):
        return self.ok(HELLO, {"versions": [1], "client": "tests", **meta})

    def mac(self, token, nonce=None):
        """What a client with that token answers to a nonce; without one, to that of a HELLO."""
        return hmac.new(token.encode(), b"kvd-auth-1" + (nonce or self.hello()["nonce"]), hashlib.sha256).digest()

    def auth(self, token, nonce=None, **meta):
        return self.call(AUTH, {"mac": self.mac(token, nonce), **meta})

    def put(self, key, value, **meta):
        return self.call(PUT, {"key": key, **meta}, value)

    def store(self, key, size, **meta):
        """Put value_of(key, size), waiting as long as the server is BUSY."""
        value = value_of(key, size)
        end = time.monotonic() + self.timeout_s
        while True:
            got = self.put(key, value, **meta)
            if got.code != BUSY or time.monotonic() > end:
                assert got.code in (OK, PRESENT), got
                return got
            time.sleep(min(got.meta["retry_after_ms"], 1000) / 1000)

    def get(self, key, **meta):
        return self.call(GET, {"key": key, **meta})

    def mget(self, keys, timeout_s=None, **meta):
        """({index: Reply}, last Reply)."""
        ident = self.send(MGET, {"keys": keys, **meta})
        found = {}
        while True:
            got = self.reply(ident, timeout_s)
            assert got.op == MGET
            if "index" not in got.meta:
                return found, got
            assert got.meta["index"] not in found, "two frames of one index"
            found[got.meta["index"]] = got

    def exists(self, keys, **meta):
        """A byte for each key."""
        got = self.ok(EXISTS, {"keys": keys, **meta})
        assert len(got["present"]) == len(keys)
        assert got["count"] == sum(1 for byte in got["present"] if byte)
        return got["present"]

    def match(self, keys, **meta):
        return self.ok(MATCH, {"keys": keys, **meta})

    def release(self, lease, **meta):
        return self.ok(RELEASE, {"lease": lease, **meta})

    def remove(self, *keys):
        return self.ok(REMOVE, {"keys": list(keys)})["removed"]

    def remove_prefix(self, text):
        return self.ok(REMOVE_PREFIX, {"prefix": text})["removed"]

    def remove_all(self):
        return self.ok(REMOVE_ALL)["removed"]

    def pin(self, *keys, pinned=True):
        return self.ok(PIN, {"keys": list(keys), "pinned": pinned})["changed"]

    def stat(self, key):
        return self.ok(STAT, {"key": key})

    def scan(self, limit=1000, **meta):
        """All objects, page after page."""
        cursor, objects = b"", []
        while True:
            got = self.ok(SCAN, {"limit": limit, **meta, **({"cursor": cursor} if cursor else {})})
            assert len(got["objects"]) <= limit
            objects += got["objects"]
            cursor = got["cursor"]
            if not cursor:
                return objects

    def info(self, section=None):
        return self.ok(INFO, {} if section is None else {"section": section})

    def figure(self, name):
        section, figure = FIGURES[name]
        return self.info(section)[section][figure]

    def file_counters(self):
        files = self.info("files")["files"]
        return {name: files[name] for name in FILE_COUNTERS}

    def dropped(self, info=None):
        """{reason: objects dropped without being stored}, now, or at the moment of that info()."""
        return {name: count for name, count in (info or self.info("dropped"))["dropped"].items() if not name.startswith(NOT_LOST)}

    def sync(self):
        return self.ok(ADMIN, {"action": "sync"}, timeout_s=120)

    # -- what tests assert again and again

    def holds(self, key, size):
        """The whole object comes back, right to the last byte."""
        got = self.get(key)
        assert got.code == OK, got
        self.judge(key, size, got)
        return got

    def holds_or_misses(self, key, size):
        """Right, or not there: what a cache may say. True when it is there."""
        got = self.get(key)
        if got.code == NOT_FOUND:
            return False
        assert got.code == OK, got
        self.judge(key, size, got)
        return True

    def judge(self, key, size, got):
        assert got.meta["size"] == size and len(got.body) == size
        assert got.meta["checksum"] == checksum(got.body)
        assert got.body == value_of(key, size), f"wrong bytes for {key!r}"

    def misses(self, key):
        got = self.get(key)
        assert got.code == NOT_FOUND, got
        return got


# ---- figures ----

TOLD = []


def tell(line):
    """A figure that is shown though the test passes."""
    TOLD.append(line)


# ---- processes ----

libc = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1


def die_with_parent():
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def work_dir(prefix_text="kvd-it-"):
    path = pathlib.Path(tempfile.mkdtemp(prefix=prefix_text))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Kvd:
    """One server. start() and stop() any number of times over one directory; everything ends with the context."""

    def __init__(self, memory="256m", disk="2g", segment_size="16m", args=(), wrapper=(), data=None, env=None, start=True):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="kvd-it-"))
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="kvd-it-", dir=DATA_ROOT)) if DATA_ROOT and not data else self.dir
        self.data = pathlib.Path(data) if data else self.root / "data"
        self.port_file = self.dir / "port"
        self.log_path = self.dir / "log"
        self.options = {"--memory": memory, "--disk": disk, "--segment-size": segment_size, "--node": "n1"}
        if os.environ.get("KVD_TEST_LOOPS"):
            self.options["--loops"] = os.environ["KVD_TEST_LOOPS"]
        self.args, self.wrapper, self.env = list(args), list(wrapper), env
        self.process = None
        self.port = None
        self.wires = []
        if start:
            try:
                self.start()
            except BaseException:
                self.fini()
                raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.fini()

    def fini(self):
        self.close_wires()
        if self.process:
            self.kill()
        for folder in (self.root, self.dir):
            shutil.rmtree(folder, ignore_errors=True)

    def close_wires(self):
        for wire in self.wires:
            wire.close()
        self.wires = []

    # -- life

    def command(self):
        flags = [item for pair in self.options.items() if pair[1] is not None for item in pair]
        patient = ["--disk-timeout", "60s"] if DATA_ROOT else []  # a distributed file system on a busy machine may take its time
        return [*self.wrapper, str(BUILD / "kvd"), "--listen", "127.0.0.1:0", "--port-file", str(self.port_file), "--dir", str(self.data),
                *patient, *flags, *self.args]

    def spawn(self):
        self.port_file.unlink(missing_ok=True)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.dir,
                                            env={**os.environ, **(self.env or {})}, preexec_fn=die_with_parent)

    def start(self):
        self.spawn()
        wait_until(lambda: self.port_file.exists() or self.process.poll() is not None, "the port file", every_s=0.001)
        assert self.process.poll() is None, f"kvd ended with {self.process.returncode}:\n{self.log()}"
        self.port = int(self.port_file.read_text())
        return self

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def terminate(self, signum=signal.SIGTERM, timeout_s=None):
        """Ask it to end; returns its exit status."""
        self.process.send_signal(signum)
        return self.wait(timeout_s)

    def wait(self, timeout_s=None):
        try:
            status = self.process.wait(timeout_s or PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"kvd did not end:\n{self.log()}") from None
        self.process = None
        return status

    def stop(self):
        """An orderly end, which is one with status 0."""
        self.close_wires()
        status = self.terminate()
        assert status == 0, f"kvd ended with {status}:\n{self.log()}"

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()
        self.process = None
        self.close_wires()

    def restart(self, how="stop"):
        getattr(self, how)()
        return self.start()

    # -- looking

    def wire(self, **options):
        wire = Wire(self.port, **options)
        self.wires.append(wire)
        return wire

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def rss_bytes(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * KIB
        raise AssertionError("no VmRSS")

    def folder(self):
        """<dir>/<cluster>/<node>: where the one node's files are."""
        found = [p for p in self.data.glob("*/n1") if p.is_dir()]
        assert len(found) == 1, found
        return found[0]

    def segments(self):
        return sorted(self.folder().glob("*.seg"))

    def disk_bytes(self):
        """What the directory takes: the greater of its files' lengths and their blocks."""
        total = 0
        for path in self.data.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                if path.is_file():
                    total += max(stat.st_size, stat.st_blocks * 512)
        return total

    def settle(self, wire=None):
        """Wait until nothing is queued for the disk."""
        wire = wire or self.wire()
        wait_until(lambda: wire.figure("disk_queued") == 0, "the write queue to be empty")


class Bindfs:
    """A FUSE mount of `source`, as 3FS mounts behave: metadata and data go through another process."""

    def __init__(self, source, point):
        self.point = pathlib.Path(point)
        self.point.mkdir(parents=True, exist_ok=True)
        pathlib.Path(source).mkdir(parents=True, exist_ok=True)
        command = ["bindfs", "-f", "--multithreaded", "-o", "attr_timeout=30,entry_timeout=30,negative_timeout=5", str(source), str(point)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        preexec_fn=die_with_parent)
        wait_until(lambda: os.path.ismount(self.point) or self.process.poll() is not None, "the mount")
        assert self.process.poll() is None, f"bindfs did not start: {self.process.stdout.read()}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGCONT)
        subprocess.run(["fusermount3", "-u", "-z", str(self.point)], check=False, stderr=subprocess.DEVNULL)
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def freeze(self):
        """It answers nothing more: each of its threads has stopped."""
        self.process.send_signal(signal.SIGSTOP)
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task")
        wait_until(lambda: all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks.iterdir()), "it to stop")

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)


def why_no_fuse():
    """None where bindfs works; otherwise why not."""
    if not shutil.which("bindfs"):
        return "bindfs is not installed"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened"
    return None


def why_no_strace():
    """None where strace may trace; otherwise why not."""
    if not shutil.which("strace"):
        return "strace is not installed"
    probe = subprocess.run(["strace", "-f", "-e", "trace=io_uring_setup", "-e", "inject=io_uring_setup:error=ENOSYS", "true"],
                           capture_output=True, text=True, check=False)
    return None if probe.returncode == 0 else f"strace cannot trace here: {probe.stderr.strip()}"


# -D keeps kvd our own child, to be asked and killed as ever; the tracer ends with it.
STRACE_WITHOUT_RING = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=io_uring_setup", "-e", "inject=io_uring_setup:error=ENOSYS"]


def kvctl(*args, port=None, stdin=None, timeout_s=120, env=None):
    """Run kvctl; returns the CompletedProcess, with bytes."""
    full = dict(os.environ)
    for name in ("KVD_SERVER", "KVD_TOKEN_FILE"):
        full.pop(name, None)
    full.update(env or {})
    server = ["--server", f"127.0.0.1:{port}"] if port else []
    return subprocess.run([str(BUILD / "kvctl"), *server, *map(str, args)], input=stdin if stdin is not None else b"", capture_output=True,
                          timeout=timeout_s * (4 if SANITIZED else 1), env=full, preexec_fn=die_with_parent, check=False)


def kvctl_json(*args, **options):
    done = kvctl("--json", *args, **options)
    assert done.returncode in (0, 1), done
    return json.loads(done.stdout)


def check_log(text):
    """Each line of kvd's is `key=value`, whatever the test made it say."""
    for line in text.splitlines():
        if not line.startswith("ts="):
            continue  # of a wrapper
        fields = shlex.split(line)
        assert all(re.fullmatch(r"[a-z_0-9]+=.*", field, re.S) for field in fields), line
        assert [field.split("=", 1)[0] for field in fields][:3] == ["ts", "level", "event"], line


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def readable(sock, timeout_s):
    return bool(select.select([sock], [], [], timeout_s)[0])


# ---- traces ----

def trace_file():
    """The conversation trace, where this checkout has it beside it; else None."""
    for folder in (ROOT.parent / "shared", ROOT / "shared"):
        path = folder / "traces" / "conversation_trace.jsonl"
        if path.is_file():
            return path
    return None


def read_trace(path, requests=None):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line)["hash_ids"] for line in itertools.islice(lines, requests)]


def expected_hits(blocks_of_requests):
    """(hits, references) of a cache that forgets nothing, request after request: the longest prefix that is stored hits."""
    stored, hits, references = set(), 0, 0
    for ids in blocks_of_requests:
        references += len(ids)
        for ident in ids:
            if ident not in stored:
                break
            hits += 1
        stored.update(ids)
    return hits, references


# ---- files of the disk tier: docs/disk-format.md ----


def make_newer(segment):
    """Give a segment's header the next format's number, and the right sum with it."""
    with open(segment, "r+b") as file:
        head = bytearray(file.read(4096))
        struct.pack_into("<H", head, 4, struct.unpack_from("<H", head, 4)[0] + 1)
        struct.pack_into("<Q", head, 4088, checksum(bytes(head[:4088])))
        file.seek(0)
        file.write(head)
