"""The file system for faults, and kvd on it: first that it behaves as 3FS and fails as told, then that kvd keeps its promises.

Longer lives on it are in soak_faultfs.py.
"""
import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import threading

import pytest

import faultfs
import harness
from faultfs import FaultFs
from ledger import Ledger
from harness import BUSY, GET, IO_ERROR, KIB, MIB, NO_SPACE, NOT_FOUND, OK, PUT, value_of, wait_until

pytestmark = pytest.mark.skipif(faultfs.why_not() is not None, reason=str(faultfs.why_not()))


@pytest.fixture
def fs(stack, folder):
    return stack.enter_context(FaultFs(folder))


@contextlib.contextmanager
def fails(number):
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == number, caught.value


@contextlib.contextmanager
def open_file(path, flags=os.O_RDWR | os.O_CREAT):
    """A file that closes itself with its scope; the mount may be gone by then."""
    file = os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):
            file.close()


def sync_folder(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# ---- (a) it is what it says: as 3FS ----


def test_it_mounts_as_hf3fs(fs):
    [line] = [line for line in faultfs.mounts() if line.split()[4] == str(fs.point)]
    assert " - fuse.hf3fs " in line and "max_read=1048576" in line
    with faultfs.fuse_connections() as connections:
        assert (connections / fs.device.split(":")[1] / "max_background").read_text().strip() == "32"


def fallocate(file, length):
    """The system call: the library's function makes up for a refusal by writing zeros."""
    if harness.libc.fallocate(file.fileno(), 0, ctypes.c_long(0), ctypes.c_long(length)) < 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def renameat2(old, new, flags):
    rc = harness.libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), ctypes.c_uint(flags))
    if rc < 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def test_what_3fs_has_not(fs):
    path = fs.point / "f"
    path.write_bytes(b"x")
    with open_file(path) as file:
        with fails(errno.EOPNOTSUPP):
            fallocate(file, 4096)
    with fails(errno.EOPNOTSUPP):
        os.open(fs.point, os.O_TMPFILE | os.O_RDWR)
    with fails(errno.EOPNOTSUPP):
        os.setxattr(path, "user.name", b"value")
    with fails(errno.EINVAL):
        renameat2(path, fs.point / "g", 1)  # RENAME_NOREPLACE
    os.rename(path, fs.point / "g")
    path.write_bytes(b"y")
    with fails(errno.EINVAL):
        renameat2(path, fs.point / "g", 2)  # RENAME_EXCHANGE
    os.rename(path, fs.point / "g")
    assert os.listdir(fs.point) == ["g"]


def test_direct_io_of_any_alignment(fs):
    data = value_of(b"k", 10_001)
    with open_file(fs.point / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT) as file:
        assert os.pwrite(file.fileno(), data, 3) == len(data)
        assert os.pread(file.fileno(), 5_000, 1_003) == data[1_000:6_000]


def test_blocks_are_the_length(fs):
    with open_file(fs.point / "f") as file:
        os.ftruncate(file.fileno(), 10 * MIB)
        assert os.fstat(file.fileno()).st_blocks == 10 * MIB // 512
        assert (fs.backing / "f").stat().st_blocks == 0


def test_large_io_comes_in_pieces_of_1_mib(fs):
    with open_file(fs.point / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT) as file, mmap.mmap(-1, 8 * MIB) as pages:
        os.pwritev(file.fileno(), [pages], 0)
        os.preadv(file.fileno(), [pages], 0)
    counted = fs.counters()
    assert counted["write"] == counted["read"] == 8


def test_another_host_has_caches_of_its_own(fs):
    other = fs.second()
    for name in ("grows", "goes", "moves"):
        (fs.point / name).write_bytes(b"old")
    assert not (other.point / "comes").exists()
    assert [(other.point / name).stat().st_size for name in ("grows", "goes", "moves")] == [3, 3, 3]
    (fs.point / "grows").write_bytes(b"longer")
    (fs.point / "goes").unlink()
    (fs.point / "moves").rename(fs.point / "moved")
    (fs.point / "comes").write_bytes(b"new")
    assert (other.point / "grows").stat().st_size == 3, "for 30 s"
    assert not (other.point / "comes").exists(), "for 5 s"
    assert (other.point / "goes").read_bytes() == b"old", "a stale name opens a removed file"
    other.remount()
    assert (other.point / "grows").read_bytes() == b"longer"
    assert sorted(os.listdir(other.point)) == ["comes", "grows", "moved"]


def test_a_short_time_out(fs):
    """What is not cached is seen."""
    other = fs.second(attr_timeout=0, entry_timeout=0, negative_timeout=0)
    assert not (other.point / "f").exists()
    (fs.point / "f").write_bytes(b"1")
    assert (other.point / "f").stat().st_size == 1
    (fs.point / "f").write_bytes(b"22")
    assert (other.point / "f").stat().st_size == 2


def test_link_publishes_if_absent(fs):
    other = fs.second()
    (fs.point / "tmp").write_bytes(b"mine")
    (fs.point / "final").write_bytes(b"another's")
    with fails(errno.EEXIST):
        os.link(fs.point / "tmp", fs.point / "final")
    os.link(fs.point / "tmp", fs.point / "free")
    os.unlink(fs.point / "tmp")
    assert (other.point / "free").read_bytes() == b"mine" and (fs.point / "free").stat().st_nlink == 1


def test_symbolic_links(fs):
    (fs.point / "f").write_bytes(b"x")
    (fs.point / "link").symlink_to("f")
    assert os.readlink(fs.point / "link") == "f" and (fs.point / "link").read_bytes() == b"x"
    (fs.point / "link").unlink()
    fs.power_cut(keep=0)
    assert os.listdir(fs.point) == []


