"""kvctl, command by command: what it prints, what it exits with."""
import json

import pytest

from harness import MIB, SANITIZED, free_port, kvctl, value_of

DONE, MISS, USAGE, REFUSED, UNREACHABLE = 0, 1, 2, 3, 4


@pytest.fixture
def ctl(kvd):
    def run(*args, **options):
        return kvctl(*args, port=kvd.port, **options)

    return run


def parsed(done):
    assert done.returncode in (DONE, MISS), done
    return json.loads(done.stdout)


def test_ping(ctl):
    assert ctl("ping").returncode == DONE
    parsed(ctl("--json", "ping"))


def test_put_and_get_a_file(ctl, folder):
    value = value_of(b"file", 3 * MIB + 5)
    (folder / "in").write_bytes(value)
    assert ctl("put", "key", folder / "in").returncode == DONE
    done = ctl("get", "key", "-o", folder / "out")
    assert done.returncode == DONE and (folder / "out").read_bytes() == value
    assert ctl("get", "key").stdout == value
    assert ctl("get", "key", "-o", "-").stdout == value


@pytest.mark.parametrize("value", [b"", b"hello", bytes(range(256)) * 5000])
def test_put_from_standard_input(ctl, value):
    assert ctl("put", "key", "-", stdin=value).returncode == DONE
    assert ctl("get", "key").stdout == value


def test_put_of_a_present_key_is_a_success(ctl):
    assert ctl("put", "key", "-", stdin=b"one").returncode == DONE
    assert ctl("put", "key", "-", stdin=b"two").returncode == DONE
    assert ctl("get", "key").stdout == b"one"
    assert ctl("put", "key", "-", "--replace", stdin=b"two").returncode == DONE
    assert ctl("get", "key").stdout == b"two"


def test_a_miss_exits_1(ctl, folder):
    done = ctl("get", "no", "-o", folder / "out")
    assert done.returncode == MISS and not (folder / "out").exists()
    assert ctl("stat", "no").returncode == MISS
    assert ctl("exists", "no").returncode == MISS
    assert ctl("rm", "no").returncode in (DONE, MISS)


def test_exists_match_stat(ctl):
    for key in ("a", "b", "d"):
        ctl("put", key, "-", stdin=b"value")
    assert ctl("exists", "a").returncode == DONE
    assert ctl("exists", "a", "c").returncode == MISS
    assert b"2" in ctl("match", "a", "b", "c", "d").stdout
    assert b"5" in ctl("stat", "a").stdout
    for command in (["exists", "a", "c"], ["match", "a", "b", "c"], ["stat", "a"]):
        assert isinstance(parsed(ctl("--json", *command)), (dict, list))


def test_rm(ctl):
    for key in ("p/a", "p/b", "q/a", "r"):
        ctl("put", key, "-", stdin=b"value")
    assert ctl("rm", "r").returncode == DONE and ctl("get", "r").returncode == MISS
    assert ctl("rm", "--prefix", "p/").returncode == DONE and ctl("exists", "q/a").returncode == DONE
    assert ctl("get", "p/a").returncode == MISS
    assert ctl("rm", "--all").returncode == DONE and ctl("get", "q/a").returncode == MISS


def test_rm_of_nothing_in_particular_is_refused(ctl):
    ctl("put", "key", "-", stdin=b"value")
    assert ctl("rm").returncode == USAGE
    assert ctl("rm", "--prefix", "").returncode in (USAGE, REFUSED)
    assert ctl("get", "key").returncode == DONE


def test_ls(ctl):
    for number in range(25):
        ctl("put", f"a/{number}", "-", stdin=b"value")
    ctl("put", "b/0", "-", stdin=b"value")
    lines = ctl("ls").stdout.splitlines()
    assert len(lines) == 26
    assert len(ctl("ls", "--prefix", "a/").stdout.splitlines()) == 25
    assert len(ctl("ls", "--limit", "3").stdout.splitlines()) == 3
    assert "a/7" in ctl("--json", "ls").stdout.decode()
    parsed(ctl("--json", "ls", "--prefix", "b"))


def test_pin(ctl, kvd):
    ctl("put", "key", "-", stdin=b"value")
    assert ctl("pin", "key").returncode == DONE
    assert kvd.wire().stat(b"key")["pinned"] is True
    assert ctl("pin", "--off", "key").returncode == DONE
    assert kvd.wire().stat(b"key")["pinned"] is False


