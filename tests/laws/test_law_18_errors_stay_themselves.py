"""Law 18. Users' own `except` clauses keep working: an upstream error stays that very object, with notes of what was
tried. What this holds today: the circuit breaker and the engine around any function, and the client's own errors.
"""

import asyncio
import re

import pytest
from fakewire import FakeIncoming, FakeWire
from guarding import at_rest, made
from hypothesis import given
from hypothesis import strategies as st
from sockets import End, answer, failing, free_port, served
from stage import OTHER, SERVER_ERROR, TARGET, Stage, policy
from table_test import table_test

from stormbreak import CircuitBreaker
from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.explain import MAX_LINES, add_attempt_notes
from stormbreak.core.fallback_policy import Place, Step, ToTargets
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.errors import (
    AttemptTimeoutError,
    CircuitOpenError,
    ConnectionLostError,
    ServerError,
    StormbreakError,
    StreamBrokenError,
    UpstreamError,
    error_for,
)
from stormbreak.http.client import AsyncClient
from stormbreak.types import TREATMENTS, Outcome, Verdict

KEY = "sk-canary-0123456789"
PROMPT = "a-prompt-canary"
PROVIDER_TEXT = "a-word-of-the-provider"
SAY = [{"role": "user", "content": PROMPT}]
RETRY = RetryPolicy(max_attempts=3, backoff=Backoff(kind="constant", initial_delay=0.01))
QUICK = Policy(retry=RETRY, breaker=None, retry_budget=None)
FAILING = failing(500, {"message": f"{PROVIDER_TEXT} {PROMPT} {KEY}", "code": "server_error"})


class TheirError(Exception):
    """An exception of some SDK."""

    status_code = 500


# ---------------------------------------------------------------- the breaker around functions


def by_call(breaker, raised):
    def function():
        raise raised

    breaker.call(function)


def by_async_call(breaker, raised):
    async def function():
        raise raised

    coroutine = breaker.async_call(function)
    coroutine.send(None)


def by_attempt(breaker, raised):
    with breaker.attempt():
        raise raised


def by_decorator(breaker, raised):
    @breaker
    def function():
        raise raised

    function()


WAYS = [by_call, by_async_call, by_attempt, by_decorator]


def by_engine(guard, raising):
    guard.call(raising)


def by_engine_async(guard, raising):
    async def function():
        raising()

    asyncio.run(guard.async_call(function))


def by_engine_block(guard, raising):
    for attempt in guard:
        with attempt:
            raising()


def by_engine_generator(guard, raising):
    def function():
        raising()
        yield

    next(guard.stream(function))


def by_engine_consumed(guard, raising):
    def function():
        yield 1
        raising()

    list(guard.stream(function))


ENGINE_WAYS = [
    by_engine, by_engine_async, by_engine_block, by_engine_generator, by_engine_consumed,
]  # fmt: skip
BEYOND = [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit]


@table_test("way", WAYS)
@table_test("kind", [TheirError, ValueError, *BEYOND])
def test_a_breaker_raises_the_very_exception_of_the_function(way, kind):
    breaker = CircuitBreaker(BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=1)))
    cause = LookupError("why")
    raised = kind("mine")
    raised.__cause__ = cause
    with pytest.raises(kind) as caught:
        way(breaker, raised)

    assert caught.value is raised
    assert raised.__cause__ is cause
    assert raised.args == ("mine",)
    assert (kind not in BEYOND) == (breaker.trips == 1)


@table_test("on", [None, Exception, LookupError])
@table_test("way", ENGINE_WAYS)
@table_test("kind", [TheirError, ValueError, KeyboardInterrupt, asyncio.CancelledError])
def test_an_engine_raises_the_last_exception_of_the_function(way, kind, on):
    guard, cause, raised = made(on=on), LookupError("why"), []

    def raising():
        raised.append(kind("mine"))
        raised[-1].__cause__ = cause
        raise raised[-1]

    with pytest.raises(kind) as caught:
        way(guard, raising)

    retried = on is Exception and kind not in BEYOND and way is not by_engine_consumed
    assert len(raised) == (3 if retried else 1)
    assert caught.value is raised[-1]
    assert caught.value.__cause__ is cause
    assert caught.value.args == ("mine",)
    assert bool(getattr(caught.value, "__notes__", ())) == retried
    assert at_rest(guard)


