"""Under which span a call begins, which span is current while an attempt is being sent, and that none stays behind."""

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
from traces import Traces, said

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
def nothing_stays_behind():
    """After each test, as before, no span is current."""
    assert get_current_span() is INVALID_SPAN
    yield
    assert get_current_span() is INVALID_SPAN


def measure(traces):
    """What an instrumentation of whatever is below does: a span of its own under the current one."""
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


async def test_a_client(traces):
    def key():  # asked before each attempt, as a part of it
        measure(traces)
        return KEY

    async with served(*TWICE) as server, client_of(server, api_key=key) as client:
        attach(client, traces.listener)
        with traces.tracer.start_as_current_span("user's") as span:
            await client.chat(SAY)
            assert get_current_span() is span

    assert traces.tree() == [("user's", [("chat m", ATTEMPTS)])]


async def test_a_client_that_blocks(traces):
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


async def test_a_transport_and_what_it_sends_through(traces):
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


async def test_a_transport_that_blocks_and_what_it_sends_through(traces):
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


async def test_two_tasks_at_once_have_their_own(traces):
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


async def test_hedges_have_their_own(traces):
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
    await asyncio.sleep(0)  # the loser lets go

    attempts = [("attempt large", ["below 1"]), ("attempt large", ["below 2"])]
    assert traces.tree() == [("user's", [("call large", attempts)])]


def test_a_thread(traces):
    def sender(_):
        measure(traces)
        return next(told)

    told, engine = iter([SERVER_ERROR, OK]), Engine(RETRIED)
    attach(engine, traces.listener)
    with traces.tracer.start_as_current_span("user's") as span:
        run_call(ThreadDriver(engine), Call(1, TARGET), sender)
        assert get_current_span() is span

    attempts = [("attempt large", ["below"])] * 2
    assert traces.tree() == [("user's", [("call large", attempts)])]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, ValueError])
def test_a_sender_that_raises_leaves_nothing_behind(traces, interrupt):
    def sender(_):
        raise interrupt

    engine = Engine(RETRIED)
    attach(engine, traces.listener)
    with pytest.raises(interrupt):
        run_call(ThreadDriver(engine), Call(1, TARGET), sender)

    call, (attempt,) = traces.only()
    assert said(call, "stormbreak.verdict") == said(attempt, "stormbreak.verdict") == ("cancelled",)


async def test_a_cancel_leaves_nothing_behind(traces):
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


def test_a_function(traces, guard):
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


async def test_an_asynchronous_function(traces, guard):
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


def test_a_generator_is_left_while_its_consumer_runs(traces, guard):
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


async def test_an_asynchronous_generator_that_is_left_in_the_middle(traces, guard, caplog):
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
    assert said(call, "stormbreak.verdict") == said(attempt, "stormbreak.verdict")
    assert caplog.records == []


async def test_an_attempt_that_somebody_else_ends_puts_nothing_into_his_context(
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


def test_a_loop_of_attempts_in_threads(traces, guard):
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


async def test_a_call_within_a_guarded_function_is_below_its_attempt(traces, guard):
    async with served() as server, client_of(server, api_key=KEY) as client:
        attach(client, traces.listener)

        @guard
        async def work():
            await client.chat(SAY)

        await work()

    inner = ("chat m", ["attempt m"])
    assert traces.tree() == [("call work", [("attempt work", [inner])])]


async def test_baggage_of_the_user_is_there_while_an_attempt_is_being_sent(traces):
    async def sender(_):
        seen.append(baggage.get_baggage("mine"))
        return Outcome(Verdict.OK)

    seen, engine = [], Engine(Policy())
    attach(engine, traces.listener)
    token = enter(baggage.set_baggage("mine", "1"))
    await AsyncioDriver(engine).run(Call(1, TARGET), sender)
    leave(token)

    assert seen == ["1"]
