import asyncio
import json
import threading
from math import inf

import pytest
from circuits import FRAGILE, breaker, fail, fail_until_open
from table_test import table_test

from stormbreak import BreakerPolicy, CircuitBreaker, CircuitOpenError, ConfigurationError, Judge
from stormbreak.core.breaker_policy import State
from stormbreak.core.trip import ConsecutiveFailures, SlowRate


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


@table_test("way", WAYS)
def test_all_ways_to_call_are_equivalent(way):
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


def test_a_rejection_names_the_time_to_retry():
    circuit = fail_until_open(breaker())
    circuit.time.now += 4.0
    with pytest.raises(CircuitOpenError) as caught:
        circuit.call(fail)

    assert caught.value.policy == "breaker"
    assert caught.value.retry_at == circuit.time.now + 6.0
    assert circuit.retry_in == 6.0


def test_an_isolated_circuit_names_no_time_to_retry():
    circuit = breaker()
    assert circuit.retry_in == 0.0
    circuit.isolate()
    assert circuit.retry_in is None
    with pytest.raises(CircuitOpenError, match=r"the circuit is isolated$") as caught:
        circuit.call(fail)
    assert caught.value.retry_at is None
    circuit.reset()
    assert circuit.call(lambda: 1) == 1


def test_a_second_probe_in_flight_is_rejected():
    circuit = fail_until_open(breaker())
    circuit.time.now += 10.0
    half_open = r"the circuit is half-open; come back in 60\.0 s"
    with circuit.attempt(), pytest.raises(CircuitOpenError, match=half_open):
        circuit.call(fail)
    assert circuit.state is State.CLOSED


@table_test("error", [KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
def test_a_cancelled_probe_frees_its_place_uncounted(error):
    circuit = fail_until_open(breaker())
    circuit.time.now += 10.0
    with pytest.raises(error), circuit.attempt():
        raise error
    assert (circuit.state, circuit.retry_in) == (State.HALF_OPEN, 0.0)


async def test_a_cancelled_async_call_frees_its_place():
    circuit = fail_until_open(breaker())
    circuit.time.now += 10.0
    task = asyncio.ensure_future(circuit.async_call(asyncio.Event().wait))
    await asyncio.sleep(0)
    assert circuit.retry_in == 60.0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (circuit.state, circuit.retry_in) == (State.HALF_OPEN, 0.0)


async def test_a_cancel_by_the_timeout_of_a_user_counts_as_a_slow_call():
    slow = SlowRate(ratio=1.0, slow_call_threshold=5.0, min_calls=2, window_calls=2)
    circuit = breaker(BreakerPolicy(trip=slow))

    async def hang():
        circuit.time.now += 5.0
        await asyncio.Event().wait()

    for _ in range(2):
        assert circuit.state is State.CLOSED
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(circuit.async_call(hang), 0.001)
    assert circuit.state is State.OPEN


def test_call_refuses_an_async_function_without_counting():
    async def asynchronous():
        """Never awaited."""

    circuit = breaker(BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=1)))
    with pytest.raises(TypeError, match="use async_call"):
        circuit.call(asynchronous)
    assert circuit.state is State.CLOSED


def test_a_generator_function_cannot_be_decorated():
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


def test_an_exception_overrides_an_earlier_judgement():
    circuit = breaker(BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=1)))

    def judged_too_early():
        with circuit.attempt() as attempt:
            attempt.judge("fine")
            fail()

    with pytest.raises(ValueError):
        judged_too_early()

    assert circuit.state is State.OPEN


def test_a_judge_that_raises_frees_the_place():
    def broken(_):
        raise RuntimeError("broken judge")

    circuit = fail_until_open(breaker())
    circuit.judge = Judge(failed_result=broken, outcome_of=broken)
    circuit.time.now += 10.0
    for function in (fail, lambda: 1):
        with pytest.raises(RuntimeError, match="broken judge"):
            circuit.call(function)
        assert circuit.retry_in == 0.0


def test_retry_after_may_keep_the_circuit_open():
    def overloaded():
        error = OSError()
        error.status_code, error.headers = 503, {"Retry-After": "60"}
        raise error

    circuit = breaker()
    for _ in range(2):
        with pytest.raises(OSError):
            circuit.call(overloaded)

    assert circuit.retry_in == 75.0


def test_a_saved_state_is_restored_minus_the_elapsed_time():
    circuit = fail_until_open(breaker())
    circuit.time.now += 1.0
    text = json.dumps(circuit.save())
    other = breaker(clock=lambda: 5.0, wall_clock=lambda: circuit.time.now + 3.0)
    other.restore(json.loads(text))

    assert (other.state, other.retry_in) == (State.OPEN, 6.0)


def test_a_wall_clock_that_went_back_shortens_no_open_time():
    circuit = fail_until_open(breaker())
    other = breaker(wall_clock=lambda: 0.0)
    other.restore(circuit.save())

    assert other.retry_in == 10.0


