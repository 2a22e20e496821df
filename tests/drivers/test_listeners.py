"""Events: delivered after the lock is released, to listeners that cannot fail a call."""

import asyncio
import logging
import threading

import pytest
from stage import OK, SERVER_ERROR, TARGET, policy
from table_test import table_test

from stormbreak.core import attempt as attempt_module
from stormbreak.core import call_state as trail_module
from stormbreak.core.backoff import Backoff
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.core.retry import RetryPolicy
from stormbreak.drivers import flow_stepper as steps_module
from stormbreak.drivers.flow_stepper import Stepper
from stormbreak.drivers.virtual_time import Timeline, VirtualDriver
from stormbreak.events import CallEnded, Sent
from stormbreak.types import Call


def bench(*listeners):
    engine = Engine(policy())
    engine.listeners.extend(listeners)
    return Stepper(engine, clock=lambda: 0.0, chance=lambda: 0.5)


def one_call(stepper, number=1):
    flow, _ = stepper.start(Call(number, TARGET))
    return stepper.step(flow, OK)[1]


def test_listeners_get_events_in_order():
    events = []
    one_call(bench(lambda event: events.append(type(event).__name__)))

    assert events == ["Sent", "Returned", "CallEnded"]


def test_listeners_run_after_the_lock_is_released():
    served = []

    def listener(event):
        if isinstance(event, Sent) and not served:
            served.append(None)
            other = threading.Thread(target=lambda: served.append(one_call(stepper, 2)))
            other.start()
            other.join(10.0)
            assert not other.is_alive(), "deadlock"

    stepper = bench(listener)
    one_call(stepper)

    assert served[1].outcome == OK


def test_an_exception_of_a_listener_is_logged_once_and_fails_no_call(caplog):
    events = []

    def broken(event):
        raise LookupError("a bug")

    stepper = bench(broken, events.append)
    with caplog.at_level(logging.ERROR, "stormbreak"):
        assert one_call(stepper).outcome == OK

    assert len(events) == 3
    assert [record.exc_info[0] for record in caplog.records] == [LookupError]


def test_each_broken_listener_is_logged(caplog):
    def broken(event):
        raise LookupError

    def broken_too(event):
        raise OSError

    one_call(bench(broken, broken_too))

    assert [record.exc_info[0] for record in caplog.records] == [LookupError, OSError]


class _Slotted:
    """A listener without weak references."""

    __slots__ = ()

    def __call__(self, event):
        raise LookupError


def _plain(event):
    raise LookupError


@pytest.mark.parametrize("first", [_plain, _Slotted()], ids=["function", "slots"])
def test_a_new_listener_with_the_id_of_a_former_one_is_logged(caplog, monkeypatch, first):
    def second(event):
        raise OSError

    monkeypatch.setattr(steps_module, "id", lambda _: 1, raising=False)
    stepper = bench(first)
    one_call(stepper)
    stepper.engine.listeners[:] = [second]
    one_call(stepper, 2)
    one_call(stepper, 3)

    assert [record.exc_info[0] for record in caplog.records] == [LookupError, OSError]


@pytest.mark.parametrize("kind", [Sent, CallEnded])
def test_a_listener_may_not_call_its_own_engine(caplog, kind):
    def listener(event):
        if isinstance(event, kind):
            stepper.start(Call(2, TARGET))

    stepper = bench(listener)
    assert one_call(stepper).outcome == OK

    assert [record.exc_info[0] for record in caplog.records] == [RuntimeError]
    assert stepper.engine.target_state(TARGET).slots.in_flight == 0
    assert not stepper._delivering


def test_a_listener_may_remove_itself_during_delivery():
    events = []

    def leaves(event):
        events.append(event)
        stepper.engine.listeners.remove(leaves)

    stepper = bench(leaves)
    one_call(stepper)

    assert len(events) == 1


def test_no_event_is_built_without_listeners(monkeypatch):
    def never(*values):
        raise AssertionError("built an event")

    for module, name in [
        (attempt_module, "Sent"),
        (attempt_module, "Returned"),
        (trail_module, "CallEnded"),
    ]:
        monkeypatch.setattr(module, name, never)

    assert one_call(bench()).outcome == OK


def test_a_call_keeps_its_last_64_events():
    retry = RetryPolicy(max_attempts=100, backoff=Backoff(kind="constant", initial_delay=1.0))
    engine, timeline, ends = Engine(policy(retry=retry)), Timeline(), []
    driver = VirtualDriver(engine, timeline)
    driver.start(Call(1, TARGET), lambda send, reply: reply(SERVER_ERROR), ends.append)
    timeline.run()

    assert (ends[0].attempts, len(ends[0].history)) == (100, 64)


def test_a_waker_is_called_once_and_outside_the_lock():
    engine = Engine(policy(limit=FixedLimit(max_in_flight=1)))
    stepper = Stepper(engine, clock=lambda: 0.0, chance=lambda: 0.5)
    first, _ = stepper.start(Call(1, TARGET))
    _, waiting = stepper.start(Call(2, TARGET))
    woken = []

    def take_the_lock():
        woken.append(stepper._lock.acquire(timeout=5.0))
        stepper._lock.release()

    def wake():
        taker = threading.Thread(target=take_the_lock)
        taker.start()
        taker.join()

    assert stepper.arm(waiting.ticket, wake)
    stepper.step(first, OK)
    assert woken == [True]
    assert not stepper.arm(waiting.ticket, wake)  # it is already woken


@pytest.mark.parametrize("kind", [asyncio.CancelledError, GeneratorExit])
def test_a_listener_cannot_cancel_a_call(kind, caplog):
    """A bug: an answer that had been paid for was lost."""
    events = []

    def broken(event):
        raise kind

    assert one_call(bench(broken, events.append)).outcome == OK
    assert len(events) == 3
    assert len(caplog.records) == 1


@table_test("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_listener_leaves_no_call_behind(kind):
    """A bug: the slot of a call that no caller had yet was never freed."""

    def interrupted(event):
        if isinstance(event, Sent):
            raise kind

    stepper = bench(interrupted)
    with pytest.raises(kind):
        stepper.start(Call(1, TARGET))

    assert stepper.engine.target_state(TARGET).idle
    assert stepper.snapshot()["pending"] == []


def test_a_listener_that_closes_a_call_may_still_make_none(caplog):
    """A bug: events of the close made the driver forget that it was in a listener."""
    refused = []

    def listener(event):
        if isinstance(event, Sent) and event.call == 2:
            stepper.close(first)
            try:
                stepper.start(Call(3, TARGET))
            except RuntimeError as error:
                refused.append(str(error))

    stepper = bench(listener)
    first, _ = stepper.start(Call(1, TARGET))
    one_call(stepper, 2)

    assert refused == ["a listener may not make calls on the engine it listens to"]
    assert stepper.engine.target_state(TARGET).idle
