"""A lock held by a thread of the parent is never released in a forked child, which hung in its first client."""

import gc
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from forking import in_child

from stormbreak.cache.memory import MemoryCache
from stormbreak.core.fallback_policy import CachePolicy
from stormbreak.drivers import flow_stepper, fork_safety, locks
from stormbreak.httpx2 import Transport
from stormbreak.telemetry.prometheus_multiprocess import fork_lock
from stormbreak.testing import serve

SUPPORT = Path(__file__).parent.parent / "support"
QUICK = "[provider]\nservice = 0.01\n"


@contextmanager
def held(*those):
    """Let another thread hold these locks."""
    holds, release = threading.Event(), threading.Event()

    def hold():
        for lock in those:
            lock.acquire()
        holds.set()
        release.wait(300.0)
        for lock in those:
            lock.release()

    holder = threading.Thread(target=hold)
    holder.start()
    assert holds.wait(20.0)
    try:
        yield
    finally:
        release.set()
        holder.join()


def uses(transport, base_url):
    ask = {"model": "m", "messages": [{"role": "user", "content": "Hello?"}]}
    with httpx2.Client(transport=transport, timeout=15.0) as http:
        return http.post(f"{base_url}/chat/completions", json=ask).status_code == 200


def test_a_child_can_create_a_client_when_the_parent_creates_one():
    with held(flow_stepper._lock):
        assert in_child(lambda: Transport().engine is not None)


def test_a_child_can_use_a_cache_when_the_parent_uses_it():
    cache = MemoryCache(CachePolicy())
    cache.put(b"key", b"body")
    cache._bytes += 1  # as during an update
    with held(cache._lock):
        assert in_child(lambda: cache.get(b"key").body == b"body" and cache._bytes == 4)


def test_a_child_can_use_clients_when_every_lock_is_held():
    """Every lock of this process except the one that each fork waits for."""
    with serve(QUICK) as provider:
        transport = Transport()
        assert uses(transport, provider.base_url)
        gc.collect()  # a finalizer of another test's client would wait for a lock here
        gc.disable()
        try:
            with held(*(lock for lock in locks._alive() if lock is not fork_lock)):
                assert in_child(
                    lambda: (
                        uses(transport, provider.base_url) and uses(Transport(), provider.base_url)
                    )
                )
        finally:
            gc.enable()
        assert uses(transport, provider.base_url)


def test_the_forking_thread_keeps_its_locks_in_the_child():
    lock = locks.new_lock()

    def released():
        lock.release()
        return not lock._is_owned()

    with lock:
        assert in_child(released)
        assert lock._is_owned()


class ResetRecorder:
    def __init__(self, error=None):
        self.error, self.was_reset = error, False
        fork_safety.reset_in_child(self.reset)

    def reset(self):
        self.was_reset = True
        if self.error is not None:
            raise self.error


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_failing_reset_does_not_prevent_other_resets():
    one, other = ResetRecorder(OSError("no file left to open")), ResetRecorder()
    assert in_child(lambda: one.was_reset and other.was_reset)
    assert not other.was_reset


def test_a_deleted_object_is_not_reset():
    one = ResetRecorder()
    key = id(one)
    assert key in fork_safety._reset_in_child
    del one
    assert key not in fork_safety._reset_in_child


def test_dropped_clients_and_forks_do_not_deadlock():
    """The short version of `tests/prove/test_prove_soak.py`."""
    run = subprocess.run(
        [sys.executable, SUPPORT / "soak.py", "0.5"],
        check=False, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
