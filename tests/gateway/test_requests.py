"""The gateway accepts, passes on and rejects requests and answers, with errors in the format of the endpoint."""

import asyncio
import json
import logging
import re
from contextlib import asynccontextmanager

import pytest
from gateways import (
    ANSWER,
    CHAT,
    KEY,
    OTHER,
    PROVIDER_KEY,
    read_reply,
    request_bytes,
    running,
    settings,
    upstream,
)
from table_test import table_test

from stormbreak.http.h1.server_connection import ServerResponse

MESSAGES = {**CHAT, "max_tokens": 100}


@asynccontextmanager
async def through(path, **options):
    """Run a gateway in front of a provider that records its requests."""
    async with upstream() as provider, running(path, settings(provider.url, **options)) as gateway:
        yield gateway, provider


async def test_a_call_reaches_the_target_with_its_model_and_its_key(path):
    payload = {**CHAT, "temperature": 0.5, "unknown": [1, None]}
    async with through(path) as (gateway, provider):
        reply = await gateway.ask(payload)
    (seen,) = provider.seen
    assert (reply.status, reply.json) == (200, ANSWER)
    assert seen.path == "/v1/chat/completions"
    assert seen.headers[b"authorization"] == f"Bearer {PROVIDER_KEY}".encode()
    assert provider.bodies == [{**payload, "model": "storm-1"}]


async def test_a_body_that_needs_no_change_is_sent_byte_for_byte(path):
    body = b'{ "model":"storm-1" ,"messages":[{"role":"user","content":"\\u0041"}] }'
    async with through(path, gateway='models = { "storm-1" = "main" }') as (gateway, provider):
        assert (await gateway.ask(body)).status == 200
    assert provider.seen[0].body == body


async def test_only_headers_of_an_allow_list_are_passed_on(path):
    theirs = [
        "anthropic-beta: tools", "openai-beta: assistants=v2", "anthropic-version: 2024-01-01", "cookie: secret=1",
        "x-forwarded-for: 10.0.0.1", "openai-organization: org-1", "user-agent: theirs", "x-other: 1",
    ]  # fmt: skip
    answer = ServerResponse(
        200,
        json.dumps(ANSWER).encode(),
        (
            ("x-request-id", "req_1"), ("set-cookie", "a=b"), ("x-ratelimit-remaining-requests", "7"),
            ("openai-organization", "org-ours"), ("openai-processing-ms", "12"), ("server", "theirs"),
        ),
    )  # fmt: skip
    async with through(path) as (gateway, provider):
        provider.reply = answer
        reply = await gateway.ask(headers=theirs)
    sent = provider.seen[0].headers
    assert (sent[b"anthropic-beta"], sent[b"openai-beta"]) == (b"tools", b"assistants=v2")
    assert sent[b"anthropic-version"] == b"2024-01-01"
    assert sent[b"user-agent"] == b"stormbreak"
    assert not {b"cookie", b"x-forwarded-for", b"openai-organization", b"x-other"} & sent.keys()
    assert KEY.encode() not in b"".join(sent.values())
    got = reply.headers
    assert (got["x-request-id"], got["openai-processing-ms"]) == ("req_1", "12")
    assert got["x-ratelimit-remaining-requests"] == "7"
    assert not {"set-cookie", "openai-organization", "server"} & got.keys()
    assert (got["x-stormbreak-attempts"], got["x-stormbreak-request-id"][:3]) == ("1", "gw_")
    assert got["x-stormbreak-target"].startswith("main=")


async def test_a_key_with_its_own_limits_gets_no_rate_limit_headers_of_the_account(path):
    limits = (("x-ratelimit-limit-requests", "100"), ("anthropic-ratelimit-tokens-limit", "9"))
    async with through(path, key="rpm = 6000") as (gateway, provider):
        provider.reply = ServerResponse(200, json.dumps(ANSWER).encode(), limits)
        limited, free = await gateway.ask(), await gateway.ask(key=OTHER)
    assert not any("ratelimit" in name for name in limited.headers)
    assert free.headers["x-ratelimit-limit-requests"] == "100"
    assert free.headers["anthropic-ratelimit-tokens-limit"] == "9"


