"""Clients of a settings file: targets, pools, and key functions."""

import asyncio
import json

import pytest
from canary import everything_logged_to
from settings_file import FIRST_KEY, SAY, SECOND_KEY, SettingsFile, cache_key
from sockets import End, answer, failing, served

from stormbreak import ConfigurationError
from stormbreak.errors import AuthenticationError, ServerError
from stormbreak.http.client import AsyncClient

TWO = """
    [retry]
    max_attempts = 1

    [targets.main]
    base_url = "{first}"
    model = "large"
    api_key_env = "FIRST_KEY"

    [targets.spare]
    base_url = "{second}"
    api_key_env = "SECOND_KEY"

    [pools.chat]
    targets = ["main", "spare"]
"""
ROTATING = """
    retry_budget = "none"
    [retry]
    max_attempts = 3
    [retry.backoff]
    kind = "constant"
    initial_delay = 0.01
    [targets.main]
    base_url = "{first}"
    model = "large"
"""


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("FIRST_KEY", FIRST_KEY)
    monkeypatch.setenv("SECOND_KEY", SECOND_KEY)


@pytest.fixture
async def scene(tmp_path):
    """Open settings with two servers that play scripts."""
    opened = []

    async def open_(text, first, second=None, **options):
        servers = [served(*first), served(*(second or [[answer()]]))]
        one, two = [await server.__aenter__() for server in servers]
        file = SettingsFile(tmp_path / "s.toml", first=one, second=two).write(text)
        settings = file.load(**options)
        opened.extend([settings, *servers])
        return settings, one, two

    yield open_
    for each in opened:
        await each.__aexit__(None, None, None)


def models(server):
    return [json.loads(request.body)["model"] for request in server.requests]


# ------------------------------------------------------------------ targets and pools


async def test_a_client_uses_address_key_and_model_of_its_target(scene):
    settings, first, second = await scene(TWO, [[answer()]])
    got = await settings.client("main").chat(SAY)
    assert (got.target.name, got.target.model) == ("main", "large")
    assert [cache_key(request) for request in first.requests] == [FIRST_KEY]
    with pytest.raises(ConfigurationError, match="model is missing"):
        await settings.client("spare").chat(SAY)
    await settings.client("spare").chat(SAY, model="mine")
    assert models(second) == ["mine"]


async def test_a_pool_falls_back_to_its_next_target_with_its_own_key(scene):
    settings, first, second = await scene(TWO, [[failing(500)]])
    got = await settings.client("chat").chat(SAY, model="asked")
    assert (got.source, got.target.name) == ("fallback", "spare")
    assert (models(first), models(second)) == (["large"], ["asked"])
    assert [cache_key(request) for request in second.requests] == [SECOND_KEY]


async def test_the_targets_of_a_pool_precede_the_fallbacks_of_a_policy(scene):
    rule = '[[fallback]]\n    kind = "degraded"\n    text = "later"\n\n    [targets.main]'
    settings, _, second = await scene(
        TWO.replace("[targets.main]", rule), [[failing(500)]], [[answer()], [failing(500)]]
    )
    chat = settings.client("chat")
    assert (await chat.chat(SAY, model="m")).text == "fine"
    assert (await chat.chat(SAY, model="m")).text == "later"
    assert len(second.requests) == 2


async def test_a_pool_falls_back_only_on_its_verdicts(scene):
    settings, _, second = await scene(TWO + '    on = ["timeout"]\n', [[failing(500)]])
    with pytest.raises(ServerError):
        await settings.client("chat").chat(SAY, model="asked")
    assert second.requests == []


async def test_a_weighted_pool_splits_calls_by_weight(scene):
    weighted = TWO.replace(
        '["main", "spare"]', '[{ target = "main", weight = 3 }, "spare"]\n    order = "weighted"'
    )
    settings, first, second = await scene(weighted, [[answer()]])
    chat = settings.client("chat")
    for _ in range(80):
        assert (await chat.chat(SAY, model="m")).source == "target"
    assert 40 <= len(first.requests) <= 75
    assert len(first.requests) + len(second.requests) == 80


