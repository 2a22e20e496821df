"""Structured answers: requested with a schema, always validated, repaired a bounded number of times."""

import json
import time
from dataclasses import replace

import pydantic
import pytest
from clients import ONCE, SAY, THRICE, client_of, sent_by, target_state_of
from sockets import answer, failing, served
from table_test import table_test

from stormbreak import Client, UpstreamError
from stormbreak.core.breaker import State
from stormbreak.core.fallback_policy import Place, ToDegraded, ToTargets
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.presets import INTERACTIVE
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.cost.meter import Meter
from stormbreak.errors import ConfigurationError, SchemaMismatchError
from stormbreak.events import Returned
from stormbreak.testing import serve
from stormbreak.types import Usage, Verdict

HOTEL = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "stars": {"type": "integer", "maximum": 5}},
    "required": ["name", "stars"],
}
GOOD = '{"name": "Reef", "stars": 3}'
PROSE = "It is a lovely secret place."
USED = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


THIRD_IS_PROSE = """
[provider]
service = 0
[[faults]]
kind = "prose"
requests = [3]
"""


class Hotel(pydantic.BaseModel):
    name: str
    stars: int = pydantic.Field(le=5)


def says(text, finish_reason="stop", **message):
    """Return a script in which the model answers with a text."""
    content = {"role": "assistant", "content": text, **message}
    choice = {"index": 0, "message": content, "finish_reason": finish_reason}
    return answer(json.dumps({"choices": [choice], "usage": USED}).encode())


async def ask(*scripts, schema=HOTEL, policy=THRICE, **more):
    """Return the answer or error of a call with a schema, and the requests sent for it."""
    async with served(*scripts) as server, client_of(server, policy) as client:
        try:
            got = await client.chat(SAY, schema=schema, **more)
        except SchemaMismatchError as error:
            got = error
        return got, server.requests


@pytest.mark.parametrize("schema", [HOTEL, Hotel])
async def test_an_answer_that_fits_the_schema_is_parsed(schema):
    got, (request,) = await ask(says(GOOD), schema=schema)
    assert got.text == GOOD
    assert got.parsed == (Hotel(name="Reef", stars=3) if schema is Hotel else json.loads(GOOD))
    assert (got.attempts, got.maybe_processed) == (1, 0)
    asked = json.loads(request.body)["response_format"]
    assert asked["type"] == "json_schema"
    assert asked["json_schema"]["strict"] is True
    assert "Reef" not in repr(got)


@table_test("schema", [HOTEL, Hotel])
@table_test(
    ("text", "shown"),
    [
        (PROSE, "JSON"),
        ('{"name": "Reef", "stars": 7}', "/stars: "),
        ('{"name": "Reef"}', "stars"),
        ("", "JSON"),
    ],
)
async def test_a_repair_shows_the_model_its_error(schema, text, shown):
    got, requests = await ask(says(text), says(GOOD), schema=schema)
    assert (got.attempts, got.maybe_processed) == (2, 1)
    assert got.parsed
    first, second = (json.loads(request.body) for request in requests)
    *before, last = second["messages"]
    answered = [{"role": "assistant", "content": text}] if text else []
    assert before == [*first["messages"], *answered]
    assert shown in last["content"]
    assert second["response_format"] == first["response_format"]


async def test_every_repair_is_a_new_request_based_on_the_first():
    got, requests = await ask(says(PROSE), says("[]"), says(GOOD))
    bodies = [json.loads(request.body) for request in requests]
    assert [len(body["messages"]) for body in bodies] == [1, 3, 3]
    assert bodies[2]["messages"][1]["content"] == "[]"
    keys = {request.headers["idempotency-key"] for request in requests}
    assert len(keys) == 3
    assert (got.attempts, got.maybe_processed) == (3, 2)


async def test_a_failed_repair_is_retried_with_its_own_idempotency_key():
    policy = replace(THRICE, retry=replace(THRICE.retry, max_attempts=4))
    got, requests = await ask(says(PROSE), failing(503), says(GOOD), policy=policy)
    _, second, third = requests
    assert second.body == third.body
    assert second.headers["idempotency-key"] == third.headers["idempotency-key"]
    assert got.attempts == 3


@pytest.mark.parametrize(("repairs", "sent"), [(0, 1), (1, 2), (2, 3)])
async def test_a_call_without_repairs_left_raises_schema_mismatch(repairs, sent):
    error, requests = await ask(*[says(PROSE)] * 5, repairs=repairs)
    assert len(requests) == error.attempts == sent
    assert error.ended.maybe_processed == sent
    assert error.ended.stopped == "repairs"
    assert error.verdict is Verdict.SCHEMA_MISMATCH
    assert error.status == 200
    assert isinstance(error, UpstreamError)
    assert "lovely" not in f"{error} {error!r} {error.__notes__}"


