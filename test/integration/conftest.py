"""Fixtures. Every server, mount and folder that a test asks for is gone when it ends, however it ends."""
import contextlib
import faulthandler
import pathlib
import signal
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import faultfs  # noqa: E402
import harness  # noqa: E402

TEST_LIMIT_S = 200 if harness.SANITIZED else 100


class TookTooLong(Exception):
    pass


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """A limit for each test, so that one that hangs fails by name and cleans up."""
    limit = next((mark.args[0] for mark in item.iter_markers("limit")), TEST_LIMIT_S)

    def ring(*_):
        faulthandler.dump_traceback()
        raise TookTooLong(f"{item.name}: not done after {limit} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(limit)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def pytest_configure(config):
    config.addinivalue_line("markers", "limit(seconds): how long the test may take")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def pytest_terminal_summary(terminalreporter):
    for line in harness.TOLD:
        terminalreporter.write_line(f"TOLD {line}")


def pytest_collection_modifyitems(items):
    missing = [name for name in ("kvd", "kvctl") if not (harness.BUILD / name).exists()]
    if missing and items:
        pytest.exit(f"{harness.BUILD} has no {' and no '.join(missing)}: build first (make)", returncode=3)


def pytest_make_parametrize_id(val):
    """Ids become an environment variable of what a test starts: keep those of bytes short and printable."""
    if isinstance(val, bytes):
        return f"{val[:8].hex()}-{len(val)}"
    if isinstance(val, str) and len(val) > 40:
        return f"{val[:40].encode('unicode_escape').decode()}-{len(val)}"
    return None


@pytest.fixture
def stack():
    with contextlib.ExitStack() as opened:
        yield opened


def pytest_generate_tests(metafunc):
    """A module with FILE_SYSTEMS is tried on each, but for tests that choose their directory themselves."""
    systems = getattr(metafunc.module, "FILE_SYSTEMS", None)
    if systems and "start" in metafunc.fixturenames and not {"bindfs", "folder"} & set(metafunc.fixturenames):
        metafunc.parametrize("file_system", systems, indirect=True)


@pytest.fixture(autouse=True)
def file_system(request, monkeypatch):
    """Where servers have their directories: `local` is wherever temporary files are, or KVD_DATA_ROOT."""
    name = getattr(request, "param", "local")
    if name == "local":
        yield None
        return
    why = harness.why_no_fuse() if name == "bindfs" else faultfs.why_not()
    if why:
        pytest.skip(why)
    with harness.work_dir() as folder:
        mount = harness.Bindfs(folder / "under", folder / "mount") if name == "bindfs" else faultfs.FaultFs(folder, nojournal=True)
        with mount:
            monkeypatch.setattr(harness, "DATA_ROOT", mount.point)
            yield mount


@pytest.fixture
def start(file_system, stack, request):
    """start(**options): a running server that ends with the test. Its log is shown when the test fails."""
    started = []

    def make(**options):
        kvd = stack.enter_context(harness.Kvd(**options))
        started.append(kvd)
        return kvd

    yield make
    for kvd in started:
        if not getattr(request.node, "failed", False):
            harness.check_log(kvd.log())
        else:
            print(f"---- log of {kvd.dir.name} ----\n" + "\n".join(kvd.log().splitlines()[-60:]))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if outcome.get_result().failed:
        item.failed = True


@pytest.fixture
def kvd(start):
    return start()


@pytest.fixture
def wire(kvd):
    return kvd.wire()


@pytest.fixture
def folder(stack):
    return stack.enter_context(harness.work_dir())


@pytest.fixture
def bindfs(stack, folder):
    """A FUSE mount over a fresh folder."""
    why = harness.why_no_fuse()
    if why:
        pytest.skip(why)
    return stack.enter_context(harness.Bindfs(folder / "under", folder / "mount"))
