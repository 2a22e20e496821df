"""A reload of a settings file drops no call in flight, on real sockets."""

import asyncio
import json
import os
import signal

import httpx2
import openai
import pytest
from settings_file import FIRST_KEY, SAY, SECOND_KEY, SettingsFile, cache_key
from sockets import EVENTS, PATIENCE, answer, failing, served

from stormbreak import ConfigurationError
from stormbreak.core.breaker_policy import State
from stormbreak.httpx2 import AsyncTransport

BEFORE = """
    deadline = 600
    patience = 600
    [retry]
    max_attempts = 2
    [retry.backoff]
    kind = "constant"
    initial_delay = 0.05
    [limit]
    kind = "fixed"
    max_in_flight = 3

    [targets.main]
    base_url = "{first}"
    model = "large"
    api_key_env = "FIRST_KEY"

    [targets.spare]
    base_url = "{second}"
    model = "small"
    api_key_env = "FIRST_KEY"

    [targets.still]
    base_url = "{second}"
    model = "still"

    [pools.chat]
    targets = ["main", "spare"]
"""
AFTER = (
    BEFORE.replace("FIRST_KEY", "SECOND_KEY")
    .replace('"large"', '"larger"')
    .replace(
        "[targets.still]",
        "[targets.main.policy.limit]\n    max_in_flight = 1\n\n    [targets.still]",
    )
    .replace(
        '[targets.spare]\n    base_url = "{second}"\n    model = "small"\n    api_key_env = "SECOND_KEY"\n',
        "",
    )
    .replace('["main", "spare"]', '["main"]')
)  # another key, model and limit, and one target less


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("FIRST_KEY", FIRST_KEY)
    monkeypatch.setenv("SECOND_KEY", SECOND_KEY)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "stormbreak.toml"


class Held(asyncio.Event):
    """A step of a script that waits until it is set."""

    async def __call__(self, request, writer):
        await self.wait()


def asked(server):
    """Return key and model of each request."""
    return [(cache_key(request), json.loads(request.body)["model"]) for request in server.requests]


async def test_a_reload_applies_to_new_calls_and_not_to_waiting_ones(path):
    held = Held()
    async with served([held, answer()]) as first, served([answer()]) as second:
        file = SettingsFile(path, first=first, second=second).write(BEFORE)
        async with file.load() as settings:
            chat = settings.client("chat")
            begun = [asyncio.ensure_future(chat.chat(SAY)) for _ in range(5)]  # 3 sent, 2 wait
            await first.asked(3)
            file.write(AFTER)
            settings.reload()
            new = [asyncio.ensure_future(chat.chat(SAY)) for _ in range(2)]
            await first.asked(4)

            assert asked(first) == [(FIRST_KEY, "large")] * 3 + [(SECOND_KEY, "larger")]
            held.set()
            answers = await asyncio.gather(*begun, *new)
            assert [one.target.model for one in answers] == ["large"] * 5 + ["larger"] * 2
            assert sorted(asked(first)) == sorted(
                [(FIRST_KEY, "large")] * 5 + [(SECOND_KEY, "larger")] * 2
            )
            assert [one.attempts for one in answers] == [1] * 7
            assert second.requests == []


async def test_a_call_begun_before_a_reload_falls_back_to_a_removed_target(path):
    held = Held()
    async with served([held, failing(500)]) as first, served([answer()]) as second:
        file = SettingsFile(path, first=first, second=second).write(BEFORE)
        async with file.load() as settings:
            call = asyncio.ensure_future(settings.client("chat").chat(SAY))
            await first.asked(1)
            file.write(AFTER)
            settings.reload()
            held.set()

            got = await call
            assert (got.source, got.target.name) == ("fallback", "spare")
            assert asked(first) == [(FIRST_KEY, "large")] * 2  # also the retry, with the old key
            assert asked(second) == [(FIRST_KEY, "small")]
            assert "spare=" not in str(settings.snapshot())


async def test_a_stream_continues_over_a_reload(path):
    event = b'data: {"choices": [{"index": 0, "delta": {"content": "fine"}}]}\n\n'
    end = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    whole = answer(event + end, **EVENTS)
    half = len(whole) - len(end)
    held = Held()
    async with served([whole[:half], held, whole[half:]]) as first, served() as second:
        file = SettingsFile(path, first=first, second=second).write(BEFORE)
        async with file.load() as settings:
            payload = {"messages": SAY}
            async with settings.client("chat").stream("chat/completions", payload) as stream:
                texts = stream.texts()
                got = [await anext(texts)]
                file.write(AFTER)
                settings.reload()
                held.set()
                got += [text async for text in texts]
            assert got == ["fine"]


async def test_a_reload_keeps_circuits_of_changed_and_unchanged_targets(path):
    async with served([answer()]) as first, served([answer()]) as second:
        file = SettingsFile(path, first=first, second=second).write(BEFORE)
        async with file.load() as settings:
            still, spare = settings.client("still"), settings.client("spare")
            for client in (still, spare):
                client.isolate(client.target(client._resolver.first.model))
            target_state = settings.engine.target_state(still.target("still"))
            file.write(
                BEFORE.replace("deadline = 600", "deadline = 601").replace(
                    "[targets.still]", "[targets.still]\n    policy = { deadline = 600 }"
                )
            )
            settings.reload()

            assert settings.engine.target_state(still.target("still")) is target_state
            changed = settings.engine.target_state(spare.target("small"))
            assert (changed.breaker.state, changed.policy.deadline) == (State.ISOLATED, 601)