async def test_repairs_count_towards_deadline_and_max_attempts():
    error, requests = await ask(says(PROSE), says(GOOD), policy=ONCE)
    assert (len(requests), error.ended.stopped) == (1, "attempts")
    error, requests = await ask(says(PROSE), says(GOOD), deadline=0.3)
    assert (len(requests), error.ended.stopped) == (1, "deadline")


async def test_an_answer_cut_at_the_token_limit_is_not_repaired():
    error, requests = await ask(says('{"name": "Re', "length"), says(GOOD))
    assert len(requests) == 1
    assert "cut at a limit" in str(error)


async def test_a_tool_call_is_not_validated():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    got, _ = await ask(says(None, "tool_calls", tool_calls=[call]))
    assert (got.parsed, got.text, got.attempts) == (None, "", 1)


async def test_a_schema_error_shows_no_text_of_the_answer():
    secret = '{"name": "lovely", "stars": "secret", "lovely": 1}'
    for schema in (HOTEL | {"additionalProperties": False}, Hotel):
        error, _ = await ask(*[says(secret)] * 3, schema=schema)
        assert "stars" in str(error)
        assert "secret" not in f"{error} {error.__notes__}"
        assert "lovely" not in f"{error} {error.__notes__}"


# ------------------------------------------------------------ a healthy target


async def test_a_schema_mismatch_is_not_a_failure_of_the_target():
    policy = replace(INTERACTIVE, retry=THRICE.retry)
    async with (
        served(*[says(PROSE)] * 90, says(GOOD)) as server,
        client_of(server, policy) as client,
    ):
        for _ in range(30):
            with pytest.raises(SchemaMismatchError):
                await client.chat(SAY, schema=HOTEL)
        state = target_state_of(client)
        assert state.breaker.state is State.CLOSED
        assert state.breaker.counts(time.monotonic()).failures == 0
        assert not state.slots.learned(time.monotonic())
        assert state.slots.in_flight == 0
        assert len(server.requests) == 90  # no repair was charged


@pytest.mark.parametrize(("counted", "failures"), [((), 0), ((Verdict.SCHEMA_MISMATCH,), 1)])
async def test_a_policy_may_count_a_schema_mismatch_as_a_failure(counted, failures):
    policy = replace(THRICE, failures=counted, breaker=INTERACTIVE.breaker)
    async with served(says(PROSE), says(GOOD)) as server, client_of(server, policy) as client:
        await client.chat(SAY, schema=HOTEL)
        assert target_state_of(client).breaker.counts(time.monotonic()).failures == failures


async def test_repairs_use_the_retry_budget_without_free_retries():
    budget = BudgetPolicy(ratio=0.0, no_free_retries=True)
    error, requests = await ask(
        says(PROSE), says(GOOD), policy=replace(THRICE, retry_budget=budget)
    )
    assert (len(requests), error.ended.stopped) == (1, "budget")


async def test_the_meter_bills_the_answer_before_a_repair():
    events = []
    async with served(says(PROSE), says(GOOD)) as server, client_of(server, THRICE) as client:
        meter = Meter(lambda *_: None)
        client.subscribe(meter)
        client.subscribe(events.append)
        got = await client.chat(SAY, schema=HOTEL)
    usage = Usage(input_tokens=10, output_tokens=5)
    back = [(each.verdict, each.usage) for each in events if isinstance(each, Returned)]
    assert back == [(Verdict.SCHEMA_MISMATCH, usage), (Verdict.OK, usage)]
    bills = meter.snapshot()
    assert bills.total.attempts == 2
    assert bills.waste["schema_mismatch"].attempts == 1
    assert got.usage == usage


async def test_a_repair_reserves_tokens_for_its_longer_prompt():
    seen = []
    async with served(says(PROSE * 100), says(GOOD)) as server, client_of(server, THRICE) as client:
        client.subscribe(lambda event: seen.append(getattr(event, "bound", None)))
        await client.chat(SAY, schema=HOTEL, max_tokens=50)
    first, second = [bound for bound in seen if bound is not None]
    assert second.input_tokens > first.input_tokens + len(PROSE * 100) // 4
    assert first.output_tokens == second.output_tokens == 50


