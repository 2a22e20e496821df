import asyncio
import contextlib
import json
import logging
import random
import threading
from math import inf

import pytest

from stormbreak import BreakerPolicy, CircuitBreaker, CircuitOpenError, ConfigurationError, Judge
from stormbreak.core.circuit import Mode, State
from stormbreak.core.trip import (
    AnyRule,
    ConsecutiveFailures,
    FailureRate,
    SlowRate,
    SlowRateOfLast,
)
from stormbreak.drivers.circuit_breaker import BreakerMetrics

FRAGILE = BreakerPolicy(
    trip=ConsecutiveFailures(threshold=2), open_for=10.0, jitter=0.0, probes=1, at_once=1
)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def breaker(policy=FRAGILE, **changes):
    clock = Clock()
    circuit = CircuitBreaker(
        policy, **{"clock": clock, "wall_clock": clock, "chance": lambda: 0.5, **changes}
    )
    circuit.time = clock
    return circuit


def fail():
    raise ValueError


def fail_until_open(circuit):
    while circuit.state is State.CLOSED:
        with pytest.raises(ValueError):
            circuit.call(fail)
    return circuit


def by_call(circuit, function):
    return circuit.call(function)


def by_decorator(circuit, function):
    return circuit(function)()


def by_context(circuit, function):
    with circuit.attempt() as attempt:
        result = function()
        attempt.judge(result)
        return result


def by_async_call(circuit, function):
    async def asynchronous():
        return function()

    return asyncio.run(circuit.async_call(asynchronous))


def by_async_decorator(circuit, function):
    @circuit
    async def asynchronous():
        return function()

    return asyncio.run(asynchronous())


WAYS = [by_call, by_decorator, by_context, by_async_call, by_async_decorator]


@pytest.mark.parametrize("way", WAYS)
def test_all_ways_do_the_same(way):
    circuit = breaker(name="prices", judge=Judge(failed_result=lambda result: result is None))
    assert way(circuit, lambda: 3) == 3
    with pytest.raises(ValueError):
        way(circuit, fail)
    assert way(circuit, lambda: None) is None  # the second failure
    assert circuit.state is State.OPEN

    with pytest.raises(
        CircuitOpenError, match=r"^prices: the circuit is open; come back in 10.0 s$"
    ):
        way(circuit, lambda: 3)
    circuit.time.now += 10.0
    assert way(circuit, lambda: 4) == 4
    assert circuit.state is State.CLOSED


def test_arguments_and_names_pass_through():
    circuit = breaker()

    @circuit
    def add(left, right=1):
        """Add."""
        return left + right

    assert (add(1), add(1, right=2), add.__name__, add.__doc__) == (2, 3, "add", "Add.")
    assert circuit.call(add, 2, right=5) == 7


def test_a_rejection_says_when_to_come_back():
    circuit = fail_until_open(breaker())
    circuit.time.now += 4.0
    with pytest.raises(CircuitOpenError) as caught:
        circuit.call(fail)

    assert caught.value.policy == "breaker"
    assert caught.value.retry_at == circuit.time.now + 6.0
    assert circuit.retry_in == 6.0


def test_an_isolated_circuit_does_not_know():
    circuit = breaker()
    assert circuit.retry_in == 0.0
    circuit.isolate()
    assert circuit.retry_in is None
    with pytest.raises(CircuitOpenError, match=r"the circuit is isolated$") as caught:
        circuit.call(fail)
    assert caught.value.retry_at is None
    circuit.reset()
    assert circuit.call(lambda: 1) == 1


def test_the_second_of_two_probes_is_rejected():
    circuit = fail_until_open(breaker())
    circuit.time.now += 10.0
    half_open = r"the circuit is half-open; come back in 60\.0 s"
    with circuit.attempt(), pytest.raises(CircuitOpenError, match=half_open):
        circuit.call(fail)
    assert circuit.state is State.CLOSED


@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
def test_a_cancelled_probe_gives_its_place_back_uncounted(error):
    circuit = fail_until_open(breaker())
    circuit.time.now += 10.0
    with pytest.raises(error), circuit.attempt():
        raise error
    assert (circuit.state, circuit.retry_in) == (State.HALF_OPEN, 0.0)