async def test_equal_idempotency_keys_of_two_clients_differ_at_the_provider(path):
    """A provider answers a repeated key with the earlier answer, which would belong to another client."""
    header = ["idempotency-key: 1"]
    async with through(path) as (gateway, provider):
        for key in (KEY, KEY, OTHER):
            assert (await gateway.ask(key=key, headers=header)).status == 200
    first, again, other = (seen.headers[b"idempotency-key"] for seen in provider.seen)
    assert first == again != other
    assert first != b"1"


@table_test(
    ("path_", "payload", "answer"),
    [
        ("/v1/chat/completions", CHAT, ANSWER),
        ("/v1/embeddings", {"model": "main", "input": "x"},
         {"data": [{"index": 0, "object": "embedding", "embedding": [0.1]}], "object": "list",
          "usage": {"prompt_tokens": 1, "total_tokens": 1}}),
        ("/v1/completions", {"model": "main", "prompt": "x"},
         {"choices": [{"index": 0, "text": "y", "finish_reason": "stop"}]}),
        ("/v1/messages", MESSAGES,
         {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "y"}],
          "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 1}}),
        ("/v1/messages?beta=true", MESSAGES,
         {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "y"}],
          "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 1}}),
        ("/v1/messages/count_tokens", CHAT, {"input_tokens": 12}),
        ("/v1/responses", {"model": "main", "input": "x"},
         {"object": "response", "status": "completed",
          "output": [{"type": "message", "content": [{"type": "output_text", "text": "y"}]}]}),
    ],
)  # fmt: skip
async def test_every_endpoint_maps_to_the_same_endpoint_of_the_provider(
    path, path_, payload, answer
):
    async with through(path) as (gateway, provider):
        provider.reply = ServerResponse(200, json.dumps(answer).encode())
        reply = await gateway.ask(payload, path_)
    assert (reply.status, reply.json) == (200, answer)
    (seen,) = provider.seen
    assert seen.path + (f"?{seen.query}" if seen.query else "") == path_


async def test_a_key_sees_only_its_own_models(path):
    gateway = '[gateway.models]\n"gpt-4.1" = "main"\nsmall = "main"'
    async with through(path, gateway=gateway, key='models = ["small"]') as (running_, _):
        mine = await running_.ask(None, "/v1/models", method="GET")
        all_ = await running_.ask(None, "/v1/models", method="GET", key=OTHER)
    assert [each["id"] for each in mine.json["data"]] == ["small"]
    assert [each["id"] for each in all_.json["data"]] == ["gpt-4.1", "small", "main"]


