"""What is measured: a Row each. Rows that need the same servers are made by one group, one after the other."""
import contextlib
import dataclasses
import shutil
import time
import typing

import contestants as c
import harness
from contestants import GIB, KIB, MIB, Failed, NotThere

# More than the caches hold, which is where the kernel ends on loopback, is not always the best.
PAIR_WAYS = {"the kernel's buffers": (), "256 KiB to send": ("send-buffer=256k",)}

AT_LEAST, AT_MOST = "at least", "at most"
GB, MILLION, MS = ("GB/s", 1e9), ("million keys/s", 1e6), ("ms", 1e3)


@dataclasses.dataclass
class Row:
    """contestants: {name: function}, "kvd" first; each returns a figure, or (figure, {name: more}). One whose name has a ": " is one way of
    several of whoever stands before it; the best of them counts. goals: {name: ratio of kvd's figure to theirs}."""

    name: str
    contestants: dict
    goals: dict = dataclasses.field(default_factory=dict)
    unit: tuple = GB
    goal_is: str = AT_LEAST
    prepare: typing.Callable = None
    slow: bool = False  # no more rounds than there must be


@dataclasses.dataclass
class Scale:
    """How large and how long."""

    rounds: int
    least_rounds: int  # whatever the time
    seconds: float  # of one measurement
    pool: int  # of values in memory
    disk_set: int
    limit_s: float  # of the whole; more rounds than there must be are made only while it goes faster
    quick: bool = False
    tiny: bool = False

    @property
    def segment(self):
        return "4m" if self.tiny else "256m"


def size_text(size):
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def mebi(size):
    return f"{size // MIB}m"


def latencies(got):
    return {name: got[name] for name in ("p50_us", "p99_us", "p999_us")}


# ---- memory ----