async def test_cancelling_async_call_frees_its_place():
    circuit = fail_until_open(breaker())
    circuit.time.now += 10.0
    task = asyncio.ensure_future(circuit.async_call(asyncio.Event().wait))
    await asyncio.sleep(0)
    assert circuit.retry_in == 60.0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (circuit.state, circuit.retry_in) == (State.HALF_OPEN, 0.0)


async def test_a_cancel_by_the_users_own_timeout_is_a_slow_call():
    slow = SlowRateOfLast(share=1.0, slower_than=5.0, calls=2, last=2)
    circuit = breaker(BreakerPolicy(trip=slow))

    async def hang():
        circuit.time.now += 5.0
        await asyncio.Event().wait()

    for _ in range(2):
        assert circuit.state is State.CLOSED
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(circuit.async_call(hang), 0.001)
    assert circuit.state is State.OPEN


def test_an_asynchronous_function_is_not_called_by_mistake():
    async def asynchronous():
        """Never awaited."""

    circuit = breaker(BreakerPolicy(trip=ConsecutiveFailures(threshold=1)))
    with pytest.raises(TypeError, match="needs async_call"):
        circuit.call(asynchronous)
    assert circuit.state is State.CLOSED


def test_a_generator_is_not_decorated():
    def numbers():
        yield 1

    async def more():
        yield 1

    for generator in (numbers, more):
        with pytest.raises(TypeError, match="a generator has done nothing yet"):
            breaker()(generator)


def test_an_attempt_is_entered_once():
    attempt = breaker().attempt()
    with attempt, pytest.raises(RuntimeError, match="entered once"):
        attempt.__enter__()


def test_what_is_raised_goes_before_what_was_judged():
    circuit = breaker(BreakerPolicy(trip=ConsecutiveFailures(threshold=1)))

    def judged_too_early():
        with circuit.attempt() as attempt:
            attempt.judge("fine")
            fail()

    with pytest.raises(ValueError):
        judged_too_early()

    assert circuit.state is State.OPEN


def test_a_judge_that_fails_leaves_nothing_behind():
    def broken(_):
        raise RuntimeError("broken judge")

    circuit = fail_until_open(breaker())
    circuit.judge = Judge(failed_result=broken, outcome_of=broken)
    circuit.time.now += 10.0
    for function in (fail, lambda: 1):
        with pytest.raises(RuntimeError, match="broken judge"):
            circuit.call(function)
        assert circuit.retry_in == 0.0


def test_a_server_may_keep_it_open():
    def overloaded():
        error = OSError()
        error.status_code, error.headers = 503, {"Retry-After": "60"}
        raise error

    circuit = breaker()
    for _ in range(2):
        with pytest.raises(OSError):
            circuit.call(overloaded)

    assert circuit.retry_in == 75.0


def test_changes_are_told_outside_of_the_lock_and_trouble_there_fails_no_call(caplog):
    told = []

    def listen(before, after):
        told.append((before, after, circuit.retry_in))
        raise RuntimeError("broken listener")

    circuit = breaker(on_change=listen)
    with caplog.at_level(logging.ERROR, "stormbreak"):
        fail_until_open(circuit)
        circuit.time.now += 10.0
        circuit.call(lambda: 1)

    assert told == [
        (State.CLOSED, State.OPEN, 10.0),
        (State.OPEN, State.HALF_OPEN, 60.0),
        (State.HALF_OPEN, State.CLOSED, 0.0),
    ]
    assert "broken listener" in caplog.text


def test_state_is_saved_and_restored_and_the_time_between_counts():
    circuit = fail_until_open(breaker())
    circuit.time.now += 1.0
    text = json.dumps(circuit.save())
    other = breaker(clock=lambda: 5.0, wall_clock=lambda: circuit.time.now + 3.0)
    other.restore(json.loads(text))

    assert (other.state, other.retry_in) == (State.OPEN, 6.0)


def test_a_wall_clock_that_went_back_shortens_nothing():
    circuit = fail_until_open(breaker())
    other = breaker(wall_clock=lambda: 0.0)
    other.restore(circuit.save())

    assert other.retry_in == 10.0


@pytest.mark.parametrize("saved_at", [None, inf, "now"])
def test_bad_saved_state_changes_nothing(saved_at):
    circuit = fail_until_open(breaker())
    with pytest.raises(ConfigurationError, match="saved_at must be a finite number"):
        circuit.restore({**circuit.save(), "state": "closed", "saved_at": saved_at})
    assert circuit.state is State.OPEN


