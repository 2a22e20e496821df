"""Routes of a client: its fallback targets, each with its own key and connection."""

import os
from unittest.mock import patch

import pytest
from table_test import table_test

from stormbreak.core.fallback_policy import Place, TargetOrder, ToCache, ToDegraded, ToTargets
from stormbreak.core.policy import Policy
from stormbreak.errors import ConfigurationError
from stormbreak.http import routing as module
from stormbreak.http.endpoint import find_endpoint
from stormbreak.http.local_answers import LocalAnswers
from stormbreak.http.routing import Routes, TargetConfig
from stormbreak.types import Verdict

ENVIRON = {
    "STORMBREAK_BASE_URL": "https://own.example/v1",
    "STORMBREAK_API_KEY": "own-key",
    "DEEPSEEK_API_KEY": "deep-key",
    "SPARE_KEY": "spare-key",
}


def routes(*rules, environ=ENVIRON, **options):
    connected = []

    def connect(origin):
        connected.append(origin.base_url)
        return object()

    with patch.dict(os.environ, environ, clear=True):
        made = Routes(find_endpoint(), rules, connect=connect, **options)
    return made, connected


def only(made, model="m"):
    """Return the only target to which a call for `model` may fall back, and its origin."""
    (step,) = made.steps(model)
    ((target, _),) = step.targets
    return target, made.route(target).origin


def to(**place):
    return ToTargets(targets=(Place(**place),))


def test_another_provider_has_its_own_address_and_key():
    made, connected = routes(to(provider="deepseek", model="deepseek-chat"))
    target, origin = only(made)

    assert (target.provider, target.model) == ("deepseek", "deepseek-chat")
    assert (origin.base_url, origin.api_key) == ("https://api.deepseek.com/v1", "deep-key")
    assert connected == ["https://own.example/v1", "https://api.deepseek.com/v1"]


def test_a_place_with_another_key_keeps_the_address_as_a_separate_target():
    made, connected = routes(to(api_key_env="SPARE_KEY"))
    target, origin = only(made)

    assert (origin.base_url, origin.api_key) == ("https://own.example/v1", "spare-key")
    assert target.provider == made.first("m").target.provider
    assert target.key != made.first("m").target.key
    assert connected == ["https://own.example/v1"]


def test_a_place_with_another_model_keeps_address_and_key():
    made, _ = routes(to(model="large"))
    target, origin = only(made)

    assert target == made.first("large").target
    assert origin.api_key == "own-key"


def test_a_place_without_a_model_keeps_the_model_of_the_call():
    made, _ = routes(to(provider="deepseek"))

    assert [only(made, model)[0].model for model in ("m", "n")] == ["m", "n"]


def test_a_place_maps_each_model_to_its_own():
    models = {"m": "large", "n": "larger"}
    made, _ = routes(to(provider="deepseek", models=models), ToDegraded(text="later"))

    steps = [next(made.steps(model)) for model in models]
    assert [step.targets[0][0].model for step in steps] == ["large", "larger"]


def test_an_unmapped_model_uses_the_default_model_or_skips_the_place():
    mapped = {"provider": "deepseek", "models": {"m": "large"}}

    assert only(routes(to(**mapped, model="rest"))[0], "vectors")[0].model == "rest"
    (degraded,) = routes(to(**mapped), ToDegraded(text="later"))[0].steps("vectors")
    assert degraded.source == "degraded"


def test_a_place_at_another_address_without_a_key_gets_none():
    """Not even the key of the client."""
    made, _ = routes(to(base_url="https://spare.example/v1"))

    assert only(made)[1].api_key is None


def test_the_rules_become_steps_in_their_order():
    made, _ = routes(
        ToTargets(
            on=(Verdict.TOO_LONG,),
            max_wait=3.0,
            targets=(Place(model="a", weight=2.0), Place(model="b")),
            order=TargetOrder.WEIGHTED,
        ),
        ToCache(),
        ToDegraded(text="later"),
    )
    pool, cache, degraded = made.steps("m")

    assert [(target.model, weight) for target, weight in pool.targets] == [("a", 2.0), ("b", 1.0)]
    assert (pool.on, pool.after, pool.choose) == ({Verdict.TOO_LONG}, 3.0, TargetOrder.WEIGHTED)
    assert (pool.source, cache.source, degraded.source) == ("fallback", "cache", "degraded")
    assert degraded.text == "later"


WRONG = [
    ({"provider": "nobody"}, r"fallback.targets\[0\]: provider must be one of"),
    ({"provider": "openai"}, r"fallback.targets\[0\]: no API key: set OPENAI_API_KEY"),
    ({"api_key_env": "NOT_SET"}, "the environment variable NOT_SET is not set"),
    ({"base_url": "ftp://x"}, r"fallback.targets\[0\]: base_url must look like https://"),
    (
        {"base_url": "http://far.example/v1", "api_key_env": "SPARE_KEY"},
        "the key would travel in the clear",
    ),
]


@table_test(("place", "message"), WRONG)
def test_an_invalid_fallback_target_fails_when_the_client_is_created(place, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        routes(to(**place))
    assert "spare-key" not in str(caught.value)


def test_the_cache_of_routes_is_bounded_and_old_targets_still_resolve(monkeypatch):
    monkeypatch.setattr(module, "MAX_MODELS", 8)
    made, connected = routes(to(api_key_env="SPARE_KEY"), to(provider="deepseek"))
    config = TargetConfig(Policy(), made, LocalAnswers(Policy(), None))
    route, steps = config.route_and_steps("m0")
    first = [route.target, *(target for step in steps for target, _ in step.targets)]
    for number in range(100):
        config.route_and_steps(f"m{number}")

    assert max(len(made._first), len(config._known), len(made._table._routes)) <= 8
    assert first[0] not in made._table._routes  # its call may still be in flight
    assert [made.route(target).origin.api_key for target in first] == [
        "own-key",
        "spare-key",
        "deep-key",
    ]
    assert [made.route(target).target for target in first] == first
    assert len(connected) == 2


def test_two_addresses_with_equal_name_and_key_are_never_confused(monkeypatch):
    monkeypatch.setattr(module, "MAX_MODELS", 8)
    environ = {**ENVIRON, "OPENAI_API_KEY": "one-key"}
    places = (
        Place(
            provider="openai",
            base_url="https://a.example/v1",
            model="a",
            api_key_env="OPENAI_API_KEY",
        ),
        Place(
            provider="openai",
            base_url="https://b.example/v1",
            model="b",
            api_key_env="OPENAI_API_KEY",
        ),
    )
    made, _ = routes(ToTargets(targets=places), environ=environ)
    (step,) = made.steps("m")
    for number in range(100):
        made.first(f"m{number}")

    assert [made.route(target).origin.host for target, _ in step.targets] == [
        "a.example",
        "b.example",
    ]
