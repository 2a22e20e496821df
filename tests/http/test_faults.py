"""The verdict of the client for every fault of the embedded provider: one table, plain and streamed.

An answer is a success only if its text proves that it answers this call.
"""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from table_test import table_test
from wrapped import INNER, done, wire_of

from stormbreak.core.presets import OFF
from stormbreak.http.client import AsyncClient
from stormbreak.http.transports import wrapped_connection
from stormbreak.provider.fault_kinds import CONDITIONS, REFUSALS, STREAM_ONLY, Kind
from stormbreak.provider.scenario import Fault, Provider, Scenario
from stormbreak.testing import answer_text
from stormbreak.types import Verdict

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
OTHER = {"model": "m", "messages": [{"role": "user", "content": "something else"}]}
EMBED = {"model": "m", "input": ["a", "b"]}
LONG_TIMEOUT = replace(OFF, idle_timeout=5.0)
IMPATIENT = replace(OFF, idle_timeout=0.2)
KEYS = {
    "budget": {"retry_after": 2.0},
    "slow_headers": {"added_latency": 0.01},
    "slow_body": {"added_latency": 0.01},
}
REFUSED = [  # kind, verdict, status, code, maybe processed
    ("400", Verdict.INVALID, 400, "invalid_value", False),
    ("401", Verdict.AUTH, 401, "invalid_api_key", False),
    ("403", Verdict.AUTH, 403, "unsupported_country_region_territory", False),
    ("404", Verdict.NOT_FOUND, 404, "model_not_found", False),
    ("408", Verdict.TIMEOUT, 408, "timeout_error", True),
    ("409", Verdict.THROTTLED, 409, "conflict_error", False),
    ("413", Verdict.INVALID, 413, "request_too_large", False),
    ("422", Verdict.INVALID, 422, "invalid_request_error", False),
    ("424", Verdict.INVALID, 424, "failed_dependency", False),
    ("425", Verdict.SERVER_ERROR, 425, "too_early", False),
    ("429", Verdict.THROTTLED, 429, "rate_limit_exceeded", False),
    ("498", Verdict.OVERLOADED, 498, "capacity_exceeded", False),
    ("500", Verdict.SERVER_ERROR, 500, "server_error", True),
    ("501", Verdict.INVALID, 501, "server_error", False),
    ("502", Verdict.SERVER_ERROR, 502, None, True),
    ("503", Verdict.OVERLOADED, 503, "server_is_overloaded", False),
    ("504", Verdict.SERVER_ERROR, 504, "timeout_error", True),
    ("520", Verdict.SERVER_ERROR, 520, None, True),
    ("521", Verdict.SERVER_ERROR, 521, None, False),
    ("522", Verdict.SERVER_ERROR, 522, None, False),
    ("523", Verdict.SERVER_ERROR, 523, None, False),
    ("524", Verdict.SERVER_ERROR, 524, None, True),
    ("529", Verdict.OVERLOADED, 529, "overloaded", False),
    ("quota", Verdict.BILLING, 429, "insufficient_quota", False),
    ("billing", Verdict.BILLING, 402, "billing_error", False),
    ("spend_limit", Verdict.BILLING, 429, "enforced_spend_limit_reached", False),
    ("balance", Verdict.BILLING, 402, "unknown_error", False),
    ("budget", Verdict.THROTTLED, 402, "invalid_request_error", False),
    ("model_not_found", Verdict.NOT_FOUND, 404, "model_not_found", False),
    ("context_length", Verdict.TOO_LONG, 400, "context_length_exceeded", False),
    ("content_filter", Verdict.FILTERED, 400, "content_filter", False),
    ("redirect", Verdict.REDIRECTED, 307, None, False),
    ("reset", Verdict.RESET, None, None, True),
    ("half_close", Verdict.RESET, None, None, True),
    ("hang", Verdict.TIMEOUT, None, None, True),
]
ANSWERED = [  # kind, verdict of a plain answer, verdict of a stream, detail of the stream
    ("slow_headers", Verdict.OK, Verdict.OK, None),
    ("slow_body", Verdict.OK, Verdict.OK, None),
    ("stall", Verdict.TIMEOUT, Verdict.TIMEOUT, "went silent"),
    ("stall_early", Verdict.TIMEOUT, Verdict.TIMEOUT, "went silent"),
    ("cut_body", Verdict.BROKEN, Verdict.BROKEN, "body was cut"),
    ("empty_body", Verdict.BROKEN, Verdict.BROKEN, "empty body"),
    ("invalid_json", Verdict.BROKEN, Verdict.BROKEN, "invalid json in an event"),
    ("html_200", Verdict.BROKEN, Verdict.BROKEN, "html instead of json"),
    ("error_in_200", Verdict.SERVER_ERROR, Verdict.SERVER_ERROR, "an error in place of an answer"),
    ("rate_limit_in_200", Verdict.THROTTLED, Verdict.THROTTLED, None),
    ("empty_choices", Verdict.BROKEN, Verdict.BROKEN, None),
    ("big_body", Verdict.OK, Verdict.OK, None),
    ("tiny_chunks", Verdict.OK, Verdict.OK, None),
    ("prose", Verdict.OK, Verdict.OK, None),  # without a schema it is a good answer
    ("interim", Verdict.OK, Verdict.OK, None),
    ("twice", Verdict.OK, Verdict.OK, None),
    ("unasked", Verdict.OK, Verdict.OK, None),
    ("quiet_close", Verdict.OK, Verdict.OK, None),
    ("close_race", Verdict.OK, Verdict.OK, None),
    ("early_answer", Verdict.OK, Verdict.OK, None),  # these requests arrive in one piece
    ("short_length", Verdict.BROKEN, Verdict.BROKEN, "invalid json in an event"),
    ("long_length", Verdict.TIMEOUT, Verdict.OK, None),
    ("long_header", Verdict.BROKEN, Verdict.BROKEN, "not HTTP"),
    ("endless_headers", Verdict.BROKEN, Verdict.BROKEN, "not HTTP"),
    ("endless_body", Verdict.BROKEN, Verdict.OK, None),
    ("gzip_lie", Verdict.BROKEN, Verdict.BROKEN, "body cannot be decompressed"),
    ("gzip_cut", Verdict.BROKEN, Verdict.BROKEN, None),
    ("gzip_bomb", Verdict.BROKEN, Verdict.BROKEN, "unpacks to more than 600 times its size"),
    ("error_early", None, Verdict.SERVER_ERROR, "an error in place of an answer"),
    ("cut_stream", None, Verdict.BROKEN, "stream ended without finish_reason"),
    ("stream_reset", None, Verdict.BROKEN, "body was cut"),
    ("no_done", None, Verdict.OK, None),
    ("comments", None, Verdict.OK, None),
    ("crlf", None, Verdict.OK, None),
    ("cr", None, Verdict.OK, None),
    ("endless_line", None, Verdict.BROKEN, None),
]
UNDETECTED = {
    "stale",  # a client cannot know that it answers another call
    "heartbeats",  # only a timeout of the attempt or of the first output ends it
}
UNDETECTED_BY_LIBRARIES = {"early_answer"}  # a library reads nothing before it has sent the body
PLAIN = [(kind, verdict) for kind, verdict, *_ in ANSWERED if verdict is not None]
STREAMED = [(kind, *streamed) for kind, _, *streamed in ANSWERED]


