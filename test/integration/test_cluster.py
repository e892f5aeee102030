"""Three nodes over one directory: who is a member, for real. docs/cluster.md has what must hold."""
import contextlib
import hashlib
import hmac
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import pytest
from harness import BAD_REQUEST, BUILD, DENIED, OK, ROOT, UNSUPPORTED, Kvd, Wire, free_port, kvctl, kvctl_json, wait_until
from site_of_hosts import HostedKvd, Site, why_no_site

SETTINGS = ["--lease-time", "800ms", "--suspect", "600ms"]
PATIENCE_S = 30
JOIN, BEAT = 0x40, 0x41
NOT_SERVED = (0x48, 0x49, 0x4a, 0x4b, 0x4d, 0x4e, 0x53)


class Cluster:
    """Nodes by name, over one directory."""

    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="kvd-cluster-"))
        self.token = self.file("token", "a-token-of-32-bytes-for-a-cluster")
        self.nodes = []

    def file(self, name, text, mode=0o600):
        path = self.dir / name
        path.write_text(text + "\n")
        path.chmod(mode)
        return path

    def add(self, name, token=None, start=True, dead_after="20s", more=()):
        address = f"127.0.0.1:{free_port()}"
        args = ["--listen", address, "--node", name, "--peers", "auto", "--advertise", address, "--cluster-token-file",
                str(token or self.token), "--dead-after", dead_after, *SETTINGS, *more]
        node = Kvd(memory="16m", disk="64m", segment_size="4m", data=self.dir / "data", args=args, start=start)
        self.nodes.append(node)
        return node

    def fini(self):
        for node in self.nodes:
            node.fini()
        shutil.rmtree(self.dir, ignore_errors=True)


@pytest.fixture
def cluster():
    made = Cluster()
    yield made
    made.fini()


def figures(node):
    with node.wire_to() if isinstance(node, HostedKvd) else Wire(node.port) as wire:
        return wire.info("cluster")["cluster"]


def one_view(nodes, after):
    """The number of the effective view of just these, if they all act in it."""
    seen = [figures(node) for node in nodes]
    same = len({f["view"] for f in seen}) == 1 and all(f["effective"] == f["view"] and f["state"] == "acting" for f in seen)
    return seen[0]["view"] if same and seen[0]["members"] == len(nodes) and seen[0]["view"] > after else None


def settle(nodes, after=0):
    return wait_until(lambda: one_view(nodes, after), "one view of all of them", timeout_s=PATIENCE_S, every_s=0.02)


def three(cluster):
    nodes = [cluster.add(name) for name in ("a", "b", "c")]
    return nodes, settle(nodes)


def join(wire, start=1, connection=1, name="z", node="a"):
    """The code of a JOIN as that start of a node, with the right token."""
    ours = bytes(range(32))
    names = hmac.new(b"a-token-of-32-bytes-for-a-cluster", b"kvd-node-names" + b"\0".join([b"kvd", name.encode(), node.encode()]), hashlib.sha256)
    mac = hmac.new(names.digest(), b"kvd-node-1" + wire.hello()["nonce"] + ours, hashlib.sha256).digest()
    return wire.call(JOIN, {"cluster": "kvd", "from": name, "to": node, "nonce": ours, "mac": mac, "start": start, "random": 7,
                            "connection": connection}).code


def beat(wire, start=1, **more):
    return wire.call(BEAT, {"start": start, "random": 7, "address": "127.0.0.1:1", "known": 0, "acknowledged": 0, "effective": 0,
                            "asked_us": 1, **more}).code


def logged(node, event):
    return wait_until(lambda: f"event={event}" in node.log(), event, timeout_s=PATIENCE_S, every_s=0.02)


def test_one_that_is_killed_is_left_out_and_comes_back(cluster):
    (a, b, c), view = three(cluster)
    assert c.wire().put(b"key", b"value", ack="disk").code == 0
    c.kill()
    without = settle([a, b], view)
    c.start()
    settle([a, b, c], without)
    assert figures(c)["start"] == 2
    assert c.wire().get(b"key").body == b"value"