@table_test(
    ("request_", "status", "code"),
    [
        ({"key": None}, 401, "missing_api_key"),
        ({"key": "sb-wrong"}, 401, "invalid_api_key"),
        ({"key": ""}, 401, "invalid_api_key"),
        ({"path": "/v1/images/generations"}, 404, "unknown_url"),
        ({"path": "/v1/chat/completions/../models"}, 404, "unknown_url"),
        ({"path": "/"}, 404, "unknown_url"),
        ({"method": "GET", "payload": None}, 405, "method_not_allowed"),
        ({"path": "/v1/models"}, 405, "method_not_allowed"),
        ({"payload": {**CHAT, "model": "gpt-9"}}, 404, "model_not_found"),
        ({"payload": {**CHAT, "model": "small"}}, 403, "model_not_allowed"),
        ({"payload": b"no json"}, 400, "invalid_body"),
        ({"payload": b""}, 400, "invalid_body"),
        ({"payload": b"[]"}, 400, "invalid_body"),
        ({"payload": rb'{"model":"main","messages":"\ud800"}'}, 400, "invalid_body"),
        ({"payload": {"messages": []}}, 400, "invalid_body"),
        ({"payload": {**CHAT, "model": 7}}, 400, "invalid_body"),
        ({"payload": {**CHAT, "n": "x"}}, 400, "invalid_body"),
        ({"payload": {**CHAT, "deferred": True}}, 400, "invalid_body"),
        ({"headers": ["content-encoding: gzip"]}, 400, "content_encoding"),
        ({"headers": ["x-stormbreak-tenant: other"]}, 400, "invalid_header"),
        ({"headers": ["x-stormbreak-priority: interactive"]}, 400, "invalid_header"),
        ({"headers": ["x-stormbreak-deadline: soon"]}, 400, "invalid_header"),
        ({"headers": ["anthropic-beta: \u00e4"]}, 400, "invalid_header"),
    ],
)
async def test_an_invalid_request_is_rejected_without_an_attempt(path, request_, status, code):
    options = {"gateway": '[gateway.models]\nsmall = "main"', "key": 'models = ["main"]'}
    async with through(path, **options) as (gateway, provider):
        reply = await gateway.ask(**request_)
        assert (reply.status, reply.json["error"]["code"]) == (status, code)
        assert reply.headers["x-should-retry"] == "false"
        assert provider.seen == []
        assert (await gateway.ask()).status == 200


async def test_an_error_has_the_format_of_its_endpoint(path):
    async with through(path) as (gateway, _):
        reply = await gateway.ask({**MESSAGES, "model": "gpt-9"}, "/v1/messages")
    assert reply.json == {
        "type": "error",
        "error": {"type": "not_found_error", "message": "no model has the name 'gpt-9'"},
    }


async def test_an_unknown_model_name_is_not_echoed_or_logged(path, caplog):
    caplog.set_level("INFO")
    secret = "sk-hunter2hunter2hunter2"
    async with through(path) as (gateway, _):
        reply = await gateway.ask({**CHAT, "model": secret})
        await gateway.ask(None, f"/{secret}", method="GET")
    assert secret.encode() not in reply.body
    assert secret not in caplog.text


async def test_a_client_key_is_read_from_both_headers(path):
    async with through(path) as (gateway, _):
        for header in (f"x-api-key: {KEY}", f"Authorization: bearer {KEY}"):
            assert (await gateway.ask(key=None, headers=[header])).status == 200
        assert (await gateway.ask(key=None, headers=[f"Authorization: Basic {KEY}"])).status == 401
        twice = [f"authorization: Bearer {KEY}"]
        assert (await gateway.ask(headers=twice)).status == 400


# ------------------------------------------------------------------ errors of the provider


@table_test(
    ("status", "body", "got"),
    [
        (400, {"error": {"message": "bad", "type": "invalid_request_error", "code": None}}, 400),
        (404, {"error": {"message": "no such model", "code": "model_not_found"}}, 404),
        (400, {"error": {"message": "too long", "code": "context_length_exceeded"}}, 400),
        (422, {"detail": "unusual"}, 422),
    ],
)
async def test_an_error_about_the_request_is_passed_on_unchanged(path, status, body, got):
    async with through(path) as (gateway, provider):
        provider.reply = ServerResponse(status, json.dumps(body).encode())
        reply = await gateway.ask()
    assert (reply.status, reply.json) == (got, body)
    assert reply.headers["x-should-retry"] == "false"
    assert len(provider.seen) == 1


