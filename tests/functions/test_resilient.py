"""A guarded function stays itself: its kind, its name, its results and its exceptions."""

import asyncio
import functools
import gc
import inspect
import traceback
import weakref
from contextlib import suppress
from dataclasses import replace

import pytest
from guarding import QUICK, DownError, Script, at_rest, in_threads, made
from stage import policy
from table_test import table_test

from stormbreak import (
    CircuitOpenError,
    ConfigurationError,
    Policy,
    RejectedError,
    Target,
    TenantLimits,
    explain,
    resilient,
    scope,
)
from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.fallback_policy import ToDegraded
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.errors import AttemptTimeoutError

FRAGILE = policy(
    fail_fast=True,
    retry=RetryPolicy(max_attempts=1),
    breaker=BreakerPolicy(
        trip=ConsecutiveFailures(failure_threshold=2), open_duration=10.0, open_duration_jitter=0.0
    ),
)


def plain(left: int, right: int = 1) -> int:
    """Add."""
    return left + right


async def asynchronous(left: int, right: int = 1) -> int:
    """Add."""
    return left + right


def generator(left: int, right: int = 1):
    """Add."""
    yield left + right


async def async_generator(left: int, right: int = 1):
    """Add."""
    yield left + right


KINDS = [inspect.isgeneratorfunction, inspect.isasyncgenfunction, inspect.iscoroutinefunction]


@table_test("function", [plain, asynchronous, generator, async_generator])
def test_a_decorated_function_keeps_its_kind_name_and_signature(function):
    decorated = made()(function)
    assert (decorated.__name__, decorated.__doc__) == (function.__name__, "Add.")
    assert inspect.signature(decorated) == inspect.signature(function)
    assert [kind(decorated) for kind in KINDS] == [kind(function) for kind in KINDS]


async def test_arguments_pass_through():
    guard = made()
    assert guard(plain)(1, right=2) == 3
    assert await guard(asynchronous)(1, right=2) == 3
    assert list(guard(generator)(1, right=2)) == [3]
    assert [item async for item in guard(async_generator)(1, right=2)] == [3]
    assert guard.call(plain, 1, right=2) == 3
    assert await guard.async_call(asynchronous, 1, right=2) == 3


async def test_methods_partials_and_callable_objects_can_be_decorated():
    guard = made()

    class Shop:
        @guard
        def price(self, of):
            return of * 2

        async def __call__(self, of):
            return of * 3

    assert Shop().price(2) == 4
    assert await guard(Shop())(2) == 6
    assert await guard(functools.partial(asynchronous, 1))(2) == 3


def test_only_exceptions_covered_by_the_rule_are_retried():
    for on, attempts in [(None, 1), (ValueError, 1), (DownError, 3), (Exception, 3)]:
        script = Script(*[DownError("down")] * 3)
        with pytest.raises(DownError):
            made(on=on).call(script)
        assert script.made == attempts


def test_failures_open_the_circuit_without_a_rule_for_retries():
    guard = made(FRAGILE, on=None)
    script = Script(DownError(), DownError())
    for _ in range(2):
        with pytest.raises(DownError):
            guard.call(script)
    with pytest.raises(CircuitOpenError, match=r"^prices: the circuit is open$"):
        guard.call(script)
    guard.reset()
    assert guard.call(plain, 1) == 2
    guard.isolate()
    with pytest.raises(CircuitOpenError):
        guard.call(plain, 1)


@table_test("breaks", [KeyError, KeyboardInterrupt])
def test_an_error_in_failed_result_ends_the_call_and_frees_its_place(breaks):
    def broken(result):
        raise breaks

    guard, calls = made(on=Exception, failed_result=broken), []
    with pytest.raises(breaks):
        guard.call(lambda: calls.append(1))

    assert (len(calls), at_rest(guard)) == (1, True)


def test_the_last_failed_result_is_returned():
    script = Script(None, 0, None)
    assert made(on=None, failed_result=lambda result: not result).call(script) is None
    assert script.made == 3


def test_results_that_fail_are_retried_although_exceptions_are_not():
    script = Script(None, DownError(), 3)
    with pytest.raises(DownError):
        made(on=None, failed_result=lambda result: result is None).call(script)
    assert script.made == 2


async def test_an_error_in_failed_result_does_not_call_the_function_again():
    """Found: with `on=Exception` the function ran three times, and the target's circuit counted failures."""

    def broken(_):
        raise LookupError("no such field")

    script = Script(1, 2, 3)
    for on in Exception, LookupError:
        guard = made(on=on, failed_result=broken)
        with pytest.raises(LookupError) as caught:
            guard.call(script)
        assert caught.value.__notes__ == ["raised by failed_result after the attempt had returned"]
        with pytest.raises(LookupError):
            await guard.async_call(asynchronous, 1)
        assert at_rest(guard)
    assert script.made == 2

    guard = made(FRAGILE, on=Exception, failed_result=broken)
    for _ in range(3):  # the circuit stays closed
        with pytest.raises(LookupError):
            guard.call(plain, 1)


