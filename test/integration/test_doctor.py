"""kvctl doctor: what it says of the local file system, of FUSE, of 3FS's manners, of each operation that fails; and that it leaves nothing."""
import json
import os
import signal
import subprocess
import time

import pytest

import faultfs
from faultfs import FaultFs
from harness import BUILD, STRACE_WITHOUT_RING, die_with_parent, kvctl, wait_until, why_no_strace

FIT, UNFIT, CANNOT = 0, 1, 2
needs_fuse = pytest.mark.skipif(faultfs.why_not() is not None, reason=str(faultfs.why_not()))


class Visit:
    def __init__(self, done):
        assert done.returncode in (FIT, UNFIT), done
        self.code = done.returncode
        self.told = json.loads(done.stdout)
        self.checks = {check["name"]: check for check in self.told["checks"]}
        assert self.told["fit"] == (self.code == FIT)

    def result(self, name):
        return self.checks[name]["result"]

    def failed(self):
        return [name for name, check in self.checks.items() if check["result"] == "failed"]

    def words(self, level=None):
        return "\n".join(item["text"] for item in self.told["verdict"] if level in (None, item["level"]))


def doctor(directory, *args):
    return Visit(kvctl("--json", "doctor", directory, *args))


@pytest.fixture
def fs(stack, folder):
    return stack.enter_context(FaultFs(folder))


ESSENTIAL = ("make_folder create full_size direct_write direct_read fsync buffered_write rename replace fsync_folder list flock unlink "
             "clean_up").split()


def test_a_local_directory(folder):
    visit = doctor(folder)
    assert visit.code == FIT and not visit.failed() and os.listdir(folder) == []
    for name in ESSENTIAL:
        assert visit.result(name) == "ok", visit.checks[name]
    assert visit.result("other_path") == "not tried"
    assert not visit.told["fuse"] and "not a 3FS mount; --require-fs fuse.hf3fs would refuse it" in visit.words()
    mounts = subprocess.run(["findmnt", "-n", "-o", "FSTYPE", "-T", str(folder)], capture_output=True, text=True, check=False).stdout.split()
    assert not mounts or visit.told["mount_type"] == mounts[-1]
    space = os.statvfs(folder)
    assert visit.told["total_bytes"] == space.f_blocks * space.f_frsize
    on_root = os.stat("/").st_dev == os.stat(folder).st_dev
    assert ("on the root file system" in visit.words("warning")) == on_root
    if visit.result("ring_reads") == "ok":
        assert visit.told["read_bytes_per_second"] > 0


def test_for_people(folder):
    done = kvctl("doctor", folder)
    text = done.stdout.decode()
    assert done.returncode == FIT and "what kvd will make of it" in text and "direct_write     ok" in text


def test_on_bindfs(bindfs):
    visit = doctor(bindfs.point)
    assert visit.code == FIT and visit.told["fuse"] and visit.told["mount_type"].startswith("fuse")
    assert "IOSQE_ASYNC" in visit.words() and visit.told["mount_point"] == str(bindfs.point)
    assert os.listdir(bindfs.point) == []


@needs_fuse
def test_on_a_3fs_mount(fs):
    visit = doctor(fs.point)
    assert visit.code == FIT and visit.told["mount_type"] == "fuse.hf3fs"
    assert "a 3FS mount; with --require-fs fuse.hf3fs" in visit.words("good")
    for name in ("fallocate", "tmpfile", "noreplace"):
        assert visit.result(name) == "absent", visit.checks[name]
    assert "st_blocks follows the length" in visit.words()
    assert os.listdir(fs.point) == os.listdir(fs.backing) == []


@needs_fuse
@pytest.mark.parametrize("rule,failing,word", [
    ("op=mkdir err=EACCES", "make_folder", "kvd does not start"),
    ("op=create err=EROFS", "create", "makes no segment"),
    ("op=truncate err=ENOSPC", "full_size", "makes no segment"),
    ("op=write err=EIO name=segment", "direct_write", "nothing reaches the disk"),
    ("op=read flip name=segment", "direct_read", "other bytes came back"),
    ("op=fsync err=EIO name=segment", "fsync", "nothing as durable"),
    ("op=write lost name=small", "buffered_write", "no remove log"),
    ("op=rename err=EIO", "rename", "no node file"),
    ("op=rename err=EIO nth=2", "replace", "cannot be compacted"),
    ("op=fsyncdir err=EIO", "fsync_folder", "cannot be synced"),
    ("op=unlink err=EIO name=segment count=1", "unlink", "could not give room back"),
    ("op=read err=EIO name=ring-*", "ring_reads", "through io_uring fails here"),
])
def test_what_fails_is_named(fs, rule, failing, word):
    fs.add(rule)
    visit = doctor(fs.point)
    assert visit.code == UNFIT and visit.failed()[0] == failing, visit.checks[failing]
    assert word in visit.words("bad"), visit.words()
    fs.clear()
    assert os.listdir(fs.point) == []


