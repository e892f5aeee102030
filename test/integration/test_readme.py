"""Every command of the README works as it stands there: its ```sh blocks, in order, in one shell, in a copy of the tree."""
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from harness import BUILD, ROOT, SANITIZED, die_with_parent

README = ROOT / "README.md"
# What a test that is itself part of `make test` must not run again, and what needs the network.
LEFT_OUT = re.compile(r"^\s*(git clone|cd kvd\b|make (test|check|asan|fuzz|soak|install)\b|sudo )")
PAGES = ["README.md", "docs/operations.md"]


def commands(text):
    """[line, ...] of all sh blocks; lines that end in a backslash are one."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M):
        found += block.replace("\\\n", "").splitlines()
    return [line for line in found if line.strip() and not line.strip().startswith("#")]


def test_blocks_are_found():
    text = "x\n```sh\nmake demo   # comment\na \\\n  b\n```\n```c\nno\n```\n```sh\nlast\n```\n"
    assert commands(text) == ["make demo   # comment", "a   b", "last"]


@pytest.mark.limit(300)
@pytest.mark.skipif(SANITIZED, reason="the README is about the release build")
@pytest.mark.parametrize("page", [page for page in PAGES if (ROOT / page).exists()])
def test_the_commands_of_a_page(folder, page):
    lines = [line for line in commands((ROOT / page).read_text()) if not LEFT_OUT.match(line)]
    if not lines:
        pytest.skip(f"{page} has no commands")
    with socket.socket() as sock:
        port = int(next(iter(re.findall(r"--listen 127\.0\.0\.1:(\d+)", "\n".join(lines))), 7950))
        if sock.connect_ex(("127.0.0.1", port)) == 0:
            pytest.skip(f"port {port}, which the page uses, is taken here")
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, symlinks=True, ignore=shutil.ignore_patterns(".git", "log", "corpus", "asan", "fuzz", "__pycache__"))
    if BUILD != ROOT / "build":
        shutil.rmtree(tree / "build", ignore_errors=True)
        shutil.copytree(BUILD, tree / "build", symlinks=True)
    subprocess.run(["find", str(tree / "build"), "-exec", "touch", "{}", "+"], check=True)  # newer than the sources, whose dates are kept
    script = "set -euo pipefail\n" + "".join(f"echo '$ '{shlex.quote(line)}\n{line}\n" for line in lines)
    process = subprocess.Popen(["bash", "-c", script], cwd=tree, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, start_new_session=True, preexec_fn=die_with_parent,
                               env={**os.environ, "HOME": str(folder), "XDG_STATE_HOME": str(folder / "state")})
    try:
        output, _ = process.communicate(timeout=250)
    except subprocess.TimeoutExpired:
        output = "(did not end)"
    finally:
        try:
            os.killpg(process.pid, signal.SIGTERM)  # a kvd that the page started and left running
        except ProcessLookupError:
            pass
    sys.stdout.write(output)
    assert process.returncode == 0, output[-3000:]
