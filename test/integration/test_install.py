"""make install: what lands where, and that a program of somebody else's builds against it, shared and static."""
import os
import re
import shutil
import subprocess

import pytest

from harness import BUILD, ROOT, Kvd, why_no_strace

pytestmark = pytest.mark.skipif(BUILD != ROOT / "build", reason="installs the release build")

PROGRAM = r"""
#include <kvd.h>
#include <stdio.h>
#include <string.h>

/* Names that the library uses inside, and must not show. */
int log_write(void);
int log_write(void) { return 1; }
int frame_encode(void);
int frame_encode(void) { return 2; }

int main(int argc, char **argv)
{
    struct kvd_options options = {.address = argc > 1 ? argv[1] : NULL};
    struct kvd_key key = {"key", 3};
    struct kvd *kvd;
    char message[200], value[100];
    size_t len = 0;
    if (kvd_connect(&kvd, &options, message, sizeof message) != KVD_OK) {
        printf("connect: %s\n", message);
        return 1;
    }
    int put = kvd_put(kvd, key, "value", 5, 0, NULL);
    int got = kvd_get(kvd, key, value, sizeof value, &len, NULL);
    kvd_close(kvd);
    printf("%d %d %zu %.*s %d\n", put, got, len, (int)len, value, log_write() + frame_encode());
    return 0;
}
"""


@pytest.fixture
def root(folder):
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    done = subprocess.run(["make", "install", f"DESTDIR={folder}/root", "PREFIX=/usr"], cwd=ROOT, env=env, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    return folder / "root" / "usr"


def test_what_lands_where(root):
    for name in ("bin/kvd", "bin/kvctl", "lib/libkvd.a", "lib/libkvd.so", "lib/libkvd.so.1", "include/kvd.h", "lib/pkgconfig/kvd.pc",
                 "lib/systemd/system/kvd.service", "lib/sysusers.d/kvd.conf", "share/doc/kvd/LICENSE", "share/doc/kvd/operations.md"):
        assert (root / name).is_file(), name
    assert (root / "lib/libkvd.so.1").resolve() == (root / "lib/libkvd.so").resolve()
    version = subprocess.run([root / "bin/kvd", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    assert f"Version: {version}\n" in (root / "lib/pkgconfig/kvd.pc").read_text()
    assert str(root) not in (root / "lib/pkgconfig/kvd.pc").read_text(), "DESTDIR is not where it will be"


def test_the_unit(root):
    """systemd takes it, and finds little that a service of its kind could still be denied."""
    unit = root / "lib/systemd/system/kvd.service"
    text = unit.read_text()
    assert "ExecStart=/usr/bin/kvd --dir /var/lib/kvd $KVD_FLAGS\n" in text and "LimitMEMLOCK=infinity\n" in text and "@" not in text.replace("@system-", "").replace("@privileged", "")
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    verified = subprocess.run(["systemd-analyze", "verify", "--recursive-errors=no", f"--root={root.parent}", "kvd.service"], capture_output=True,
                              text=True, check=False)
    assert "kvd.service:" not in verified.stderr, verified.stderr
    judged = subprocess.run(["systemd-analyze", "security", "--offline=true", str(unit)], capture_output=True, text=True, check=True).stdout
    assert float(re.search(r"exposure level for kvd.service: ([0-9.]+)", judged).group(1)) < 2, judged


def test_kvd_with_no_more_than_the_unit_leaves_it(root, folder):
    """Without capabilities, as another user, with a descriptor limit and no core dumps: kvd starts there, and io_uring works."""
    if os.getuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root, and setpriv")
    folder.chmod(0o755)
    (folder / "data").mkdir(0o700)
    os.chown(folder / "data", 65534, 65534)
    wrapper = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
    with Kvd(wrapper=wrapper, data=folder / "data" / "own", start=False) as kvd:
        os.chown(kvd.dir, 65534, 65534)
        wire = kvd.start().wire()
        wire.store(b"key", 100000, ack="disk")
        wire.holds(b"key", 100000)
        kvd.stop()
        assert not kvd.port_file.exists()


def calls_of(group):
    """The system calls of one of systemd's groups, those of the groups in it too."""
    lines = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True).stdout.split("\n")
    names = {line.strip() for line in lines[1:] if line.startswith("    ") and not line.strip().startswith("#")}
    return {call for name in names for call in (calls_of(name) if name.startswith("@") else {name})}


def test_the_unit_allows_every_system_call_that_kvd_makes(root, folder):
    why = why_no_strace()
    if why or not shutil.which("systemd-analyze"):
        pytest.skip(why or "systemd-analyze is not installed")
    allowed, denied = set(), set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", (root / "lib/systemd/system/kvd.service").read_text(), re.M):
        for name in line.removeprefix("~").split():
            (denied if line.startswith("~") else allowed).update(calls_of(name) if name.startswith("@") else {name})
    trace = folder / "trace"
    for io in ("auto", "threads"):
        with Kvd(wrapper=["strace", "-D", "-f", "-qq", "-o", str(trace)], args=["--io", io], memory="32m", disk="128m") as kvd:
            wire = kvd.wire()
            for number in range(60):
                wire.store(b"k%d" % number, 3_000_000)
            for number in range(60):
                wire.holds_or_misses(b"k%d" % number, 3_000_000)
            wire.remove(b"k1")
            kvd.stop()
        called = set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.M)) - {"execve"}  # which systemd itself does
        assert len(called) > 30 and not called - (allowed - denied), called - (allowed - denied)


