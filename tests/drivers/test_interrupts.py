"""A KeyboardInterrupt at any moment leaves nothing behind: no slot, no call, and no waiting thread."""

import gc
import sys
from contextlib import contextmanager, suppress
from io import BytesIO
from itertools import count

import pytest
from stage import TARGET, policy
from table_test import table_test
from thread_calls import run_call

from stormbreak.core.backoff import Backoff
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.core.flow import Send
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.drivers.blocking import run
from stormbreak.drivers.blocking_driver import BlockingDriver
from stormbreak.drivers.thread_driver import ThreadDriver
from stormbreak.functions.function_call import innermost
from stormbreak.functions.resilient import resilient
from stormbreak.types import Call, CallResult, Outcome, Verdict

OURS = ("stormbreak/core/", "stormbreak/drivers/", "stormbreak/cost/", "stormbreak/functions/")


def in_finalizer(frame):
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


@contextmanager
def interrupting(moment):
    """Raise KeyboardInterrupt at the `moment`-th place in our code at which Python looks for signals.

    It does where a function begins and where a C function has returned. Python itself ignores an exception
    in a `__del__`.
    """
    met = [0]

    def look(frame, event, _argument):
        if event not in ("call", "c_return"):
            return
        if not any(room in frame.f_code.co_filename for room in OURS) or in_finalizer(frame):
            return
        met[0] += 1
        if met[0] == moment:
            sys.setprofile(None)
            raise KeyboardInterrupt

    sys.setprofile(look)
    try:
        yield met
    finally:
        sys.setprofile(None)


def leftovers(stepper):
    snapshot = stepper.snapshot()
    (target,) = snapshot["targets"].values()
    return snapshot["pending"], target["in_flight"], target["queued"]


def every_moment(begin):
    """For each moment of the function that `begin()` returns: begin again, interrupt it there, yield the moment."""
    for moment in count(1):
        act = begin()
        with interrupting(moment) as met, suppress(KeyboardInterrupt):
            act()
        if met[0] < moment:
            assert moment > 50, "hardly anything was interrupted"
            return
        yield moment


OK, BUSY = Outcome(Verdict.OK), Outcome(Verdict.OVERLOADED)
POLICIES = {"plain": policy(limit=FixedLimit(max_in_flight=1)), "default": Policy()}


@table_test("outcomes", [[OK], [BUSY, OK]])
@table_test("name", POLICIES)
def test_an_interrupted_call_leaves_nothing_behind(outcomes, name):
    driver = None

    def begin():
        nonlocal driver
        driver = ThreadDriver(Engine(POLICIES[name]), chance=lambda: 0.0)
        answers = iter(outcomes)
        return lambda: run_call(driver, Call(1, TARGET), lambda _: next(answers))

    for moment in every_moment(begin):
        second = Call(2, TARGET, deadline_at=driver.clock() + 5.0)
        assert run_call(driver, second, lambda _: OK).outcome == OK, moment
        assert leftovers(driver._stepper) == ([], 0, 0), moment


def test_an_interrupted_call_of_a_function_leaves_nothing_behind():
    at_once = RetryPolicy(backoff=Backoff(kind="constant", initial_delay=0.0))
    rules = policy(limit=FixedLimit(max_in_flight=1), retry=at_once, deadline=20.0)
    guard = None

    def begin():
        nonlocal guard
        guard = resilient(rules, on=ValueError, target="t")
        numbers = count()
        return lambda: guard.call(lambda: 1 if next(numbers) else int("none"))

    for moment in every_moment(begin):
        assert guard.call(lambda: 2) == 2, moment
        assert leftovers(guard._loops._stepper) == ([], 0, 0), moment
        assert innermost() is None, f"{moment}: later calls would be part of it"


def by_loop(guard, make):
    for attempt in guard:
        with attempt:
            return list(make())
    return None


@pytest.mark.parametrize("act", [by_loop, lambda guard, make: list(guard.stream(make))])
def test_an_interrupted_loop_or_generator_leaves_nothing_behind(act):
    """A bug: the engine kept the error of the first attempt, whose traceback kept the call."""
    at_once = RetryPolicy(backoff=Backoff(kind="constant", initial_delay=0.0))
    rules = policy(limit=FixedLimit(max_in_flight=1), retry=at_once)
    guard = None

    def begin():
        nonlocal guard
        guard = resilient(rules, on=ValueError, target="t")
        numbers = count()

        def items():
            yield 1 if next(numbers) else int("none")

        return lambda: act(guard, items)

    for moment in every_moment(begin):
        snapshot = guard.snapshot()
        if snapshot["pending"]:
            gc.collect()  # between two lines of ours only the collector finds it
            snapshot = guard.snapshot()
        assert snapshot["pending"] == [], moment
        assert all(target["in_flight"] == 0 for target in snapshot["targets"].values()), moment


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("ends", [True, False])
def test_an_interrupted_stream_leaves_nothing_behind(ends):
    driver = None

    async def begins(_):
        return Outcome(Verdict.OK, value=BytesIO(), committed=True)

    async def answers(_):
        return OK

    def begin():
        nonlocal driver
        driver = BlockingDriver(Engine(POLICIES["plain"]))

        def act():
            delivery = run(driver.open(Call(1, TARGET, delivers=True), begins))
            if ends:
                delivery.end(OK)
            else:
                delivery.close()

        return act

    for moment in every_moment(begin):
        second = Call(2, TARGET, deadline_at=driver.clock() + 5.0)
        assert run(driver.run(second, answers)).outcome == OK, moment
        assert leftovers(driver._stepper) == ([], 0, 0), moment


def test_a_waiting_call_gets_the_slot_of_an_interrupted_one():
    stepper, waiting, woken = None, None, []

    def begin():
        nonlocal stepper, waiting
        stepper = ThreadDriver(Engine(POLICIES["plain"]))._stepper
        first, _ = stepper.start(Call(1, TARGET))
        waiting, command = stepper.start(Call(2, TARGET))
        woken.clear()
        assert stepper.arm(command.ticket, lambda: woken.append(True))

        def act():
            try:
                stepper.step(first, OK)
            except KeyboardInterrupt:
                stepper.close(first)
                raise

        return act

    for moment in every_moment(begin):
        assert woken, moment
        assert isinstance(stepper.step(waiting, None)[1], Send), moment
        assert isinstance(stepper.step(waiting, OK)[1], CallResult), moment
        assert leftovers(stepper) == ([], 0, 0), moment