# ------------------------------------------------------------ fallbacks and other APIs


async def test_a_schema_mismatch_may_fall_back_to_another_target():
    async with served(*[says(PROSE)] * 3) as first, served(says(GOOD)) as second:
        rule = ToTargets(on=(Verdict.SCHEMA_MISMATCH,), targets=(Place(base_url=second.base_url),))
        async with client_of(first, replace(THRICE, fallback=(rule,))) as client:
            got = await client.chat(SAY, schema=HOTEL)
        assert (got.source, got.attempts) == ("fallback", 4)
        assert sent_by(second) == sent_by(first)[:1]


@pytest.mark.parametrize(("text", "fits"), [(GOOD, True), (PROSE, False)])
async def test_a_degraded_answer_must_fit_the_schema(text, fits):
    rule = ToDegraded(on=(Verdict.SERVER_ERROR,), text=text)
    async with (
        served(failing(500)) as server,
        client_of(server, replace(ONCE, fallback=(rule,))) as client,
    ):
        if fits:
            assert (await client.chat(SAY, schema=HOTEL)).parsed == json.loads(GOOD)
        else:
            with pytest.raises(UpstreamError, match="server_error"):
                await client.chat(SAY, schema=HOTEL)


@pytest.mark.parametrize("endpoint", ["chat/completions", "responses", "messages"])
async def test_every_api_and_its_streams_are_validated(endpoint):
    payload = {"input": "hi"} if endpoint == "responses" else {"messages": SAY, "max_tokens": 90}
    schema = HOTEL | {"properties": HOTEL["properties"] | {"stars": {"type": "integer"}}}
    with serve(THIRD_IS_PROSE) as provider:
        async with client_of(provider, THRICE) as client:
            plain = await client.request(endpoint, payload, schema=schema)
            streamed = await client.request(endpoint, payload | {"stream": True}, schema=schema)
            odd = await client.request(endpoint, payload, schema=schema)
    assert plain.parsed == streamed.parsed == json.loads(plain.text)
    assert plain.parsed.keys() == {"name", "stars"}
    assert (plain.attempts, streamed.attempts, odd.attempts) == (1, 1, 2)


def test_the_blocking_client_validates_schemas():
    with serve("bench") as provider, Client(base_url=provider.base_url, model="m") as client:
        got = client.chat(SAY, schema=Hotel, repairs=0)
        assert isinstance(got.parsed, Hotel)
        assert client.request("chat/completions", {"messages": SAY}, schema=HOTEL).parsed["name"]


async def test_a_hedge_that_fits_the_schema_wins():
    policy = replace(INTERACTIVE, hedge=HedgePolicy(delay=0.05, percentile=None))
    async with served(says(PROSE), says(GOOD)) as server, client_of(server, policy) as client:
        got = await client.chat(SAY, schema=HOTEL)
    assert got.attempts == 2
    assert got.parsed == json.loads(GOOD)


# ------------------------------------------------------------ wrong schemas


@table_test(
    ("schema", "message"),
    [
        ({"type": "objekt"}, "schema is not a JSON schema: type: "),
        ({"$ref": "#/$defs/none"}, "schema is not a JSON schema: "),
        ({"$ref": "http://127.0.0.1:1/x.json"}, "schema is not a JSON schema: "),
        ({"$ref": "file:///etc/hostname"}, "schema is not a JSON schema: "),
        ({"pattern": "("}, "schema is not a JSON schema: pattern: "),
        ({"enum": {1j}}, "schema is not JSON: TypeError"),
        (int, "schema must be a JSON schema (a dict) or a pydantic model, got type"),
        ("x", "schema must be a JSON schema (a dict) or a pydantic model, got str"),
        (b"{}", "schema must be a JSON schema (a dict) or a pydantic model, got bytes"),
        (b"x", "schema must be a JSON schema (a dict) or a pydantic model, got bytes"),
        ([], "schema must be a JSON schema (a dict) or a pydantic model, got list"),
    ],
)
async def test_an_invalid_schema_is_rejected_before_anything_is_sent(schema, message):
    async with served() as server, client_of(server) as client:
        with pytest.raises(ConfigurationError) as caught:
            await client.chat(SAY, schema=schema)
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)
        with pytest.raises(ConfigurationError, match="repairs must be a whole number"):
            await client.chat(SAY, schema=HOTEL, repairs=-1)
        with pytest.raises(ConfigurationError, match="a schema needs chat/completions"):
            await client.request("embeddings", {"input": "x"}, schema=HOTEL)
        assert not server.requests