def test_the_library_shows_its_own_names_alone(root):
    for arguments in (["-D", root / "lib/libkvd.so"], [root / "lib/libkvd.a"]):
        shown = subprocess.run(["nm", "--defined-only", "--extern-only", *map(str, arguments)], capture_output=True, text=True, check=True).stdout
        names = re.findall(r"^[0-9a-f]{16} [A-Z] (\S+)$", shown, re.M)
        assert "kvd_connect" in names and all(name.startswith("kvd_") for name in names), names
    dynamic = subprocess.run(["readelf", "-d", str(root / "lib/libkvd.so")], capture_output=True, text=True, check=True).stdout
    assert "[libkvd.so.1]" in dynamic


@pytest.mark.parametrize("linking", ["shared", "static", "static, the libraries too"])
def test_a_program_of_somebody_elses(root, kvd, folder, linking):
    (folder / "program.c").write_text(PROGRAM)
    env = {**os.environ, "PKG_CONFIG_PATH": str(root / "lib/pkgconfig"), "PKG_CONFIG_SYSROOT_DIR": str(folder / "root")}
    asked = ["pkg-config", "--cflags", "--libs", *(["--static"] if linking != "shared" else []), "kvd"]
    flags = subprocess.run(asked, env=env, capture_output=True, text=True, check=True).stdout.split()
    # pkg-config leaves out what the compiler looks at anyway, which is not where this is.
    flags = [f"-I{root}/include", f"-L{root}/lib", *flags]
    if linking == "static":
        flags = [str(root / "lib/libkvd.a") if flag == "-lkvd" else flag for flag in flags]
    elif linking != "shared":
        flags.append("-static")
    subprocess.run(["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-o", str(folder / "program"), str(folder / "program.c"), *flags], check=True)
    done = subprocess.run([str(folder / "program"), f"127.0.0.1:{kvd.port}"], capture_output=True, text=True, check=False,
                          env={**os.environ, "LD_LIBRARY_PATH": str(root / "lib")})
    assert done.stdout == "0 0 5 value 3\n", done
    needed = subprocess.run(["readelf", "-d", str(folder / "program")], capture_output=True, text=True, check=True).stdout
    assert ("libkvd.so.1" in needed, "libxxhash" in needed) == {"shared": (True, False), "static": (False, True)}.get(linking, (False, False))


def test_the_widest_instructions_are_used_where_the_shared_library_has_them(root):
    """They are asked for weakly, so that nothing says that they are missing."""
    for built in (root / "bin/kvd", root / "bin/kvctl", root / "lib/libkvd.so"):
        dynamic = subprocess.run(["nm", "--dynamic", "--undefined-only", str(built)], capture_output=True, text=True, check=True).stdout
        for name in ("XXH3_64bits_dispatch", "XXH3_64bits_update_dispatch"):
            assert re.search(rf"\b{name}\b", dynamic), (built, name)


def test_the_header_is_fit_for_cplusplus(root, folder):
    (folder / "program.c").write_text("#include <kvd.h>\nint main(void) { return kvd_strerror(0) == 0; }\n")
    done = subprocess.run(["gcc", "-x", "c++", "-fsyntax-only", f"-I{root}/include", str(folder / "program.c")], capture_output=True, text=True,
                          check=False)
    if "cc1plus" in done.stderr:
        pytest.skip("no C++ compiler here")
    assert done.returncode == 0, done.stderr