async def test_a_target_moved_to_another_address_starts_with_a_new_circuit(path):
    async with served([answer()]) as first, served([answer()]) as second:
        text = BEFORE.replace(
            '"{second}"\n    model = "still"',
            '"{second}"\n    model = "still"\n    provider = "local"',
        )
        file = SettingsFile(path, first=first, second=second).write(text)
        async with file.load() as settings:
            still = settings.client("still")
            still.isolate("still")
            file.write(
                text.replace('"{second}"\n    model = "still"', '"{first}"\n    model = "still"')
            )
            settings.reload()
            assert (await still.chat(SAY)).text == "fine"
            assert (len(first.requests), len(second.requests)) == (1, 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("deadlin = 3", "unknown key deadlin = 3; did you mean deadline?"),
        ("deadline = x", "invalid TOML: Invalid value (at line 1, column 12)"),
        ("", "it names no target, as in [targets.main]"),
        ('[targets.main]\napi_key_env = "NOT_SET"\nbase_url = "{first}"',
         "targets.main: no API key: the environment variable NOT_SET is not set"),
    ],
)  # fmt: skip
async def test_a_reload_of_an_invalid_file_raises_and_keeps_the_old_settings(path, wrong, message):
    async with served([answer()]) as first, served([answer()]) as second:
        file = SettingsFile(path, first=first, second=second).write(BEFORE)
        async with file.load() as settings:
            client = settings.client("chat")
            file.write(wrong)
            with pytest.raises(ConfigurationError) as caught:
                settings.reload()
            assert str(caught.value) == f"{path}: {message}"
            assert (await client.chat(SAY)).target.model == "large"


async def test_a_client_of_a_removed_target_raises(path):
    async with served([answer()]) as first, served([answer()]) as second:
        file = SettingsFile(path, first=first, second=second).write(BEFORE)
        async with file.load() as settings:
            spare = settings.client("spare")
            file.write(AFTER)
            settings.reload()
            with pytest.raises(ConfigurationError, match="no target or pool is called 'spare'"):
                await spare.chat(SAY)


async def test_a_signal_handler_may_reload(path):
    async with served([answer()]) as first, served([answer()]) as second:
        file = SettingsFile(path, first=first, second=second).write(BEFORE)
        async with file.load() as settings:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, settings.reload)
            try:
                file.write(AFTER)
                os.kill(os.getpid(), signal.SIGHUP)
                async with asyncio.timeout(PATIENCE):
                    while "spare" in settings.names:  # noqa: ASYNC110 - once, or twice
                        await asyncio.sleep(0.001)
            finally:
                loop.remove_signal_handler(signal.SIGHUP)
            assert settings.names == ("main", "still", "chat")


async def test_many_reloads_under_load_drop_no_call(path):
    async with served([0.01, answer()]) as first, served([answer()]) as second:
        file = SettingsFile(path, first=first, second=second).write(BEFORE)
        async with file.load() as settings:
            chat = settings.client("chat")
            calls = [asyncio.ensure_future(chat.chat(SAY)) for _ in range(60)]
            for text in [AFTER, BEFORE] * 5:
                await asyncio.sleep(0.02)
                file.write(text)
                settings.reload()
                calls += [asyncio.ensure_future(chat.chat(SAY)) for _ in range(3)]
            assert [one.text for one in await asyncio.gather(*calls)] == ["fine"] * 90
            targets = settings.snapshot()["targets"].values()
            assert all(
                target_state["in_flight"] == target_state["queued"] == 0 for target_state in targets
            )


async def test_a_reload_applies_to_a_transport_on_the_same_engine(path):
    async with served([answer()]) as first, served([answer()]) as second:
        file = SettingsFile(path, first=first, second=second).write(BEFORE)
        async with file.load() as settings:
            transport = AsyncTransport(settings.engine)
            async with openai.AsyncOpenAI(
                base_url=first.base_url,
                api_key="any",
                http_client=httpx2.AsyncClient(transport=transport),
            ) as client:
                limits = []
                for limit in (3, 2):
                    file.write(BEFORE.replace("in_flight = 3", f"in_flight = {limit}"))
                    settings.reload()
                    await client.chat.completions.create(model="m", messages=SAY)
                    limits += [
                        target_state["limit"]
                        for target_state in settings.snapshot()["targets"].values()
                    ]
            assert limits == [3, 2]


async def test_the_memory_cache_survives_a_reload(path):
    text = BEFORE + '\n    [[fallback]]\n    kind = "cache"\n'
    async with served([answer()], [failing(400)]) as first, served([answer()]) as second:
        file = SettingsFile(path, first=first, second=second).write(text)
        async with file.load() as settings:
            main = settings.client("main")
            await main.chat(SAY)
            settings.reload()
            main.isolate("large")
            got = await main.request(
                "chat/completions", {"messages": SAY, "model": "large"}, deadline=0.05
            )
            assert got.source == "cache"