def test_info(ctl):
    done = ctl("info")
    assert done.returncode == DONE and b"memory" in done.stdout and b"disk" in done.stdout
    sections = parsed(ctl("--json", "info"))
    assert sections["memory"]["limit_bytes"] == 256 * MIB
    assert list(parsed(ctl("--json", "info", "memory"))) == ["memory"]


def test_config(ctl):
    values = parsed(ctl("--json", "config"))
    assert values["memory"] == "256m" and values["log-level"] == "info" and len(values) > 15
    assert ctl("config", "memory", "node").stdout.split() == [b"memory", b"256m", b"node", b"n1"]
    assert parsed(ctl("--json", "config", "log-level=debug", "send-timeout=2500ms")) == {"log-level": "debug", "send-timeout": "2500ms"}
    assert parsed(ctl("--json", "config", "log-level")) == {"log-level": "debug"}
    for wrong in (["no-such"], ["no-such=1"], ["memory=1g"], ["log-level=loud"], ["log-level=info", "memory=1g"]):
        done = ctl("config", *wrong)
        assert done.returncode == REFUSED and done.stderr and not done.stdout, done
    assert parsed(ctl("--json", "config", "log-level")) == {"log-level": "debug"}, "all or none"
    assert ctl("config", "log-level=info", "node").returncode == USAGE


def test_sync(ctl, kvd):
    ctl("put", "key", "-", stdin=b"value")
    assert ctl("sync").returncode == DONE
    kvd.restart("kill")
    assert kvctl("get", "key", port=kvd.port).stdout == b"value"


def test_bench(ctl):
    done = ctl("--json", "bench", "--seconds", "1", "--size", "64k", "--keys", "20")
    assert isinstance(parsed(done), dict)
    assert ctl("bench", "--seconds", "1", "--size", "64k", "--op", "get").returncode == DONE


@pytest.mark.parametrize("args", [[], ["dance"], ["get"], ["put", "key"], ["--no-such", "ping"], ["ping", "surprise"], ["get", "a", "b", "c"],
                                  ["replay"], ["replay", "/no/such/file"], ["put", "key", "/no/such/file"], ["get", ""], ["get", "x" * 1025],
                                  ["bench", "--size", "lots"], ["replay", "/dev/null", "--block-size", "0"]])
def test_usage_exits_2(ctl, args):
    done = ctl(*args)
    assert done.returncode == USAGE and done.stderr and not done.stdout


def test_help(ctl):
    done = kvctl("--help")
    assert done.returncode == DONE
    for command in "ping info put get exists match rm ls stat pin sync replay bench".split():
        assert command in done.stdout.decode()
        assert kvctl(command, "--help").returncode == DONE
    assert kvctl("--version").stdout.startswith(b"kvctl ")


def test_what_the_server_refuses_exits_3(start, folder):
    kvd = start(memory="16m")
    (folder / "large").write_bytes(bytes(5 * MIB))
    done = kvctl("put", "key", folder / "large", port=kvd.port)
    assert done.returncode == REFUSED and done.stderr


def test_a_server_that_is_not_there_exits_4():
    for command in (["ping"], ["get", "key"], ["info"]):
        done = kvctl(*command, port=free_port())
        assert done.returncode == UNREACHABLE and len(done.stderr.splitlines()) == 1


def test_the_server_from_the_environment(kvd):
    assert kvctl("ping", env={"KVD_SERVER": f"127.0.0.1:{kvd.port}"}).returncode == DONE
    assert kvctl("ping", env={"KVD_SERVER": f"127.0.0.1:{free_port()}"}).returncode == UNREACHABLE


def test_a_trace_that_is_none(ctl, folder):
    for text in ("not json\n", '{"timestamp": 0}\n', '{"hash_ids": "x"}\n', '{"hash_ids": [-1]}\n', "[" * 100_000 + "\n"):
        (folder / "trace").write_text(text)
        done = ctl("replay", folder / "trace")
        assert done.returncode == USAGE and done.stderr, (text[:30], done)


def test_output_that_cannot_be_written(ctl):
    ctl("put", "key", "-", stdin=b"value")
    assert ctl("get", "key", "-o", "/no/such/folder/file").returncode not in (DONE, MISS)


@pytest.mark.skipif(SANITIZED, reason="slow")
def test_a_large_value_through_kvctl(start, folder):
    kvd = start(memory="512m", disk="2g", segment_size="256m")
    value = value_of(b"large", 100 * MIB)
    (folder / "in").write_bytes(value)
    assert kvctl("put", "large", folder / "in", port=kvd.port).returncode == DONE
    assert kvctl("get", "large", "-o", folder / "out", port=kvd.port).returncode == DONE
    assert (folder / "out").read_bytes() == value
