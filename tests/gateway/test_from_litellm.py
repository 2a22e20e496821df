"""Settings of LiteLLM's proxy become settings of the gateway; the rest is listed, and no key is written."""

import json
import tomllib
from copy import deepcopy
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from gateways import ANSWER, CHAT, running, upstream
from table_test import table_test

from stormbreak.cli.main import main
from stormbreak.config import load_settings
from stormbreak.errors import ConfigurationError
from stormbreak.gateway.from_litellm import convert
from stormbreak.http.h1.server_connection import ServerResponse

LITERAL = "sk-literal-0123456789abcdef"
MASTER = "sk-master-canary-5566778899aabb"

BALANCED = f"""
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt-4o-eu
      api_base: https://eu.openai.azure.com/
      api_key: os.environ/AZURE_EU
      api_version: "2024-02-01"
      rpm: 6
  - model_name: gpt-4o
    litellm_params: {{model: azure/gpt-4o-ca, api_base: "https://ca.openai.azure.com", api_key: os.environ/AZURE_CA, rpm: 60, timeout: 300}}
  - model_name: claude
    litellm_params: {{model: anthropic/claude-sonnet-4-5, max_tokens: 1000}}
    model_info: {{mode: chat}}
  - model_name: titan
    litellm_params: {{model: bedrock/amazon.titan-embed-text-v1, aws_region_name: us-east-1}}
  - model_name: mini
    litellm_params: {{model: gpt-4o-mini, api_key: {LITERAL}}}
  - model_name: vllm-models
    litellm_params: {{model: openai/facebook/opt-125m, api_base: "http://127.0.0.1:4000/v1", api_key: none}}
litellm_settings:
  drop_params: true
  num_retries: 3
  request_timeout: 10
  success_callback: [langfuse]
  fallbacks: [{{gpt-4o: [claude]}}, {{claude: [mini, vllm-models]}}]
  context_window_fallbacks: [{{mini: [gpt-4o]}}]
  max_budget: 100
  budget_duration: 30d
router_settings:
  routing_strategy: simple-shuffle
  model_group_alias: {{gpt-4: gpt-4o, small: {{model: mini, hidden: true}}}}
  num_retries: 2
  timeout: 30
  redis_host: os.environ/REDIS_HOST
general_settings:
  master_key: {MASTER}
  database_url: os.environ/DATABASE_URL
  max_parallel_requests: 50
"""

LOCAL = """
model_list:
  - model_name: qwen
    litellm_params: {model: ollama_chat/qwen3, api_base: "http://ollama:11434"}
  - model_name: qwen
    litellm_params: {model: hosted_vllm/Qwen/Qwen3-8B, api_base: "http://vllm:8000/v1", order: 1}
  - model_name: "claude-*"
    litellm_params: {model: "anthropic/claude-*", api_key: os.environ/ANTHROPIC_API_KEY}
  - model_name: "anthropic/*"
    litellm_params: {model: "anthropic/*"}
  - model_name: together.llama
    litellm_params: {model: together_ai/meta-llama/Llama-3.3-70B}
router_settings: {routing_strategy: least-busy, default_fallbacks: [together.llama]}
"""

CREDENTIALS = """
credential_list:
  - credential_name: shared
    credential_values: {api_key: os.environ/SHARED, api_base: "https://llm.example.com/v1"}
model_list:
  - model_name: large
    litellm_params: {model: openai_like/large, litellm_credential_name: shared}
general_settings: {master_key: os.environ/PROXY_KEY}
"""

SAMPLES = {"balanced": BALANCED, "local": LOCAL, "credentials": CREDENTIALS}


