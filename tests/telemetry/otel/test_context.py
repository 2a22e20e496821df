"""The parent span of a call, the current span during an attempt, and that no span stays current."""

import asyncio
import threading

import httpx2
import pytest
from clients import KEY, QUICK, SAY, client_of, has_answered
from opentelemetry import baggage
from opentelemetry.context import attach as enter
from opentelemetry.context import detach as leave
from opentelemetry.context import get_current
from opentelemetry.trace import INVALID_SPAN, get_current_span
from sockets import End, answer, failing, served
from stage import OK, SERVER_ERROR, TARGET, policy
from thread_calls import run_call
from traces import Traces, attributes_of

import stormbreak.httpx2
from stormbreak import Client, Policy, resilient
from stormbreak.core.backoff import Backoff
from stormbreak.core.engine import Engine
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.thread_driver import ThreadDriver
from stormbreak.telemetry import attach
from stormbreak.types import Call, Outcome, Verdict

TWICE = [failing(503), answer()], [answer()]
RETRIED = policy(
    retry=RetryPolicy(max_attempts=2, backoff=Backoff(kind="constant", initial_delay=0.001))
)
ATTEMPTS = [("attempt m", ["below"]), ("attempt m", ["below"])]
BODY = {"model": "m", "messages": SAY}


@pytest.fixture
def traces():
    return Traces()


@pytest.fixture(autouse=True)
def no_span_stays_current():
    """Check that no span is current before and after each test."""
    assert get_current_span() is INVALID_SPAN
    yield
    assert get_current_span() is INVALID_SPAN


def measure(traces):
    """Start a child span of the current one, as an instrumentation of a lower layer does."""
    traces.tracer.start_span("below").end()


class Instrumented(httpx2.AsyncHTTPTransport):
    def __init__(self, traces):
        super().__init__()
        self.traces = traces

    async def handle_async_request(self, request):
        with self.traces.tracer.start_as_current_span("below"):
            return await super().handle_async_request(request)


class InstrumentedBlocking(httpx2.HTTPTransport):
    def __init__(self, traces):
        super().__init__()
        self.traces = traces

    def handle_request(self, request):
        with self.traces.tracer.start_as_current_span("below"):
            return super().handle_request(request)


async def test_spans_of_an_async_client_nest_under_the_users_span(traces):
    def key():  # called before each attempt, as a part of it
        measure(traces)
        return KEY

    async with served(*TWICE) as server, client_of(server, api_key=key) as client:
        attach(client, traces.listener)
        with traces.tracer.start_as_current_span("user's") as span:
            await client.chat(SAY)
            assert get_current_span() is span

    assert traces.tree() == [("user's", [("chat m", ATTEMPTS)])]


async def test_spans_of_a_blocking_client_nest_under_the_users_span(traces):
    def key():
        measure(traces)
        return KEY

    def ask(base_url):
        with Client(base_url=base_url, api_key=key, model="m", policy=QUICK) as client:
            attach(client, traces.listener)
            with traces.tracer.start_as_current_span("user's") as span:
                client.chat(SAY)
                with client.stream("chat/completions", {"messages": SAY}) as stream:
                    list(stream)
                assert get_current_span() is span

    async with served(*TWICE) as server:
        await asyncio.to_thread(ask, server.base_url)

    calls = [("chat m", ATTEMPTS), ("chat m", [("attempt m", ["below"])])]
    assert traces.tree() == [("user's", calls)]


async def test_an_async_transport_is_the_parent_of_its_inner_transport(traces):
    transport = stormbreak.httpx2.AsyncTransport(QUICK, inner=Instrumented(traces))
    headers = {"authorization": f"Bearer {KEY}"}
    attach(transport, traces.listener)
    async with (
        served(*TWICE) as server,
        httpx2.AsyncClient(transport=transport, headers=headers) as http,
    ):
        with traces.tracer.start_as_current_span("user's") as span:
            await http.post(f"{server.base_url}/chat/completions", json=BODY)
            assert get_current_span() is span

    assert traces.tree() == [("user's", [("chat m", ATTEMPTS)])]


async def test_a_blocking_transport_is_the_parent_of_its_inner_transport(traces):
    def ask(base_url):
        transport = stormbreak.httpx2.Transport(QUICK, inner=InstrumentedBlocking(traces))
        attach(transport, traces.listener)
        headers = {"authorization": f"Bearer {KEY}"}
        with (
            httpx2.Client(transport=transport, headers=headers) as http,
            traces.tracer.start_as_current_span("user's") as span,
        ):
            http.post(f"{base_url}/chat/completions", json=BODY)
            assert get_current_span() is span

    async with served(*TWICE) as server:
        await asyncio.to_thread(ask, server.base_url)

    assert traces.tree() == [("user's", [("chat m", ATTEMPTS)])]


async def test_concurrent_tasks_have_separate_spans(traces):
    async def ask(name):
        with traces.tracer.start_as_current_span(name) as span:
            await client.chat(SAY)
            assert get_current_span() is span

    async def look():
        for _ in range(20):
            assert get_current_span() is INVALID_SPAN
            await asyncio.sleep(0.005)

    async with served((0.05, answer())) as server, client_of(server, api_key=KEY) as client:
        attach(client, traces.listener)
        await asyncio.gather(ask("one"), ask("other"), look())

    call = [("chat m", ["attempt m"])]
    assert sorted(traces.tree()) == [("one", call), ("other", call)]


