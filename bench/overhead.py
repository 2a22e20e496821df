"""What a policy costs per successful call: the engine, and what users pick today for the same job.

The sender returns at once and every subject makes the same calls one after the other, on the same loop; the
bare await is subtracted round by round. The default policy holds: deadline, queue, limit, cooldown, breaker,
budget; "everything on" has requests and tokens per minute and a rule for slow calls, too. Nobody listens.
"""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import circuitbreaker  # type: ignore[import-untyped]
import stamina
import tenacity
import uvloop

import cores
from rounds import Figure, Section, alternate, minus
from stormbreak import Policy, Target, resilient
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.engine import Engine
from stormbreak.core.flow import Send
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.trip import AnyRule, FailureRate, SlowRate
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.virtual_time import Reply, Timeline, VirtualDriver
from stormbreak.types import Call, CallResult, Outcome, Verdict

CALLS = 4_000
ROUNDS = 15
SPAN = 600.0  # seconds; the deadline of every call

_OK = Outcome(Verdict.OK)
_TARGET = Target("bench", "model")
_COMMAND = Send(_TARGET, 1, SPAN)
_TOKENS = 1_000  # of a call, where they are counted
_EVERYTHING = Policy(
    breaker=BreakerPolicy(trip=AnyRule(rules=(FailureRate(), SlowRate(slow_call_threshold=60.0)))),
    rate_limit=RateLimitPolicy(rpm=1e9, tpm=1e12, learn_from_headers=True),
)
"""The default policy, requests and tokens per minute that are far away, and a rule for slow calls."""

Calls = Callable[[int], Awaitable[None]]


_ON = "quotas and a slow-call rule, too"


class _Subject(NamedTuple):
    name: str
    calls: Calls
    goal: str = ""
    note: str = ""


async def _sender(_: Send) -> Outcome:
    return _OK


async def _bare(count: int) -> None:
    for _ in range(count):
        await _sender(_COMMAND)


def _engine(policy: Policy, tokens: int = 0) -> Calls:
    engine = Engine(policy)
    driver = AsyncioDriver(engine)
    clock = time.monotonic

    async def calls(count: int) -> None:
        for _ in range(count):
            call = Call(engine.number(), _TARGET, clock() + SPAN, 20.0, tokens=tokens)
            await driver.run(call, _sender)

    return calls


def _resilient() -> Calls:
    send = resilient(on=OSError, target=_TARGET)(_sender)

    async def calls(count: int) -> None:
        for _ in range(count):
            await send(_COMMAND)

    return calls


def _by_hand() -> Calls:
    slots = asyncio.Semaphore(256)

    async def calls(count: int) -> None:
        for _ in range(count):
            async with asyncio.timeout(SPAN), slots:
                await _sender(_COMMAND)

    return calls


def _tenacity() -> Calls:
    retrying = tenacity.retry(
        stop=tenacity.stop_after_attempt(5) | tenacity.stop_after_delay(SPAN),
        wait=tenacity.wait_random_exponential(max=60),
        retry=tenacity.retry_if_exception_type(OSError),
    )
    send = retrying(_sender)

    async def calls(count: int) -> None:
        for _ in range(count):
            await send(_COMMAND)

    return calls


def _stamina() -> Calls:
    send = stamina.retry(on=OSError, attempts=5, timeout=SPAN)(_sender)

    async def calls(count: int) -> None:
        for _ in range(count):
            await send(_COMMAND)

    return calls


def _breaker() -> Calls:
    send = circuitbreaker.circuit(expected_exception=OSError)(_sender)

    async def calls(count: int) -> None:
        for _ in range(count):
            await send(_COMMAND)

    return calls


def _all_of_them() -> Calls:
    slots = asyncio.Semaphore(256)
    retrying = tenacity.retry(
        stop=tenacity.stop_after_attempt(5),
        wait=tenacity.wait_random_exponential(max=60),
        retry=tenacity.retry_if_exception_type(OSError),
    )
    send = retrying(circuitbreaker.circuit(expected_exception=OSError)(_sender))

    async def calls(count: int) -> None:
        for _ in range(count):
            async with asyncio.timeout(SPAN), slots:
                await send(_COMMAND)

    return calls


def _subjects() -> list[_Subject]:
    return [
        _Subject("bare await", _bare, note="subtracted from the others"),
        _Subject("stormbreak", _engine(Policy()), "<= 10", "the default policy"),
        _Subject("stormbreak, everything on", _engine(_EVERYTHING, _TOKENS), note=_ON),
        _Subject("stormbreak, resilient", _resilient(), note="the same around any function"),
        _Subject("timeout + semaphore", _by_hand(), note="written by hand: no retry, no breaker"),
        _Subject("tenacity", _tenacity(), note="retry only"),
        _Subject("stamina", _stamina(), note="retry only"),
        _Subject("circuitbreaker", _breaker(), note="breaker only"),
        _Subject(
            "all of these", _all_of_them(), note="timeout, semaphore, tenacity, circuitbreaker"
        ),
    ]