@pytest.fixture(autouse=True)
def variables(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in (
        "AZURE_EU", "AZURE_CA", "ANTHROPIC_API_KEY", "MINI_API_KEY", "TOGETHERAI_API_KEY", "SHARED",
    ):  # fmt: skip
        monkeypatch.setenv(name, f"value-of-{name}")


def converted(text, **environ):
    return convert(msgspec.yaml.decode(text), environ)


@pytest.mark.parametrize("name", SAMPLES)
def test_converted_settings_pass_the_check_and_hold_no_key(name, tmp_path, capsys):
    (tmp_path / "litellm.yaml").write_text(SAMPLES[name])
    assert main(["gateway", "convert", "litellm.yaml", "--output", "gateway.toml"]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    text = (tmp_path / "gateway.toml").read_text()
    assert LITERAL not in text + printed.err
    assert MASTER not in text + printed.err
    for note in printed.err.splitlines():
        assert f"# {note}" in text or "not shown again" in note
    assert main(["gateway", "gateway.toml", "--check"]) == 0


def test_model_groups_become_pools_and_fallback_rules():
    table, notes, key = converted(BALANCED)
    assert table["pools"] == {
        "gpt-4o": {
            "targets": [
                {"target": "gpt-4o-1", "weight": 6},
                {"target": "gpt-4o-2", "weight": 60},
            ],
            "order": "weighted",
        },
        "claude": {"targets": ["claude-1", "mini", "vllm-models"], "order": "in_order"},
    }
    assert table["gateway"]["models"] == {
        "gpt-4o": "gpt-4o", "claude": "claude", "mini": "mini", "vllm-models": "vllm-models",
        "gpt-4": "gpt-4o", "small": "mini",
    }  # fmt: skip
    first = table["targets"]["gpt-4o-1"]
    assert first["base_url"] == "https://eu.openai.azure.com/openai/v1"
    (rule,) = first["policy"]["fallback"]
    assert rule == {
        "kind": "targets",
        "targets": [{"provider": "anthropic", "model": "claude-sonnet-4-5"}],
    }
    (rule,) = table["targets"]["mini"]["policy"]["fallback"]
    assert (rule["on"], len(rule["targets"])) == (["too_long"], 2)
    assert table["targets"]["vllm-models"] == {
        "base_url": "http://127.0.0.1:4000/v1",
        "model": "facebook/opt-125m",
    }
    assert key is None
    assert table["keys"]["master"]["sha256"] == sha256(MASTER.encode()).hexdigest()
    assert any("'bedrock' is not a known provider" in note for note in notes)


def test_the_example_of_the_page_is_the_real_conversion():
    page = (Path(__file__).parents[2] / "docs" / "from" / "litellm-proxy.md").read_text()
    yaml, toml = (
        page.split(f"```{info}\n")[1].split("```")[0] for info in ("yaml", "toml settings")
    )
    shown = tomllib.loads(toml)
    table, notes, _ = converted(yaml, LITELLM_MASTER_KEY=MASTER)
    shown["keys"] = table["keys"]  # the page has another key
    assert shown == table
    listed = page.split("\n```\n")[-2].splitlines()
    assert len(listed) == 3
    assert {*notes} >= {*listed}


def test_router_settings_override_and_become_the_policy():
    table, _, _ = converted(BALANCED)
    assert {name: table[name] for name in ("deadline", "attempt_timeout", "retry", "limit")} == {
        "deadline": 30,
        "attempt_timeout": 10,
        "retry": {"max_attempts": 3},
        "limit": {"kind": "fixed", "max_in_flight": 50},
    }
    assert table["spend"] == {"max_usd": 100, "period": 2_592_000, "max_output_tokens": 4096}


@table_test(
    ("duration", "period"),
    [("1h", "hour"), ("1d", "day"), ("1mo", "month"), ("24h", 86_400), ("2mo", 5_184_000)],
)
def test_a_budget_duration_of_one_unit_becomes_a_calendar_period(duration, period):
    table, _, _ = converted(
        BALANCED.replace("budget_duration: 30d", f"budget_duration: {duration}")
    )
    assert table["spend"]["period"] == period


def test_orders_wildcards_and_default_fallbacks_are_converted():
    table, notes, key = converted(LOCAL)
    targets = table["targets"]
    assert targets["qwen-1"]["base_url"] == "http://ollama:11434/v1"
    assert table["pools"]["qwen"] == {
        "targets": ["qwen-1", "qwen-2", "together-llama"], "order": "in_order",
    }  # fmt: skip
    assert "model" not in targets["claude-any-1"]
    assert table["gateway"]["models"]["claude-*"] == "claude-any"
    assert targets["together-llama"] == {
        "provider": "together",
        "model": "meta-llama/Llama-3.3-70B",
        "api_key_env": "TOGETHERAI_API_KEY",
    }
    assert any("'anthropic/*' is not converted: a name with *" in note for note in notes)
    assert key.startswith("sb-")


def test_environment_variables_that_are_set_are_read():
    table, _, key = converted(CREDENTIALS, PROXY_KEY=MASTER)
    assert table["targets"]["large"]["api_key_env"] == "SHARED"
    assert (key, table["keys"]["master"]["sha256"]) == (None, sha256(MASTER.encode()).hexdigest())
    azure = BALANCED.replace("https://eu.openai.azure.com/", "os.environ/EU_BASE")
    assert "gpt-4o-2" not in converted(azure)[0]["targets"]
    assert any("set the variable EU_BASE" in note for note in converted(azure)[1])
    text = f"{azure}\nenvironment_variables: {{EU_BASE: 'https://eu.openai.azure.com'}}"
    assert converted(text)[0] == converted(azure, EU_BASE="https://eu.openai.azure.com")[0]
    table = converted(azure, EU_BASE="https://eu.openai.azure.com")[0]
    assert table["targets"]["gpt-4o-1"]["base_url"] == "https://eu.openai.azure.com/openai/v1"


def tables(value, path=""):
    """Yield the tables of a document with known keys, by path."""
    if isinstance(value, list):
        for place, each in enumerate(value):
            yield from tables(each, f"{path}[{place}]")
    elif isinstance(value, dict):
        yield path, value
        for name in ("model_list", "litellm_params", "litellm_settings", "router_settings", "general_settings"):  # fmt: skip
            yield from tables(value.get(name), f"{path}.{name}".removeprefix("."))


@table_test("name", SAMPLES)
def test_an_unknown_setting_is_listed_with_its_path(name):
    document = msgspec.yaml.decode(SAMPLES[name])
    paths = [path for path, _ in tables(document)]
    assert len(paths) >= 4
    for path in paths:
        changed = deepcopy(document)
        dict(tables(changed))[path]["made_up"] = LITERAL
        _, notes, _ = convert(changed, {})
        place = f"{path}.made_up".removeprefix(".")
        entry = path.removesuffix(".litellm_params")
        listed = [note for note in notes if note.startswith((place, f"{entry}.litellm_params: "))]
        assert listed, place
        assert LITERAL not in "".join(notes)


async def test_converted_settings_keep_client_key_models_and_fallbacks(tmp_path):
    async with upstream() as busy, upstream() as spare:
        busy.reply = ServerResponse(503, b'{"error": {"message": "busy"}}')
        spare.reply = ServerResponse(200, json.dumps(ANSWER).encode())
        text = f"""
model_list:
  - model_name: large
    litellm_params: {{model: openai/storm-1, api_base: "{busy.url}", api_key: os.environ/SHARED}}
  - model_name: small
    litellm_params: {{model: hosted_vllm/storm-2, api_base: "{spare.url}"}}
router_settings: {{fallbacks: [{{large: [small]}}], num_retries: 0}}
general_settings: {{master_key: {MASTER}}}
"""
        (tmp_path / "litellm.yaml").write_text(text)
        main(["gateway", "convert", "litellm.yaml", "-o", "converted.toml"])
        served = (tmp_path / "converted.toml").read_text()
        served = served.replace("[gateway]", '[gateway]\nport = 0\nadmin_port = "none"')
        async with running(tmp_path / "gateway.toml", served) as gateway:
            reply = await gateway.ask({**CHAT, "model": "large"}, key=MASTER)
        assert reply.status == 200
        assert [each["model"] for each in busy.bodies + spare.bodies] == ["storm-1", "storm-2"]
        assert b"authorization" not in spare.seen[0].headers


def test_each_literal_key_has_a_variable_of_its_own():
    models = [
        {"model_name": name, "litellm_params": {"model": "groq/m", "api_key": key}}
        for name, key in (("a", "one"), ("a", "two"), ("b", "one"), ("3", "three"))
    ]
    table, notes, _ = convert({"model_list": models}, {})
    assert [each["api_key_env"] for each in table["targets"].values()] == [
        "A_API_KEY", "A_API_KEY_2", "A_API_KEY", "MODEL_3_API_KEY",
    ]  # fmt: skip
    assert sum("put this key in the variable A_API_KEY:" in note for note in notes) == 2


def test_shell_variables_are_read_and_base_urls_are_checked():
    text = BALANCED.replace("os.environ/AZURE_EU", "${AZURE_EU}")
    assert converted(text)[0]["targets"]["gpt-4o-1"]["api_key_env"] == "AZURE_EU"
    _, notes, _ = converted(BALANCED.replace("https://eu.", "eu."))
    assert any("must begin with http:// or https://" in note for note in notes)


def test_a_fallback_to_a_model_that_is_not_converted_is_listed():
    _, notes, _ = converted(BALANCED.replace("gpt-4o: [claude]", "gpt-4o: [titan, claude]"))
    assert "fallbacks of 'gpt-4o': 'titan' is not converted" in notes


@table_test(
    ("text", "message"),
    [
        ("model_list: []", "no model of model_list can be converted"),
        ("[1]", "must be a table, got list"),
        ("model_list: [{model_name: a}]", "model_list[0] must have a model_name and litellm_params"),
        ("model_list: {a: b}", "model_list must be a list, got dict"),
        ("model_list: [{model_name: a, litellm_params: {model: openai/a, rpm: many}}]",
         "model_list[0].litellm_params.rpm must be a positive number, got 'many'"),
        ("model_list: [{model_name: a, litellm_params: {model: openai/a, max_retries: -1}}]",
         "max_retries must be a whole number"),
        ("model_list: [{model_name: a, litellm_params: {model: openai/a}}]\nlitellm_settings: {max_budget: 1, budget_duration: long}",
         "budget_duration must be such as 30d or 12h, got 'long'"),
        ("model_list: [{model_name: a, litellm_params: {model: cohere/command}}]", "'cohere' is not a known provider"),
        ("model_list: [{model_name: a, litellm_params: {model: azure/x}}]", "an api_base is needed"),
        ("model_list: [{model_name: a, litellm_params: {model: unknown}}]", "name its provider"),
    ],
)  # fmt: skip
def test_an_invalid_litellm_setting_is_named(text, message):
    with pytest.raises(ConfigurationError) as caught:
        converted(text)
    assert message in str(caught.value)


def test_an_unreadable_yaml_file_is_named_with_its_line(tmp_path, capsys):
    (tmp_path / "litellm.yaml").write_text(
        f"model_list:\n  - model_name: *\n    api_key: {LITERAL}\n"
    )
    assert main(["gateway", "convert", "litellm.yaml"]) == 2
    printed = capsys.readouterr()
    assert "litellm.yaml: is not valid YAML at line 2, column" in printed.err
    assert LITERAL not in printed.err
    assert main(["gateway", "convert", "missing.yaml"]) == 2
    assert "cannot be read: no such file" in capsys.readouterr().err
    assert main(["gateway", "convert", "/dev/zero"]) == 2
    assert "/dev/zero: too large" in capsys.readouterr().err


def test_an_existing_output_file_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "litellm.yaml").write_text(LOCAL)
    (tmp_path / "gateway.toml").write_text("mine")
    assert main(["gateway", "convert", "litellm.yaml", "-o", "gateway.toml"]) == 2
    assert (tmp_path / "gateway.toml").read_text() == "mine"
    assert main(["gateway", "convert", "litellm.yaml"]) == 0
    assert "targets" in tomllib.loads(capsys.readouterr().out)


def test_unusual_model_names_become_distinct_target_names(tmp_path):
    names = ["gpt-4.1", "gpt-4-1", "gpt-4 1", "ключ", "a" * 60]
    models = [
        {"model_name": name, "litellm_params": {"model": "groq/m", "api_key": "os.environ/SHARED"}}
        for name in names
    ]
    table, _, _ = convert({"model_list": models}, {})
    assert len(table["targets"]) == len(names)
    assert [*table["gateway"]["models"]] == names
    (tmp_path / "litellm.yaml").write_bytes(msgspec.yaml.encode({"model_list": models}))
    assert main(["gateway", "convert", "litellm.yaml", "-o", "gateway.toml"]) == 0
    assert load_settings(tmp_path / "gateway.toml", environ={}).gateway.models.keys() == {*names}
