"""Settings and fixtures of the whole suite."""

import gc
import os
import resource
import shutil
import socket
import subprocess
from contextlib import ExitStack, contextmanager

import pytest
from batches import OWN
from forked_tests import ForkedTests
from hypothesis import settings

from stormbreak.drivers.garbage import THRESHOLD

# No deadline, because a busy machine is not a failure.
settings.register_profile("stormbreak", deadline=None, max_examples=30)
settings.register_profile("prove", deadline=None, max_examples=1_000)
settings.load_profile("stormbreak")


def pytest_addoption(parser):
    """Processes of the suite; and more histories for the differential tests of the fleet."""
    parser.addoption("--fleet-histories", type=int, default=100, help="histories of each store")
    parser.addoption(
        "--forks", type=int, default=0, help="processes (tests/support/forked_tests.py)"
    )


def pytest_configure(config):
    """Fork the requested processes."""
    if forks := config.getoption("--forks"):
        config.pluginmanager.register(ForkedTests(forks))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Freeze all imported and collected objects, half a million that stay, so that the garbage collector ignores them.

    To count them takes as long as a small simulation, and each of those asks whether something is frozen.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.get_freeze_count = lambda: 1
        gc.set_threshold(*THRESHOLD)
        gc.enable()


@pytest.fixture(autouse=True)
def own_garbage():
    """Collect the garbage of a test during the test, so that unclosed resources are its own error."""
    yield
    gc.collect()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown():
    """Freeze the objects that remain after a test, so that the garbage collector ignores them.

    So every collection looks at the objects of one test. Over all that stays, it would take a quarter of a second, and
    many a test collects garbage to see that nothing was left behind.
    """
    try:
        return (yield)
    finally:
        gc.collect(1)
        gc.freeze()


@pytest.fixture
def no_words_about_providers(monkeypatch):
    """Remove the environment variables that name a provider or set a policy."""
    for name in list(os.environ):
        if name.startswith(OWN):
            monkeypatch.delenv(name)


@pytest.fixture
def file_limit():
    """Limit the size of files by the kernel: a real short write, then an error."""

    @contextmanager
    def limited(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture
def free_port():
    """A port of this machine without a listener."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def full_port():
    """A port of this machine with a full backlog: connections are neither accepted nor refused."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            queued = stack.enter_context(socket.socket())
            queued.setblocking(False)
            queued.connect_ex(full.getsockname())
        yield full.getsockname()[1]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A self-signed certificate for localhost and model.example, and a foreign one."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    made = []
    for name in ("trusted", "foreign"):
        place = tmp_path_factory.mktemp(name)
        key, cert = place / "key.pem", place / "cert.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
             "-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", key, "-out", cert,
             "-addext", "subjectAltName=DNS:localhost,DNS:model.example"],
            check=True, capture_output=True,
        )  # fmt: skip
        made.append((cert, key))
    return made