class Memory:
    """kvd, redis-server and memcached, each with the same keys, twice as much memory as they take (redis-server thrice: its output buffers count); one client for
    all three."""

    SIZES = (64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB)
    SHAPES = {64 * KIB: [(1, 8), (8, 8)], MIB: [(1, 8), (1, 1), (1, 32), (2, 8), (8, 8)]}  # connections and depth; else one, 8 deep

    def __init__(self, place, scale):
        self.place, self.scale = place, scale
        self.servers, self.filled = {}, {}

    def __enter__(self):
        self.drive = self.place.tool("drive", self.scale.pool)
        self.pair = self.place.tool("pair", self.scale.pool)
        self.servers["kvd"] = self.place.open(c.kvd(memory=mebi(2 * self.scale.pool), disk="1g", args=["--persist", "none"]))
        for name, start in (("redis", lambda: c.redis(f"{3 * self.scale.pool // MIB}mb")),
                            ("memcached", self.memcached), ("iperf3", c.iperf3_server)):
            with contextlib.suppress(NotThere):
                self.servers[name] = self.place.open(start())
        return self

    def __exit__(self, *_):
        self.place.close()

    def memcached(self):
        return c.memcached(2 * self.scale.pool // MIB, mebi(min(self.scale.pool // 2, 128 * MIB)))

    def port(self, who):
        if who not in self.servers:
            raise NotThere(f"{who} is not installed")
        return self.servers[who].port

    def keys(self, size):
        return max(self.scale.pool // size, 1)

    def sizes(self):
        return (64 * KIB, MIB) if self.scale.tiny else tuple(size for size in self.SIZES if not self.scale.quick or size != 16 * MIB)

    def shapes(self, size):
        shapes = self.SHAPES.get(size, [(1, 8)])
        return [shape for shape in shapes if not self.scale.quick or shape in ((1, 8), (8, 8))]

    def rows(self):
        for size in self.sizes():
            for op in ("get", "put"):
                for connections, depth in self.shapes(size):
                    yield self.row(op, size, connections, depth)

    def row(self, op, size, connections, depth):
        contestants = {name: self.driven(name, op, size, connections, depth) for name in ("kvd", "redis", "memcached")}
        for way, words in PAIR_WAYS.items():
            contestants[f"bare pair: {way}"] = lambda words=words: self.pair.do(op, f"size={size}", f"connections={connections}",
                                                                                f"seconds={self.seconds(size)}", *words)
        shape = (size, connections, depth)
        if op == "get" and shape in ((MIB, 1, 8), (64 * KIB, 8, 8)):
            contestants["iperf3"] = lambda: c.iperf3(self.port("iperf3"), size, connections, self.seconds(size))
        if shape in ((MIB, 1, 8), (64 * KIB, 8, 8)):
            contestants["redis, by redis-benchmark"] = lambda: self.cross_check(op, size, connections, depth)
            contestants["kvd, by kvctl bench"] = lambda: self.kvctl_bench(op, size, connections, depth)
        return Row(f"{op} {size_text(size)}, memory, {connections} conn, depth {depth}", contestants, self.goals(op, *shape),
                   prepare=lambda: self.prepare(op, size, connections, depth))

    @staticmethod
    def goals(op, size, connections, depth):
        if (size, connections, depth) == (64 * KIB, 8, 8):
            return {"redis": 1.3}
        if size not in (MIB, 4 * MIB) or (connections, depth) != (1, 8):
            return {}
        rival = 1.3 if size == MIB else 1.15
        return {"bare pair": 0.90} if op == "put" else {"bare pair": 0.95, "redis": rival, "memcached": rival}

    def seconds(self, size):
        return self.scale.seconds * (2 if size >= 64 * MIB else 1)

    def driven(self, who, op, size, connections, depth, more=()):
        def measure():
            got = self.drive.do(who, op, f"port={self.port(who)}", f"size={size}", f"connections={connections}", f"depth={depth}",
                                f"keys={self.keys(size)}", f"seconds={self.seconds(size)}", "check=4", *more)
            return got["bytes_per_second"], latencies(got)
        return measure

    def prepare(self, op, size, connections, depth):
        """Everybody has the keys, and has them in memory that was used before."""
        for who in ("kvd", "redis", "memcached"):
            if who not in self.servers:
                continue
            if self.filled.get(who) != size:
                if who in self.filled:
                    self.empty(who)
                self.drive.do(who, "put", f"port={self.port(who)}", f"size={size}", "depth=8", f"keys={self.keys(size)}", "once", "check=64")
                self.filled[who] = size
            if op == "put":
                self.driven(who, op, size, connections, depth)()

    def empty(self, who):
        if who == "kvd":
            c.run([c.BUILD / "kvctl", "--server", f"127.0.0.1:{self.port(who)}", "rm", "--all"])
        elif who == "redis":
            c.flush_redis(self.port(who))
        else:  # its memory stays with the sizes that it was first used for: a new one
            self.servers.pop(who).__exit__()
            self.servers[who] = self.place.open(self.memcached())

    def cross_check(self, op, size, connections, depth):
        """Its own client against the same server: keys of its own, all of them put by it first."""
        keys, port = max(self.scale.pool // 16 // size, 1), self.port("redis")
        if self.filled.get("redis-benchmark") != size:
            c.redis_benchmark(port, "set", size, connections, depth, keys, 8 * keys)
            self.filled["redis-benchmark"] = size
        return c.redis_benchmark(port, "set" if op == "put" else op, size, connections, depth, keys, int(self.seconds(size) * 2e9 / size) + 100)

    def kvctl_bench(self, op, size, connections, depth):
        got = harness.kvctl_json("bench", "--op", op, "--size", size, "--connections", connections, "--depth", depth, "--keys",
                                 max(self.scale.pool // 16 // size, 1), "--seconds", self.seconds(size), port=self.port("kvd"))
        return got["bytes_per_second"]


# ---- which keys are there ----


class Looks(Memory):
    """EXISTS and MATCH by the number of keys in a call; four calls are under way."""

    BATCHES = (1, 32, 128, 1000, 4096)
    SIZE, KEYS = KIB, 65536

    def keys(self, size):
        return min(self.KEYS, self.scale.pool // (16 * KIB))

    def rows(self):
        for batch in (1000,) if self.scale.tiny else self.BATCHES:
            for op in ("exists", "match"):
                yield self.look_row(op, batch)

    def look_row(self, op, batch):
        contestants = {"kvd": self.looking("kvd", op, batch), "redis: one EXISTS": self.looking("redis", "exists", batch),
                       "redis: pipelined": self.looking("redis-pipelined", "exists", batch)}
        goals = {}
        if batch == 1000:
            contestants["3 million keys/s"] = lambda: 3e6
            goals = {"redis": 1.0, "3 million keys/s": 1.0}
        return Row(f"{op}, {batch} keys a call", contestants, goals, MILLION, prepare=lambda: self.prepare("exists", self.SIZE, 1, 8))

    def looking(self, who, op, batch):
        def measure():
            got = self.drive.do(who, op, f"port={self.port(who.split('-')[0])}", f"size={self.SIZE}", "depth=4", f"batch={batch}",
                                f"keys={self.keys(self.SIZE)}", f"seconds={self.scale.seconds / 2}")
            return got["keys_per_second"], latencies(got)
        return measure


# ---- two loops ----


class Loops(Memory):
    def __enter__(self):
        if "--loops" not in c.run([c.BUILD / "kvd", "--help"]):
            raise NotThere("this kvd has no --loops")
        self.drive = self.place.tool("drive", self.scale.pool)
        for name, loops in (("kvd", 2), ("one", 1)):
            self.servers[name] = self.place.open(c.kvd(memory=mebi(2 * self.scale.pool), disk="1g",
                                                       args=["--persist", "none", "--loops", str(loops)]))
        return self

    def rows(self):
        yield Row("get 1 MiB, memory, 8 conn, depth 8, two loops", {"kvd": self.by("kvd"), "one loop": self.by("one")}, {"one loop": 1.0},
                  prepare=self.fill)

    def by(self, server):
        def measure():
            got = self.drive.do("kvd", "get", f"port={self.port(server)}", f"size={MIB}", "connections=8", "depth=8", f"keys={self.keys(MIB)}",
                                f"seconds={self.seconds(MIB)}", "check=4")
            return got["bytes_per_second"], latencies(got)
        return measure

    def fill(self):
        for server in ("kvd", "one"):
            self.drive.do("kvd", "put", f"port={self.port(server)}", f"size={MIB}", "depth=8", f"keys={self.keys(MIB)}", "once")


# ---- disk ----


class Disk:
    """Cold gets, every key once, against fio's reads of each block once: in one directory, `depth` under way."""

    DEPTH, SIZES = 16, (MIB, 4 * MIB)
    LEAST = 0.95
    WHERE = "disk"

    def __init__(self, place, scale):
        self.place, self.scale = place, scale

    def __enter__(self):
        self.place.need_free(3 * self.scale.disk_set)
        self.folder, self.backing = self.directory()
        self.memory = max(self.scale.disk_set // 4, 32 * MIB)
        self.drive = self.place.tool("drive", self.scale.pool)
        self.kvd = self.place.open(c.kvd(memory=mebi(self.memory), disk=mebi(3 * self.scale.disk_set), segment_size=self.scale.segment,
                                         data=self.folder / "kvd"))
        self.wire = self.kvd.wire(timeout_s=c.PATIENCE_S)
        return self

    def __exit__(self, *_):
        self.place.close()
        for path in (self.folder, self.backing):
            shutil.rmtree(path, ignore_errors=True)

    def directory(self):
        """Where kvd and fio work, and where their files truly lie."""
        folder = self.place.sub("disk")
        return folder, folder

    def rows(self):
        for size in self.SIZES[:1] if self.scale.quick else self.SIZES:
            yield self.row(size)

    def row(self, size):
        keys = self.scale.disk_set // size
        contestants = {"kvd": lambda: self.cold_gets(size, keys)}
        for way in c.FIO_WAYS:
            contestants[f"fio: {way}"] = lambda way=way: self.fio_reads(way, size)
        return Row(f"get {size_text(size)}, {self.WHERE}, cold, depth {self.DEPTH}", contestants, {"fio": self.LEAST},
                   prepare=lambda: self.prepare(size, keys), slow=True)

    def prepare(self, size, keys):
        if "direct=yes" not in self.kvd.log():
            raise Failed("kvd does not use O_DIRECT here")
        self.wire.remove_all()
        self.drive.do("kvd", "put", f"port={self.kvd.port}", f"size={size}", "depth=4", f"keys={keys}", "once", "check=0")
        self.wire.sync()
        self.fio_file = self.folder / "fio"
        if not self.fio_file.exists():
            c.fio("plain", "write", MIB, 8, f"--filename={self.fio_file}", f"--size={self.scale.disk_set}", "--fallocate=none", "--end_fsync=1")

    def cold(self):
        self.wire.ok(harness.ADMIN, {"action": "evict"}, timeout_s=c.PATIENCE_S)
        c.forget_pages(self.backing)
        if self.wire.figure("memory_objects"):
            raise Failed(f"{self.wire.figure('memory_objects')} objects stay in memory")

    def cold_gets(self, size, keys):
        self.cold()
        before = self.wire.info("objects")["objects"]
        got = self.drive.do("kvd", "get", f"port={self.kvd.port}", f"size={size}", f"depth={self.DEPTH}", f"keys={keys}", "once", "check=0")
        after = self.wire.info("objects")["objects"]
        told = {name: after[name] - before[name] for name in ("hits_disk_total", "hits_memory_total", "misses_total", "get_disk_bytes_total")}
        if got["ops"] != keys or got["disk"] != keys or told != {"hits_disk_total": keys, "hits_memory_total": 0, "misses_total": 0,
                                                                 "get_disk_bytes_total": keys * size}:
            raise Failed(f"not all {keys} gets were from disk: {got['disk']} by their replies, by INFO {told}")
        self.drive.do("kvd", "get", f"port={self.kvd.port}", f"size={size}", "keys=4", "once", "check=4")  # the right bytes
        return got["bytes_per_second"], latencies(got)

    def fio_reads(self, way, size):
        c.forget_pages(self.backing)
        read, _ = c.fio(way, "randread", size, self.DEPTH, f"--filename={self.fio_file}", f"--size={self.scale.disk_set}")
        return read["bw_bytes"]


class DiskBindfs(Disk):
    LEAST = 0.90
    WHERE = "bindfs"

    def directory(self):
        why = harness.why_no_fuse()
        if why:
            raise NotThere(why)
        folder = self.place.sub("bindfs")
        mount = self.place.open(harness.Bindfs(folder / "backing", folder / "mount"))
        return mount.point, folder / "backing"


class DiskFaultFs(Disk):
    LEAST = 0.90
    WHERE = "the project's FUSE"

    def directory(self):
        import faultfs
        why = faultfs.why_not()
        if why:
            raise NotThere(why)
        mount = self.place.open(faultfs.FaultFs(self.place.sub("faultfs")))
        return mount.point, mount.backing


class WriteThrough:
    """Puts and the sync behind them, over ten times the memory, against fio's sequential writes to fresh files and its fsync."""

    DEPTH = 8

    def __init__(self, place, scale):
        self.place, self.scale = place, scale
        self.memory = scale.disk_set // 6 // (4 * MIB) * 4 * MIB
        self.total = 10 * self.memory

    def __enter__(self):
        self.place.need_free(3 * self.total)
        self.folder = self.place.sub("write")
        self.drive = self.place.tool("drive", self.scale.pool)
        self.kvd = self.place.open(c.kvd(memory=mebi(self.memory), disk=mebi(max(4 * self.total, GIB)), segment_size=self.scale.segment,
                                         data=self.folder / "kvd"))
        self.wire = self.kvd.wire(timeout_s=c.PATIENCE_S)
        return self

    def __exit__(self, *_):
        self.place.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def rows(self):
        for size in (MIB,) if self.scale.quick else (MIB, 4 * MIB):
            contestants = {"kvd": lambda size=size: self.puts(size)}
            for way in c.FIO_WAYS:
                contestants[f"fio: {way}"] = lambda way=way, size=size: self.fio_writes(way, size)
            yield Row(f"put {size_text(size)}, write-through, ten times the memory", contestants, {"fio": 0.80}, slow=True)

    def puts(self, size):
        self.wire.remove_all()
        before = self.wire.info("disk")["disk"]
        begun = time.monotonic()
        got = self.drive.do("kvd", "put", f"port={self.kvd.port}", f"size={size}", f"depth={self.DEPTH}", f"keys={self.total // size}", "once",
                            "check=0")
        self.wire.sync()
        took = time.monotonic() - begun
        after = self.wire.info("disk")["disk"]
        written = after["written_value_bytes_total"] - before["written_value_bytes_total"]
        if written < self.total:
            raise Failed(f"{written} of {self.total} bytes of values were written")
        self.drive.do("kvd", "get", f"port={self.kvd.port}", f"size={size}", "keys=4", "once", "check=4")
        return self.total / took, latencies(got)

    def fio_writes(self, way, size):
        folder = self.folder / "fio"
        folder.mkdir()
        try:
            _, job = c.fio(way, "write", size, self.DEPTH, f"--directory={folder}", f"--nrfiles={max(self.total // (256 * MIB), 1)}",
                           f"--size={self.total}", "--create_on_open=1", "--fallocate=none", "--end_fsync=1", "--file_service_type=sequential")
            return job["write"]["io_bytes"] / (job["job_runtime"] / 1e3)
        finally:
            shutil.rmtree(folder)


class Extstore:
    """Both have memory for an eighth of the set. memcached reads through the page cache, which is emptied before each pass; its values are put
    no faster than it writes them, or it would drop them."""

    DEPTH, STEP = 16, 16 * MIB

    def __init__(self, place, scale):
        self.place, self.scale = place, scale
        self.memory = max(scale.disk_set // 8, 64 * MIB)
        self.keys = scale.disk_set // MIB

    def __enter__(self):
        c.need_program("memcached")
        self.place.need_free(3 * self.scale.disk_set)
        self.folder = self.place.sub("extstore")
        self.drive = self.place.tool("drive", self.scale.pool)
        disk = max(2 * self.scale.disk_set, GIB)
        self.theirs = self.place.open(c.memcached(self.memory // MIB, "4m", "-o",
                                                  f"ext_path={self.folder}/extstore:{disk // MIB}m,ext_wbuf_size=16,ext_item_age=0"))
        self.kvd = self.place.open(c.kvd(memory=mebi(self.memory), disk=mebi(disk), segment_size=self.scale.segment, data=self.folder / "kvd"))
        self.wire = self.kvd.wire(timeout_s=c.PATIENCE_S)
        return self

    def __exit__(self, *_):
        self.place.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def rows(self):
        yield Row("get 1 MiB, disk, cold, against extstore", {"kvd": self.kvd_gets, "memcached, extstore": self.extstore_gets},
                  {"memcached, extstore": 1.5}, prepare=self.fill)

    def fill(self):
        self.drive.do("kvd", "put", f"port={self.kvd.port}", f"keys={self.keys}", "depth=4", "once", "check=0")
        self.wire.sync()
        step = self.STEP // MIB
        for first in range(0, self.keys, step):
            count = min(step, self.keys - first)
            self.drive.do("memcached", "put", f"port={self.theirs.port}", f"first={first}", f"keys={count}", "once", "check=0")
            end = time.monotonic() + c.PATIENCE_S
            while int(self.stats()["extstore_objects_written"]) < first + count:
                if time.monotonic() > end:
                    raise Failed("extstore does not write what it was given")
                time.sleep(0.002)

    def stats(self):
        with harness.socket.create_connection(("127.0.0.1", self.theirs.port)) as sock:
            sock.sendall(b"stats\r\n")
            text = b""
            while not text.endswith(b"END\r\n"):
                text += sock.recv(65536)
        return dict(line.split(" ", 2)[1:] for line in text.decode().splitlines() if line.startswith("STAT "))

    def gets(self, who, port):
        c.forget_pages(self.folder)
        return self.drive.do(who, "get", f"port={port}", f"keys={self.keys}", f"depth={self.DEPTH}", "once", "check=0")

    def kvd_gets(self):
        self.wire.ok(harness.ADMIN, {"action": "evict"}, timeout_s=c.PATIENCE_S)
        got = self.gets("kvd", self.kvd.port)
        if got["disk"] != self.keys:
            raise Failed(f"{got['disk']} of {self.keys} gets were from disk")
        return got["bytes_per_second"], latencies(got)

    def extstore_gets(self):
        before = int(self.stats()["get_extstore"])
        got = self.gets("memcached", self.theirs.port)
        from_disk = int(self.stats()["get_extstore"]) - before
        if from_disk < self.keys * 9 // 10:
            raise Failed(f"{from_disk} of {self.keys} gets were from extstore")
        return got["bytes_per_second"], latencies(got)


# ---- one thing while another goes on ----


class Mixed:
    """p99 of short things while long ones are under way on another connection, beside the same without them."""

    HEAD_START_S = 0.15
    TRIES = 5

    def __init__(self, place, scale):
        self.place, self.scale = place, scale
        self.hot = 64 if scale.tiny else 256  # MiB that are read

    def __enter__(self):
        self.place.need_free(self.scale.disk_set)
        self.folder = self.place.sub("mixed")
        self.drive, self.pair = self.place.tool("drive", self.scale.pool), self.place.tool("pair", self.scale.pool)
        self.other = self.place.open(c.Tool("drive", 128 * MIB))  # what it puts and gets nobody judges
        self.kvd = self.place.open(c.kvd(memory=mebi(1 * GIB), disk=mebi(max(2 * self.scale.disk_set, GIB)), segment_size=self.scale.segment, data=self.folder / "kvd"))
        self.wire = self.kvd.wire(timeout_s=c.PATIENCE_S)
        return self

    def __exit__(self, *_):
        self.place.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def rows(self):
        yield Row("p99, get 1 MiB, while the disk writes", {"kvd": lambda: self.gets(True), "idle disk": lambda: self.gets(False),
                                                            "bare pair, meanwhile": lambda: self.asked(True),
                                                            "bare pair, alone": lambda: self.asked(False)},
                  {"idle disk": 2.0}, MS, AT_MOST, prepare=self.fill_hot)
        yield Row("p99, match 128 keys, while 64 MiB gets stream", {"kvd": lambda: self.matches(True), "2 ms": lambda: 2e3,
                                                                    "nothing else": lambda: self.matches(False)},
                  {"2 ms": 1.0}, MS, AT_MOST, prepare=self.fill_large)

    def port(self):
        return f"port={self.kvd.port}"

    @contextlib.contextmanager
    def meanwhile(self, *words):
        self.other.start("kvd", *words, self.port(), f"seconds={self.scale.seconds + 2 * self.HEAD_START_S}", "check=0")
        time.sleep(self.HEAD_START_S)
        try:
            yield
        finally:
            self.meant = self.other.finish()

    def fill_hot(self):
        self.wire.remove_all()
        self.drive.do("kvd", "put", self.port(), f"keys={self.hot}", "depth=4", "once")
        self.wire.sync()

    def writes(self, writing):
        return self.meanwhile("put", "size=4m", "depth=4", f"keys={self.scale.disk_set // (8 * MIB)}") if writing else contextlib.nullcontext()

    def asked(self, writing):
        """What such a get would take if nobody had to do anything else for it."""
        with self.writes(writing):
            got = self.pair.do("asked", f"seconds={self.scale.seconds}", "send-buffer=256k")
        self.wire.sync()
        return got["p99_us"], latencies(got)

    def gets(self, writing):
        """The disk may stand still for as long as a measurement takes, where others sync: such a one says nothing, and is made again."""
        for tries_left in reversed(range(self.TRIES)):
            figure, more = self.gets_once(writing)
            if not writing or more["disk_bytes_per_second"]:
                return figure, more
            if not tries_left:
                raise Failed("the disk wrote nothing meanwhile")

    def gets_once(self, writing):
        with self.writes(writing):
            before = self.wire.info("disk")["disk"]["written_value_bytes_total"]
            got = self.drive.do("kvd", "get", self.port(), f"keys={self.hot}", "depth=1", f"seconds={self.scale.seconds}", "check=1")
            written = self.wire.info("disk")["disk"]["written_value_bytes_total"] - before
        if got["disk"]:
            raise Failed(f"{got['disk']} of {got['ops']} gets were from disk")
        self.wire.sync()
        return got["p99_us"], {**latencies(got), "disk_bytes_per_second": written / got["seconds"]}

    def fill_large(self):
        self.wire.remove_all()
        self.drive.do("kvd", "put", self.port(), "size=64m", "keys=4", "once")
        self.drive.do("kvd", "put", self.port(), "size=4k", "keys=4096", "depth=64", "once")
        self.wire.sync()

    def matches(self, streaming):
        with self.meanwhile("get", "size=64m", "keys=4", "depth=2") if streaming else contextlib.nullcontext():
            got = self.drive.do("kvd", "match", self.port(), "size=4k", "keys=4096", "batch=128", f"seconds={self.scale.seconds}")
        return got["p99_us"], latencies(got)


GROUPS = (Memory, Loops, Looks, Disk, DiskBindfs, DiskFaultFs, WriteThrough, Extstore, Mixed)