@table_test(
    ("status", "body", "code"),
    [
        (401, {"error": {"message": f"Incorrect API key provided: {PROVIDER_KEY[:8]}***"}}, "upstream_auth"),
        (403, {"error": {"message": "no access"}}, "upstream_auth"),
        (429, {"error": {"message": "quota", "code": "insufficient_quota"}}, "upstream_billing"),
        (402, {"error": {"message": "pay"}}, "upstream_billing"),
        (307, {"location": "elsewhere"}, "upstream_redirected"),
    ],
)  # fmt: skip
async def test_an_error_about_our_account_is_a_502_without_details(path, status, body, code):
    async with through(path) as (gateway, provider):
        provider.reply = ServerResponse(
            status, json.dumps(body).encode(), (("location", "https://elsewhere.invalid/"),)
        )
        reply = await gateway.ask()
    assert (reply.status, reply.json["error"]["code"]) == (502, code)
    assert PROVIDER_KEY[:8].encode() not in reply.body
    assert "location" not in reply.headers


@table_test("status", [400, 404, 500])
async def test_an_error_body_never_shows_the_key_of_the_provider(path, status):
    body = json.dumps({"error": {"message": f"headers: Bearer {PROVIDER_KEY}"}}).encode()
    top = "[retry]\nmax_attempts = 1\n"
    async with through(path, top=top) as (gateway, provider):
        provider.reply = ServerResponse(status, body)
        reply = await gateway.ask()
    assert reply.status == status
    assert PROVIDER_KEY.encode() not in reply.body


# ------------------------------------------------------------------ may the client retry?


def overloaded(request, connection):
    return ServerResponse(503, b"{}")


def throttled(seconds):
    headers = () if seconds is None else (("retry-after", str(seconds)),)
    return lambda request, connection: ServerResponse(429, b"{}", headers)


@table_test(
    ("reply", "status", "may_retry"),
    [
        (throttled(30), 429, True),  # longer than the patience
        (throttled(None), 429, False),  # retried until patience or attempts are used up
        (overloaded, 503, False),
        (lambda *_: ServerResponse(503, b"{}", (("retry-after", "30"),)), 503, True),
        (lambda *_: ServerResponse(400, b"{}", (("retry-after", "30"),)), 400, False),
        (lambda _, connection: connection.abort(), 502, False),
    ],
)
async def test_only_a_wait_beyond_the_patience_of_the_gateway_invites_a_retry(
    path, reply, status, may_retry
):
    top = "patience = 0.2\n[retry]\nmax_attempts = 2\n[retry.backoff]\nkind = 'constant'\ninitial_delay = 0.01\n"
    async with through(path, top=top) as (gateway, provider):
        provider.reply = reply
        got = await gateway.ask()
    assert got.status == status
    assert ("x-should-retry" not in got.headers) == may_retry
    named = int(got.headers.get("retry-after", 0))
    assert (25 <= named <= 30) if may_retry or status == 400 else named == 0


async def test_a_429_after_the_last_attempt_invites_no_retry(path):
    async with through(path, top="[retry]\nmax_attempts = 1\n") as (gateway, provider):
        provider.reply = throttled(30)
        assert (await gateway.ask()).headers["x-should-retry"] == "false"


async def test_a_pool_in_cooldown_sends_retry_after(path):
    async with upstream() as provider:
        provider.reply = throttled(3)
        text = settings(
            provider.url,
            more=POOL.format(url=provider.url),
            top="patience = 0.2\ncooldown = true\n",
        )
        async with running(path, text) as gateway:
            replies = [await gateway.ask({**CHAT, "model": "both"}) for _ in range(3)]
    assert len(provider.seen) == 2  # one call to each target, then both cool down
    for reply in replies:
        assert reply.status == 429
        assert 1 <= int(reply.headers["retry-after"]) <= 5
        assert "x-should-retry" not in reply.headers


async def test_retry_after_of_a_pool_is_the_earliest_of_its_targets(path):
    async with upstream() as provider:
        provider.reply = lambda request, _: throttled(60 if b"storm-1" in request.body else 3)(
            request, None
        )
        text = settings(provider.url, more=POOL.format(url=provider.url), top="patience = 0.2\n")
        async with running(path, text) as gateway:
            replies = [await gateway.ask({**CHAT, "model": "both"}) for _ in range(2)]
    for reply in replies:
        assert reply.status == 429
        assert 1 <= int(reply.headers["retry-after"]) <= 5
        assert "x-should-retry" not in reply.headers