def _on_loop(name: str, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> Section:
    with asyncio.Runner(loop_factory=new_loop) as runner:

        async def timed(subject: _Subject) -> float:
            began = time.perf_counter()
            await subject.calls(CALLS)
            return (time.perf_counter() - began) / CALLS * 1e6

        def measure(subject: _Subject) -> float:
            gc.collect()
            return runner.run(timed(subject))

        subjects = _subjects()
        samples = alternate(subjects, measure, rounds=ROUNDS)
    bare = samples[0]
    figures = [
        Figure(one.name, "us", minus(taken, bare) if place else taken, one.goal, one.note)
        for place, (one, taken) in enumerate(zip(subjects, samples, strict=True))
    ]
    return Section(f"Overhead per successful call, {name}", figures)


def _nothing(_: Send) -> Outcome:
    return _OK


def _blocking() -> Section:
    """The same of functions that block, decorated."""
    retrying = tenacity.retry(
        stop=tenacity.stop_after_attempt(5) | tenacity.stop_after_delay(SPAN),
        wait=tenacity.wait_random_exponential(max=60),
        retry=tenacity.retry_if_exception_type(OSError),
    )
    functions = {
        "bare call": _nothing,
        "stormbreak, resilient": resilient(on=OSError, target=_TARGET)(_nothing),
        "tenacity": retrying(_nothing),
        "stamina": stamina.retry(on=OSError, attempts=5, timeout=SPAN)(_nothing),
        "circuitbreaker": circuitbreaker.circuit(expected_exception=OSError)(_nothing),
    }

    def measure(name: str) -> float:
        function = functions[name]
        gc.collect()
        began = time.perf_counter()
        for _ in range(CALLS):
            function(_COMMAND)
        return (time.perf_counter() - began) / CALLS * 1e6

    bare, *others = alternate(list(functions), measure, rounds=ROUNDS)
    notes = ("the default policy", "retry only", "retry only", "breaker only")
    figures = [Figure("bare call", "us", bare, note="subtracted from the others")]
    for name, taken, note in zip(list(functions)[1:], others, notes, strict=True):
        figures.append(Figure(name, "us", minus(taken, bare), note=note))
    return Section("Overhead per successful call, functions that block", figures)


def _done(_: CallResult) -> None:
    pass


def _at_once(_: Send, reply: Reply) -> None:
    reply(_OK)


def _virtual(pause: float | None) -> Callable[[], float]:
    """Time the calls of a driver whose sender answers at once, or `pause` virtual seconds later."""
    timeline = Timeline()
    engine = Engine(Policy())
    driver = VirtualDriver(engine, timeline)

    def later(_: Send, reply: Reply) -> None:
        assert pause is not None
        timeline.at(timeline.now + pause, lambda: reply(_OK))

    sender = _at_once if pause is None else later

    def measure() -> float:
        gc.collect()
        began = time.perf_counter()
        for _ in range(CALLS):
            driver.start(Call(engine.number(), _TARGET, timeline.now + SPAN, 20.0), sender, _done)
            timeline.run(until=timeline.now + 0.01)
        return (time.perf_counter() - began) / CALLS * 1e6

    return measure


def _virtual_base(pause: float | None) -> Callable[[], float]:
    """Time the same answers on the same timeline, with no driver between."""
    timeline = Timeline()

    def later(_: Send, reply: Reply) -> None:
        assert pause is not None
        timeline.at(timeline.now + pause, lambda: reply(_OK))

    def reply(_: Outcome) -> None:
        pass

    sender = _at_once if pause is None else later

    def measure() -> float:
        began = time.perf_counter()
        for _ in range(CALLS):
            sender(_COMMAND, reply)
            timeline.run(until=timeline.now + 0.01)
        return (time.perf_counter() - began) / CALLS * 1e6

    return measure


def _in_virtual_time() -> Section:
    bases = [_virtual_base(None), _virtual_base(1.0)]
    drivers = [_virtual(None), _virtual(1.0)]
    base, base_later, once, later = alternate(
        [*bases, *drivers], lambda measure: measure(), rounds=ROUNDS
    )
    return Section(
        "Overhead per successful call, virtual time",
        [
            Figure("stormbreak, answered at once", "us", minus(once, base), "<= 5"),
            Figure(
                "stormbreak, answered 1 s later",
                "us",
                minus(later, base_later),
                note="100 in flight",
            ),
        ],
    )


def sections() -> list[Section]:
    """Measure on both loops and in virtual time."""
    cores.pin(cores.CLIENT)
    try:
        return [
            _on_loop("uvloop", uvloop.new_event_loop),
            _on_loop("asyncio", asyncio.new_event_loop),
            _blocking(),
            _in_virtual_time(),
        ]
    finally:
        cores.unpin()