@pytest.mark.parametrize("values", [None, [], "open"])
def test_what_is_no_saved_state_is_refused(values):
    with pytest.raises(ConfigurationError, match="a saved circuit must be a table"):
        breaker().restore(values)


def test_metrics_only_says_how_often_it_would_have_opened():
    circuit = breaker(BreakerPolicy(mode=Mode.METRICS_ONLY, trip=ConsecutiveFailures(threshold=2)))
    for _ in range(5):
        with pytest.raises(ValueError):
            circuit.call(fail)

    assert (circuit.state, circuit.trips) == (State.CLOSED, 2)


def test_threads_share_the_probes():
    policy = BreakerPolicy(
        trip=ConsecutiveFailures(threshold=1), open_for=10.0, jitter=0.0, probes=2, at_once=2,
        close_at=1.0,
    )  # fmt: skip
    circuit = fail_until_open(breaker(policy))
    circuit.time.now += 10.0
    inside, go, passed, rejected = threading.Semaphore(0), threading.Event(), [], []

    def probe():
        inside.release()
        assert go.wait(10)
        return 1

    def use():
        try:
            passed.append(circuit.call(probe))
        except CircuitOpenError:
            rejected.append(1)
            inside.release()

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert inside.acquire(timeout=10)
    go.set()
    for thread in threads:
        thread.join(10)

    assert (len(passed), len(rejected), circuit.state) == (2, 6, State.CLOSED)


def test_numbers_that_nothing_sensible_comes_of_are_refused():
    with pytest.raises(
        ConfigurationError, match=r"open_for must be at least 1e-06 and at most 1e\+12"
    ):
        CircuitBreaker(BreakerPolicy(open_for=1e308))


def test_a_trial_that_is_over_by_its_time_counts_as_open():
    circuit = breaker(BreakerPolicy(trip=ConsecutiveFailures(threshold=1), longest_half_open=20.0))
    fail_until_open(circuit)
    circuit.time.now += circuit.retry_in
    probe = circuit.attempt()
    probe.__enter__()
    assert circuit.state is State.HALF_OPEN
    circuit.time.now += 20.0

    assert circuit.retry_in > 0.0
    assert (circuit.state, circuit.metrics.state) == (State.OPEN, State.OPEN)


def status(code, retry_after):
    error = OSError()
    error.status_code, error.headers = code, {"Retry-After": str(retry_after)}
    return error


def raises(error):
    def function():
        raise error

    return function


@pytest.mark.parametrize("code", [429, 503])
def test_a_probe_that_is_told_to_come_back_later_keeps_the_next_ones_until_then(code):
    circuit = breaker(BreakerPolicy(trip=ConsecutiveFailures(threshold=2)))
    fail_until_open(circuit)
    circuit.time.now += circuit.retry_in
    with pytest.raises(OSError):
        circuit.call(raises(status(code, 40)))

    assert (circuit.state, circuit.retry_in) == (State.HALF_OPEN, 50.0)
    with pytest.raises(CircuitOpenError, match=r"half-open; come back in 50\.0 s"):
        circuit.call(fail)
    circuit.time.now += 50.0
    assert circuit.call(lambda: 1) == 1


def test_a_policy_that_heeds_no_named_time_does_not_in_a_trial_either():
    circuit = breaker(BreakerPolicy(trip=ConsecutiveFailures(threshold=2), heed_server=False))
    fail_until_open(circuit)
    circuit.time.now += circuit.retry_in
    with pytest.raises(OSError):
        circuit.call(raises(status(429, 40)))

    assert circuit.retry_in == 0.0


@pytest.mark.parametrize("way", WAYS)
def test_a_failed_result_function_that_raises_is_no_failure_of_the_target(way):
    def broken(result):
        return result["missing"]

    circuit = breaker(judge=Judge(failed_result=broken))
    for _ in range(5):
        with pytest.raises(KeyError):
            way(circuit, dict)

    assert (circuit.state, circuit.metrics.failures) == (State.CLOSED, 0)


@pytest.mark.parametrize("name", ["failures", "ignored"])
def test_exception_classes_may_be_given_alone_or_in_any_collection(name):
    for given in (KeyError, [KeyError], {KeyError}, (KeyError,)):
        assert getattr(Judge(**{name: given}), name) == (KeyError,)


