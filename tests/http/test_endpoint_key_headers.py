"""Keys are sent in the headers that each API reads."""

import json
from contextlib import asynccontextmanager

import pytest
from sockets import BODY, answer, failing, served

from stormbreak.core.backoff import Backoff
from stormbreak.core.fallback_policy import Place, ToTargets
from stormbreak.core.policy import Policy
from stormbreak.core.presets import OFF
from stormbreak.core.retry import RetryPolicy
from stormbreak.http.client import AsyncClient
from stormbreak.http.endpoint import origin_of
from stormbreak.llm.providers import PRESETS

OWN_KEY, SPARE_KEY = "own-canary-0123456789", "spare-canary-0123456789"
AZURE = "http://mine.openai.azure.com/openai/v1"
CLAUDE = "http://api.anthropic.com/v1"
SAY = [{"role": "user", "content": "hello"}]
MESSAGE = json.dumps({"content": [{"type": "text", "text": "fine"}], "stop_reason": "end_turn"})
RESPONSE = json.dumps(
    {
        "status": "completed",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "fine"}]}],
    }
)
BODIES = {"chat/completions": BODY, "messages": MESSAGE.encode(), "responses": RESPONSE.encode()}
PAYLOADS = {
    "chat/completions": {"messages": SAY},
    "messages": {"messages": SAY, "max_tokens": 9},
    "responses": {"input": "hello"},
}
SHOWN = ("authorization", "x-api-key", "api-key", "anthropic-version")


def shown(request):
    return {name: request.headers[name] for name in SHOWN if name in request.headers}


def bearer(key):
    return {"authorization": f"Bearer {key}"}


def native(key):
    return {"x-api-key": key, "anthropic-version": "2023-06-01"}


@asynccontextmanager
async def everywhere(monkeypatch, *scripts):
    """Run a server that answers for every host, as the proxy for all of them."""
    async with served(*scripts) as server:
        monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{server.port}")
        yield server


@pytest.mark.parametrize(
    ("base_url", "endpoint", "headers"),
    [
        ("http://gateway.example/v1", "chat/completions", bearer(OWN_KEY)),
        ("http://gateway.example/v1", "responses", bearer(OWN_KEY)),
        ("http://gateway.example/v1", "messages", bearer(OWN_KEY) | native(OWN_KEY)),
        (CLAUDE, "chat/completions", bearer(OWN_KEY)),
        (CLAUDE, "messages", native(OWN_KEY)),
        ("http://API.Anthropic.com.:80/v1", "messages", native(OWN_KEY)),
        (AZURE, "chat/completions", {"api-key": OWN_KEY}),
        (AZURE, "responses", {"api-key": OWN_KEY}),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
async def test_a_key_is_sent_in_the_header_of_its_api(
    monkeypatch, base_url, endpoint, headers, streams
):
    async with everywhere(monkeypatch, failing(500), answer(BODIES[endpoint])) as server:
        policy = Policy(
            retry=RetryPolicy(max_attempts=2, backoff=Backoff(kind="constant", initial_delay=0.0))
        )
        given = {"api_key": OWN_KEY, "model": "m", "policy": policy, "allow_http": True}
        async with AsyncClient(base_url=base_url, **given) as client:
            if streams:
                stream = await client.stream(endpoint, PAYLOADS[endpoint])
                text = (await stream.answer()).text
            else:
                text = (await client.request(endpoint, PAYLOADS[endpoint])).text

    assert text == "fine"
    accepts = {request.headers["accept"] for request in server.requests}
    assert accepts == {"text/event-stream" if streams else "application/json"}
    assert [shown(request) for request in server.requests] == [headers, headers]


async def test_a_fallback_sends_its_own_key_in_the_header_of_its_api(monkeypatch):
    monkeypatch.setenv("SPARE_KEY", SPARE_KEY)
    async with everywhere(monkeypatch, failing(500)) as far, served(failing(500)) as near:
        spare = Place(base_url=AZURE, api_key_env="SPARE_KEY")
        other = Place(base_url=CLAUDE, api_key_env="SPARE_KEY")
        policy = Policy(
            retry=RetryPolicy(max_attempts=1), fallback=(ToTargets(targets=(spare, other)),)
        )
        given = {"api_key": OWN_KEY, "model": "m", "policy": policy, "allow_http": True}
        async with AsyncClient(base_url=near.base_url, **given) as client:
            for endpoint, payload in PAYLOADS.items():
                await client.ask(endpoint, json.dumps(payload | {"model": "m"}).encode())

    versioned = {"anthropic-version": "2023-06-01"}
    assert [shown(request) for request in near.requests] == [
        bearer(OWN_KEY),
        bearer(OWN_KEY) | native(OWN_KEY),
        bearer(OWN_KEY),
    ]
    assert [shown(request) for request in far.requests] == [
        {"api-key": SPARE_KEY},
        bearer(SPARE_KEY),
        {"api-key": SPARE_KEY, "x-api-key": SPARE_KEY} | versioned,
        native(SPARE_KEY),
        {"api-key": SPARE_KEY},
        native(SPARE_KEY),
    ]


async def test_a_request_does_not_change_the_shared_headers():
    """The headers of an origin are created once, and copied for each attempt."""
    async with (
        served() as server,
        AsyncClient(base_url=server.base_url, api_key=OWN_KEY, model="m") as client,
    ):
        before = repr(client._resolver.first.routes.endpoint.origin.headers)
        for _ in range(2):
            await client.chat(SAY)
        assert repr(client._resolver.first.routes.endpoint.origin.headers) == before
    assert len({request.headers["idempotency-key"] for request in server.requests}) == 2


async def test_a_key_from_a_function_replaces_every_placeholder_header():
    async with (
        served() as server,
        AsyncClient(
            base_url=server.base_url, api_key=lambda: "sk-ant-0123456789", policy=OFF
        ) as client,
    ):
        payload = PAYLOADS["messages"] | {"model": "m"}
        await client.ask("messages", json.dumps(payload).encode())
    assert shown(server.requests[0]) == native("sk-ant-0123456789")


def test_only_anthropic_has_a_key_header_by_host():
    """Among the presets only Anthropic has a rule for the header of its key."""
    for known in PRESETS.values():
        headers = origin_of(known.base_url, OWN_KEY).headers
        sent = {
            shape.name: set(headers[shape]) & {"Authorization", "x-api-key"} for shape in headers
        }
        assert sent["CHAT"] == {"Authorization"}, known.name
        assert (sent["RESPONSES"] == {"x-api-key"}) == (known.name == "anthropic")