def test_only_a_rejection_by_the_breaker_has_its_own_exception():
    breaker = CircuitBreaker(BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=1)))
    with pytest.raises(TheirError):
        by_call(breaker, TheirError())
    with pytest.raises(CircuitOpenError) as refused:
        by_call(breaker, TheirError())

    assert refused.value.__context__ is None


# ---------------------------------------------------------------- notes, of any flow


@given(
    st.lists(st.sampled_from([v for v in Verdict if TREATMENTS[v].retry]), max_size=40),
    st.booleans(),
)
def test_notes_list_the_last_attempts(verdicts, processed):
    stage = Stage(
        policy(
            retry=RetryPolicy(max_attempts=99, backoff=Backoff(kind="constant", initial_delay=2.0))
        )
    )
    run = stage.start()
    for verdict in verdicts:
        run.step(Outcome(verdict, status=599, maybe_processed=processed))
        stage.tick(2.0)
    ended = run.step(Outcome(Verdict.INVALID, status=400)).ended
    first, *lines = add_attempt_notes(error_for(TARGET, ended)).__notes__
    kept = [*verdicts, Verdict.INVALID][-MAX_LINES:]

    assert len(kept) == len(lines)
    for number, (line, verdict) in enumerate(
        zip(lines, kept, strict=True), len(verdicts) + 2 - len(kept)
    ):
        status = 400 if verdict is Verdict.INVALID else 599
        again = "" if verdict is Verdict.INVALID else "; again after 2.0 s"
        expected = f"attempt {number} at acme/large: {verdict}, status {status} after 0.0 s{again}"
        assert expected == line
    attempts = len(verdicts) + 1
    assert first.startswith(f"tried: {attempts} attempt(s), {2.0 * len(verdicts):.1f} s unserved")
    assert (f"{len(verdicts)} may have been processed" in first) == bool(processed and verdicts)


def test_notes_list_fallbacks():
    stage = Stage(policy(retry=RetryPolicy(max_attempts=1)))
    steps = (
        Step(frozenset({Verdict.SERVER_ERROR}), None, "fallback", ((OTHER, 1.0),)),
        Step(frozenset({Verdict.SERVER_ERROR}), None, "cache"),
    )
    run = stage.start(fallbacks=steps)
    ended = run.step(SERVER_ERROR).step(SERVER_ERROR).step(None).ended
    _, *lines = add_attempt_notes(error_for(TARGET, ended)).__notes__

    assert lines == [
        "attempt 1 at acme/large: server_error, status 500 after 0.0 s",
        "fell back from acme/large to acme/small: server_error",
        "attempt 2 at acme/small: server_error, status 500 after 0.0 s",
        "no fallback from acme/small to cache: nothing found",
    ]


# ---------------------------------------------------------------- the client, on real sockets


def client_of(server, chosen=QUICK):
    return AsyncClient(base_url=server.base_url, model="m", policy=chosen, api_key=KEY)


async def test_an_error_lists_its_attempts_and_no_secret():
    scripts = (FAILING, failing(429, retry_after_ms=1), FAILING)
    async with served(*scripts) as server, client_of(server) as client:
        with pytest.raises(ServerError) as caught:
            await client.chat(SAY)
    target = client.target("m")
    first, *lines = caught.value.__notes__

    assert "3 attempt(s)" in first
    assert [f"attempt {number} at {target}" for number in (1, 2, 3)] == [
        line.partition(": ")[0] for line in lines
    ]
    assert [re.search(r": (\w+, status \d+)", line)[1] for line in lines] == [
        "server_error, status 500",
        "throttled, status 429",
        "server_error, status 500",
    ]
    shown = "".join([*caught.value.__notes__, str(caught.value), repr(caught.value)])
    for secret in (KEY, PROMPT, PROVIDER_TEXT):
        assert secret not in shown