over_each = pytest.mark.parametrize("way", [None, *INNER], ids=lambda way: str(way or "our own"))


@pytest.fixture
def playing(stormbreak_provider, monkeypatch):
    """Make a client of a provider that plays one kind; over the connection `way`, by default our own."""

    def play(kind, *, streamed=False, policy=LONG_TIMEOUT, way=None, **keys):
        if way is not None:
            monkeypatch.setattr("stormbreak.http.client.connect", lambda *_: wire_of(way))
        if way in INNER[1:]:  # the real bound is tested with our own connection and one library
            monkeypatch.setattr(wrapped_connection, "BODY_LIMIT", 2**23)
        fault = Fault(kind=Kind(kind), **KEYS.get(kind, {}) | keys)
        scenario = Scenario(
            name=kind, provider=Provider(service=0.0, variation=0.0), faults=(fault,)
        )
        provider = stormbreak_provider(scenario)
        client = AsyncClient(
            base_url=provider.base_url, model="m", policy=policy, stream_on_wire=streamed
        )
        return provider, client.for_blocking() if way is not None and way.blocks else client

    return play


async def ask(client, payload=CHAT, way=None):
    endpoint = "embeddings" if "input" in payload else "chat/completions"
    async with asyncio.timeout(20):
        return (await done(way, client.ask(endpoint, json.dumps(payload).encode()))).outcome


