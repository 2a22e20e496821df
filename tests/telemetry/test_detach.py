"""The way back: what was attached is detached, by whichever thread, and whoever else listens goes on hearing."""

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


class Ear:
    def __init__(self):
        self.heard = []
        self.watched = []

    def watch(self, engine):
        self.watched.append(engine)

    def unwatch(self, engine):
        self.watched.remove(engine)

    def __call__(self, event):
        self.heard.append(event)


@pytest.fixture
def ear():
    return Ear()


@pytest.fixture
def engine():
    return Engine(policy())


def stepper_on(engine):
    return Stepper(engine, clock=lambda: 100.0, chance=lambda: 0.5)


async def test_of_a_client_nothing_more_is_heard(ear):
    async with served([answer()] * 3) as server, client_of(server) as client:
        attached = attach(client, ear)
        await client.chat(SAY)
        heard = len(ear.heard)
        attached.detach()
        await client.chat(SAY)

    assert len(ear.heard) == heard == 3
    assert client.engine.listeners == ear.watched == []


def test_whatever_subscribes_can_go_again(ear):
    given = {"base_url": "http://127.0.0.1:9/v1", "api_key": KEY, "model": "m"}
    with Client(**given) as client:
        subjects = [client, resilient(QUICK, on=OSError), stormbreak.httpx2.Transport(QUICK)]
        for subject in subjects:
            with subject.subscribe(ear):
                assert subject.engine.listeners == [ear]
            assert subject.engine.listeners == ear.watched == []


def test_in_a_with_until_its_end_and_a_second_time_does_nothing(engine, ear):
    with attach(engine, ear, print) as attached:
        assert engine.listeners == [ear, print]
        assert attached.listeners == (ear, print)
    attach(engine, ear)
    attached.detach()

    assert (engine.listeners, ear.watched) == ([ear], [engine])


def test_who_heard_it_before_goes_on_hearing(engine, ear):
    first = attach(engine, ear)
    with attach(engine, ear, print):
        pass
    assert (engine.listeners, ear.watched) == ([ear], [engine])
    first.detach()
    assert (engine.listeners, ear.watched) == ([], [])


def test_if_one_cannot_be_attached_none_is(engine, ear):
    attach(engine, Traces().listener)
    before = list(engine.listeners)
    with pytest.raises(ConfigurationError, match="traced already"):
        attach(engine, ear, Traces().listener)

    assert (engine.listeners, ear.watched) == (before, [])


def test_a_listener_may_detach_itself(engine):
    heard = []

    def once(event):
        heard.append(event)
        attached.detach()

    attached = attach(engine, once)
    stepper = stepper_on(engine)
    stepper.step(stepper.start(Call(1, TARGET))[0], OK)

    assert len(heard) == 1


def test_threads_that_attach_the_same_at_once_attach_it_once(engine):
    class Slow(Ear):
        def watch(self, engine):
            super().watch(engine)
            meet.wait(0.2)  # whoever does not wait for its turn comes by now

    slow, meet = Slow(), threading.Event()
    threads = [threading.Thread(target=attach, args=(engine, slow)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (engine.listeners, slow.watched) == ([slow], [engine])


def test_a_child_of_a_process_that_is_attaching_attaches_as_well(engine, ear):
    attaching, has_next = threading.Event(), threading.Event()

    class Slow(Ear):
        def watch(self, engine):
            attaching.set()
            has_next.wait(10)

    other = threading.Thread(target=attach, args=(engine, Slow()))
    other.start()
    attaching.wait(10)
    try:
        assert in_child(lambda: attach(engine, ear).detach() is None)
    finally:
        has_next.set()
        other.join()


def test_threads_come_and_go_in_the_middle_of_calls(engine):
    stepper, ears, over, failed = stepper_on(engine), [Ear() for _ in range(4)], [], []

    def come_and_go(ear):
        try:
            while not over:
                with attach(engine, ear):
                    assert ear.watched == [engine]
        except BaseException as error:
            failed.append(error)
            raise

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=come_and_go, args=(ear,)) for ear in ears]
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
    assert any(ear.heard for ear in ears)


# ------------------------------------------------------------ what ours do when they go


def test_logs_tell_what_they_left_out(engine, caplog):
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


def test_metrics_keep_what_they_counted_and_forget_what_stands(engine):
    metrics, stepper = Metrics(), stepper_on(engine)
    with attach(engine, metrics):
        flow, _ = stepper.start(Call(1, TARGET))
        assert "stormbreak_attempts_in_flight" in names(metrics)
    stepper.step(flow, OK)

    assert "stormbreak_attempts_sent_total" in names(metrics)
    assert not {"stormbreak_attempts_in_flight", "stormbreak_calls_total"} & names(metrics)


def names(metrics):
    return {name for name, _ in read(metrics.exposition()[1])}


def test_a_watch_asks_no_more(engine):
    watch, stepper = LiveState(), stepper_on(engine)
    with attach(engine, watch):
        flow, _ = stepper.start(Call(1, TARGET))
        assert [target.in_flight for target in watch.state().targets] == [1]
    assert watch.state().targets == ()
    stepper.close(flow)


def test_spans_that_are_open_end_unfinished_and_others_may_trace(engine):
    first, second, stepper = Traces(), Traces(), stepper_on(engine)
    attached = attach(engine, first.listener)
    stepper.step(stepper.start(Call(1, TARGET))[0], OK)
    flow, _ = stepper.start(Call(2, TARGET))
    spans = engine.context_listener
    attached.detach()
    finished = [span.attributes.get("stormbreak.unfinished") for span in first.below(None)]

    assert finished == [None, True]
    assert (engine.context_listener, engine.listeners) == (None, [])
    spans.begins(Call(3, TARGET), 0.0)  # of a thread that was about to tell it
    assert [span.attributes.get("stormbreak.unfinished") for span in first.below(None)] == [
        None, True, True,
    ]  # fmt: skip
    attach(engine, second.listener)
    stepper.step(flow, SERVER_ERROR)
    assert len(first.below(None)) == 3


async def test_tracing_that_goes_as_a_call_begins_fails_no_call(engine):
    traces = Traces()
    attach(engine, traces.listener)

    class Fleeting(Engine):
        """There whenever it is asked, and gone a moment later."""

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