async def test_a_least_loaded_pool_calls_the_target_with_fewest_calls_first(scene):
    loaded = TWO + '    order = "least_loaded"\n'
    settings, first, _ = await scene(loaded, [[End.HANG]])
    chat = settings.client("chat")
    hanging = asyncio.ensure_future(chat.chat(SAY, model="m"))
    await first.asked()
    for _ in range(3):
        assert (await chat.chat(SAY, model="m")).target.name == "spare"
    hanging.cancel()
    assert len(first.requests) == 1


async def test_a_weighted_pool_skips_an_isolated_target(scene):
    settings, first, _ = await scene(TWO + '    order = "weighted"\n', [[answer()]])
    settings.client("main").isolate("large")
    for _ in range(10):
        assert (await settings.client("chat").chat(SAY, model="m")).source == "target"
    assert first.requests == []


async def test_pools_and_targets_share_circuits_and_each_has_its_own_policy(scene):
    own = "[targets.spare.policy]\n    fail_fast = false\n\n    [pools.chat]"
    text = "    fail_fast = true\n" + TWO.replace("[pools.chat]", own)
    settings, _, second = await scene(text, [[failing(500)]])
    spare = settings.client("spare")
    spare.isolate("m")
    with pytest.raises(ServerError):
        await settings.client("chat").chat(SAY, model="m")
    assert second.requests == []
    assert not spare.policy.fail_fast
    assert settings.client("chat").policy.fail_fast  # the policy of its first target


async def test_an_attempt_has_the_timeouts_of_its_own_target(scene):
    text = TWO.replace(
        "[pools.chat]", "[targets.main.policy]\n    idle_timeout = 0.1\n\n    [pools.chat]"
    )
    settings, first, second = await scene(text, [[End.HANG]], [[0.4, answer()]])
    async with asyncio.timeout(30):
        got = await settings.client("chat").chat(SAY, model="m")
    assert (got.target.name, len(first.requests), len(second.requests)) == ("spare", 1, 1)


async def test_a_fallback_target_reserves_tokens_of_its_own_quota(scene):
    own = "[targets.spare.policy.rate_limit]\n    tpm = 5000\n    burst_seconds = 60\n\n    [pools.chat]"
    settings, _, second = await scene(TWO.replace("[pools.chat]", own), [[failing(500)]])
    chat, payload = settings.client("chat"), {"messages": SAY, "max_tokens": 4000, "model": "m"}
    assert (await chat.request("chat/completions", payload)).target.name == "spare"
    with pytest.raises(ServerError):
        await chat.request("chat/completions", payload, deadline=0.5)
    assert len(second.requests) == 1


async def test_a_stream_of_a_pool_falls_back_to_its_next_target(scene):
    settings, *_ = await scene(TWO, [[failing(503)]])
    payload = {"messages": SAY, "model": "m"}
    async with settings.client("chat").stream("chat/completions", payload) as stream:
        assert stream.target.name == "spare"
        assert (await stream.answer()).text == "fine"


async def test_closing_a_client_keeps_the_connections_of_others(scene):
    settings, first, _ = await scene(TWO, [[0.2, answer()]])
    async with settings.client("main") as client:
        call = asyncio.ensure_future(settings.client("main").chat(SAY))
        await first.asked()
        await client.close()
    assert (await call).text == "fine"


async def test_a_blocking_client_shares_the_engine(scene):
    settings, *_ = await scene(TWO, [[answer()]])
    blocking = settings.blocking_client("main")
    assert (await asyncio.to_thread(blocking.chat, SAY)).text == "fine"
    assert blocking.engine is settings.client("chat").engine is settings.engine
    await asyncio.to_thread(settings.__exit__, None, None, None)


async def test_an_unknown_target_name_lists_the_known_names(scene):
    settings, *_ = await scene(TWO, [[answer()]])
    with pytest.raises(ConfigurationError) as caught:
        settings.client("chta")
    assert str(caught.value) == "no target or pool is called 'chta'; known: main, spare, chat"


async def test_snapshots_reprs_and_logs_hold_no_key_and_no_prompt(scene, tmp_path):
    with everything_logged_to(tmp_path / "log"):
        settings, *_ = await scene(TWO, [[0.1, answer()]])
        call = asyncio.ensure_future(settings.client("chat").chat(SAY, model="m"))
        await asyncio.sleep(0.05)
        shown = json.dumps(settings.engine.snapshot(), allow_nan=False)
        await call
        shown += repr(settings) + repr(vars(settings)) + repr(settings.now)
    shown += (tmp_path / "log").read_text()
    assert "main=" in shown
    for secret in (FIRST_KEY, SECOND_KEY, SAY[0]["content"]):
        assert secret not in shown