def test_kvctl_lists_the_nodes(cluster):
    a, b = cluster.add("a"), cluster.add("b")
    settle([a, b])
    rows = kvctl_json("node", "ls", port=a.port)
    assert rows["a"].startswith("self member acting") and rows["b"].startswith("member acting")
    assert kvctl("node", "rm", port=a.port).returncode == 2
    b.stop()
    with Kvd(data=cluster.dir / "alone") as alone:
        assert kvctl("node", "ls", port=alone.port).returncode == 3


def test_all_that_are_killed_start_again_at_once(cluster):
    nodes, view = three(cluster)
    for node in nodes:
        node.kill()
    for node in nodes:
        node.start()
    settle(nodes, view)
    assert all("former_dead=yes" in node.log() for node in nodes)


def test_who_leaves_in_order_is_not_waited_for(cluster):
    (a, b, c), view = three(cluster)
    c.stop()
    settle([a, b], view)
    assert "left=" not in figures(a)["node.c"] and figures(a)["node.c"].startswith("outside")
    b.stop()
    settle([a], view + 1)
    a.stop()
    a.start()
    settle([a], view + 2)


def test_one_that_is_gone_for_good_is_forgotten_by_hand(cluster):
    """Of a view whose members are all gone one alone starts again: it cannot know that the others do not act, and would wait for long."""
    nodes = [cluster.add(name, dead_after="10m") for name in ("a", "b", "c")]
    a, b, c = nodes
    view = settle(nodes)
    assert kvctl("node", "forget", "b", port=a.port).returncode == 3, "it lives"
    for node in nodes:
        node.kill()
    a.start()
    wait_until(lambda: {"node.b", "node.c"} <= figures(a).keys(), "the others to be known of", timeout_s=PATIENCE_S)
    for name in "bc":
        assert figures(a)["state"] != "acting"
        wait_until(lambda: kvctl("node", "forget", name, port=a.port).returncode == 0, "its alive to have stood still", timeout_s=PATIENCE_S)
    settle([a], view)
    assert kvctl("node", "forget", "z", port=a.port).returncode == 3
    assert kvctl("node", "forget", port=a.port).returncode == kvctl("node", "ls", "b", port=a.port).returncode == 2
    b.start()
    settle([a, b], view)
    with Kvd(data=cluster.dir / "alone") as alone:
        assert kvctl("node", "forget", "b", port=alone.port).returncode == 3


def test_who_is_stopped_beyond_his_lease_comes_back_as_another_start(cluster):
    (a, b, c), view = three(cluster)
    c.process.send_signal(signal.SIGSTOP)
    without = settle([a, b], view)
    c.process.send_signal(signal.SIGCONT)
    settle([a, b, c], without)
    assert figures(c)["start"] == 2 and figures(c)["left_out_total"] == 1
    assert "event=fenced" in c.log()


def test_a_second_process_of_an_id_refuses(cluster):
    a = cluster.add("a")
    settle([a])
    second = cluster.add("a", start=False)
    second.spawn()
    assert second.wait() == 1
    assert "another kvd is running on it" in second.log()
    settle([a])


def test_who_has_another_token_stays_outside(cluster):
    a = cluster.add("a")
    settle([a])
    stranger = cluster.add("b", token=cluster.file("other", "another-token-of-32-bytes-altogether"))
    logged(stranger, "peer_denied")
    logged(a, "join_denied")
    assert figures(stranger)["state"] == "outside" and figures(a)["members"] == 1
    assert "32-bytes" not in a.log() + stranger.log()


def test_bad_input_from_a_peer_is_refused(cluster):
    a = cluster.add("a")
    view = settle([a])
    good = {"cluster": "kvd", "from": "z", "to": "a", "nonce": b"n" * 32, "mac": b"m" * 32, "start": 1, "random": 1, "connection": 1}
    bad = ({}, {"cluster": "other"}, {"to": "b"}, {"from": "a"}, {"from": "../x"}, {"nonce": b"n"}, {"mac": b""}, {"start": 0}, {"connection": 0})
    for change in bad:
        with Wire(a.port) as wire:
            wire.hello()
            assert wire.call(JOIN, {**good, **change}).code == DENIED
            assert wire.at_end()
    with Wire(a.port) as wire:  # no HELLO, so no nonce
        assert wire.call(JOIN, good).code == DENIED
    with Wire(a.port) as wire:
        assert beat(wire) == DENIED
        assert all(wire.call(op, {"view": 1, "keys": [b"k"]}).code == DENIED for op in NOT_SERVED)
        assert wire.ok(0x03) == {}
    assert figures(a)["view"] == view
    assert figures(a)["denied_joins_total"] == len(bad) + 1
    assert a.log().count("event=join_denied") == 1, "who may not tries again and again"