async def test_hedged_attempts_have_separate_spans(traces):
    async def sender(send):
        with traces.tracer.start_as_current_span(f"below {send.attempt}"):
            if send.attempt == 1:
                await asyncio.Event().wait()
            return OK

    engine = Engine(policy(hedge=HedgePolicy(delay=0.02, percentile=None), retry=RETRIED.retry))
    has_answered(engine.target_state(TARGET))
    attach(engine, traces.listener)
    with traces.tracer.start_as_current_span("user's"):
        await AsyncioDriver(engine).run(Call(1, TARGET), sender)
    await asyncio.sleep(0)  # the losing attempt ends

    attempts = [("attempt large", ["below 1"]), ("attempt large", ["below 2"])]
    assert traces.tree() == [("user's", [("call large", attempts)])]


def test_spans_of_the_thread_driver_nest_under_the_users_span(traces):
    def sender(_):
        measure(traces)
        return next(outcomes)

    outcomes, engine = iter([SERVER_ERROR, OK]), Engine(RETRIED)
    attach(engine, traces.listener)
    with traces.tracer.start_as_current_span("user's") as span:
        run_call(ThreadDriver(engine), Call(1, TARGET), sender)
        assert get_current_span() is span

    attempts = [("attempt large", ["below"])] * 2
    assert traces.tree() == [("user's", [("call large", attempts)])]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, ValueError])
def test_a_sender_that_raises_leaves_no_current_span(traces, interrupt):
    def sender(_):
        raise interrupt

    engine = Engine(RETRIED)
    attach(engine, traces.listener)
    with pytest.raises(interrupt):
        run_call(ThreadDriver(engine), Call(1, TARGET), sender)

    call, (attempt,) = traces.only()
    assert (
        attributes_of(call, "stormbreak.verdict")
        == attributes_of(attempt, "stormbreak.verdict")
        == ("cancelled",)
    )


async def test_a_cancelled_call_leaves_no_current_span(traces):
    async def ask():
        try:
            await client.chat(SAY)
        except asyncio.CancelledError:
            seen.append(get_current_span())
            raise

    seen = []
    async with served(End.HANG) as server, client_of(server, api_key=KEY) as client:
        attach(client, traces.listener)
        asking = asyncio.create_task(ask())
        await server.asked()
        asking.cancel()
        await asyncio.wait([asking])

    assert seen == [INVALID_SPAN]


# ------------------------------------------------------------ around functions


@pytest.fixture
def guard(traces):
    guard = resilient(QUICK, on=OSError, target="work")
    attach(guard, traces.listener)
    return guard


GUARDED = [("call work", [("attempt work", ["below"]), ("attempt work", ["below"])])]


def test_spans_of_a_guarded_function_nest_under_the_users_span(traces, guard):
    tries = iter([OSError(), None])

    @guard
    def work():
        measure(traces)
        failure = next(tries)
        if failure:
            raise failure

    with traces.tracer.start_as_current_span("user's") as span:
        work()
        assert get_current_span() is span

    assert traces.tree() == [("user's", GUARDED)]
    assert "gen_ai.provider.name" not in traces.spans[1].attributes


async def test_a_guarded_async_function_has_spans(traces, guard):
    tries = iter([OSError(), None])

    @guard
    async def work():
        await asyncio.sleep(0)
        measure(traces)
        failure = next(tries)
        if failure:
            raise failure

    await work()

    assert traces.tree() == GUARDED


def test_the_span_of_a_generator_is_not_current_in_its_consumer(traces, guard):
    @guard
    def work():
        measure(traces)
        yield 1
        measure(traces)
        yield 2

    for _ in work():
        assert get_current_span() is INVALID_SPAN
        measure(traces)

    assert traces.tree() == [
        ("call work", [("attempt work", ["below", "below"])]),
        "below",
        "below",
    ]


async def test_an_async_generator_closed_by_another_task_ends_its_spans(traces, guard, caplog):
    @guard
    async def work():
        yield 1
        measure(traces)
        yield 2

    async def consume():
        items = work()
        await anext(items)
        kept.append(items)

    kept = []
    await asyncio.create_task(consume())
    await kept[0].aclose()  # by another task, in another context

    call, (attempt,) = traces.only()
    assert attributes_of(call, "stormbreak.verdict") == attributes_of(attempt, "stormbreak.verdict")
    assert caplog.records == []


async def test_an_attempt_ended_in_another_context_does_not_change_that_context(
    traces, guard, caplog
):
    async def work():
        async for attempt in guard:
            with attempt:
                yield get_current_span()

    async def consume():
        items = work()
        await anext(items)
        kept.append(items)

    kept = []
    await asyncio.create_task(consume())
    token = enter(baggage.set_baggage("mine", "1"))
    mine = get_current()
    await kept[0].aclose()
    assert get_current() is mine
    leave(token)

    assert caplog.records == []


def test_loops_of_attempts_in_threads_have_separate_spans(traces, guard):
    def work(name):
        with traces.tracer.start_as_current_span(name) as span:
            for attempt in guard:
                with attempt:
                    measure(traces)
                    if attempt.number == 1:
                        raise OSError
            assert get_current_span() is span

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(traces.tree()) == [("one", GUARDED), ("other", GUARDED)]


async def test_a_call_in_a_guarded_function_nests_under_its_attempt(traces, guard):
    async with served() as server, client_of(server, api_key=KEY) as client:
        attach(client, traces.listener)

        @guard
        async def work():
            await client.chat(SAY)

        await work()

    inner = ("chat m", ["attempt m"])
    assert traces.tree() == [("call work", [("attempt work", [inner])])]


async def test_the_users_baggage_is_available_during_an_attempt(traces):
    async def sender(_):
        seen.append(baggage.get_baggage("mine"))
        return Outcome(Verdict.OK)

    seen, engine = [], Engine(Policy())
    attach(engine, traces.listener)
    token = enter(baggage.set_baggage("mine", "1"))
    await AsyncioDriver(engine).run(Call(1, TARGET), sender)
    leave(token)

    assert seen == ["1"]