async def test_the_notes_of_a_fallback_name_both_targets():
    async with served(FAILING) as one, served(FAILING) as two:
        rules = (ToTargets(targets=(Place(base_url=two.base_url),)),)
        chosen = Policy(
            retry=RetryPolicy(max_attempts=1), fallback=rules, breaker=None, retry_budget=None
        )
        async with client_of(one, chosen) as client:
            with pytest.raises(ServerError) as caught:
                await client.chat(SAY)
    shown = "\n".join(caught.value.__notes__)

    assert f" to 127.0.0.1:{two.port}/m" in shown
    assert shown.count("server_error, status 500") == 2


async def test_a_broken_stream_lists_earlier_attempts():
    event = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
    cut = answer(event, content_type="text/event-stream", content_length=999)
    async with served(failing(500), (cut, End.CLOSE)) as server, client_of(server) as client:
        stream = await client.stream("chat/completions", {"messages": SAY})
        with pytest.raises(StreamBrokenError) as caught:
            await stream.answer()
    _, *lines = caught.value.__notes__

    assert [500 if "status 500" in line else None for line in lines] == [500, None]
    assert "broken" in lines[-1]


@pytest.mark.parametrize(
    ("script", "kind"), [(End.HANG, AttemptTimeoutError), (FAILING, ServerError)]
)
async def test_an_error_keeps_no_frames_of_earlier_attempts(script, kind):
    chosen = Policy(retry=RETRY, breaker=None, retry_budget=None, attempt_timeout=0.05)
    async with served(script) as server, client_of(server, chosen) as client:
        with pytest.raises(kind) as caught:
            await client.chat(SAY)
    error = caught.value
    cause = error.ended.outcome.error

    assert error.__cause__ is cause
    assert error.__context__ is cause or error.__context__ is None
    assert cause is None or (cause.__traceback__, cause.__context__) == (None, None)
    assert isinstance(error, UpstreamError)
    assert isinstance(error, StormbreakError)


async def test_the_cause_of_an_error_is_that_of_the_operating_system():
    url = f"http://127.0.0.1:{free_port()}/v1"
    async with AsyncClient(base_url=url, model="m", policy=QUICK) as client:
        with pytest.raises(ConnectionLostError) as caught:
            await client.chat(SAY)

    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    assert sum("connect_failed" in note for note in caught.value.__notes__) == 3


class Raising(FakeWire):
    """A connection that raises an exception that is no failure of the target."""

    def __init__(self, raised):
        super().__init__(FakeIncoming([]))
        self.raised = raised

    async def exchange(self, request, judge=None):
        raise self.raised


@table_test("kind", BEYOND)
async def test_an_exception_that_is_no_failure_passes_through_the_client_unchanged(kind):
    raised = kind("mine")
    async with AsyncClient(base_url="http://127.0.0.1:1/v1", model="m", policy=QUICK) as client:
        client._resolver.first.routes._connections[client.base_url] = Raising(raised)
        asking = client.chat(SAY)
        with pytest.raises(kind) as caught:  # by hand: a loop would stop for some of them
            asking.send(None)
        target_state = client.engine.target_state(client.target("m"))

    assert caught.value is raised
    assert getattr(raised, "__notes__", []) == []
    assert target_state.slots.in_flight == 0


async def test_a_cancelled_call_is_cancelled():
    async with served(End.HANG) as server, client_of(server) as client:
        task = asyncio.create_task(client.chat(SAY))
        await server.asked()
        task.cancel("mine")
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.all_closed()
        assert client.engine.target_state(client.target("m")).slots.in_flight == 0
