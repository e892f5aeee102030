"""A mount of build/faultfs (test/fuse/faultfs.c says what it can do): a folder as 3FS would show it, with faults to order.

    with FaultFs(folder) as fs:
        rule = fs.add("op=write name=*.seg nth=3 count=1 err=EIO")
        ...
        assert fs.fired(rule) == 1

The mount is `fs.point`, what lies under it `fs.backing`; second() mounts the same backing once more, as another host would.
Whatever happens, nothing stays mounted or hung: the file system ends with its input, with this process, or by kill -9.
"""
import contextlib
import os
import pathlib
import select
import shutil
import signal
import subprocess
import tempfile

from harness import BUILD, PATIENCE_S, ROOT, die_with_parent, wait_until

FUSE_CONNECTIONS = pathlib.Path("/sys/fs/fuse/connections")


def program():
    """Sanitized builds use the plain one: what it does is the same."""
    own = BUILD / "faultfs"
    return own if own.exists() else ROOT / "build" / "faultfs"


def why_not():
    """None where it works; otherwise why not. That it was not built is no reason to skip, but an error."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "no access to /dev/fuse"
    if not shutil.which("fusermount3"):
        return "fusermount3 is not installed"
    return None


class FaultFsError(Exception):
    pass


class FaultFs:
    def __init__(self, folder, name="mount", backing=None, **options):
        self.folder = pathlib.Path(folder)
        self.point = self.folder / name
        self.backing = pathlib.Path(backing) if backing else self.folder / "backing"
        self.options = options
        self.process = None
        self.device = None
        self.others = []
        for path in (self.point, self.backing):
            path.mkdir(parents=True, exist_ok=True)
        try:
            self.start()
        except BaseException:
            self.stop()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    # -- life

    def start(self):
        """Mount; also again, after it was cut off or has vanished."""
        assert self.process is None
        options = [item for name, value in self.options.items() for item in ("-o", name if value is True else f"{name}={value}")]
        self.process = subprocess.Popen([str(program()), *options, str(self.backing), str(self.point)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, preexec_fn=die_with_parent)
        self._answer("the mount")
        self.device = next(line.split()[2] for line in mounts() if line.split()[4] == str(self.point))
        os.statvfs(self.point)  # waits until the kernel and it have agreed on their limits
        self.command("reset")
        return self

    def second(self, name="other", **options):
        """The same backing on another host. It ends with this one."""
        other = FaultFs(self.folder, name, self.backing, **{**self.options, **options})
        self.others.append(other)
        return other

    def stop(self):
        """Release what hangs, unmount, end. Never waits for ever."""
        while self.others:
            self.others.pop().stop()
        if self.process:
            self._end_process()
        self.unmount()

    def _end_process(self):
        process, self.process = self.process, None
        with contextlib.suppress(OSError, ValueError):
            process.stdin.close()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def unmount(self):
        while any(line.split()[4] == str(self.point) for line in mounts()):
            subprocess.run(["fusermount3", "-u", "-z", str(self.point)], check=True, stderr=subprocess.DEVNULL)

    def remount(self):
        """Unmounted and mounted: no cache of the kernel lives on."""
        self.stop()
        return self.start()

    def abort(self):
        """End the connection as an administrator would whose mount hangs; what waits for an answer gets ECONNABORTED."""
        with fuse_connections() as folder:
            (folder / self.device.split(":")[1] / "abort").write_text("1")

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    # -- commands

    def _answer(self, what):
        ready = select.select([self.process.stdout], [], [], PATIENCE_S)[0]
        line = self.process.stdout.readline().decode().rstrip("\n") if ready else ""
        if not line.startswith("ok"):
            raise FaultFsError(f"{what}: {line or ('the end' if ready else 'no answer')}")
        return {name: int(value) for name, _, value in (word.partition("=") for word in line.split()[1:]) if value}

    def command(self, line):
        """Send one, and return the figures of its answer."""
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        return self._answer(line)

    def add(self, rule):
        """A rule's id."""
        return self.command(f"add {rule}")["id"]

    def fired(self, rule):
        return self.command(f"rule {rule}")["fired"]

    def seen(self, rule):
        return self.command(f"rule {rule}")["seen"]

    def delete(self, rule):
        self.command(f"del {rule}")

    def clear(self):
        self.command("clear")

    def release(self):
        self.command("release")

    def next(self):
        self.command("next")

    @contextlib.contextmanager
    def held(self, seed=0, keep=0.0):
        """As long as it lasts nothing moves, and the backing is as a power cut would leave it now; with keep=1, as a kill would."""
        self.command(f"hold seed={seed} keep={keep}")
        try:
            yield self.backing
        finally:
            self.command("resume")

    def counters(self):
        return self.command("counters")

    def await_fired(self, rule, count=1):
        wait_until(lambda: self.fired(rule) >= count, f"rule {rule} to fire")

    def await_hung(self, count=1):
        wait_until(lambda: self.counters()["hung"] >= count, f"{count} operations to hang")

    # -- catastrophes

    def vanish(self):
        """The file system's process dies: ENOTCONN."""
        self.command("vanish")
        self._end_process()

    def bare(self):
        """It is unmounted, and what is left is the folder on the disk below."""
        self.command("bare")
        self._end_process()
        assert not os.path.ismount(self.point)

    def power_cut(self, seed=0, keep=0.5, names="prefix"):
        """Lose what was not synced, but for a part of it by chance; mounted again afterwards. Whoever used it should be dead.

        Returns the number of changes that were lost, at least in part."""
        lost = self.command(f"powercut seed={seed} keep={keep} names={names}")["lost"]
        self._end_process()
        self.unmount()
        self.start()
        return lost

    def let_go(self):
        """For teardowns, before whoever uses the mount is killed: a process that hangs in it cannot die."""
        try:
            self.release()
        except (AttributeError, OSError, ValueError, FaultFsError):
            if self.process:
                self.process.kill()


def mounts():
    return pathlib.Path("/proc/self/mountinfo").read_text().splitlines()


@contextlib.contextmanager
def fuse_connections():
    """The folder of FUSE's connections, mounted for the time being where it is not."""
    if any(FUSE_CONNECTIONS.iterdir()):
        yield FUSE_CONNECTIONS
        return
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kvd-it-"))
    try:
        subprocess.run(["mount", "-t", "fusectl", "fusectl", str(folder)], check=True)
        try:
            yield folder
        finally:
            subprocess.run(["umount", str(folder)], check=False)
    finally:
        folder.rmdir()