def test_a_new_connection_of_a_start_ends_the_one_before(cluster):
    a = cluster.add("a")
    settle([a])
    with Wire(a.port) as first, Wire(a.port) as second, Wire(a.port) as late, Wire(a.port) as other:
        assert join(first, connection=5) == OK and beat(first) == OK
        assert join(second, connection=6) == OK
        assert first.at_end(), "it is closed, without being asked anything"
        assert beat(second) == OK
        assert join(late, connection=5) == DENIED and late.at_end()
        assert join(other, start=2, connection=1) == OK and beat(other, start=2) == OK
        assert beat(second) == OK, "another start ends nothing"
        assert join(second, connection=6) == DENIED and second.at_end()


def test_that_is_so_on_every_loop(cluster):
    a = cluster.add("a", more=["--loops", "3"])
    settle([a])
    with contextlib.ExitStack() as stack:
        first, second = ({start: stack.enter_context(Wire(a.port)) for start in (1, 2, 3)} for _ in range(2))
        assert all(join(wire, start) == OK for start, wire in first.items())
        with Wire(a.port) as wire:
            assert all(int(count) > 0 for count in wire.info("loops")["loops"]["connections"].split())
        assert all(join(wire, start, connection=2) == OK for start, wire in second.items())
        assert all(wire.at_end() for wire in first.values())
        assert all(beat(wire, start) == OK for start, wire in second.items())


def test_what_comes_on_a_connection_is_of_the_start_that_opened_it(cluster):
    a = cluster.add("a")
    settle([a])
    with Wire(a.port) as wire:
        assert join(wire, start=3) == OK
        assert beat(wire, start=4) == BAD_REQUEST
        assert beat(wire, start=3) == OK
        assert all(wire.call(op, {"view": 1, "keys": [b"k"]}).code == UNSUPPORTED for op in NOT_SERVED)


def test_a_connection_that_was_forgotten_for_others_is_to_be_opened_anew(cluster):
    a = cluster.add("a")
    settle([a])
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(a.port)) for _ in range(98)]
        assert all(join(wire, start=start) == OK for start, wire in enumerate(wires, 1))
        assert beat(wires[97], start=98) == OK
        assert beat(wires[0], start=1) == DENIED and wires[0].at_end()


def test_a_node_may_say_more_than_a_stranger(cluster):
    tokens = cluster.file("tokens", "client read,write,admin a-token-of-a-client-that-is-long")
    a = cluster.add("a", more=["--token-file", str(tokens)])
    logged(a, "lease_begins")
    with Wire(a.port) as wire:
        assert join(wire) == OK
        assert beat(wire, pad=b"x" * 64 * 1024) == OK
        assert wire.call(0x11, {"key": b"k"}).code == DENIED, "it is no client"


def test_settings_that_do_not_go_together(cluster):
    def refuses(*args):
        got = subprocess.run([str(BUILD / "kvd"), "--check-config", *args], capture_output=True, text=True, check=False)
        return got.stderr if got.returncode == 2 else None
    token = str(cluster.token)
    assert "advertise" in refuses("--peers", "auto", "--cluster-token-file", token)
    for name in ("localhost:1", "a b:1", "127.0.0.1 :1"):
        assert "numeric" in refuses("--peers", "auto", "--advertise", name, "--cluster-token-file", token)
    assert "cluster-token-file" in refuses("--peers", "auto", "--advertise", "127.0.0.1:1")
    assert "segment-size" in refuses("--peers", "auto", "--advertise", "127.0.0.1:1", "--cluster-token-file", token, "--segment-size", "0")
    assert "not an ordinary file" in refuses("--peers", "auto", "--advertise", "127.0.0.1:1", "--cluster-token-file", str(cluster.dir))
    assert "auto" in refuses("--peers", "all", "--advertise", "127.0.0.1:1", "--cluster-token-file", token)
    assert "go with peers" in refuses("--advertise", "127.0.0.1:1")
    assert "chmod 600" in refuses("--peers", "auto", "--advertise", "127.0.0.1:1", "--cluster-token-file", str(cluster.file("open", "x" * 32, 0o644)))
    assert refuses("--peers", "auto", "--advertise", "127.0.0.1:1", "--cluster-token-file", token) is None