@pytest.mark.parametrize("name", ["failures", "ignored"])
@pytest.mark.parametrize("given", [["KeyError"], KeyError("x"), int, 3, None, "KeyError"])
def test_what_is_no_exception_class_is_refused_when_the_judge_is_made(name, given):
    with pytest.raises(ConfigurationError, match=f"{name} must hold exception classes"):
        Judge(**{name: given})


async def asynchronous(_):
    """Its result is true, whatever it would come to."""


@pytest.mark.parametrize("given", [3, "is_none", asynchronous])
@pytest.mark.parametrize("name", ["failed_result", "outcome_of"])
def test_what_is_no_function_is_refused_when_the_judge_is_made(name, given):
    with pytest.raises(ConfigurationError, match=f"{name} must be a function"):
        Judge(**{name: given})


@pytest.mark.parametrize(
    ("argument", "given"),
    [
        ("policy", "normal"),
        ("judge", lambda error: True),
        ("on_change", 3),
        ("on_change", asynchronous),
        ("name", None),
    ],
)
def test_an_argument_of_the_wrong_type_is_refused_when_the_breaker_is_made(argument, given):
    with pytest.raises(ConfigurationError, match=f"{argument} must be a "):
        CircuitBreaker(**{argument: given})


def test_an_outcome_of_function_that_gives_something_else_frees_the_place():
    circuit = fail_until_open(breaker(FRAGILE))
    circuit.judge = Judge(outcome_of=lambda error: True)
    circuit.time.now += 10.0
    with pytest.raises(TypeError, match="outcome_of must give an Outcome or None, got bool"):
        circuit.call(fail)

    assert (circuit.state, circuit.retry_in) == (State.HALF_OPEN, 0.0)


def test_metrics_are_those_of_the_window_and_forget_with_it():
    rules = (FailureRate(calls=10, seconds=10.0), SlowRate(slower_than=5.0, seconds=60.0))
    circuit = breaker(BreakerPolicy(trip=AnyRule(rules=rules)))
    empty = BreakerMetrics(
        state=State.CLOSED, calls=0, failures=0, slow_calls=0, failure_rate=None,
        slow_call_rate=None, rejected=0, trips=0,
    )  # fmt: skip
    assert circuit.metrics == empty

    for _ in range(3):
        circuit.call(lambda: 1)
    with pytest.raises(ValueError):
        circuit.call(fail)
    with circuit.attempt():
        circuit.time.now += 6.0
    seen = circuit.metrics
    assert (seen.calls, seen.failures, seen.slow_calls) == (5, 1, 1)
    assert (seen.failure_rate, seen.slow_call_rate) == (0.2, 0.2)

    circuit.time.now += 30.0
    later = circuit.metrics
    assert (later.failures, later.failure_rate, later.slow_call_rate) == (0, None, 0.2)
    circuit.time.now += 60.0
    assert circuit.metrics == empty


def test_metrics_count_calls_that_were_rejected_and_how_often_it_opened():
    circuit = fail_until_open(breaker())
    for _ in range(3):
        with pytest.raises(CircuitOpenError):
            circuit.call(fail)

    assert (circuit.metrics.rejected, circuit.metrics.trips) == (3, 1)


def test_failures_in_a_row_are_the_metrics_of_that_rule():
    circuit = breaker(BreakerPolicy(trip=ConsecutiveFailures(threshold=9)))
    for _ in range(4):
        with pytest.raises(ValueError):
            circuit.call(fail)

    seen = circuit.metrics
    assert (seen.calls, seen.failures, seen.failure_rate) == (4, 4, None)


def test_isolated_for_a_time_says_when_to_come_back_and_lets_a_probe_pass_then():
    circuit = breaker()
    circuit.isolate(duration=30.0)
    with pytest.raises(CircuitOpenError, match=r"isolated; come back in 30\.0 s"):
        circuit.call(fail)
    circuit.time.now += 30.0
    assert circuit.call(lambda: 1) == 1
    assert circuit.state is State.CLOSED


