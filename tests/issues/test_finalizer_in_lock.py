"""The garbage collector may close a dropped client on any thread at any time.

This deadlocked a process: the finalizer of an SDK client ran while its thread held a lock of stormbreak, and needed
that lock, or waited for a loop that needed it.
"""

import gc
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import httpx2
import pytest
from forking import in_child
from on_threads import within_time
from sockets import until
from stage import OK, TARGET, policy
from thread_calls import open_call, run_call

import stormbreak.httpx
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.drivers.thread_driver import ParkedThread, ThreadDriver
from stormbreak.http.transports import interruptible
from stormbreak.httpx2 import Transport
from stormbreak.types import Call

SUPPORT = Path(__file__).parent.parent / "support"


class SdkClient:
    """A reference cycle that its finalizer closes, like the clients of openai and anthropic."""

    def __init__(self, http):
        self.http, self.itself = http, self

    def __del__(self):
        self.http.close()


def test_a_client_can_be_collected_under_every_lock():
    """In a child process in which each lock collects a client as soon as it is held."""
    run = subprocess.run(
        [sys.executable, SUPPORT / "collecting.py"],
        check=False, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    modules = set(run.stdout.split())
    assert modules >= {
        "stormbreak.cache.memory",
        "stormbreak.cache.sqlite",
        "stormbreak.cost.meter",
        "stormbreak.drivers.listeners",
        "stormbreak.drivers.flow_stepper",
        "stormbreak.drivers.turn_lock",
        "stormbreak.http.h1.blocking_pool",
        "stormbreak.http.transports.origin_resolver",
        "stormbreak.telemetry.logs",
        "stormbreak.telemetry.live_state",
    }


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_finalizer_under_the_lock_does_not_deadlock():
    transport = Transport()
    stepper = transport._driver._stepper

    def drop_under_the_lock():
        gc.collect()
        SdkClient(httpx2.Client(transport=Transport(transport.engine)))
        with stepper._lock:
            gc.collect()

    assert within_time(drop_under_the_lock), "deadlock"


def test_a_call_by_a_finalizer_during_a_step_raises():
    driver = ThreadDriver(Engine(policy()))
    with driver._stepper._lock, pytest.raises(RuntimeError, match="finalizer"):
        driver._stepper._turn(lambda: run_call(driver, Call(1, TARGET), lambda _: OK))
    assert run_call(driver, Call(2, TARGET), lambda _: OK).outcome == OK


def test_a_listener_that_holds_a_lock_gets_the_event_later():
    """For example the metrics of prometheus_client, which use plain locks."""
    engine = Engine(policy(limit=FixedLimit(max_in_flight=2)))
    driver, lock, events = ThreadDriver(engine), threading.Lock(), []

    def listen(event):
        with lock:
            events.append(type(event).__name__)
            gc.collect()

    def drop_in_the_listener():
        held = open_call(driver, Call(1, TARGET, delivers=True))
        ring = [held]
        ring.append(ring)
        engine.listeners.append(listen)
        del held, ring
        gc.disable()
        try:
            run_call(driver, Call(2, TARGET), lambda _: OK)
        finally:
            gc.enable()

    assert within_time(drop_in_the_listener), "deadlock"
    assert engine.target_state(TARGET).slots.in_flight == 0
    driver._stepper.deliver_events()
    assert events.count("CallCancelled") == 1


ASKED = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
both_libraries = pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])


def wrapped(library):
    """Return a client over an inner transport with one connection, and that transport."""
    inner = library.HTTPTransport(limits=library.Limits(max_connections=1))
    wrap = stormbreak.httpx.Transport if library is httpx else Transport
    return library.Client(transport=wrap(inner=inner)), inner


def opened(client, url):
    return client.send(client.build_request("POST", url, json=ASKED), stream=True)


def collect_in_lock(ring, inner):
    """Make a reference cycle of this list and collect it while the lock of the pool is held."""
    ring.append(ring)
    gc.disable()
    del ring
    with inner._pool._optional_thread_lock:
        gc.collect()
    gc.enable()


@pytest.mark.parametrize("is_begun", [False, True])
@both_libraries
def test_a_stream_over_an_inner_transport_can_be_collected_under_the_pool_lock(
    library, is_begun, stormbreak_provider
):
    """Its finalizer closed the connection, for which httpcore takes that plain lock."""
    url = f"{stormbreak_provider().base_url}/chat/completions"
    client, inner = wrapped(library)

    def ring():
        response = opened(client, url)
        chunks = response.iter_bytes()
        if is_begun:
            next(chunks)
        return [response, chunks]

    def drop_under_the_lock():
        collect_in_lock(ring(), inner)
        assert client.post(url, json=ASKED).status_code == 200  # the pool has its connection again

    assert within_time(drop_under_the_lock), "deadlock"
    client.close()


def _read_as_sdks_do(response):
    try:
        yield from response.iter_bytes()
    finally:
        response.close()


@both_libraries
def test_an_sdk_generator_can_be_collected_under_the_pool_lock(
    library, stormbreak_provider, monkeypatch
):
    url = f"{stormbreak_provider().base_url}/chat/completions"
    client, inner = wrapped(library)
    monkeypatch.setattr(interruptible, "_LINGER", 0.0)  # the thread that closes it stays

    def ring():
        chunks = _read_as_sdks_do(opened(client, url))
        next(chunks)
        return [chunks]

    def drop_under_the_lock():
        collect_in_lock(ring(), inner)
        until(lambda: not inner._pool._requests)

    assert within_time(drop_under_the_lock), "deadlock"
    client.close()


def test_a_child_keeps_no_thread_for_a_stream_of_its_parent(stormbreak_provider, monkeypatch):
    url = f"{stormbreak_provider().base_url}/chat/completions"
    monkeypatch.setattr(interruptible, "_LINGER", 0.0)

    def works_and_rests():
        with httpx2.Client(transport=Transport(inner=httpx2.HTTPTransport())) as client:
            works = client.post(url, json=ASKED).status_code == 200
        until(lambda: "stormbreak-watch" not in {each.name for each in threading.enumerate()})
        return works

    with httpx2.Client(transport=Transport(inner=httpx2.HTTPTransport())) as client:
        response = opened(client, url)
        assert in_child(works_and_rests)
        response.close()


def test_a_parked_thread_can_be_set_twice_and_before_it_waits():
    parked = ParkedThread()
    parked.wait(0.0)
    parked.set()
    parked.set()
    parked.wait(5.0)
