"""The garbage collector closes a client that was dropped, on whatever thread and in the middle of anything.

It froze a process for good: the finalizer of an SDK's client came while the very thread held a lock of ours, and wanted
that lock, or waited for a loop that wanted it.
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
    """In a cycle, and closed by its finalizer, as the clients of openai and anthropic are."""

    def __init__(self, http):
        self.http, self.itself = http, self

    def __del__(self):
        self.http.close()


def test_a_client_may_be_collected_wherever_a_lock_is_held():
    """In a process of its own, where each lock has a client collected as soon as it is held."""
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
def test_a_finalizer_waits_for_nobody():
    transport = Transport()
    stepper = transport._driver._stepper

    def drop_under_the_lock():
        gc.collect()
        SdkClient(httpx2.Client(transport=Transport(transport.engine)))
        with stepper._lock:
            gc.collect()

    assert within_time(drop_under_the_lock), "deadlock"


def test_a_call_that_a_finalizer_makes_in_the_middle_of_a_step_is_refused():
    driver = ThreadDriver(Engine(policy()))
    with driver._stepper._lock, pytest.raises(RuntimeError, match="finalizer"):
        driver._stepper._turn(lambda: run_call(driver, Call(1, TARGET), lambda _: OK))
    assert run_call(driver, Call(2, TARGET), lambda _: OK).outcome == OK


def test_a_listener_that_has_a_lock_hears_of_a_dropped_stream_later():
    """Such as the metrics of prometheus_client, whose locks are plain ones."""
    engine = Engine(policy(limit=FixedLimit(max_in_flight=2)))
    driver, lock, heard = ThreadDriver(engine), threading.Lock(), []

    def listen(event):
        with lock:
            heard.append(type(event).__name__)
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
    assert heard.count("CallCancelled") == 1


ASKED = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
both_libraries = pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])


def wrapped(library):
    """A client over the transport of its library with a pool of one connection, and that transport."""
    inner = library.HTTPTransport(limits=library.Limits(max_connections=1))
    wrap = stormbreak.httpx.Transport if library is httpx else Transport
    return library.Client(transport=wrap(inner=inner)), inner


def opened(client, url):
    return client.send(client.build_request("POST", url, json=ASKED), stream=True)


def collect_in_lock(ring, inner):
    """Make a cycle of this list, which nobody else holds, and collect it in the lock of the pool."""
    ring.append(ring)
    gc.disable()
    del ring
    with inner._pool._optional_thread_lock:
        gc.collect()
    gc.enable()


@pytest.mark.parametrize("is_begun", [False, True])
@both_libraries
def test_a_stream_over_another_transport_may_be_collected_in_the_lock_of_its_pool(
    library, is_begun, stormbreak_provider
):
    """Found: its finalizer closed the connection, for which httpcore takes that lock, which is a plain one."""
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
def test_so_may_the_generator_of_an_sdk_which_closes_it_at_its_end(
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


def test_a_parked_thread_may_be_told_to_go_twice_and_before_it_waits():
    parked = ParkedThread()
    parked.wait(0.0)
    parked.set()
    parked.set()
    parked.wait(5.0)
