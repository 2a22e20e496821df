"""Targets and pools of a settings file under the SDKs: the model name selects them, with their own address and key."""

import asyncio
import json
from functools import partial
from operator import attrgetter
from textwrap import dedent
from types import SimpleNamespace

import openai
import pytest
from metering import prices
from sdk_clients import KEY, MESSAGE, SDKS, each_sdk
from settings_file import FIRST_KEY, SECOND_KEY, SettingsFile, cache_key
from sockets import PATIENCE, End, answer, failing, free_port, served

from stormbreak import ConfigurationError
from stormbreak.http.settings import load
from stormbreak.httpx2 import AsyncTransport, Transport, wrap
from stormbreak.testing import serve

FILE = """
    [retry]
    max_attempts = 1

    [targets.main]
    base_url = "{first}"
    model = "large"
    api_key_env = "FIRST_KEY"

    [targets.spare]
    base_url = "{second}"
    model = "small"
    api_key_env = "SECOND_KEY"

    [pools.chat]
    targets = ["main", "spare"]

    [gateway.models]
    "gpt-*" = "spare"
"""
ASYNC_OPENAI = SDKS[0]


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("FIRST_KEY", FIRST_KEY)
    monkeypatch.setenv("SECOND_KEY", SECOND_KEY)


@pytest.fixture
def file(tmp_path):
    def write(first, second, text=FILE):
        return str(SettingsFile(tmp_path / "s.toml", first=first, second=second).write(text).path)

    return write


def dead():
    """Return a server that does not listen."""
    return SimpleNamespace(base_url=f"http://127.0.0.1:{free_port()}/v1")


def models(server):
    return [json.loads(request.body)["model"] for request in server.requests]


def sent_keys(server):
    return [cache_key(request) for request in server.requests]


@each_sdk
async def test_a_pool_with_a_dead_target_answers_from_the_other(sdk, file):
    with serve("calm") as provider:
        transport = sdk.transport(file(dead(), provider))
        client = sdk.client(dead().base_url, transport)
        answers = [await sdk.ask(client, model="chat") for _ in range(3)]
        stream = await sdk.ask(client, model="chat", stream=True)
        assert await sdk.read(stream)
        assert all(sdk.text(each) for each in answers)
        assert {each.model for each in answers} == {"small"}
        assert len(transport.snapshot()["targets"]) == 2
        await sdk.close(client)


@each_sdk
async def test_each_target_gets_its_own_key_and_model_without_sdk_headers(sdk, file):
    good = MESSAGE if "anthropic" in str(sdk) else answer()
    async with served(failing(500)) as first, served(good) as second:
        client = sdk.client(dead().base_url, sdk.transport(file(first, second)))
        await sdk.ask(client, model="chat")
        await sdk.close(client)
    assert (models(first), models(second)) == (["large"], ["small"])
    for server, key in ((first, FIRST_KEY), (second, SECOND_KEY)):
        (request,) = server.requests
        assert key in str(request.headers)
        assert KEY not in str(request.headers)
        assert not any(name.startswith("x-stainless") for name in request.headers)


async def test_a_model_prefix_selects_a_target_and_keeps_the_requested_model(file):
    async with served() as first, served(answer()) as second:
        transport = AsyncTransport(file(first, second))
        client = ASYNC_OPENAI.client(dead().base_url, transport)
        await ASYNC_OPENAI.ask(client, model="gpt-9")
        await client.close()
    assert models(second) == ["gpt-9"]
    assert first.requests == []


async def test_an_unnamed_model_keeps_its_address_under_the_policy_of_the_file(file):
    async with served() as first, served() as second, served(failing(503)) as own:
        transport = AsyncTransport(file(first, second))
        client = ASYNC_OPENAI.client(own.base_url, transport)
        with pytest.raises(ASYNC_OPENAI.module.InternalServerError) as caught:
            await ASYNC_OPENAI.ask(client, model="m")
        await client.close()
    assert models(own) == ["m"]  # one attempt, as set in the file
    assert sent_keys(own) == [KEY]
    assert first.requests == second.requests == []
    assert caught.value.response.headers["x-stormbreak-attempts"] == "1"


async def test_a_transport_on_shared_settings_follows_a_reload(tmp_path):
    async with served(answer(), answer()) as first, served() as second:
        file = SettingsFile(tmp_path / "s.toml", first=first, second=second)
        with pytest.raises(ConfigurationError, match="path of their file"):
            AsyncTransport(file.write(FILE).load(), trust_env=False)
        async with file.load(keys={}) as settings:
            client = ASYNC_OPENAI.client(dead().base_url, AsyncTransport(settings))
            await ASYNC_OPENAI.ask(client, model="main")
            file.write(FILE.replace("large", "larger"))
            settings.reload()
            await ASYNC_OPENAI.ask(client, model="main")
            await client.close()
    assert models(first) == ["large", "larger"]


class Reloading:
    """A client on its settings, or on their engine alone, with a model that the file does not name."""

    def __init__(self, path, own, of=lambda settings: settings, text=""):
        self._file = SettingsFile(path, first=dead(), second=dead())
        self._write(text)
        price = partial(prices, into="3", out="15")
        self._settings = self._file.load(keys={}, prices=price)
        self.client = ASYNC_OPENAI.client(
            own.base_url, AsyncTransport(of(self._settings)), max_retries=0
        )

    def _write(self, text):
        self._file.write(text + dedent(FILE))

    def reload(self, text):
        self._write(text)
        self._settings.reload()

    async def ask(self):
        return ASYNC_OPENAI.text(await ASYNC_OPENAI.ask(self.client))