@needs_fuse
def test_what_cannot_be_removed_is_said(fs):
    fs.add("op=rmdir err=EIO")
    visit = doctor(fs.point)
    [left] = os.listdir(fs.point)
    assert visit.code == UNFIT and f"left behind, for it could not be removed: {fs.point}/{left}" in visit.words("bad")
    fs.clear()
    os.rmdir(fs.point / left)


@needs_fuse
@pytest.mark.parametrize("rule,stuck", [("op=write hang name=segment", "direct_write"), ("op=fsyncdir hang", "fsync_folder")])
def test_a_hung_mount(fs, rule, stuck):
    """It is not waited for longer than --timeout; what can be removed is, and what cannot is named."""
    hanging = fs.add(rule)
    started = time.monotonic()
    visit = doctor(fs.point, "--timeout", "500ms")
    assert time.monotonic() - started < 20 and fs.fired(hanging) == 1
    assert visit.code == UNFIT and f"{stuck} did not come back within 0.5 s" in visit.words("bad")
    fs.release()
    for left in os.listdir(fs.backing):
        assert f"left behind, for it could not be removed: {fs.point}/{left}" in visit.words("bad")


@needs_fuse
def test_little_space(fs):
    fs.command("cap 100m")
    visit = doctor(fs.point)
    assert visit.code == UNFIT
    assert "not even one segment" in visit.words("bad")


@needs_fuse
def test_another_path_sees_late(stack, folder):
    """As late as the caches of the other mount are told to be."""
    one = stack.enter_context(FaultFs(folder))
    other = one.second(attr_timeout=2, entry_timeout=3, negative_timeout=1)
    visit = doctor(one.point, "--other", other.point, "--wait", "20s")
    assert visit.code == FIT and visit.result("other_path") == "ok"
    seen = {name: visit.told[f"seen_{name}_ms"] for name in ("new_name", "new_size", "unlink", "replace")}
    for name, at_least_s, at_most_s in (("new_name", 0.5, 2.5), ("new_size", 1, 4), ("unlink", 1, 5), ("replace", 1, 5)):
        assert at_least_s * 1000 <= seen[name] <= at_most_s * 1000, seen
    assert "the other path sees every change within" in visit.words("good")
    slow = doctor(one.point, "--other", other.point, "--wait", "200ms")
    assert slow.code == FIT and slow.told["seen_unlink_ms"] == "not within 200" and "did not see everything" in slow.words("warning")
    assert os.listdir(one.backing) == []


def test_the_same_path_sees_at_once(folder):
    visit = doctor(folder, "--other", folder)
    assert max(visit.told[f"seen_{name}_ms"] for name in ("new_name", "new_size", "unlink", "replace")) < 1000


def test_another_path_that_is_another_directory(folder):
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    visit = doctor(folder / "a", "--other", folder / "b")
    assert visit.code == UNFIT and "does not show the same directory" in visit.words("bad")


@needs_fuse
def test_an_interrupt_leaves_nothing(stack, folder):
    one = stack.enter_context(FaultFs(folder))
    other = one.second()
    process = subprocess.Popen([str(BUILD / "kvctl"), "--json", "doctor", str(one.point), "--other", str(other.point)], stdout=subprocess.PIPE,
                               preexec_fn=die_with_parent)
    watched = lambda: any("watch-replaced" in names and "watch-next" not in names for _, _, names in os.walk(one.backing))  # noqa: E731
    wait_until(watched, "it to watch")
    process.send_signal(signal.SIGTERM)
    told = json.loads(process.communicate(timeout=20)[0])
    assert process.returncode == UNFIT and not told["fit"] and "interrupted" in told["verdict"][-1]["text"]
    assert os.listdir(one.backing) == []


def test_a_directory_that_others_can_write(folder):
    folder.chmod(0o777)
    visit = doctor(folder)
    assert visit.code == UNFIT and "others can write here" in visit.words("bad")


def test_without_io_uring(folder):
    why = why_no_strace()
    if why:
        pytest.skip(why)
    command = [*STRACE_WITHOUT_RING, str(BUILD / "kvctl"), "--json", "doctor", str(folder)]
    visit = Visit(subprocess.run(command, capture_output=True, preexec_fn=die_with_parent, check=False))
    assert visit.code == FIT and "io_uring is refused" in visit.words("warning") and visit.result("ring_reads") == "not tried"


def test_what_cannot_be_tried(folder):
    (folder / "file").write_text("")
    for path, why in ((folder / "none", b"no such file or directory"), (folder / "file", b"not a directory")):
        done = kvctl("doctor", path)
        assert done.returncode == CANNOT and why in done.stderr.lower(), done
    assert kvctl("doctor").returncode == kvctl("doctor", folder, "--wait", "5").returncode == CANNOT