def test_without_peers_nothing_of_it_is_there(cluster):
    with Kvd(data=cluster.dir / "alone") as kvd:
        assert figures(kvd) == {"state": "alone"}
        assert kvd.wire().call(JOIN, {"cluster": "kvd", "from": "z", "to": "n1", "nonce": b"n" * 32, "mac": b"m" * 32, "start": 1,
                                      "random": 1, "connection": 1}).code == UNSUPPORTED
        kvd.stop()
    assert not (cluster.dir / "alone" / "kvd" / "views").exists()


# ---- on hosts of their own: networks and mounts that fail ----


@pytest.fixture
def site(cluster, stack):
    why = why_no_site()
    if why:
        pytest.skip(why)
    made = stack.enter_context(Site(3, args=["--cluster-token-file", str(cluster.token), *SETTINGS]))
    made.view = settle(made.nodes)
    return made


def acting(site):
    return [node for node in site.nodes if figures(node)["state"] == "acting"]


def test_who_is_cut_off_from_the_others_is_fenced_and_comes_back(site):
    a, b, c = site.nodes
    site.hosts[2].cut()
    without = settle([a, b], site.view)
    wait_until(lambda: figures(c)["state"] != "acting", "c to be fenced", timeout_s=PATIENCE_S)
    assert figures(c)["left_out_total"] == 1 and figures(a)["members"] == 2
    site.hosts[2].join()
    settle(site.nodes, without)
    assert figures(c)["start"] == 2


def renewals(node):
    seen = figures(node)
    return seen["renewals_by_file_total"], seen["renewals_by_promise_total"]


def test_who_is_cut_off_from_the_file_system_acts_by_promises(site):
    """One alone, and then all of them: nobody's lease ends, no view changes."""
    c = site.nodes[2]
    for frozen in (site.mounts[2:], site.mounts):
        for mount in frozen:
            mount.freeze()
        _, promises = renewals(c)
        wait_until(lambda: renewals(c)[1] > promises + 10, "promises", timeout_s=PATIENCE_S)
        files, promises = renewals(c)
        wait_until(lambda: renewals(c)[1] > promises + 10, "promises", timeout_s=PATIENCE_S)
        assert renewals(c)[0] == files
        assert len(acting(site)) == 3
        site.thaw()
        assert settle(site.nodes) == site.view
        wait_until(lambda: renewals(c)[0] > files, "the file system", timeout_s=PATIENCE_S)


def test_of_those_who_are_all_cut_off_from_each_other_one_acts(site):
    for host in site.hosts:
        host.cut()
    wait_until(lambda: len(acting(site)) == 1 and figures(acting(site)[0])["members"] == 1, "one alone", timeout_s=PATIENCE_S)
    for host in site.hosts:
        host.join()
    settle(site.nodes, site.view)


def test_nothing_goes_on_without_network_and_file_system(site):
    a, b, c = site.nodes
    site.hosts[2].cut()
    site.mounts[2].freeze()
    without = settle([a, b], site.view)
    assert figures(c)["state"] == "fenced" and figures(c)["view"] == site.view
    site.thaw()
    site.hosts[2].join()
    settle(site.nodes, without)


def test_the_script_starts_a_cluster(cluster):
    """And leaves nothing, however it ends."""
    why = why_no_site()
    if why:
        pytest.skip(why)
    look = "until kvctl info cluster | grep -q 'members *3'; do :; done; kvctl node ls; exit 7"
    done = subprocess.run([str(ROOT / "scripts" / "cluster"), "--memory", "16m", "--disk", "64m", "--kvd", "--suspect 600ms --lease-time 800ms", "sh", "-c", look],
                          capture_output=True, text=True, timeout=PATIENCE_S, env={**os.environ, "TMPDIR": str(cluster.dir)}, check=False)
    assert done.returncode == 7, done
    assert done.stdout.count("member acting") == 3
    assert [path.name for path in cluster.dir.iterdir()] == ["token"]
