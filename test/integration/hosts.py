"""Hosts within this machine: a network namespace for each, on a bridge that has one of its own.

    with Hosts(3) as hosts:
        kvd = Kvd(wrapper=hosts[0].wrapper, args=["--listen", f"{hosts[0].address}:7070", ...])
        with hosts[0].inside():
            wire = Wire(7070, host=hosts[0].address)
        hosts[0].cut()

No namespace has a name: each lasts as long as a process that holds it, which dies with this one. So nothing stays behind.
"""
import contextlib
import ctypes
import os
import shutil
import subprocess

from harness import die_with_parent, libc

CLONE_NEWNET = 0x40000000
NETWORK = "10.88.77."
TOOLS = ("ip", "unshare", "nsenter")


def why_not():
    """None where it works; otherwise why not."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        return f"{' and '.join(missing)} not installed"
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode != 0:
        return "no right to make network namespaces"
    return None


class Namespace:
    """Held by a process of its own."""

    def __init__(self):
        self.holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo ready; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       preexec_fn=die_with_parent)
        assert self.holder.stdout.readline() == b"ready\n", "no network namespace"
        self.pid = self.holder.pid
        self.wrapper = ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--"]
        self.ip("link", "set", "lo", "up")

    def ip(self, *args):
        subprocess.run([*self.wrapper, "ip", *args], check=True)

    @contextlib.contextmanager
    def inside(self):
        """Sockets that this thread opens meanwhile are of this host."""
        with open("/proc/thread-self/ns/net", "rb") as before, open(f"/proc/{self.pid}/ns/net", "rb") as there:
            enter(there)
            try:
                yield
            finally:
                enter(before)

    def end(self):
        self.holder.stdin.close()
        self.holder.wait()
        self.holder.stdout.close()


def enter(namespace):
    if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Host(Namespace):
    def __init__(self, switch, number):
        super().__init__()
        self.switch, self.port = switch, f"port{number}"
        self.address = f"{NETWORK}{number}"
        switch.ip("link", "add", self.port, "type", "veth", "peer", "name", "eth0", "netns", str(self.pid))
        switch.ip("link", "set", self.port, "master", "bridge", "up")
        self.ip("address", "add", f"{self.address}/24", "dev", "eth0")
        self.ip("link", "set", "eth0", "up")

    def cut(self):
        """The cable is out: what is sent is lost, and nobody is told."""
        self.switch.ip("link", "set", self.port, "nomaster")

    def join(self):
        self.switch.ip("link", "set", self.port, "master", "bridge")


class Hosts(list):
    def __init__(self, count):
        super().__init__()
        self.switch = Namespace()
        try:
            self.switch.ip("link", "add", "bridge", "type", "bridge", "forward_delay", "0")
            self.switch.ip("link", "set", "bridge", "up")
            for number in range(1, count + 1):
                self.append(Host(self.switch, number))
        except BaseException:
            self.end()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        for namespace in (*self, self.switch):
            namespace.end()