@table_test("saved_at", [None, inf, "now"])
def test_an_invalid_saved_state_changes_nothing(saved_at):
    circuit = fail_until_open(breaker())
    with pytest.raises(ConfigurationError, match="saved_at must be a finite number"):
        circuit.restore({**circuit.save(), "state": "closed", "saved_at": saved_at})
    assert circuit.state is State.OPEN


@table_test("values", [None, [], "open"])
def test_a_saved_state_must_be_a_table(values):
    with pytest.raises(ConfigurationError, match="a saved circuit must be a table"):
        breaker().restore(values)


def test_threads_share_the_probes():
    policy = BreakerPolicy(
        trip=ConsecutiveFailures(failure_threshold=1), open_duration=10.0, open_duration_jitter=0.0, probes=2, max_concurrent_probes=2,
        success_ratio=1.0,
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


def test_numbers_out_of_bounds_are_rejected():
    with pytest.raises(
        ConfigurationError, match=r"open_duration must be at least 1e-06 and at most 1e\+12"
    ):
        CircuitBreaker(BreakerPolicy(open_duration=1e308))


def test_an_expired_half_open_state_is_reported_as_open():
    circuit = breaker(
        BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=1), max_half_open_duration=20.0)
    )
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


@table_test("code", [429, 503])
def test_the_retry_after_of_a_probe_delays_the_next_probes(code):
    circuit = breaker(BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=2)))
    fail_until_open(circuit)
    circuit.time.now += circuit.retry_in
    with pytest.raises(OSError):
        circuit.call(raises(status(code, 40)))

    assert (circuit.state, circuit.retry_in) == (State.HALF_OPEN, 50.0)
    with pytest.raises(CircuitOpenError, match=r"half-open; come back in 50\.0 s"):
        circuit.call(fail)
    circuit.time.now += 50.0
    assert circuit.call(lambda: 1) == 1


def test_a_policy_without_respect_for_retry_after_ignores_it_in_probes():
    circuit = breaker(
        BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=2), respect_retry_after=False)
    )
    fail_until_open(circuit)
    circuit.time.now += circuit.retry_in
    with pytest.raises(OSError):
        circuit.call(raises(status(429, 40)))

    assert circuit.retry_in == 0.0


@table_test("way", WAYS)
def test_a_failed_result_function_that_raises_is_no_failure_of_the_target(way):
    def broken(result):
        return result["missing"]

    circuit = breaker(judge=Judge(failed_result=broken))
    for _ in range(5):
        with pytest.raises(KeyError):
            way(circuit, dict)

    assert (circuit.state, circuit.metrics.failures) == (State.CLOSED, 0)


@table_test("name", ["failures", "ignored"])
def test_exception_classes_may_be_given_alone_or_in_any_collection(name):
    for given in (KeyError, [KeyError], {KeyError}, (KeyError,)):
        assert getattr(Judge(**{name: given}), name) == (KeyError,)


@table_test("name", ["failures", "ignored"])
@table_test("given", [["KeyError"], KeyError("x"), int, 3, None, "KeyError"])
def test_a_judge_rejects_anything_but_exception_classes(name, given):
    with pytest.raises(ConfigurationError, match=f"{name} must hold exception classes"):
        Judge(**{name: given})


async def asynchronous(_):
    """Its result, a coroutine, is always true."""


@table_test("given", [3, "is_none", asynchronous])
@table_test("name", ["failed_result", "outcome_of"])
def test_a_judge_rejects_anything_but_functions(name, given):
    with pytest.raises(ConfigurationError, match=f"{name} must be a function"):
        Judge(**{name: given})


@table_test(
    ("argument", "given"),
    [
        ("policy", "normal"),
        ("judge", lambda error: True),
        ("on_change", 3),
        ("on_change", asynchronous),
        ("name", None),
    ],
)
def test_a_breaker_rejects_an_argument_of_the_wrong_type(argument, given):
    with pytest.raises(ConfigurationError, match=f"{argument} must be a "):
        CircuitBreaker(**{argument: given})


def test_an_invalid_result_of_outcome_of_frees_the_place():
    circuit = fail_until_open(breaker(FRAGILE))
    circuit.judge = Judge(outcome_of=lambda error: True)
    circuit.time.now += 10.0
    with pytest.raises(TypeError, match="outcome_of must give an Outcome or None, got bool"):
        circuit.call(fail)

    assert (circuit.state, circuit.retry_in) == (State.HALF_OPEN, 0.0)


def test_a_timed_isolation_names_its_end_and_then_lets_a_probe_pass():
    circuit = breaker()
    circuit.isolate(duration=30.0)
    with pytest.raises(CircuitOpenError, match=r"isolated; come back in 30\.0 s"):
        circuit.call(fail)
    circuit.time.now += 30.0
    assert circuit.call(lambda: 1) == 1
    assert circuit.state is State.CLOSED
