"""`detach` works from any thread and leaves the other listeners attached."""

import logging
import sys
import threading

import pytest
from clients import KEY, QUICK, SAY, client_of
from forking import in_child
from scrapes import read
from sockets import answer, served
from stage import OK, SERVER_ERROR, TARGET, policy
from traces import Traces

import stormbreak.httpx2
from stormbreak import Client, resilient
from stormbreak.core.engine import Engine
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.flow_stepper import Stepper
from stormbreak.errors import ConfigurationError
from stormbreak.events import RetryRefused
from stormbreak.telemetry import Logs, Metrics, attach, log_to
from stormbreak.telemetry.live_state import LiveState
from stormbreak.types import Call


class Recorder:
    def __init__(self):
        self.events = []
        self.watched = []

    def watch(self, engine):
        self.watched.append(engine)

    def unwatch(self, engine):
        self.watched.remove(engine)

    def __call__(self, event):
        self.events.append(event)


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def engine():
    return Engine(policy())


def stepper_on(engine):
    return Stepper(engine, clock=lambda: 100.0, chance=lambda: 0.5)


async def test_a_detached_listener_gets_no_more_events(recorder):
    async with served([answer()] * 3) as server, client_of(server) as client:
        attached = attach(client, recorder)
        await client.chat(SAY)
        events = len(recorder.events)
        attached.detach()
        await client.chat(SAY)

    assert len(recorder.events) == events == 3
    assert client.engine.listeners == recorder.watched == []


def test_subscribe_detaches_at_the_end_of_its_block(recorder):
    given = {"base_url": "http://127.0.0.1:9/v1", "api_key": KEY, "model": "m"}
    with Client(**given) as client:
        subjects = [client, resilient(QUICK, on=OSError), stormbreak.httpx2.Transport(QUICK)]
        for subject in subjects:
            with subject.subscribe(recorder):
                assert subject.engine.listeners == [recorder]
            assert subject.engine.listeners == recorder.watched == []


def test_detach_a_second_time_does_nothing(engine, recorder):
    with attach(engine, recorder, print) as attached:
        assert engine.listeners == [recorder, print]
        assert attached.listeners == (recorder, print)
    attach(engine, recorder)
    attached.detach()

    assert (engine.listeners, recorder.watched) == ([recorder], [engine])


def test_detach_keeps_an_earlier_attachment_of_the_same_listener(engine, recorder):
    first = attach(engine, recorder)
    with attach(engine, recorder, print):
        pass
    assert (engine.listeners, recorder.watched) == ([recorder], [engine])
    first.detach()
    assert (engine.listeners, recorder.watched) == ([], [])


def test_attach_attaches_all_listeners_or_none(engine, recorder):
    attach(engine, Traces().listener)
    before = list(engine.listeners)
    with pytest.raises(ConfigurationError, match="already traced"):
        attach(engine, recorder, Traces().listener)

    assert (engine.listeners, recorder.watched) == (before, [])


def test_a_listener_may_detach_itself(engine):
    events = []

    def once(event):
        events.append(event)
        attached.detach()

    attached = attach(engine, once)
    stepper = stepper_on(engine)
    stepper.step(stepper.start(Call(1, TARGET))[0], OK)

    assert len(events) == 1