@pytest.fixture(params=["settings", "engine"])
def of(request):
    return {"settings": lambda settings: settings, "engine": attrgetter("engine")}[request.param]


async def test_a_reload_applies_token_limits_to_unnamed_models(tmp_path, of):
    async with served(answer()) as own:
        here = Reloading(tmp_path / "s.toml", own, of)
        await here.ask()
        here.reload("patience = 0.1\nrate_limit.tpm = 1\n")
        await here.ask()  # uses up the whole minute
        with pytest.raises(openai.RateLimitError, match="quota"):
            await here.ask()
        here.reload("")
        await here.ask()
        await here.client.close()
    assert len(own.requests) == 3


async def test_a_reload_applies_spend_limits_to_unnamed_models(tmp_path, of):
    async with served(answer()) as own:
        here = Reloading(tmp_path / "s.toml", own, of)
        await here.ask()
        here.reload("spend.max_usd = 100.0\nspend.max_output_tokens = 7\n")
        with pytest.raises(openai.BadRequestError, match="cannot be counted"):
            await here.client.responses.create(model="m", input="hi", background=True)
        await here.ask()
        await here.client.close()
    assert [json.loads(each.body).get("max_tokens") for each in own.requests] == [None, 7]


async def test_a_reload_applies_its_deadline_to_unnamed_models(tmp_path, of):
    async with served(answer(), [End.HANG]) as own:
        here = Reloading(tmp_path / "s.toml", own, of)
        await here.ask()
        here.reload("deadline = 0.1\n")
        with pytest.raises(openai.APITimeoutError):
            async with asyncio.timeout(PATIENCE):
                await here.ask()
        await here.client.close()


async def test_a_reload_keeps_the_fallbacks_of_unnamed_models(tmp_path, of):
    degraded = 'fallback = [{{kind = "degraded", text = "{}"}}]\n'
    async with served(failing(500)) as own:
        here = Reloading(tmp_path / "s.toml", own, of, degraded.format("later"))
        assert await here.ask() == "later"
        for text in ("", degraded.format("never")):
            here.reload(text)
            assert await here.ask() == "later"
        await here.client.close()


async def test_targets_of_settings_use_an_inner_transport(file):
    from httpx2 import AsyncHTTPTransport  # noqa: PLC0415 - nothing else here needs it

    async with served(failing(500)) as first, served(answer()) as second:
        transport = AsyncTransport(file(first, second), inner=AsyncHTTPTransport())
        client = ASYNC_OPENAI.client(dead().base_url, transport)
        await ASYNC_OPENAI.ask(client, model="chat")
        await client.close()
    assert (models(first), models(second)) == (["large"], ["small"])


@pytest.mark.parametrize(
    ("model", "error", "message", "sent"),
    [("chat", ConfigurationError, "several", 0), ("main", openai.BadRequestError, "400", 1)],
)
async def test_a_stateful_request_needs_a_model_of_a_single_target(
    file, model, error, message, sent
):
    async with served(failing(400)) as first, served() as second:
        transport = AsyncTransport(file(first, second))
        client = ASYNC_OPENAI.client(dead().base_url, transport, max_retries=0)
        with pytest.raises(error, match=message):
            await client.responses.create(model=model, input="hi", previous_response_id="r")
        await client.close()
    assert len(first.requests) == sent


async def test_cached_and_degraded_answers_follow_the_policy_of_the_target(file):
    text = FILE.replace(
        '"FIRST_KEY"',
        '"FIRST_KEY"\n    [[targets.main.policy.fallback]]\n    kind = "cache"\n'
        '    [[targets.main.policy.fallback]]\n    kind = "degraded"\n    text = "later"',
    )
    async with served(answer(), failing(500)) as first, served() as second:
        transport = AsyncTransport(file(first, second, text))
        client = ASYNC_OPENAI.client(dead().base_url, transport)
        answers = [
            ASYNC_OPENAI.text(await ASYNC_OPENAI.ask(client, model="main")) for _ in range(2)
        ]
        other = await client.chat.completions.create(
            model="main", messages=[{"role": "user", "content": "another"}]
        )
        await client.close()
    assert answers == ["fine", "fine"]
    assert ASYNC_OPENAI.text(other) == "later"


def test_invalid_combinations_with_settings_are_rejected(file):
    path = file(dead(), dead())
    with pytest.raises(ConfigurationError, match=r"set \[fleet\] in the file"):
        Transport(path, fleet="redis://127.0.0.1")
    client = ASYNC_OPENAI.module.OpenAI(base_url=dead().base_url, api_key=KEY)
    with pytest.raises(ConfigurationError, match="only a policy, without targets"):
        wrap(client, path)
    with pytest.raises(ConfigurationError, match="give the settings to a transport"):
        wrap(client, load(path))
    client.close()
    with pytest.raises(ConfigurationError, match=r"no/such\.toml"):
        Transport("no/such.toml")