async def test_an_open_circuit_invites_no_retry(path):
    trip = "[breaker]\nopen_duration = 30\n[breaker.trip]\nkind = 'consecutive'\nfailure_threshold = 1\n"
    async with through(path, top=f"retry_budget = 'none'\n{trip}") as (gateway, provider):
        provider.reply = overloaded
        await gateway.ask()
        reply = await gateway.ask()
    assert (reply.status, reply.headers["x-should-retry"]) == (503, "false")
    assert int(reply.headers["retry-after"]) > 1


async def test_each_request_of_a_connection_is_parsed_by_its_own_head(path):
    """The parser reuses only heads that are equal to an earlier one."""
    asked = [
        ({}, CHAT, 200, "app"),
        ({}, {**CHAT, "n": 12}, 200, "app"),
        ({"key": OTHER}, CHAT, 200, "other"),
        ({"key": KEY[:-1] + "x"}, CHAT, 401, "-"),
        ({}, CHAT, 200, "app"),
        ({"headers": ["x-stormbreak-deadline: no"]}, CHAT, 400, "app"),
        ({"headers": ["x-stormbreak-deadline: 60"]}, CHAT, 200, "app"),
        ({"headers": ["idempotency-key: a"]}, CHAT, 200, "app"),
        ({}, CHAT, 200, "app"),
        ({}, b"{", 400, "app"),
        ({}, CHAT, 200, "app"),
    ]
    async with through(path) as (gateway, provider):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.port)
        for more, payload, status, key in asked:
            if payload != b"{":
                answer = {**ANSWER, "choices": ANSWER["choices"] * payload.get("n", 1)}
                provider.reply = ServerResponse(200, json.dumps(answer).encode())
            before = gateway.metric(f'requests_total{{key="{key}"')
            writer.write(request_bytes("/v1/chat/completions", payload, **more))
            assert (await read_reply(reader)).status == status
            assert gateway.metric(f'requests_total{{key="{key}"') == before + 1
        writer.close()
    keys = [seen.headers[b"idempotency-key"] for seen in provider.seen]
    assert len(set(keys)) == len(keys) == 8


async def test_the_target_of_a_weighted_pool_is_drawn_for_each_call(path):
    async with upstream() as provider:
        more = POOL.format(url=provider.url) + 'order = "weighted"\n'
        async with running(path, settings(provider.url, more=more)) as gateway:
            for _ in range(40):
                await gateway.ask({**CHAT, "model": "both"})
    assert {body["model"] for body in provider.bodies} == {"storm-1", "storm-2"}


# ------------------------------------------------------------------ pools, state, deadlines

POOL = """
[targets.second]
base_url = "{url}"
model = "storm-2"

[pools.both]
targets = ["main", "second"]
"""


async def test_requests_with_state_need_a_model_of_a_single_target(path):
    responses = {"model": "both", "input": "x"}
    answer = {"object": "response", "status": "completed", "output": []}
    async with upstream() as provider:
        text = settings(provider.url, more=POOL.format(url=provider.url))
        provider.reply = ServerResponse(200, json.dumps(answer).encode())
        async with running(path, text) as gateway:
            for field in (
                {"previous_response_id": "r"},
                {"conversation": "c"},
                {"background": True},
            ):
                reply = await gateway.ask({**responses, **field}, "/v1/responses")
                assert (reply.status, reply.json["error"]["code"]) == (400, "stateful_request")
                await gateway.ask({**responses, **field, "model": "main"}, "/v1/responses")
            assert [body["model"] for body in provider.bodies] == ["storm-1"] * 3
            plain = {**responses, "background": False, "conversation": None}
            await gateway.ask(plain, "/v1/responses")
            assert len(provider.seen) == 4


FILE = {"file_id": "file-1"}
CALLED = {"type": "tool_use", "id": "t", "name": "read", "input": FILE}