# ------------------------------------------------------------------ key functions


async def test_a_key_function_is_called_for_each_attempt(scene):
    given = iter(["key-one", "key-two", "key-three", "key-four"])
    settings, first, _ = await scene(
        ROTATING, [[failing(500)], [failing(500)], [answer()]], keys={"main": lambda: next(given)}
    )
    main = settings.client("main")
    await main.chat(SAY)
    await main.chat(SAY)
    assert [cache_key(request) for request in first.requests] == [
        "key-one", "key-two", "key-three", "key-four",
    ]  # fmt: skip
    assert len(settings.snapshot()["targets"]) == 1  # one target for all keys


async def test_a_key_function_may_be_a_coroutine_function(scene):
    async def give():
        await asyncio.sleep(0.01)
        return "key-from-afar"

    settings, first, _ = await scene(ROTATING, [[answer()]], keys={"main": give})
    payload = {"messages": SAY}
    async with settings.client("main").stream("chat/completions", payload) as stream:
        await stream.answer()
    assert [cache_key(request) for request in first.requests] == ["key-from-afar"]


def leak():
    raise LookupError("the key is hunter2")


@pytest.mark.parametrize(
    ("give", "reason"),
    [
        (leak, "LookupError"),
        (lambda: None, "it returned a NoneType"),
        (lambda: "", "the API key is empty"),
        (lambda: "hunter2\n", "the API key holds a blank, a line break or another odd character"),
    ],
)
async def test_a_failing_key_function_sends_nothing_and_its_message_is_hidden(scene, give, reason):
    settings, first, _ = await scene(ROTATING, [[answer()]], keys={"main": give})
    with pytest.raises(AuthenticationError) as caught:
        await settings.client("main").chat(SAY)
    message = "\n".join([str(caught.value), *caught.value.__notes__])
    assert f"the key function failed: {reason}" in message
    assert "hunter2" not in message
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert first.requests == []


async def test_the_time_of_a_key_function_counts_towards_the_attempt(scene):
    async def never():
        await asyncio.Event().wait()

    text = ROTATING.replace("retry_budget", "attempt_timeout = 0.05\n    retry_budget")
    settings, *_ = await scene(text, [[answer()]], keys={"main": never})
    with pytest.raises(Exception, match="timeout after 3 attempt"):
        await settings.client("main").chat(SAY)


async def test_a_client_without_settings_accepts_a_key_function():
    async with served([answer()]) as server:
        async with AsyncClient(
            base_url=server.base_url, model="m", api_key=lambda: "key-by-hand"
        ) as client:
            await client.chat(SAY)
        assert [cache_key(request) for request in server.requests] == ["key-by-hand"]


async def test_key_functions_for_unknown_targets_or_beside_a_variable_are_rejected(scene):
    with pytest.raises(ConfigurationError, match="keys names 'mian', which is not a target"):
        await scene(TWO, [[answer()]], keys={"mian": lambda: "key"})
    with pytest.raises(ConfigurationError, match="keys names '3', which is not a target"):
        await scene(TWO, [[answer()]], keys={3: lambda: "key"})
    with pytest.raises(ConfigurationError, match=r"targets\.main: it has an api_key_env, and a"):
        await scene(TWO, [[answer()]], keys={"main": lambda: "key"})


@pytest.mark.parametrize("key", ["hunter2", None, b"hunter2"])
async def test_a_key_in_place_of_a_key_function_is_rejected_and_not_echoed(scene, key):
    with pytest.raises(
        ConfigurationError, match="keys must be functions: that of 'main' is a"
    ) as caught:
        await scene(ROTATING, [[answer()]], keys={"main": key})
    assert "hunter2" not in str(caught.value)


async def test_a_target_with_a_key_function_keeps_its_state_over_a_reload(scene):
    settings, *_ = await scene(ROTATING, [[answer()]], keys={"main": lambda: "key"})
    main = settings.client("main")
    target_state = settings.engine.target_state(main.target("large"))
    settings.reload()
    assert settings.engine.target_state(main.target("large")) is target_state