def test_locks_hold_within_one_mount_alone(fs):
    other = fs.second()
    path = "f"
    (fs.point / path).write_bytes(b"")
    with open_file(fs.point / path) as one, open_file(fs.point / path) as two, open_file(other.point / path) as far:
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with fails(errno.EWOULDBLOCK):
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(far, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_length_is_published_by_fsync_close_and_truncate_alone(fs):
    other = fs.second(attr_timeout=0, entry_timeout=0)

    def seen():
        return (other.point / "f").stat().st_size

    with open_file(fs.point / "f") as file, open_file(other.point / "f", os.O_RDWR | os.O_DIRECT) as far:
        os.pwrite(file.fileno(), b"x" * 5_000, 0)
        assert os.fstat(file.fileno()).st_size == 5_000 and seen() == 0
        os.fdatasync(file.fileno())
        assert seen() == 0 and os.pread(far.fileno(), 100, 0) == b"", "bytes beyond the length that it knows are not there"
        os.fsync(file.fileno())
        assert seen() == 5_000 and os.pread(far.fileno(), 9_000, 0) == b"x" * 5_000
        os.pwrite(file.fileno(), b"y" * 5_000, 5_000)
        os.pwrite(file.fileno(), b"y", 0)
        assert seen() == 5_000 and os.pread(far.fileno(), 9_000, 0) == b"y" + b"x" * 4_999
        os.ftruncate(file.fileno(), 20_000)
        assert seen() == 20_000, "the final length, set when the file is made, is known at once"
        os.pwrite(file.fileno(), b"z", 25_000)
        assert seen() == 20_000
    assert seen() == 25_001, "closed"


def test_a_length_is_published_by_itself_later(stack, folder):
    fs = stack.enter_context(FaultFs(folder, publish_timeout=0.05))
    other = fs.second(attr_timeout=0, entry_timeout=0)
    with open_file(fs.point / "f") as file:
        os.write(file.fileno(), b"x" * 100)
        wait_until(lambda: (other.point / "f").stat().st_size == 100, "the length")


def test_statfs_is_what_was_5_seconds_ago(fs, stack, folder):
    fs.command("cap 10m")
    prompt = stack.enter_context(FaultFs(folder / "prompt", statfs_timeout=0))
    prompt.command("cap 10m")
    free = []
    for one in (fs, prompt):
        free.append(os.statvfs(one.point).f_bavail)
        with open_file(one.point / "f") as file:
            os.write(file.fileno(), bytes(range(256)) * 16 * KIB)
        free.append(os.statvfs(one.point).f_bavail)
    assert free[0] == free[1] == free[2] == 2560 and free[3] == 2560 - 1024


@pytest.mark.parametrize("how, seen", [("zero", bytes(10_000)), ("short", b"x" * 5_000)])
def test_late_deletion(fs, how, seen):
    other = fs.second()
    fs.command(f"gone {how}")
    (fs.point / "f").write_bytes(b"x" * 10_000)
    with open_file(other.point / "f", os.O_RDWR | os.O_DIRECT) as file:
        assert os.fstat(file.fileno()).st_size == 10_000
        (fs.point / "f").unlink()
        sync_folder(fs.point)
        assert os.pread(file.fileno(), 10_000, 0) == b"x" * 10_000, "later"
        assert fs.command("reap")["files"] == 1
        assert os.pread(file.fileno(), 10_000, 0) == seen
    assert not (fs.backing / "f").exists() and fs.command("reap")["files"] == 0


def test_late_deletion_by_itself(fs):
    fs.command("gone zero 50")
    (fs.point / "f").write_bytes(b"x" * 10_000)
    with open_file(fs.point / "f", os.O_RDWR | os.O_DIRECT) as file:
        (fs.point / "f").unlink()
        assert os.fstat(file.fileno()).st_nlink == 0
        wait_until(lambda: os.pread(file.fileno(), 100, 0) == bytes(100), "the bytes to go")


# ---- (a) it fails as told ----


def test_the_kth_operation_fails(fs):
    with open_file(fs.point / "f") as file:
        rule = fs.add("op=write name=f nth=3 count=2 err=EIO")
        answers = []
        for number in range(6):
            try:
                answers.append(os.pwrite(file.fileno(), b"%d" % number, number))
            except OSError as error:
                answers.append(error.errno)
        assert answers == [1, 1, errno.EIO, errno.EIO, 1, 1]
        assert fs.fired(rule) == 2 and fs.seen(rule) == 6 and fs.counters()["write"] == 6
    assert (fs.backing / "f").read_bytes() == b"01\0\00045"


def test_rules_are_for_kinds_and_names(fs):
    fs.add("op=create,unlink name=*.seg err=EROFS")
    (fs.point / "f").write_bytes(b"1")
    (fs.point / "f").unlink()
    with fails(errno.EROFS):
        os.open(fs.point / "f.seg", os.O_CREAT | os.O_RDWR)
    fs.clear()
    os.close(os.open(fs.point / "f.seg", os.O_CREAT | os.O_RDWR))
    (fs.point / "d").mkdir()
    fs.add("name=d/*.seg op=names err=EIO anyway")
    with fails(errno.EIO):
        os.open(fs.point / "d" / "f.seg", os.O_CREAT | os.O_RDWR)
    assert (fs.backing / "d" / "f.seg").exists(), "done, and then said to have failed"


@pytest.mark.parametrize("line", ["add op=writes", "add err=EWHAT", "add p=2", "add nth=0", "add delay=5", "add something", "nothing",
                                  "cap much"])
def test_wrong_commands_are_refused(fs, line):
    with pytest.raises(faultfs.FaultFsError):
        fs.command(line)
    (fs.point / "f").write_bytes(b"still there")


def test_a_fault_by_chance_is_the_seeds(stack, folder):
    seen = []
    for seed in (1, 1, 2):
        with FaultFs(folder, f"m{len(seen)}", folder / f"b{len(seen)}", seed=seed) as fs, open_file(fs.point / "f") as file:
            fs.add("op=write p=0.3 err=EIO")
            lost = []
            for number in range(100):
                try:
                    os.pwrite(file.fileno(), b"x", number)
                except OSError:
                    lost.append(number)
            seen.append(lost)
    assert seen[0] == seen[1] != seen[2] and 10 < len(seen[0]) < 60


def read_with(fs, rule, length=8192):
    data = value_of(b"r", length)
    (fs.point / "f").write_bytes(data)
    with open_file(fs.point / "f", os.O_RDWR | os.O_DIRECT) as file:
        fs.add("op=read " + rule)
        got = os.pread(file.fileno(), length, 0)
        fs.clear()
        assert os.pread(file.fileno(), length, 0) == data, "what is stored is right"
    return data, got


def test_reads_that_are_short_zero_or_flipped(fs):
    data, got = read_with(fs, "short=0.5")
    assert got == data[:4096]
    data, got = read_with(fs, "zero=1")
    assert got == bytes(8192)
    data, got = read_with(fs, "zero=0.25")
    assert got == data[:6144] + bytes(2048)
    data, got = read_with(fs, "flip")
    assert sum((a ^ b).bit_count() for a, b in zip(data, got)) == 1


def test_writes_that_are_torn_lost_or_late(fs):
    with open_file(fs.point / "f") as file:
        fs.add("op=write nth=1 count=1 torn=0.5")
        fs.add("op=write nth=2 count=1 lost")
        fs.add("op=write nth=3 count=1 late err=ENOSPC")
        fs.add("op=write nth=4 count=1 short=0.5")
        assert [os.pwrite(file.fileno(), b"x" * 1000, 1000 * number) for number in range(4)] == [1000, 1000, 1000, 500]
        with fails(errno.ENOSPC):
            os.fsync(file.fileno())
        os.fsync(file.fileno())
    assert (fs.backing / "f").read_bytes() == b"x" * 500 + bytes(2500) + b"x" * 500


def test_a_delay(fs):
    with open_file(fs.point / "f") as file:
        fs.add("op=write delay=60ms")
        before = os.times().elapsed
        os.pwrite(file.fileno(), b"x", 0)
        assert os.times().elapsed - before >= 0.05


def hang_writes(fs, file, count):
    """Threads that write into a hang; each ends with what it got."""
    ends = []

    def write(number):
        try:
            ends.append(os.pwrite(file.fileno(), b"x", number))
        except OSError as error:
            ends.append(error.errno)

    fs.add("op=write hang")
    threads = [threading.Thread(target=write, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    fs.await_hung(1)  # buffered writes of one file come one by one
    return threads, ends


def test_a_hang_and_its_release(fs):
    with open_file(fs.point / "f") as file:
        threads, ends = hang_writes(fs, file, 3)
        assert (fs.point / "f").stat().st_size == 0, "others go on"
        assert not ends
        fs.release()
        for thread in threads:
            thread.join()
        assert ends == [1, 1, 1] and fs.counters()["hung"] == 0


@pytest.mark.parametrize("how", ["stop", "abort", "kill"])
def test_a_hung_mount_can_always_be_ended(fs, how):
    with open_file(fs.point / "f") as file:
        threads, ends = hang_writes(fs, file, 1)
        if how == "kill":
            fs.process.kill()
        else:
            getattr(fs, how)()
        for thread in threads:
            thread.join()
        assert ends and ends[0] in (errno.ECONNABORTED, errno.ENOTCONN)
    fs.stop()
    assert not os.path.ismount(fs.point)


def test_a_full_disk_writes_short_first(fs):
    fs.command("cap 1m")
    stat = os.statvfs(fs.point)
    assert stat.f_blocks * stat.f_frsize == stat.f_bavail * stat.f_frsize == MIB
    with open_file(fs.point / "f") as file:
        os.ftruncate(file.fileno(), 4 * MIB)
        assert os.pwrite(file.fileno(), b"x" * 700_000, 0) == 700_000
        assert os.pwrite(file.fileno(), b"y" * 700_000, 800 * 4096) == (256 - 171) * 4096
        with fails(errno.ENOSPC):
            os.pwrite(file.fileno(), b"z", 2 * MIB)
        assert os.pwrite(file.fileno(), b"w" * 4096, 0) == 4096, "what is written over has its room"
        fs.command("cap off")
        assert os.pwrite(file.fileno(), b"z", 2 * MIB) == 1


def test_a_disk_that_becomes_read_only(fs):
    with open_file(fs.point / "f") as file:
        os.write(file.fileno(), b"x")
        fs.command("erofs on")
        for change in (lambda: os.write(file.fileno(), b"x"), lambda: os.ftruncate(file.fileno(), 0), lambda: (fs.point / "d").mkdir(),
                       lambda: (fs.point / "f").unlink(), lambda: (fs.point / "f").rename(fs.point / "g"),
                       lambda: (fs.point / "n").write_bytes(b"")):
            with fails(errno.EROFS):
                change()
        assert (fs.point / "f").read_bytes() == b"x"
        fs.command("erofs off")
        os.write(file.fileno(), b"x")


def test_a_mount_that_vanishes(fs):
    (fs.point / "f").write_bytes(b"x")
    with open_file(fs.point / "f") as file:
        fs.vanish()
        with fails(errno.ENOTCONN):
            os.listdir(fs.point)
        with fails(errno.ENOTCONN):
            os.fsync(file.fileno())
    fs.remount()
    assert (fs.point / "f").read_bytes() == b"x"
    fs.bare()
    assert os.listdir(fs.point) == []
    fs.start()
    assert (fs.point / "f").read_bytes() == b"x"
    fs.add("op=open vanish")
    with fails(errno.ECONNABORTED):
        os.open(fs.point / "f", os.O_RDONLY)


@pytest.fixture
def buffered(stack, folder):
    return stack.enter_context(FaultFs(folder, buffered=True))


def test_a_buffered_write_is_acknowledged_before_it_is_made(buffered):
    with open_file(buffered.point / "f") as file:
        for number in range(3):
            assert os.pwrite(file.fileno(), b"%d" % number * 1000, number * 1000) == 1000
        assert (buffered.backing / "f").stat().st_size == 0
        assert os.fstat(file.fileno()).st_size == 3000, "this host knows"
        assert os.pwrite(file.fileno(), b"3" * 1000, 3000) == 1000
        os.fsync(file.fileno())
        assert (buffered.backing / "f").stat().st_size == 4000
        os.pwrite(file.fileno(), b"a", 0)
        os.pwrite(file.fileno(), b"b", 2000)
        assert (buffered.backing / "f").read_bytes()[::2000] == b"a2", "what follows nothing drives out what was held back"
    assert (buffered.backing / "f").read_bytes()[::2000] == b"ab", "closed"
    with open_file(buffered.point / "f", os.O_RDWR | os.O_DIRECT) as file:
        os.pwrite(file.fileno(), b"c", 0)
        assert (buffered.backing / "f").read_bytes()[:1] == b"c", "O_DIRECT goes through"


@pytest.mark.parametrize("at", ["fsync", "close"])
@pytest.mark.parametrize("fault", ["add op=write err=EIO count=1", "cap 4k", "erofs on"])
def test_a_buffered_write_fails_at_fsync_or_close(buffered, fault, at):
    number = {"add": errno.EIO, "cap": errno.ENOSPC, "erofs": errno.EROFS}[fault.split()[0]]
    fd = os.open(buffered.point / "f", os.O_RDWR | os.O_CREAT, 0o600)
    if fault.startswith("erofs"):
        assert os.write(fd, b"x" * 10_000) == 10_000
        buffered.command(fault)
    else:
        buffered.command(fault)
        assert os.write(fd, b"x" * 10_000) == 10_000
    if at == "fsync":
        with fails(number):
            os.fsync(fd)
        os.close(fd)
    else:
        with fails(number):
            os.close(fd)
    assert (buffered.backing / "f").stat().st_size < 10_000


def test_what_is_buffered_goes_with_the_mount(buffered):
    with open_file(buffered.point / "f") as file:
        os.write(file.fileno(), b"x" * 1000)
        os.fsync(file.fileno())
        os.write(file.fileno(), b"y" * 1000)
        buffered.vanish()
    assert (buffered.backing / "f").read_bytes() == b"x" * 1000
    buffered.remount()
    assert (buffered.point / "f").read_bytes() == b"x" * 1000, "and it returns"


def test_one_operation_after_the_other(fs):
    with open_file(fs.point / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT) as file:
        fs.add("op=write step")
        ends = []
        threads = [threading.Thread(target=lambda at=at: ends.append(os.pwrite(file.fileno(), b"x", at)), daemon=True) for at in range(3)]
        for thread in threads:
            thread.start()
        for done in range(3):
            fs.await_hung()
            assert len(ends) == done
            fs.next()
            wait_until(lambda: len(ends) == done + 1, "the write")
        with pytest.raises(faultfs.FaultFsError):
            fs.next()


# ---- (a) the power cut ----


def test_a_power_cut_takes_what_was_not_synced(fs):
    (fs.point / "removed").write_bytes(b"r")
    (fs.point / "moved").write_bytes(b"m")
    (fs.point / "over").write_bytes(b"o")
    with open_file(fs.point / "f") as file:
        os.pwrite(file.fileno(), b"a" * 10_000, 0)
        os.fsync(file.fileno())
        fs.command("settle")
        os.pwrite(file.fileno(), b"b" * 10_000, 5_000)
        os.pwrite(file.fileno(), b"c" * 10_000, 0)
        os.ftruncate(file.fileno(), 100_000)
        os.pwrite(file.fileno(), b"d", 50_000)
        os.ftruncate(file.fileno(), 2_000)
    (fs.point / "new").write_bytes(b"n")
    (fs.point / "folder").mkdir()
    (fs.point / "folder" / "inner").write_bytes(b"i")
    (fs.point / "removed").unlink()
    (fs.point / "moved").rename(fs.point / "over")
    assert fs.power_cut(keep=0) > 8
    assert (fs.point / "f").read_bytes() == b"a" * 10_000
    assert sorted(os.listdir(fs.point)) == ["f", "moved", "over", "removed"]
    assert [(fs.point / name).read_bytes() for name in ("moved", "over", "removed")] == [b"m", b"o", b"r"]


def test_a_power_cut_may_take_nothing(fs):
    (fs.point / "removed").write_bytes(b"r")
    (fs.point / "moved").write_bytes(b"m")
    (fs.point / "over").write_bytes(b"o")
    with open_file(fs.point / "f") as file:
        os.pwrite(file.fileno(), b"a" * 10_000, 0)
        os.pwrite(file.fileno(), b"b" * 10_000, 5_000)
        os.ftruncate(file.fileno(), 12_000)
    (fs.point / "removed").unlink()
    (fs.point / "moved").rename(fs.point / "over")
    assert fs.power_cut(keep=1) == 0
    assert sorted(os.listdir(fs.point)) == ["f", "over"]
    assert (fs.point / "over").read_bytes() == b"m" and (fs.point / "f").read_bytes() == b"a" * 5_000 + b"b" * 7_000


def test_what_is_synced_is_durable(fs):
    with open_file(fs.point / "f") as file:
        os.pwrite(file.fileno(), b"a" * 10_000, 0)
        os.fsync(file.fileno())
        sync_folder(fs.point)
        (fs.point / "g").write_bytes(b"unsynced bytes of a name that is")
        (fs.point / "f").rename(fs.point / "h")
        sync_folder(fs.point)
    fs.power_cut(keep=0)
    assert sorted(os.listdir(fs.point)) == ["g", "h"]
    assert (fs.point / "h").read_bytes() == b"a" * 10_000 and (fs.point / "g").read_bytes() == b""


def test_a_failed_fsync_is_not_made_up_for(fs):
    with open_file(fs.point / "f") as file:
        os.pwrite(file.fileno(), b"a" * 8192, 0)
        os.fsync(file.fileno())
        sync_folder(fs.point)
        os.pwrite(file.fileno(), b"b" * 4096, 0)
        fs.add("op=fsync count=1 err=EIO")
        with fails(errno.EIO):
            os.fsync(file.fileno())
        os.pwrite(file.fileno(), b"c" * 2048, 2048)
        os.fsync(file.fileno())
    fs.power_cut(keep=0)
    assert (fs.point / "f").read_bytes() == b"a" * 2048 + b"c" * 2048 + b"a" * 4096


def test_a_power_cut_takes_a_part_by_seed(stack, folder):
    """Names in order, of a write any of its blocks; the same seed, the same part."""
    seen = []
    for number, seed in enumerate([1, 1, 2, 3, 4, 5, 6, 7]):
        with FaultFs(folder, f"m{number}", folder / f"b{number}") as fs:
            with open_file(fs.point / "f") as file:
                sync_folder(fs.point)
                os.pwrite(file.fileno(), b"x" * 64 * KIB, 0)
            for name in range(8):
                (fs.point / f"n{name}").write_bytes(b"")
            fs.power_cut(seed)
            names = sorted(name for name in os.listdir(fs.point) if name[0] == "n")
            assert names == [f"n{name}" for name in range(len(names))], "in order"
            data = (fs.point / "f").read_bytes()
            seen.append((len(names), [data[at] == ord("x") for at in range(0, len(data), 4096)]))
    assert seen[0] == seen[1]
    assert len({count for count, _ in seen}) > 2 and any(0 < sum(blocks) < 16 for _, blocks in seen)


def test_fdatasync_makes_no_length_durable(fs):
    with open_file(fs.point / "f") as file:
        os.pwrite(file.fileno(), b"a" * 8192, 0)
        os.fsync(file.fileno())
        sync_folder(fs.point)
        os.pwrite(file.fileno(), b"b" * 4096, 0)
        os.pwrite(file.fileno(), b"c" * 4096, 8192)
        os.pwrite(file.fileno(), b"d" * 4096, 4096)
        os.fdatasync(file.fileno())
        os.pwrite(file.fileno(), b"e" * 100, 0)
    fs.power_cut(keep=0)
    assert (fs.point / "f").read_bytes() == b"b" * 4096 + b"d" * 4096


def everything_below(folder):
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("keep", [0, 0.3, 0.7, 1])
def test_a_power_cut_that_is_only_looked_at(fs, keep):
    """The backing shows what it would leave, again and again; afterwards all is as it was, and goes on."""
    with open_file(fs.point / "f") as file:
        os.pwrite(file.fileno(), b"a" * 10_000, 0)
        os.fsync(file.fileno())
        (fs.point / "removed").write_bytes(b"r")
        (fs.point / "moved").write_bytes(b"m")
        (fs.point / "over").write_bytes(b"o")
        fs.command("settle")
        before = everything_below(fs.backing)
        os.pwrite(file.fileno(), b"b" * 10_000, 5_000)
        os.ftruncate(file.fileno(), 12_000)
        os.pwrite(file.fileno(), b"c" * 10_000, 20_000)
        (fs.point / "removed").unlink()
        (fs.point / "new").mkdir()
        (fs.point / "new" / "inner").write_bytes(b"i")
        (fs.point / "moved").rename(fs.point / "over")
        (fs.point / "removed").write_bytes(b"another")
        after = everything_below(fs.backing)
        for seed in range(5):
            with fs.held(seed=seed, keep=keep) as backing:
                seen = everything_below(backing)
            assert keep > 0 or seen == before
            assert keep < 1 or seen == after
            assert everything_below(fs.backing) == after
        os.fsync(file.fileno())
        with fs.held() as backing:
            assert everything_below(backing) == {**before, "f": after["f"]}
    sync_folder(fs.point)
    sync_folder(fs.point / "new")
    fs.power_cut(keep=0)
    assert everything_below(fs.point) == {**after, "removed": b"", "new/inner": b""}


def test_one_unlinked_file_comes_back_to_its_old_name_alone(fs):
    (fs.point / "f").write_bytes(b"first")
    with open_file(fs.point / "f") as file:
        os.fsync(file.fileno())
    sync_folder(fs.point)
    (fs.point / "f").unlink()
    (fs.point / "f").write_bytes(b"second")
    for folder in (fs.backing, fs.point):
        assert (folder / "f").read_bytes() == b"second"
    fs.power_cut(keep=0)
    assert (fs.point / "f").read_bytes() == b"first"


def test_nothing_is_left_beside_the_backing(fs, folder):
    (fs.point / "f").write_bytes(b"x")
    (fs.point / "f").unlink()
    fs.stop()
    assert os.listdir(folder / "backing.spare") == []


# ---- (b) kvd on it ----


@pytest.fixture
def start_on(fs, start, stack):
    """start_on(**options): a kvd whose directory is on the mount. What hangs is let go before it is killed."""

    def make(**options):
        kvd = start(data=fs.point / "data", **options)
        stack.callback(fs.let_go)
        return kvd

    return make


def keys_of(name, count):
    return [b"%s-%03d" % (name, number) for number in range(count)]


def store_all(wire, keys, size, **meta):
    for key in keys:
        wire.store(key, size, **meta)


def power_cut(fs, kvd, **how):
    """kill -9, lose what was not synced, start again."""
    kvd.kill()
    fs.power_cut(**how)
    return kvd.start().wire()


@pytest.mark.parametrize("how", ["stop", "kill", "power"])
def test_the_whole_path(fs, start_on, how):
    kvd = start_on(memory="32m", segment_size="4m")
    wire = kvd.wire()
    sizes = {b"s-%d" % size: size for size in (0, 1, 4096, 5000, 64 * KIB, MIB + 17, 3 * MIB)}
    for key, size in sizes.items():
        wire.store(key, size)
    store_all(wire, keys_of(b"k", 60), 200_000)
    wire.sync()
    wire = power_cut(fs, kvd, keep=0) if how == "power" else kvd.restart(how).wire()
    for key, size in {**sizes, **dict.fromkeys(keys_of(b"k", 60), 200_000)}.items():
        assert wire.holds(key, size).meta["tier"] == "disk"


def on_disk_alone(fs, start_on, count=24, size=200_000, **options):
    """A kvd that has just started over `count` objects, and its wire."""
    kvd = start_on(segment_size="1m", **options)
    wire = kvd.wire()
    keys = keys_of(b"k", count)
    store_all(wire, keys, size)
    wire.sync()
    return kvd, kvd.restart().wire(), keys, size


def test_a_read_that_fails_is_a_miss_with_its_reason(fs, start_on):
    kvd, wire, keys, size = on_disk_alone(fs, start_on)
    wire.store(b"new", size)
    rule = fs.add("op=read name=*.seg err=EIO")
    for key in keys:
        assert isinstance(wire.misses(key).meta.get("reason"), str)
    wire.holds(b"new", size)
    assert fs.fired(rule) >= 5, "then it is left alone for a while"
    fs.clear()
    wait_until(lambda: wire.figure("disk_state") == "on", "the disk tier")
    for key in keys:
        wire.holds(key, size)
    assert wire.exists(keys) and kvd.alive()


def test_reads_of_one_file_fail(fs, start_on):
    kvd, wire, keys, size = on_disk_alone(fs, start_on)
    bad = kvd.segments()[1].name
    fs.add(f"op=read name={bad} err=EIO")
    there = {key: wire.holds_or_misses(key, size) for key in keys}
    assert 0 < sum(there.values()) < len(keys)
    files = {key: wire.stat(key)["replicas"][-1]["file"] for key in keys if not there[key]}
    assert all(file.endswith(bad) for file in files.values()), files


@pytest.mark.parametrize("fault", ["flip", "zero=1", "zero=0.1", "short=0.5", "short=0"])
def test_wrong_bytes_are_never_served(fs, start_on, fault):
    kvd, wire, keys, size = on_disk_alone(fs, start_on)
    fs.add(f"op=read name=*.seg {fault}")
    hits = 0
    for key in keys[:12]:
        there = wire.holds_or_misses(key, size)
        hits += there
        assert there or wire.exists([key]) == b"\0", "what is wrong is dropped"
    got, _ = wire.mget(keys[12:18])
    for index, reply in got.items():
        hits += reply.code == OK
        if reply.code == OK:
            wire.judge(keys[12 + index], size, reply)
        else:
            assert isinstance(reply.meta.get("reason"), str)
    assert hits == 0 or (fault == "flip" and hits < 9), "the one bit may be in what nobody reads"
    fs.clear()
    for key in keys[18:]:
        wire.holds(key, size)
    for key in keys[:18]:
        wire.holds_or_misses(key, size)
        wire.store(key, size, replace=True, ack="disk")
    wire = power_cut(fs, kvd, keep=0)
    for key in keys[:18]:
        wire.holds(key, size)


@pytest.mark.parametrize("fault", ["flip", "zero=1", "name=*.seg short=0.5", "err=EIO"])
def test_wrong_bytes_at_start(fs, start_on, fault):
    """What is read while it starts is wrong, or not to be had; once it is right again, nothing removed has come back."""
    kvd, wire, keys, size = on_disk_alone(fs, start_on)
    wire.remove(*keys[:4])
    kvd.kill()
    rule = fs.add(f"op=read {fault} p=0.4")
    kvd.spawn()
    wait_until(lambda: kvd.port_file.exists() or kvd.process.poll() is not None, "the start")
    if kvd.process.poll() is None:
        kvd.port = int(kvd.port_file.read_text())
        wire = kvd.wire()
        assert not any(wire.holds_or_misses(key, size) for key in keys[:4])
        for key in keys[4:]:
            wire.holds_or_misses(key, size)
        kvd.kill()
    assert fs.fired(rule) > 0
    fs.clear()
    wire = kvd.start().wire()
    assert not any(wire.exists(keys[:4]))
    for key in keys:
        wire.holds_or_misses(key, size)


def test_a_remove_log_that_reads_short(fs, start_on):
    """Its length says that there is more."""
    kvd, wire, keys, size = on_disk_alone(fs, start_on)
    gone = keys[::6]  # one of a segment, so that all of them stay
    wire.remove(*gone)
    kvd.kill()
    rule = fs.add("op=read name=removes-* short=0.5")
    wire = kvd.start().wire()
    assert fs.fired(rule) > 0
    assert not any(wire.exists(gone)), "while it reads short"
    kvd.kill()
    fs.clear()
    wire = kvd.start().wire()
    assert not any(wire.exists(gone)), "and when it no longer does"
    for key in set(keys) - set(gone):
        wire.holds(key, size)


def test_writes_that_are_torn_or_lost_are_never_served_wrong(fs, start_on):
    """A disk that lies: what it says to have written it has not."""
    kvd = start_on(memory="32m", segment_size="1m")
    wire = kvd.wire()
    fs.add("op=write name=*.seg p=0.2 torn=0.5")
    fs.add("op=write name=*.seg p=0.1 lost")
    fs.add("op=write name=*.seg p=0.1 flip")
    keys = keys_of(b"k", 60)
    store_all(wire, keys, 100_000)
    wire.sync()
    fs.clear()
    wire = kvd.restart("kill").wire()
    there = sum(wire.holds_or_misses(key, 100_000) for key in keys)
    assert there < 60, "the faults have bitten"
    wire.store(b"after", 100_000, ack="disk")
    power_cut(fs, kvd, keep=0).holds(b"after", 100_000)


def gave_segments_up(wire):
    """A full disk may make it forget, which it counts."""
    return wire.info("disk")["disk"]["reclaimed_segments_total"] > 0


def judge_acknowledged(fs, kvd, codes, size):
    """{key: code of a put with ack disk}: OK means there, if nothing was given up for room."""
    gave_up = gave_segments_up(kvd.wire())
    wire = power_cut(fs, kvd, keep=0)
    for key, code in codes.items():
        if code == OK and not gave_up:
            wire.holds(key, size)
        else:
            assert code in (OK, IO_ERROR, BUSY, NO_SPACE), code
            wire.holds_or_misses(key, size)
    return wire


@pytest.mark.parametrize("rule", ["op=fsync count=1", "op=write count=1 late"])
def test_what_is_written_again_elsewhere_is_there(fs, start_on, rule):
    """The fsync fails, directly or for a write that was lost in a buffer; OK means that another copy is durable."""
    kvd = start_on(segment_size="1m")
    wire = kvd.wire()
    wire.store(b"before", 1000, ack="disk")
    name = kvd.segments()[0].name
    fault = fs.add(f"name={name} err=EIO {rule}")
    syncs = fs.add(f"op=fsync name={name} count=0")
    wire.store(b"k", 50_000, ack="disk")
    assert fs.fired(fault) == 1
    wait_until(lambda: fs.seen(syncs) >= 2, "the end of the segment: no index may vouch for what it holds")
    wire.store(b"later", 1000, ack="disk")
    kvd.kill()
    fs.power_cut(keep=0)
    fs.add("op=read name=*[2-9].seg delay=50ms")  # the segment in doubt is read first
    wire = kvd.start().wire()
    wire.holds(b"before", 1000)
    wire.holds(b"later", 1000)
    wire.holds(b"k", 50_000)


def test_large_values_are_written_again_elsewhere(fs, start_on):
    """Those have sums of their chunks, which are made anew."""
    kvd = start_on(segment_size="4m")
    wire = kvd.wire()
    wire.store(b"before", 1000, ack="disk")
    fs.add("op=fsync name=*.seg count=1 err=EIO")
    for key in keys_of(b"k", 4):
        assert wire.put(key, value_of(key, 300 * KIB), ack="disk").code in (OK, IO_ERROR)
    assert kvd.alive()


@pytest.mark.parametrize("rule", ["p=1", "nth=1 count=1", "nth=2 count=3", "count=12"])
def test_fsyncs_that_fail_are_never_a_false_ok(fs, start_on, rule):
    kvd = start_on(segment_size="1m")
    wire = kvd.wire()
    wire.store(b"before", 10_000, ack="disk")
    number = fs.add(f"op=fsync name=*.seg err=EIO {rule}")
    codes = {key: wire.put(key, value_of(key, 50_000), ack="disk").code for key in keys_of(b"k", 12)}
    assert fs.fired(number) > 0
    for key in codes:
        wire.holds(key, 50_000)
    fs.clear()
    wait_until(lambda: wire.put(b"later", value_of(b"later", 10_000), replace=True, ack="disk").code == OK, "writes to go on")
    wire = judge_acknowledged(fs, kvd, codes, 50_000)
    wire.holds(b"before", 10_000)
    wire.holds(b"later", 10_000)


@pytest.mark.parametrize("keep", [0, 0.5])
@pytest.mark.parametrize("synced", [True, False])
def test_what_is_removed_never_comes_back_after_a_power_cut(fs, start_on, synced, keep):
    kvd = start_on(segment_size="1m")
    wire = kvd.wire()
    keys = keys_of(b"k", 30)
    store_all(wire, keys, 50_000)
    if synced:
        wire.sync()
    wire.remove(*keys[:10])
    wire.remove_prefix(b"k-01")
    for key in keys[20:25]:
        assert wire.put(key, b"new", replace=True).code == OK
    for number in range(3):
        wire = power_cut(fs, kvd, seed=number, keep=keep)
        assert not any(wire.exists(keys[:20]))
        for key in keys[:20]:
            wire.misses(key)
        for key in keys[20:25]:
            got = wire.get(key)
            assert got.code == NOT_FOUND or got.body == b"new"
        for key in keys[25:]:
            assert wire.holds_or_misses(key, 50_000) or not synced


def test_a_remove_whose_log_fails_says_so(fs, start_on):
    kvd = start_on(segment_size="1m")
    wire = kvd.wire()
    keys = keys_of(b"k", 10)
    store_all(wire, keys, 50_000, ack="disk")
    rule = fs.add("op=write,fsync name=removes-* err=EIO")
    got = wire.call(harness.REMOVE, {"keys": keys[:5]})
    assert fs.fired(rule) > 0 and got.code == IO_ERROR, got
    assert not any(wire.exists(keys[:5])), "gone from this process at once"
    fs.clear()
    wire.remove(*keys[5:7])
    wire = power_cut(fs, kvd, keep=0)
    assert not any(wire.exists(keys[5:7]))
    for key in keys[7:]:
        wire.holds(key, 50_000)


@pytest.mark.parametrize("ack", ["memory", "disk"])
def test_a_replace_after_a_remove_that_failed(fs, start_on, ack):
    """Nobody knows whether the removed value is dead on disk; what is put over it must not be acknowledged before it is."""
    kvd = start_on(segment_size="1m")
    wire = kvd.wire()
    wire.store(b"k", 50_000, ack="disk")
    fs.add("op=write,fsync,create name=removes-* err=EIO")
    assert wire.call(harness.REMOVE, {"keys": [b"k"]}).code == IO_ERROR
    code = wire.put(b"k", b"new", replace=True, ack=ack).code
    fs.clear()
    wire = power_cut(fs, kvd, keep=0)
    got = wire.get(b"k")
    if code == OK:
        assert got.code == NOT_FOUND or got.body == b"new", "the old value is back"
        assert got.code == OK or ack == "memory"


def test_a_second_remove_after_one_that_failed(fs, start_on):
    """The disk takes log entries again; the second remove finds nothing in the table, and must be entered all the same."""
    kvd = start_on(segment_size="1m")
    wire = kvd.wire()
    wire.store(b"k", 50_000, ack="disk")
    fs.add("op=write,fsync,create name=removes-* err=EIO")
    assert wire.call(harness.REMOVE, {"keys": [b"k"]}).code == IO_ERROR
    fs.clear()
    wire.remove(b"k")
    power_cut(fs, kvd, keep=0).misses(b"k")


@pytest.mark.parametrize("how", ["anyway", ""])
def test_a_second_remove_of_an_objects_own_file(fs, start_on, how):
    """The unlink was done and said to have failed, so that the second remove finds no file; the first one's end must be durable with it."""
    kvd = start_on(segment_size="0")
    wire = kvd.wire()
    wire.store(b"k", 50_000, ack="disk")
    fs.add(f"op=unlink err=EIO {how}")
    assert wire.call(harness.REMOVE, {"keys": [b"k"]}).code == IO_ERROR
    fs.clear()
    wire.remove(b"k")
    power_cut(fs, kvd, keep=0).misses(b"k")


# ---- (b) a mount that hangs, vanishes or is full ----


def put_until_busy(wire, size=MIB, limit=60):
    stored = []
    for key in keys_of(b"while-hung", limit):
        got = wire.put(key, value_of(key, size))
        if got.code == BUSY:
            assert got.meta["retry_after_ms"] > 0
            return stored
        assert got.code == OK, got
        stored.append(key)
    raise AssertionError(f"a queue of 8 MiB took {limit} MiB")


@pytest.mark.parametrize("kinds", ["write", "change", "fsync,fsyncdir", "any"])
def test_a_hung_mount(fs, start_on, kinds):
    """Memory is served, the queue fills up and says BUSY, the listener listens; afterwards all goes on."""
    kvd = start_on(memory="128m", segment_size="4m", args=["--write-queue", "8m"])
    wire = kvd.wire()
    wire.store(b"first", MIB)
    wire.sync()
    rule = fs.add(f"op={kinds} hang")
    if "write" in kinds or kinds in ("change", "any"):
        stored = put_until_busy(wire)
    else:
        stored = keys_of(b"while-hung", 6)
        store_all(wire, stored, MIB)
        waiting = wire.send(PUT, {"key": b"acked", "ack": "disk"}, value_of(b"acked", 1000))
    fs.await_hung()
    assert fs.fired(rule) > 0
    other = kvd.wire()
    for key in stored:
        other.holds(key, MIB)
    assert other.match(stored)["count"] == len(stored)
    other.info()
    fs.release()
    if kinds.startswith("fsync"):
        assert wire.reply(waiting).code == OK
    other.store(b"after", MIB)
    other.sync()
    wire = power_cut(fs, kvd, keep=0)
    for key in [b"first", b"after", *stored]:
        wire.holds(key, MIB)


def test_reads_that_hang(fs, start_on):
    """Those who wait get their answer in time or when the disk is back; nobody else waits."""
    kvd, wire, keys, size = on_disk_alone(fs, start_on)
    wire.store(b"new", size)
    fs.add("op=read hang")
    waiting = {key: wire.send(GET, {"key": key}) for key in keys[:8]}
    fs.await_hung(1)
    other = kvd.wire()
    other.holds(b"new", size)
    assert other.get(keys[9], timeout_ms=50).code in (harness.TIMEOUT, NOT_FOUND)
    other.holds(b"new", size)
    assert all(other.exists(keys))
    fs.release()
    for key, ident in waiting.items():
        got = wire.reply(ident)
        assert got.code == NOT_FOUND or got.body == value_of(key, size)
    for key in keys:
        other.holds(key, size)


def test_a_start_on_a_hung_mount(fs, start_on):
    """It serves from memory once it has waited as long as it was told; what is on disk follows."""
    kvd, wire, keys, size = on_disk_alone(fs, start_on, args=["--wait-for-index", "50ms"])
    kvd.kill()
    fs.add("op=any hang")
    wire = kvd.start().wire()
    fs.await_hung()
    assert wire.put(b"new", value_of(b"new", size)).code == OK
    wire.holds(b"new", size)
    wire.misses(keys[0])
    fs.release()
    wait_until(lambda: wire.figure("disk_state") == "on", "the disk tier")
    for key in keys:
        wire.holds(key, size)
    wire.holds_or_misses(b"new", size)


def files_below(folder):
    return [name for _, _, names in os.walk(folder) for name in names]


def overflow(wire, keys, size=500_000):
    """Put what needs new segments; each is stored or refused, and memory goes on."""
    stored = []
    for key in keys:
        got = wire.put(key, value_of(key, size))
        assert got.code in (OK, BUSY, IO_ERROR, NO_SPACE), got
        if got.code == OK:
            stored.append(key)
    return stored


@pytest.mark.parametrize("how", ["vanish", "bare"])
def test_a_mount_that_vanishes_under_kvd(fs, start_on, how):
    kvd = start_on(memory="128m", segment_size="1m", args=["--write-queue", "16m"])
    wire = kvd.wire()
    durable = keys_of(b"durable", 6)
    store_all(wire, durable, 100_000, ack="disk")
    getattr(fs, how)()
    stored = overflow(wire, keys_of(b"more", 40))
    assert stored, "memory goes on"
    assert wire.put(b"no", bytes(1000), ack="disk").code in (IO_ERROR, BUSY, NO_SPACE)
    for key in [*durable, *stored]:
        assert wire.holds_or_misses(key, 500_000 if key in stored else 100_000)
    kvd.wire().info()
    kvd.kill()
    if how == "bare":
        assert files_below(fs.point) == [], "on the root disk"
    fs.unmount()
    fs.start()
    wire = kvd.start().wire()
    for key in durable:
        wire.holds(key, 100_000)


def test_an_orderly_end_over_a_bare_folder(fs, start_on):
    kvd = start_on(segment_size="1m", args=["--drain-timeout", "2s"])
    wire = kvd.wire()
    store_all(wire, keys_of(b"k", 10), 100_000)
    fs.bare()
    store_all(wire, keys_of(b"more", 10), 300_000)
    kvd.close_wires()
    kvd.terminate()
    assert files_below(fs.point) == []


def test_a_full_mount(fs, start_on):
    """A smaller cache. Once there is room again, the disk takes writes again."""
    kvd = start_on(memory="64m", segment_size="2m")
    fs.command("cap 6m")
    wire = kvd.wire()
    keys = keys_of(b"k", 40)
    store_all(wire, keys, 400_000)
    for key in keys:
        wire.holds(key, 400_000)
    assert wire.put(b"large", bytes(8 * MIB), ack="disk").code in (NO_SPACE, BUSY, IO_ERROR)
    codes = {key: wire.put(key, value_of(key, 400_000), ack="disk").code for key in keys_of(b"acked", 12)}
    wire = judge_acknowledged(fs, kvd, codes, 400_000)
    for key in keys:
        wire.holds_or_misses(key, 400_000)
    fs.command("cap off")
    wait_until(lambda: wire.put(b"room", bytes(1000), ack="disk", replace=True).code == OK, "writes to go on")
    wire = power_cut(fs, kvd, keep=0)
    assert wire.get(b"room").body == bytes(1000)


def test_a_mount_that_becomes_read_only(fs, start_on):
    kvd, wire, keys, size = on_disk_alone(fs, start_on, count=10)
    fs.command("erofs on")
    stored = overflow(wire, keys_of(b"more", 20), 100_000)
    assert stored
    assert wire.put(b"no", bytes(1000), ack="disk").code in (IO_ERROR, BUSY, NO_SPACE)
    for key in keys:
        wire.holds(key, size)
    for key in stored:
        wire.holds(key, 100_000)
    fs.command("erofs off")
    wait_until(lambda: wire.put(b"again", bytes(1000), ack="disk", replace=True).code == OK, "writes to go on")


def test_another_hosts_unlink(fs, start_on):
    """Somebody removes the segments on another host: late reads are zeros, and never served."""
    kvd, wire, keys, size = on_disk_alone(fs, start_on)
    wire.holds(keys[0], size)
    other = fs.second()
    other.command("gone zero")
    for path in other.point.rglob("*.seg"):
        path.unlink()
    assert other.command("reap")["files"] > 3
    wire.holds(keys[0], size)
    for key in keys[1:]:
        wire.misses(key)
    wire.store(b"new", size, ack="disk")
    wire.holds(b"new", size)


# ---- (b) the k-th operation, for every k ----

LIFE_KEYS = keys_of(b"a", 5) + keys_of(b"b", 3)


def live(wire, ledger):
    """A small life of all kinds of changes; the same ones each time."""
    for number, key in enumerate(LIFE_KEYS):
        ledger.put(wire, key, value_of(key, 40_000 + number), "disk" if number % 2 else "memory")
    ledger.remove(wire, LIFE_KEYS[0], LIFE_KEYS[1])
    ledger.put(wire, LIFE_KEYS[3], b"second" * 10_000, "disk")
    wire.call(harness.ADMIN, {"action": "seal"})
    ledger.put(wire, LIFE_KEYS[2], b"second" * 5_000)
    ledger.put(wire, LIFE_KEYS[1], b"again" * 100, "disk")
    ledger.put(wire, b"large", value_of(b"large", 700_000), "disk")
    ledger.remove_prefix(wire, b"b-")
    ledger.put(wire, LIFE_KEYS[5], b"after the prefix", "disk")
    wire.call(harness.ADMIN, {"action": "sync"})
    ledger.put(wire, b"last", b"x" * 50_000)
    ledger.remove(wire, LIFE_KEYS[4])


def life_with(fs, kvd, rule):
    """One life with a fault, judged while it lasts and after a power cut. Returns (whether the fault came up, the ledger)."""
    ledger = Ledger()
    number = fs.add(rule)
    kvd.spawn()
    wait_until(lambda: kvd.port_file.exists() or kvd.process.poll() is not None, "the start")
    if kvd.process.poll() is None:
        kvd.port = int(kvd.port_file.read_text())
        wire = kvd.wire()
        live(wire, ledger)
        ledger.judge(wire, crashed=False)
        if gave_segments_up(wire):
            ledger.durable.clear()
        kvd.kill()
    else:
        assert kvd.process.returncode > 0, kvd.log()
        kvd.process = None
    return fs.fired(number) > 0, ledger


def every_k(fs, start, rule, seeds=None):
    """For k = 1, 2, ... until the fault comes up no more. `rule` has a {k}."""
    last = 0
    for k in range(1, 400):
        kvd = start(start=False, data=fs.point / f"d{k}", memory="32m", segment_size="1m")
        fired, ledger = life_with(fs, kvd, rule.format(k=k))
        try:
            fs.clear()
            fs.power_cut(seed=k, keep=0 if seeds is None else 0.5)
            wire = kvd.start().wire()
            wait_until(lambda: wire.figure("disk_state") in ("on", "off"), "the disk tier")
            assert wire.figure("disk_state") == "on", wire.info("disk")
            ledger.judge(wire, crashed=True)
        except AssertionError as error:
            raise AssertionError(f"k = {k} of {rule}: {error}\n{kvd.log()}") from error
        kvd.fini()
        if not fired:
            return last
        last = k
    raise AssertionError("the fault comes up for ever")


@pytest.mark.limit(200)
@pytest.mark.parametrize("fault", ["write err=EIO", "fsync err=EIO",
                                   "fsyncdir,names,truncate err=EIO", "write short=0.5", "write err=ENOSPC"])
def test_the_kth_operation_fails_once(fs, start, fault):
    kinds, what = fault.split()
    assert every_k(fs, start, f"op={kinds} nth={{k}} count=1 {what}") > 3


@pytest.mark.limit(200)
def test_the_power_fails_at_the_kth_operation(fs, start):
    """From there on nothing is done; a part of what was not synced has survived."""
    assert every_k(fs, start, "op=change nth={k} err=EIO", seeds=True) > 10


# ---- a node that is torn down ----


def tear_down(wire):
    return wire.ok(harness.ADMIN, {"action": "teardown", "node": "n1"}, timeout_s=30)


@pytest.mark.parametrize("nth", [1, 3, 5, 6, 7])
def test_a_teardown_whose_unlink_fails_is_said_again(fs, start_on, nth):
    kvd, wire, keys, size = on_disk_alone(fs, start_on, count=16)
    folder = kvd.folder()
    rule = fs.add(f"op=unlink nth={nth} count=1000 err=EIO")
    assert tear_down(wire) == {"removed": 16}
    kvd.close_wires()
    assert kvd.wait() == (1 if fs.fired(rule) else 0)
    assert folder.exists() == bool(fs.fired(rule))
    fs.clear()
    kvd.start()
    wire = kvd.wire()
    assert wire.scan() == [] and wire.figure("disk_state") == "on"
    assert tear_down(wire) == {"removed": 0}
    kvd.close_wires()
    assert kvd.wait() == 0 and not folder.exists()


@pytest.mark.parametrize("seed,nth", enumerate([1, 2, 3, 4, 5, 6, 7, 8]))
def test_a_power_cut_in_the_midst_of_a_teardown(fs, start_on, seed, nth):
    kvd, wire, keys, size = on_disk_alone(fs, start_on, count=16)
    fs.command("settle")
    fs.add(f"op=unlink nth={nth} count=1000 hang")
    assert tear_down(wire) == {"removed": 16}
    wait_until(lambda: fs.counters()["hung"] > 0 or kvd.process.poll() is not None, "the teardown")
    kvd.process.kill()
    fs.clear()
    fs.release()
    kvd.kill()
    fs.power_cut(seed=seed, keep=0.5, names="any")
    kvd.start()
    wire = kvd.wire()
    assert wire.figure("disk_state") == "on", "a start copes with whatever is left"
    assert wire.scan() == []
    store_all(wire, keys, size)
    wire.sync()
    for key in keys:
        wire.holds(key, size)


def test_a_scrub_over_a_disk_that_fails(fs, start_on):
    """What cannot be read stays, and what reads as zeros goes."""
    kvd, wire, keys, size = on_disk_alone(fs, start_on, count=12)
    bad, zeros = kvd.segments()[0].name, kvd.segments()[1].name
    fs.add(f"op=read name={bad} count=1 err=EIO")
    rule = fs.add(f"op=read name={zeros} nth=2 count=1 zero=1")
    got = wire.ok(harness.ADMIN, {"action": "scrub", "wait": True}, timeout_s=60)
    assert got["records"] == 12 and got["unreadable"] == 1 and got["bad"] == fs.fired(rule) == 1, got
    assert sum(wire.dropped().values()) == 1
    fs.clear()
    there = [key for key in keys if wire.holds_or_misses(key, size)]
    assert len(there) == 11