def test_changes_are_delivered_in_order_and_one_at_a_time_over_threads():
    first, go = threading.Event(), threading.Event()
    seen = []

    def listen(before, after):
        seen.append((before, after))
        if len(seen) == 1:
            first.set()
            assert go.wait(10)

    circuit = breaker(on_change=listen)
    slow = threading.Thread(target=circuit.isolate)
    slow.start()
    assert first.wait(10)
    circuit.reset()  # the lock is free while the listener runs, and this does not overtake it
    circuit.isolate()
    assert seen == [(State.CLOSED, State.ISOLATED)]
    go.set()
    slow.join(10)

    assert seen == [
        (State.CLOSED, State.ISOLATED),
        (State.ISOLATED, State.CLOSED),
        (State.CLOSED, State.ISOLATED),
    ]


def test_a_change_that_a_listener_makes_is_delivered_after_its_own():
    seen = []

    def listen(before, after):
        seen.append(("begins", after))
        if after is State.ISOLATED:
            circuit.reset()
        seen.append(("ends", after))

    circuit = breaker(on_change=listen)
    circuit.isolate()

    assert seen == [
        ("begins", State.ISOLATED),
        ("ends", State.ISOLATED),
        ("begins", State.CLOSED),
        ("ends", State.CLOSED),
    ]


def call_each(circuit, outcomes, *, every=1.0):
    """Call once `every` so many seconds: True is a success. How many calls passed."""
    passed = 0
    for well in outcomes:
        circuit.time.now += every
        with contextlib.suppress(ValueError, CircuitOpenError), circuit.attempt():
            passed += 1
            if not well:
                fail()
    return passed


@pytest.mark.parametrize("successes", [0, 1, 100])
def test_by_default_a_dead_function_opens_it_after_eight_failures(successes):
    circuit = breaker(None)
    assert call_each(circuit, [True] * successes + [False] * 7) == successes + 7
    assert circuit.state is State.CLOSED
    call_each(circuit, [False])

    assert (circuit.state, circuit.trips) == (State.OPEN, 1)
    assert circuit.retry_in == 0.75


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("share", "trips"), [(0.2, 0), (0.5, 2)])
def test_by_default_failures_beside_successes_hardly_ever_open_it(share, trips, seed):
    """Of a thousand rows that end with a success, chance may make one too long."""
    chance = random.Random(seed)
    circuit = breaker(None)
    passed = call_each(circuit, (chance.random() >= share for _ in range(500)))

    assert circuit.trips <= trips
    assert passed >= 500 - 5 * trips


def test_by_default_it_stays_closed_while_every_second_call_fails():
    circuit = breaker(None)
    call_each(circuit, [False, True] * 250)

    assert (circuit.state, circuit.trips) == (State.CLOSED, 0)


def test_by_default_a_row_of_failures_that_is_usual_does_not_open_it_and_one_that_is_not_does():
    circuit = breaker(None)
    call_each(circuit, ([False] * 5 + [True]) * 100)
    assert call_each(circuit, [False] * 20) == 20
    assert circuit.state is State.CLOSED
    call_each(circuit, [False] * 40)

    assert circuit.trips == 1


def test_by_default_metrics_show_the_last_ten_seconds():
    circuit = breaker(None)
    call_each(circuit, [True, True, True, False])
    seen = circuit.metrics
    assert (seen.calls, seen.failures, seen.failure_rate) == (4, 1, 0.25)
    assert (seen.slow_calls, seen.slow_call_rate) == (0, None)
    circuit.time.now += 30.0

    assert circuit.metrics.failure_rate is None


@pytest.mark.parametrize("error", [None, ValueError()])
@pytest.mark.parametrize("probes", [1, 2])
def test_by_default_what_left_before_it_opened_does_not_open_it_again(error, probes):
    """Twenty are under way when it opens, and end when it is closed again or not at all."""
    circuit = breaker(BreakerPolicy(jitter=0.0, close_at=probes / 3))
    call_each(circuit, [True] * 64)  # what is usual is known
    circuit.time.now += 1.0
    old = [circuit.attempt() for _ in range(20)]
    for attempt in old:
        attempt.__enter__()
    call_each(circuit, [False] * 8, every=0.01)
    assert circuit.state is State.OPEN
    for attempt in old[:10]:
        attempt.__exit__(type(error), error, None)
    call_each(circuit, [True] * probes)
    assert circuit.state is State.CLOSED
    for attempt in old[10:15]:
        attempt.__exit__(type(error), error, None)
    call_each(circuit, [False] * 7)

    assert (circuit.state, circuit.trips) == (State.CLOSED, 1)
