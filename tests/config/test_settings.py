"""Settings files: targets, pools, profiles, and overrides from environment variables."""

import inspect
from dataclasses import fields, replace
from textwrap import dedent

import pytest
from table_test import table_test

from stormbreak.config import describe_settings, load_policy, load_settings, profiles_in
from stormbreak.config.gateway_settings import GatewaySettings, KeySettings
from stormbreak.config.settings import Member, PoolSettings, TargetSettings
from stormbreak.config.write_policy import SETTINGS
from stormbreak.core.concurrency_limit import AimdLimit, FixedLimit
from stormbreak.core.fallback_policy import Place, TargetOrder, ToTargets
from stormbreak.core.presets import ARTICLE, BATCH, INTERACTIVE
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.tenant import TenantLimits
from stormbreak.errors import ConfigurationError
from stormbreak.http.client import AsyncClient
from stormbreak.types import Verdict

TOKEN = "Zk39fjA0qLm2Xw7RtY5b"
FILE = """
    deadline = 60

    [limit]
    kind = "fixed"
    max_in_flight = 20

    [targets.main]
    provider = "openai"
    model = "gpt-4.1-mini-2025-04-14"
    api_key_env = "MAIN_KEY"

    [targets.main.policy]
    patience = 5

    [targets.far-away]
    base_url = "https://llm.example.com/v1"
    policy = "article"

    [targets.plain]
    base_url = "http://127.0.0.1:8900/v1"

    [pools.chat]
    targets = ["main", { target = "far-away", weight = 3 }]
    order = "weighted"
    on = ["timeout"]

    [profiles.staging]
    deadline = 10

    [profiles.staging.targets.main]
    model = "tiny"

    [profiles.staging.targets.main.policy.limit]
    max_in_flight = 2

    [profiles.lab.targets.main]
    policy = "batch"
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(dedent(FILE))
    return "s.toml"


def read(path, profile=None, **environ):
    return load_settings(path, profile=profile, environ=environ)


def error_in(path, profile=None, **environ):
    with pytest.raises(ConfigurationError) as caught:
        read(path, profile, **environ)
    return str(caught.value)


# ------------------------------------------------------------------ the file


def test_targets_and_pools_are_read_by_name(path):
    settings = read(path)
    assert settings.names == ("main", "far-away", "plain", "chat")
    assert settings.targets["main"].model == "gpt-4.1-mini-2025-04-14"
    assert settings.pools["chat"] == PoolSettings(
        targets=(Member(target="main"), Member(target="far-away", weight=3)),
        order=TargetOrder.WEIGHTED,
        on=(Verdict.TIMEOUT,),
    )


def test_the_policy_of_the_file_is_the_default_of_its_targets(path):
    settings = read(path)
    assert settings.targets["plain"].policy == settings.policy
    assert (settings.policy.deadline, settings.policy.patience) == (60, 20)
    assert settings.targets["far-away"].policy == ARTICLE


def test_a_policy_table_of_a_target_overrides_the_policy_of_the_file(path):
    main = read(path).targets["main"].policy
    assert (main.deadline, main.patience, main.limit) == (60, 5, FixedLimit(max_in_flight=20))


def test_a_policy_table_of_a_target_with_a_preset_overrides_that_preset(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text('deadline = 9\n[targets.a]\npolicy = { preset = "batch", patience = 3 }')
    policy = read(path).targets["a"].policy
    assert (policy.deadline, policy.patience, policy.queue) == (None, 3, BATCH.queue)


def test_a_policy_file_is_a_settings_file_without_targets(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text('preset = "batch"\n[retry]\nmax_attempts = 3\n')
    settings = read(path)
    assert (settings.policy, settings.names) == (load_policy(path), ())


def test_an_empty_file_is_the_interactive_policy(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text("")
    assert read(path).policy == INTERACTIVE


@pytest.mark.parametrize("profile", [None, "staging", "lab"])
def test_described_settings_read_back_equal(path, tmp_path, profile):
    settings = read(path, profile)
    (tmp_path / "copy.toml").write_text(describe_settings(settings))
    assert read("copy.toml") == settings


# ------------------------------------------------------------------ no second list of keys


def test_a_target_has_every_argument_of_a_client_that_a_file_can_set():
    taken = set(inspect.signature(AsyncClient.__init__).parameters)
    only_a_program = {"self", "api_key", "degraded", "fleet", "prices", "tenants"}
    only_a_file = {"api_key_file"}
    assert {field.name for field in fields(TargetSettings)} == taken - only_a_program | only_a_file


def test_a_pool_has_the_fields_and_defaults_of_a_fallback_to_targets():
    def defaults(kind):
        return {field.name: field.default for field in fields(kind) if field.name != "kind"}

    assert defaults(PoolSettings) == defaults(ToTargets)
    assert Member(target="a").weight == Place(model="a").weight
    with pytest.raises(ConfigurationError, match="weight must be a number, got None"):
        Member(target="a", weight=None)


def test_every_settings_key_has_a_description():
    names = {f"targets.{field.name}" for field in fields(TargetSettings)}
    names |= {f"pools.{field.name}" for field in fields(PoolSettings)}
    names |= {f"pools.targets.{field.name}" for field in fields(Member)}
    names |= {f"gateway.{field.name}" for field in fields(GatewaySettings)}
    names |= {f"keys.{field.name}" for field in fields(KeySettings)}
    names |= {f"tenants.{field.name}" for field in fields(TenantLimits)}
    for table in ("keys", "tenants"):
        names |= {f"{table}.spend.{field.name}" for field in fields(SpendPolicy)}
    assert set(SETTINGS) == names


# ------------------------------------------------------------------ profiles


def test_a_profile_overrides_the_rest_of_the_file(path):
    settings = read(path, "staging")
    main = settings.targets["main"]
    assert (main.model, main.api_key_env, settings.policy.deadline) == ("tiny", "MAIN_KEY", 10)
    assert (main.policy.patience, main.policy.limit) == (5, FixedLimit(max_in_flight=2))


def test_a_variable_selects_the_profile_and_an_argument_overrides_it(path):
    chosen = {"STORMBREAK_PROFILE": "staging"}
    assert read(path, **chosen).targets["main"].model == "tiny"
    assert read(path, "lab", **chosen).targets["main"].policy == BATCH


def test_profiles_are_listed_by_name(path):
    assert profiles_in(path) == ("staging", "lab")


def test_an_unknown_profile_is_an_error_that_lists_the_profiles(path):
    assert error_in(path, "prod") == (
        "s.toml: the profile must be one of its profiles (staging, lab), got 'prod'"
    )
    assert error_in(path, STORMBREAK_PROFILE="prod") == (
        "s.toml: STORMBREAK_PROFILE must be one of its profiles (staging, lab), got 'prod'"
    )


# ------------------------------------------------------------------ the environment


@pytest.mark.parametrize(
    ("variable", "text", "found"),
    [
        ("STORMBREAK__targets__main__model", "small", "small"),
        ("STORMBREAK__TARGETS__MAIN__MODEL", '"4"', "4"),
        ("STORMBREAK__TARGETS__MAIN__MODEL", "a = 1\nb = 2", "a = 1\nb = 2"),
        ("STORMBREAK__TARGETS__MAIN__MODEL", "1\nextra = 1", "1\nextra = 1"),
    ],
)
def test_an_environment_variable_sets_a_key(path, variable, text, found):
    assert read(path, **{variable: text}).targets["main"].model == found


def test_numbers_tables_and_lists_in_variables_are_read_as_toml(path):
    settings = read(
        path,
        STORMBREAK__DEADLINE="7.5",
        STORMBREAK__TARGETS__FAR_AWAY__ALLOW_HTTP="true",
        STORMBREAK__POOLS__CHAT__TARGETS='["plain"]',
        STORMBREAK__TARGETS__MAIN__POLICY="{ patience = 1 }",
        STORMBREAK__TARGETS__NEW__BASE_URL="https://new.example.com/v1",
    )
    assert settings.policy.deadline == 7.5
    assert settings.targets["far-away"].allow_http is True
    assert settings.pools["chat"].targets == (Member(target="plain"),)
    assert settings.targets["main"].policy.patience == 1
    assert settings.targets["new"].base_url == "https://new.example.com/v1"


def test_a_changed_kind_in_a_profile_or_variable_starts_from_its_defaults(path, tmp_path):
    text = dedent(FILE) + '\n[profiles.wide.limit]\nkind = "aimd"\n'
    (tmp_path / "s.toml").write_text(text)
    assert read(path, "wide").policy.limit == AimdLimit()
    assert read(path, STORMBREAK__LIMIT__KIND="aimd").policy.limit == AimdLimit()


def test_a_profile_or_variable_keeps_the_preset_of_a_target(path, tmp_path):
    more = "\n[profiles.calm.targets.far-away.policy]\npatience = 3\n"
    (tmp_path / "s.toml").write_text(dedent(FILE) + more)
    policy = replace(ARTICLE, patience=3)
    assert read(path, "calm").targets["far-away"].policy == policy
    variable = {"STORMBREAK__TARGETS__FAR_AWAY__POLICY__PATIENCE": "3"}
    assert read(path, **variable).targets["far-away"].policy == policy
    variable = {"STORMBREAK__TARGETS__FAR_AWAY__POLICY": '{ preset = "batch" }'}
    assert read(path, **variable).targets["far-away"].policy == BATCH


def test_variables_for_one_table_apply_together(path):
    several = {"STORMBREAK__LIMIT__MIN_IN_FLIGHT": "2", "STORMBREAK__LIMIT__KIND": "aimd"}
    assert read(path, **several).policy.limit == AimdLimit(min_in_flight=2)
    assert error_in(path, STORMBREAK__LIMIT__MIN_IN_FLIGHT="2").startswith(
        "s.toml: STORMBREAK__LIMIT__MIN_IN_FLIGHT: unknown key limit.min_in_flight = 2;"
    )


def test_a_variable_overrides_a_profile(path):
    settings = read(path, "staging", STORMBREAK__TARGETS__MAIN__MODEL="mine")
    assert settings.targets["main"].model == "mine"


# ------------------------------------------------------------------ mistakes

MISTAKES = {
    "[targets.a]\nmodle = 'x'": "unknown key targets.a.modle = 'x'; did you mean model?",
    "[targets.a]\nmodel = 4": 'targets.a.model must be a string or "none", got 4',
    "[targets.a]\nprovider = 'opnai'": "targets.a.provider must be one of openai, ",
    "[targets.a]\nallow_http = 1": "targets.a.allow_http must be true or false, got 1",
    "[targets.a]\npolicy = 'fast'": "targets.a.policy must be one of interactive, batch, article, off",
    "[targets.a]\npolicy = 3": "targets.a.policy must be a table, got 3",
    "[targets.a.policy]\npreset = 'x'": "targets.a.policy.preset must be one of interactive, ",
    "[targets.a.policy]\ndeadlin = 3": "unknown key targets.a.policy.deadlin = 3; did you mean deadline?",
    "[targets.a.policy.retry]\nmax_attempts = 0": "targets.a.policy.retry.max_attempts must be at least 1, got 0",
    "[targets]\na = 3": "targets.a must be a table, got 3",
    "targets = 3": "targets must be a table, got 3",
    "profiles = 3": "profiles must be a table, got 3",
    "[targets.'a b']\nmodel = 'x'": 'targets."a b" must have a name of letters, digits',
    "[pools.p]\ntargets = ['a']": "pools.p.targets[0] must be the name of a target (there is none), got 'a'",
    "[pools.p]\ntargets = []": "pools.p.targets must name at least one target, got none",
    "[pools.p]\n": "pools.p.targets must name at least one target, got none",
    "[pools.p]\ntargets = [{ wait = 1 }]": "unknown key pools.p.targets[0].wait = 1; did you mean weight?",
    "[pools.p]\ntargets = [{ target = 'a', weight = 0 }]": "pools.p.targets[0].weight must be positive, got 0",
    "[targets.a]\n[pools.p]\ntargets = ['a', 'a']": "pools.p.targets names 'a' twice",
    "[targets.a]\n[pools.a]\ntargets = ['a']": "pools.a has the name of a target",
    "[targets.a]\n[pools.p]\ntargets = ['a']\non = ['ok']": "pools.p.on must name only verdicts of calls that failed",
    "deadline = -3\n[targets.a]": "deadline must be positive, got -3",
}  # fmt: skip


@table_test("text", MISTAKES)
def test_an_error_in_settings_is_one_line_with_file_key_and_value(path, tmp_path, text):
    (tmp_path / "s.toml").write_text(text)
    message = error_in(path)
    assert message.startswith(f"s.toml: {MISTAKES[text]}")
    assert "\n" not in message


def test_an_error_in_a_profile_names_the_profile(path, tmp_path):
    (tmp_path / "s.toml").write_text("[targets.a]\n[profiles.x.targets.a]\nmodle = 'x'")
    read(path)
    assert error_in(path, "x").startswith("s.toml: unknown key profiles.x.targets.a.modle =")


@table_test(
    ("name", "text", "message"),
    [
        ("TARGETS__MAIN__MODEL", "4", 'targets.main.model must be a string or "none", got 4'),
        ("TARGETS__MAIN__MODLE", "x", "unknown key targets.main.modle = 'x'; did you mean model?"),
        ("DEADLINE", "-3", "deadline must be positive, got -3"),
        ("DEADLIN", "3", "unknown key deadlin = 3; did you mean deadline?"),
        ("LIMIT__MAX_IN_FLIGHT", "x", "limit.max_in_flight must be a whole number, got 'x'"),
        ("RETRYY__MAX_ATTEMPTS", "3", "unknown key retryy = a table; did you mean retry?"),
        ("DEADLINE__SECONDS", "3", 'deadline must be a number or "none", got a table'),
        ("TARGETS__MAIN__POLICY__RETRYY__MAX_ATTEMPTS", "3",
         "unknown key targets.main.policy.retryy = a table; did you mean retry?"),
        ("TARGETS__MAIN__MODEL", "", 'targets.main.model must be the name of a model, got ""'),
    ],
)  # fmt: skip
def test_an_error_in_the_environment_names_its_variable(path, name, text, message):
    variable = f"STORMBREAK__{name}"
    assert error_in(path, **{variable: text}) == f"s.toml: {variable}: {message}"


def test_a_variable_that_names_no_key_is_an_error(path):
    for name in ("STORMBREAK__", "STORMBREAK____DEADLINE", "STORMBREAK__TARGETS__"):
        assert error_in(path, **{name: "1"}).startswith(f"s.toml: '{name}' does not name a key")


# ------------------------------------------------------------------ keys


@table_test(
    "text",
    [
        "[targets.a]\napi_key = 'hunter2'",
        f"[targets.a]\nmodel = '{TOKEN}'",
        f"[targets.a]\napi_key_env = '{TOKEN}'",
        "[targets.a]\napi_key_env = 'sk-hunter2-hunter2'",
        "[targets.a]\napi_key_env = 'hunter2 hunter2'",
        "[profiles.x.targets.a]\ntoken = 'hunter2'",
    ],
)
def test_a_literal_api_key_is_rejected_and_not_echoed(path, tmp_path, text):
    (tmp_path / "s.toml").write_text(text)
    message = error_in(path)
    assert "hunter2" not in message
    assert TOKEN not in message


@pytest.mark.parametrize(
    ("name", "text"),
    [("API_KEY", "hunter2"), ("API_KEY_ENV", TOKEN), ("MODEL", TOKEN), ("X", "sk-hunter2-hunter2")],
)
def test_a_literal_api_key_in_a_variable_is_rejected_and_not_echoed(path, name, text):
    message = error_in(path, **{f"STORMBREAK__TARGETS__MAIN__{name}": text})
    assert f"STORMBREAK__TARGETS__MAIN__{name}" in message
    assert text not in message


@pytest.mark.parametrize("name", ["openai-gpt-4o-mini-2024", "gpt4_turbo_production"])
def test_names_of_models_and_targets_are_not_taken_for_api_keys(path, tmp_path, name):
    text = f"[targets.{name}]\nmodel = 'meta-llama/Llama-3.3-70B-Instruct-Turbo'\n[pools.p]\ntargets = ['{name}']"
    (tmp_path / "s.toml").write_text(text)
    assert read(path).names == (name, "p")
    (tmp_path / "s.toml").write_text(f"[targets.main]\nmodel = '{name}'")
    assert read(path).targets["main"].model == name