@asynccontextmanager
async def closing(client, way):
    yield
    await done(way, client.close())


def until(verdict):
    """Return a policy that waits long unless the verdict is a timeout."""
    return IMPATIENT if verdict is Verdict.TIMEOUT else LONG_TIMEOUT


async def pause_at(provider, seconds):
    """Wait on the loop of the provider: then all its earlier work is done, even on a busy machine."""
    waiting = asyncio.run_coroutine_threadsafe(asyncio.sleep(seconds), provider._loop)
    await asyncio.wrap_future(waiting)


def text_in(outcome):
    return json.loads(outcome.value.body)["choices"][0]["message"]["content"]


def test_the_tables_cover_every_kind_of_fault():
    tested = {row[0] for row in REFUSED} | {row[0] for row in ANSWERED} | UNDETECTED
    assert tested == {kind.value for kind in set(Kind) - CONDITIONS}
    assert {row[0] for row in REFUSED} == {kind.value for kind in REFUSALS}
    streams = {kind.value for kind in STREAM_ONLY} - UNDETECTED
    assert {kind for kind, verdict, *_ in ANSWERED if verdict is None} == streams


@table_test("streamed", [False, True])
@table_test(("kind", "verdict", "status", "code", "processed"), REFUSED)
async def test_a_refusal_has_its_verdict_status_and_code(
    playing, kind, verdict, status, code, processed, streamed
):
    policy = IMPATIENT if kind == "hang" else LONG_TIMEOUT
    provider, client = playing(kind, streamed=streamed, policy=policy)
    async with client:
        outcome = await ask(client)

    assert (outcome.verdict, outcome.status, outcome.code) == (verdict, status, code)
    assert outcome.maybe_processed is processed
    assert provider.stats()["arrivals"] == 1


@over_each
@table_test(("kind", "verdict"), PLAIN)
async def test_a_fault_of_a_plain_answer_has_its_verdict(playing, kind, verdict, way):
    _, client = playing(kind, policy=until(verdict), way=way)
    async with closing(client, way):
        outcome = await ask(client, way=way)

    assert outcome.verdict is verdict
    assert outcome.maybe_processed is (verdict is not Verdict.OK)
    if verdict is Verdict.OK and (way is None or kind not in UNDETECTED_BY_LIBRARIES):
        assert text_in(outcome) == answer_text(CHAT)


@over_each
@table_test(("kind", "verdict", "detail"), STREAMED)
async def test_a_fault_of_a_stream_has_its_verdict(playing, kind, verdict, detail, way):
    _, client = playing(kind, streamed=True, policy=until(verdict), way=way)
    async with closing(client, way):
        outcome = await ask(client, way=way)

    assert outcome.verdict is verdict
    assert detail is None or way is not None or outcome.detail == detail
    if verdict is Verdict.OK and (way is None or kind not in UNDETECTED_BY_LIBRARIES):
        assert text_in(outcome) == answer_text(CHAT)


