"""A kvd on each of a few hosts (hosts.py), each with a mount of its own of one file system that behaves as 3FS (faultfs.py).

    with Site(3, args=[...]) as site:
        with site.nodes[0].wire_to() as wire:
            ...
        site.hosts[2].cut()         # its network
        site.mounts[2].freeze()     # its file system
"""
import contextlib
import pathlib
import shutil
import tempfile

import faultfs
import hosts
from harness import Kvd, Wire

PORT = 7070


def why_no_site():
    return hosts.why_not() or faultfs.why_not()


class HostedKvd(Kvd):
    def __init__(self, host, name, args, **options):
        self.host, self.name = host, name
        self.address = f"{host.address}:{PORT}"
        # It is a network that nobody else is on.
        settings = ["--listen", self.address, "--advertise", self.address, "--no-auth-anywhere", "--node", name, "--peers", "auto"]
        super().__init__(wrapper=host.wrapper, args=[*settings, *args], **options)

    def wire_to(self):
        """As from its own host."""
        with self.host.inside():
            return Wire(PORT, host=self.host.address)


class Site:
    """Nodes a, b, c, ...; and one more host, for clients."""

    def __init__(self, count, memory="16m", disk="64m", segment_size="4m", args=()):
        self.stack = contextlib.ExitStack()
        self.mounts, self.nodes = [], []
        with self.stack:  # until all of it is there
            self.dir = pathlib.Path(tempfile.mkdtemp(prefix="kvd-site-"))
            self.stack.callback(shutil.rmtree, self.dir, ignore_errors=True)
            *self.hosts, self.client = self.stack.enter_context(hosts.Hosts(count + 1))
            names = [chr(ord("a") + number) for number in range(count)]
            first = self.stack.enter_context(faultfs.FaultFs(self.dir, names[0], nojournal=True))
            self.mounts = [first, *(first.second(name) for name in names[1:])]
            (first.point / "data").mkdir()
            self.stack.callback(self.end_nodes)
            for name, host, mount in zip(names, self.hosts, self.mounts):
                self.nodes.append(HostedKvd(host, name, args, memory=memory, disk=disk, segment_size=segment_size, data=mount.point / "data"))
            self.stack = self.stack.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stack.close()

    def thaw(self):
        for mount in self.mounts:
            if mount.process:
                mount.thaw()

    def end_nodes(self):
        """A process that hangs in its mount cannot die."""
        self.thaw()
        for node in self.nodes:
            node.fini()