def test_the_last_exception_object_is_raised_with_notes_of_the_attempts():
    raised, cause = DownError("the last"), LookupError("why")
    raised.__cause__ = cause
    script = Script(DownError(), DownError(), raised)

    def main(guard, sleep):
        with pytest.raises(DownError) as caught:
            guard.call(script)
        return caught.value

    rules = policy(
        retry=RetryPolicy(max_attempts=3, backoff=Backoff(kind="constant", initial_delay=1.0))
    )
    assert in_threads(main, rules)[0] is raised
    assert raised.__cause__ is cause
    assert raised.__notes__ == [
        "tried: 3 attempt(s), 2.0 s unserved",
        "attempt 1 at prices: server_error after 0.0 s; again after 1.0 s",
        "attempt 2 at prices: server_error after 0.0 s; again after 1.0 s",
        "attempt 3 at prices: server_error after 0.0 s",
        "no further retry: attempts",
    ]
    last = "prices: server_error after 3 attempt(s), 2.00 s waited; no further retry: attempts"
    assert explain(raised).splitlines()[-1] == last


def test_an_exception_that_is_not_retried_gets_no_notes():
    raised = ValueError("mine")
    with pytest.raises(ValueError):
        made().call(Script(raised))
    assert not hasattr(raised, "__notes__")
    assert explain(raised) == ""


def test_notes_of_an_exception_object_raised_again_and_again_are_bounded():
    raised = DownError()
    for _ in range(40):
        with pytest.raises(DownError):
            made().call(Script(raised, raised, raised))
    assert len(raised.__notes__) < 100


def test_the_traceback_leads_from_the_caller_to_the_function():
    def fail():
        raise DownError

    guarded = made()(fail)
    with pytest.raises(DownError) as caught:
        guarded()
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames[1:] == ["guarded", "call", "fail"]
    assert caught.value.__context__ is None


class LargeError(Exception):
    """Stands for an exception that holds much memory."""


def fail_large():
    raise LargeError


async def fail_later():
    fail_large()


async def hang():
    await asyncio.sleep(9.0)


async def by_call(guard):
    guard.call(fail_large)


async def by_async_call(guard):
    await guard.async_call(fail_later)


async def by_block(guard):
    for attempt in guard:
        with attempt:
            raise LargeError


async def by_cut(guard):
    await guard.async_call(hang)


OPENING = BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=1), open_duration=10.0)


@table_test("way", [by_call, by_async_call, by_block, by_cut])
@table_test(
    "changes",
    [{"retry": RetryPolicy(max_attempts=1)}, {}, {"breaker": OPENING, "fail_fast": True}],
)
async def test_an_exception_is_freed_when_its_handler_is_done_with_it(way, changes):
    guard = made(replace(QUICK, attempt_timeout=0.001, **changes), on=Exception)
    gc.disable()
    try:
        try:
            await way(guard)
        except (LargeError, AttemptTimeoutError) as error:
            held = weakref.ref(error)
        assert held() is None
    finally:
        gc.enable()


def test_the_error_of_the_first_attempt_is_raised_if_the_circuit_rejects_the_next():
    rules = policy(
        fail_fast=True,
        retry=QUICK.retry,
        breaker=BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=1), open_duration=10.0),
    )
    guard, raised = made(rules), DownError("first")
    with pytest.raises(DownError) as caught:
        guard.call(Script(raised, 1))
    assert caught.value is raised
    assert raised.__notes__[-2:] == [
        "rejected by breaker at prices: the circuit is open",
        "no further retry: breaker",
    ]


def test_blocks_may_be_left_by_return_and_by_break():
    guard = made()

    def returned():
        for attempt in guard:
            with attempt:
                return attempt.number
        return None

    assert returned() == 1
    for attempt in guard:
        with attempt:
            break
    assert at_rest(guard)


def test_a_failure_suppressed_in_the_block_does_not_count():
    guard = made(FRAGILE)
    for _ in range(3):
        for attempt in guard:
            with attempt, suppress(DownError):
                raise DownError
    assert guard.snapshot()["targets"]["prices"]["circuit"] == "closed"


def test_an_attempt_that_is_not_entered_or_entered_twice_raises():
    guard = made()
    with pytest.raises(RuntimeError, match="write `with attempt:` in the loop"):
        for _ in guard:
            pass
    assert at_rest(guard)
    for attempt in guard:
        with attempt, pytest.raises(RuntimeError, match="can be entered only once"), attempt:
            pass


def test_a_cancelled_attempt_counts_no_failure_and_ends_the_call():
    guard = made(FRAGILE)
    for _ in range(3):
        for attempt in guard:
            with suppress(DownError), attempt:
                attempt.cancel()
                raise DownError
    assert guard.call(plain, 1) == 2
    assert at_rest(guard)