@table_test(("kind", "verdict"), PLAIN)
async def test_a_fault_of_an_embeddings_answer_has_its_verdict(playing, kind, verdict):
    _, client = playing(kind, policy=until(verdict))
    async with client:
        outcome = await ask(client, EMBED)

    assert outcome.verdict is verdict
    if verdict is Verdict.OK:
        assert len(json.loads(outcome.value.body)["data"]) == 2


async def test_heartbeats_without_an_answer_end_with_the_attempt_timeout(playing):
    policy = replace(IMPATIENT, attempt_timeout=0.5)
    _, client = playing("heartbeats", streamed=True, policy=policy)
    async with client:
        assert (await ask(client)).verdict is Verdict.TIMEOUT


# ---------------------------------------------------------------- after an answer


@over_each
@table_test("streamed", [False, True])
@table_test("kind", ["twice", "unasked", "quiet_close", "close_race"])
@table_test("pause", [0.0, 0.05])
async def test_the_next_call_gets_its_own_answer(playing, kind, streamed, pause, way):
    """This holds whatever the connection does after the first answer; only a race costs an attempt."""
    after = 0.005 if pause else 5.0  # well before the next request, or after it
    keys = {"respond_after": after} if kind in {"unasked", "quiet_close"} else {}
    provider, client = playing(kind, streamed=streamed, requests=(1, 3), way=way, **keys)
    verdicts = []
    async with closing(client, way):
        for payload in (CHAT, OTHER, CHAT, OTHER):
            outcome = await ask(client, payload, way)
            verdicts.append(outcome.verdict)
            if outcome.verdict is Verdict.OK:
                assert text_in(outcome) == answer_text(payload)
            if pause:
                await pause_at(provider, pause)

    second = Verdict.RESET if kind == "close_race" else Verdict.OK
    assert verdicts == [Verdict.OK, second, Verdict.OK, Verdict.OK]


@pytest.mark.parametrize(
    ("kinds", "pause"),
    [
        (((Kind.TWICE, 0.05), (Kind.QUIET_CLOSE, 0.005), (Kind.QUIET_CLOSE, 0.05)), 0.0),
        (((Kind.UNASKED, 0.005), (Kind.UNASKED, 0.05)), 0.1),
    ],
)
async def test_surplus_answers_on_few_connections_reach_no_other_call(
    kinds, pause, stormbreak_provider
):
    """Two answers in one write, a second answer while idle, quiet closes: no answer reaches another call.

    A surplus answer after the next request cannot be recognised, so there is a pause in which it arrives.
    """
    faults = tuple(
        Fault(kind=kind, share=0.2, respond_after=after)
        if kind is not Kind.TWICE
        else Fault(kind=kind, share=0.2)
        for kind, after in kinds
    )
    scenario = Scenario(
        name="talkative", provider=Provider(service=0.003, variation=0.5), faults=faults
    )
    provider = stormbreak_provider(scenario)
    free, right, wrong = asyncio.Semaphore(10), [], []

    async def call(number):
        payload = {"model": "m", "messages": [{"role": "user", "content": f"row {number}"}]}
        async with free:
            outcome = await ask(client, payload)
            if outcome.verdict is Verdict.OK:
                fits = text_in(outcome) == answer_text(payload)
                (right if fits else wrong).append(number)
            await asyncio.sleep(0.01 if number % 3 else 0.0)

    async with AsyncClient(base_url=provider.base_url, model="m", policy=OFF) as client:
        calls, size = (150, 10) if pause else (400, 400)  # one call per connection before a pause
        for first in range(0, calls, size):
            await asyncio.gather(*map(call, range(first, first + size)))
            await pause_at(provider, pause)

    assert wrong == []
    assert len(right) > 0.75 * calls  # a connection that closes as a call begins costs an attempt
    assert provider.stats()["keys"]["asked"] > 0.75 * calls