def user_content(*parts):
    return [{"role": "user", "content": [*parts]}]


CONTAINER = {"type": "container_reference", "container_id": "c"}


def with_tool(tool, named):
    return "responses", {"input": "x", "tools": [tool]}, named


@table_test(
    ("endpoint", "more", "named"),
    [
        ("responses", {"input": user_content({"type": "input_file", **FILE})}, "file_id"),
        ("responses", {"input": user_content({"type": "input_image", **FILE})}, "file_id"),
        ("responses", {"input": [{"type": "item_reference", "id": "m"}]}, "item_reference"),
        ("responses", {"input": [{"id": "m"}]}, "item_reference"),
        ("responses", {"input": [{"type": None, "id": "m"}]}, "item_reference"),
        (
            "responses",
            {"input": [{"type": "image_generation_call", "id": "i", "result": None}]},
            "item_reference",
        ),
        (
            "chat/completions",
            {"messages": [{"role": "assistant", "audio": {"id": "a"}}, *user_content()]},
            "id",
        ),
        with_tool({"type": "code_interpreter", "container": "c"}, "container"),
        with_tool(
            {"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["f"]}},
            "file_ids",
        ),
        with_tool({"type": "shell", "environment": CONTAINER}, "container_id"),
        with_tool(
            {
                "type": "shell",
                "environment": {"type": "container_auto", "skills": [{"skill_id": "s"}]},
            },
            "skill_id",
        ),
        (
            "responses",
            {
                "input": [
                    {"type": "code_interpreter_call", "id": "ci", "container_id": "c"},
                ]
            },
            "container_id",
        ),
        (
            "responses",
            {"input": [{"type": "shell_call", "call_id": "c", "environment": CONTAINER}]},
            "container_id",
        ),
        (
            "responses",
            b'{"input": [{"type": "code_interpreter_call", "c\\u006fntainer_id": "c"}]',
            "container_id",
        ),
        with_tool({"type": "file_search", "vector_store_ids": ["v"]}, "vector_store_ids"),
        with_tool({"type": "image_generation", "input_image_mask": FILE}, "file_id"),
        with_tool({"type": "code_interpreter", "container": {"type": "auto"}}, None),
        with_tool({"type": "function", "name": "f", "parameters": {"container": "c"}}, None),
        (
            "responses",
            {"input": [{"type": "computer_call_output", "call_id": "c", "output": FILE}]},
            "file_id",
        ),
        ("responses", {"input": "x", "prompt": {"id": "p"}}, "prompt"),
        ("chat/completions", {"messages": user_content({"type": "file", "file": FILE})}, "file_id"),
        (
            "chat/completions",
            b'{"messages": [{"role": "user", "content": [{"file": {"f\\u0069le_id": "f"}}]}]',
            "file_id",
        ),
        (
            "messages",
            {"messages": user_content({"type": "document", "source": {"type": "file", **FILE}})},
            "file_id",
        ),
        ("messages", {"messages": user_content({"type": "container_upload", **FILE})}, "file_id"),
        (
            "messages",
            {"messages": user_content({"type": "tool_result", "content": [{"source": FILE}]})},
            "file_id",
        ),
        ("messages", {"messages": user_content(), "container": "c"}, "container"),
        ("messages", {"messages": user_content(CALLED), "container": None}, None),
        ("messages", {"messages": user_content({"type": "text", "text": "a file_id"})}, None),
        ("responses", {"input": user_content({"type": "input_file", "file_id": None})}, None),
        ("responses", {"input": [{"type": "message", "id": "m", "content": "x"}]}, None),
        ("completions", {"prompt": "x"}, None),
    ],
)
async def test_references_to_provider_files_need_a_model_of_a_single_target(
    path, endpoint, more, named
):
    """Found: a pool sent such a reference to a provider that does not know it."""
    async with upstream() as provider:
        once = "[retry]\nmax_attempts = 1\n"
        text = settings(provider.url, more=POOL.format(url=provider.url), top=once)
        async with running(path, text) as gateway:
            for model in ("both", "main"):
                if isinstance(more, bytes):
                    payload = more + f', "model": "{model}"}}'.encode()
                else:
                    payload = {"model": model, "max_tokens": 9, **more}
                reply = await gateway.ask(payload, f"/v1/{endpoint}")
                if named is None or model == "main":
                    assert {body["model"] for body in provider.bodies} >= {"storm-1"}
                else:
                    assert reply.status == 400
                    assert reply.json["error"]["message"].startswith(f"{named} refers to")
                    assert provider.seen == []


async def test_a_background_job_is_never_retried(path):
    async with through(path) as (gateway, provider):
        provider.reply = ServerResponse(503, b"{}")
        await gateway.ask({"model": "main", "input": "x", "background": True}, "/v1/responses")
    assert len(provider.seen) == 1


async def test_a_pool_falls_back_and_names_the_target_in_a_header(path):
    async with upstream() as provider:
        provider.reply = lambda request, _: (
            ServerResponse(503, b"{}")
            if b"storm-1" in request.body
            else ServerResponse(200, json.dumps(ANSWER).encode())
        )
        text = settings(
            provider.url, more=POOL.format(url=provider.url), top="[retry]\nmax_attempts = 1\n"
        )
        async with running(path, text) as gateway:
            reply = await gateway.ask({**CHAT, "model": "both"})
    assert reply.status == 200
    assert reply.headers["x-stormbreak-target"].startswith("second=")
    assert reply.headers["x-stormbreak-attempts"] == "2"
    assert [body["model"] for body in provider.bodies] == ["storm-1", "storm-2"]


@table_test("header", ["x-stormbreak-deadline: 0.2", "x-stainless-read-timeout: 0.2"])
async def test_the_deadline_of_the_client_bounds_the_call(path, header):
    async with through(path) as (gateway, provider):
        provider.reply = lambda *_: asyncio.sleep(30)
        reply = await asyncio.wait_for(gateway.ask(headers=[header]), 60)
    assert (reply.status, reply.json["error"]["code"]) == (504, "upstream_timeout")


@pytest.mark.parametrize("where", ["key", "top"])
async def test_the_shortest_deadline_applies(path, where):
    async with through(path, **{where: "deadline = 0.2\n"}) as (gateway, provider):
        provider.reply = lambda *_: asyncio.sleep(30)
        late = ["x-stormbreak-deadline: 60"]
        reply = await asyncio.wait_for(gateway.ask(headers=late), 60)
    assert reply.status == 504


async def test_a_model_name_with_an_asterisk_matches_by_prefix(path, caplog):
    caplog.set_level(logging.INFO)
    models = 'models = { "gpt-*" = "main", "gpt-9" = "main" }'
    options = {"gateway": models, "key": 'models = ["gpt-9*", "main"]'}
    async with through(path, **options) as (gateway, provider):
        for name in ("gpt-9-turbo", "gpt-9", "main"):
            assert (await gateway.ask({**CHAT, "model": name})).status == 200
        assert (await gateway.ask({**CHAT, "model": "gpt-8"})).status == 403
        assert (await gateway.ask({**CHAT, "model": "gpt-8"}, key=OTHER)).status == 200
        assert (await gateway.ask({**CHAT, "model": "gp"})).status == 404
        listed = await gateway.ask(None, "/v1/models", method="GET")
    asked = [body["model"] for body in provider.bodies]
    assert asked == ["gpt-9-turbo", "storm-1", "storm-1", "gpt-8"]
    assert [each["id"] for each in listed.json["data"]] == ["gpt-9", "main"]
    logged = re.findall(r" model=(\S+) ", caplog.text)
    assert logged == ["gpt-*", "gpt-9", "main", "-", "gpt-*", "-", "-"]