def test_an_async_function_needs_async_call():
    guard, calls = made(on=Exception), []

    def begun():
        calls.append(1)
        return asynchronous(1)

    with pytest.raises(TypeError, match="function is asynchronous: use async_call"):
        guard.call(begun)
    assert len(calls) == 1
    assert at_rest(guard)


def test_several_guards_share_an_engine():
    first = made(FRAGILE)
    second = resilient(on=ValueError, engine=first.engine, target=Target("prices", ""))
    third = resilient(on=ValueError, engine=first.engine, target="stock")
    first.isolate()
    with pytest.raises(CircuitOpenError):
        second.call(plain, 1)
    assert third.call(plain, 1) == 2
    assert set(first.snapshot()["targets"]) == {"prices", "stock"}


def test_a_target_without_a_name_takes_the_name_of_its_first_function():
    guard = resilient()
    guard(plain)
    guard(generator)
    assert str(guard.target) == "plain"
    assert str(resilient().target) == "function"


def test_a_disabled_guard_calls_the_function_once(monkeypatch):
    monkeypatch.setenv("STORMBREAK_DISABLED", "1")
    script = Script(DownError(), 1)
    with pytest.raises(DownError):
        resilient(on=DownError).call(script)


@table_test(
    ("wrong", "message"),
    [
        (
            {"policy": plain},
            r"resilient takes a policy, not a function: write @resilient\(\.\.\.\)",
        ),
        ({"policy": "gentle"}, r"'gentle' is neither a preset \(.*\) nor a file"),
        ({"policy": 3}, r"policy must be a Policy or a preset, got 3"),
        ({"on": "ConnectionError"}, r"on must be an exception class.*, got ConnectionError"),
        ({"on": (DownError, 3)}, r"on must be .*, got 3"),
        ({"on": int}, r"on must be .*, got <class 'int'>"),
        ({"on": {"Down": True}}, r"on must name exception classes, got Down"),
        (
            {"on": {DownError: "ok"}},
            r"a rule must return a bool or the verdict of a failure, got ok",
        ),
        ({"failed_result": 3}, r"failed_result must be a function, got 3"),
        ({"retry_after": 3}, r"retry_after must be a function, got 3"),
        (
            {"failed_result": asynchronous},
            r"failed_result must be a function that is not asynchronous",
        ),
        ({"priority": 1}, r"priority must be a Priority, got '1'"),
        ({"target": 3}, r"target must be a name or a Target, got 3"),
        ({"target": ""}, r"target must be a name or a Target, got "),
        ({"tenant": 3}, r"tenant must be printable text .*, got '3'"),
        ({"engine": 3}, r"engine must be an engine, got 3"),
        ({"policy": Policy(fallback=(ToDegraded(),))}, r"fallback must be empty"),
        (
            {"policy": Policy(rate_limit=RateLimitPolicy(tpm=9.0))},
            r"rate_limit\.tpm must be absent .*, got 9",
        ),
        ({"policy": Policy(), "engine": made().engine}, r"give an engine or a policy, not both"),
        ({"tenants": {}, "engine": made().engine}, r"give an engine or tenants, not both"),
        ({"tenants": {"acme": TenantLimits(tpm=9)}}, r"tenants\.acme must have no tpm"),
    ],
)
def test_an_invalid_argument_of_resilient_raises_configuration_error(wrong, message):
    with pytest.raises(ConfigurationError, match=message):
        resilient(**wrong)


def test_limits_of_a_tenant_bind_only_that_tenant():
    guard = resilient(policy(), tenant="acme", tenants={"acme": TenantLimits(rpm=6)})
    with scope(deadline=1):
        assert guard.call(plain, 1) == 2
        with pytest.raises(RejectedError, match="tenant acme"):
            guard.call(plain, 1)
        with scope(tenant="other"):
            assert guard.call(plain, 1) == 2


def test_only_functions_are_decorated():
    with pytest.raises(ConfigurationError, match="only a function can be decorated, got 3"):
        made()(3)


async def test_loops_and_threads_share_one_guard():
    guard = made(policy(), on=DownError)

    def elsewhere():
        return asyncio.run(guard.async_call(asynchronous, 1))

    results = await asyncio.gather(
        *(asyncio.to_thread(elsewhere) for _ in range(4)),
        *(asyncio.to_thread(guard.call, plain, 1) for _ in range(4)),
        *(guard.async_call(asynchronous, 1) for _ in range(4)),
    )
    assert results == [2] * 12
    assert at_rest(guard)


def test_an_attempt_loop_left_by_break_leaves_no_pending_call():
    """Found: the engine kept the error of the attempt for ever, and its traceback kept the call."""
    guard = resilient(on=ValueError, target="t")

    def leave():
        for attempt in guard:
            with attempt:
                raise ValueError
            break

    leave()
    gc.collect()

    assert guard.snapshot()["pending"] == []