def test_threads_that_attach_one_listener_attach_it_once(engine):
    class Slow(Recorder):
        def watch(self, engine):
            super().watch(engine)
            meet.wait(0.2)  # without a lock, another thread enters within this time

    slow, meet = Slow(), threading.Event()
    threads = [threading.Thread(target=attach, args=(engine, slow)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (engine.listeners, slow.watched) == ([slow], [engine])


def test_a_child_forked_during_an_attach_can_attach(engine, recorder):
    attaching, has_next = threading.Event(), threading.Event()

    class Slow(Recorder):
        def watch(self, engine):
            attaching.set()
            has_next.wait(10)

    other = threading.Thread(target=attach, args=(engine, Slow()))
    other.start()
    attaching.wait(10)
    try:
        assert in_child(lambda: attach(engine, recorder).detach() is None)
    finally:
        has_next.set()
        other.join()


def test_threads_attach_and_detach_during_calls(engine):
    stepper, recorders, over, failed = stepper_on(engine), [Recorder() for _ in range(4)], [], []

    def come_and_go(recorder):
        try:
            while not over:
                with attach(engine, recorder):
                    assert recorder.watched == [engine]
        except BaseException as error:
            failed.append(error)
            raise

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=come_and_go, args=(recorder,)) for recorder in recorders]
        for thread in threads:
            thread.start()
        for number in range(2_000):
            stepper.step(stepper.start(Call(number, TARGET))[0], OK)
    finally:
        over.append(True)
        for thread in threads:
            thread.join()
        sys.setswitchinterval(before)

    assert (failed, engine.listeners) == ([], [])
    assert any(recorder.events for recorder in recorders)


# ------------------------------------------------------------ built-in listeners


def test_detached_logs_report_their_suppressed_lines(engine, caplog):
    refused = RetryRefused(1.0, 1, TARGET, 1, OK.verdict, "budget")
    with caplog.at_level(logging.INFO, "stormbreak"), log_to(engine) as attached:
        (logs,) = attached.listeners
        assert isinstance(logs, Logs)
        for _ in range(3):
            logs(refused)
        assert len(caplog.records) == 1

    assert len(caplog.records) == 2
    assert caplog.records[1].stormbreak_suppressed == 2
    assert engine.listeners == []


def test_detached_metrics_keep_counters_and_drop_gauges(engine):
    metrics, stepper = Metrics(), stepper_on(engine)
    with attach(engine, metrics):
        flow, _ = stepper.start(Call(1, TARGET))
        assert "stormbreak_attempts_in_flight" in names(metrics)
    stepper.step(flow, OK)

    assert "stormbreak_attempts_sent_total" in names(metrics)
    assert not {"stormbreak_attempts_in_flight", "stormbreak_calls_total"} & names(metrics)


def names(metrics):
    return {name for name, _ in read(metrics.exposition()[1])}


def test_a_detached_live_state_shows_no_targets(engine):
    watch, stepper = LiveState(), stepper_on(engine)
    with attach(engine, watch):
        flow, _ = stepper.start(Call(1, TARGET))
        assert [target.in_flight for target in watch.state().targets] == [1]
    assert watch.state().targets == ()
    stepper.close(flow)


def test_detached_tracing_ends_open_spans_and_frees_the_engine(engine):
    first, second, stepper = Traces(), Traces(), stepper_on(engine)
    attached = attach(engine, first.listener)
    stepper.step(stepper.start(Call(1, TARGET))[0], OK)
    flow, _ = stepper.start(Call(2, TARGET))
    spans = engine.context_listener
    attached.detach()
    finished = [span.attributes.get("stormbreak.unfinished") for span in first.below(None)]

    assert finished == [None, True]
    assert (engine.context_listener, engine.listeners) == (None, [])
    spans.begins(Call(3, TARGET), 0.0)  # from a thread that was about to call it
    assert [span.attributes.get("stormbreak.unfinished") for span in first.below(None)] == [
        None, True, True,
    ]  # fmt: skip
    attach(engine, second.listener)
    stepper.step(flow, SERVER_ERROR)
    assert len(first.below(None)) == 3


async def test_tracing_detached_while_a_call_begins_fails_no_call(engine):
    traces = Traces()
    attach(engine, traces.listener)

    class Fleeting(Engine):
        """Has a context listener at every second read."""

        companions = (None, engine.context_listener)

        @property
        def context_listener(self):
            self.companions = self.companions[::-1]
            return self.companions[0]

        @context_listener.setter
        def context_listener(self, _):
            pass

    async def sender(_):
        return OK

    driver = AsyncioDriver(Fleeting(policy()))
    for number in range(3):
        assert (await driver.run(Call(number, TARGET), sender)).outcome == OK
