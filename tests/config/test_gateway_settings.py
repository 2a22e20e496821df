"""`[gateway]` and `[keys.NAME]` in a settings file."""

from hashlib import sha256

import pytest
from table_test import table_test

from stormbreak.config import describe_settings, load_settings
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.tenant import TenantLimits
from stormbreak.errors import ConfigurationError
from stormbreak.types import Priority

ONE, TWO = sha256(b"one").hexdigest(), sha256(b"two").hexdigest()
FILE = f"""
    prices = ["deal.toml"]

    [targets.main]
    provider = "openai"
    api_key_file = "/run/secrets/openai-2026-key"
    model = "gpt-4.1"

    [targets.any]
    base_url = "http://127.0.0.1:8900/v1"

    [pools.chat]
    targets = ["main"]

    [gateway]
    port = 9000
    on_disconnect = "finish"
    grace = 0

    [gateway.models]
    "gpt-4.1-mini-2025-04-14" = "any"
    smart = "chat"

    [keys.app]
    sha256 = "{ONE}"
    models = ["smart", "gpt-4.1-mini-2025-04-14", "main"]
    priority = "batch"
    deadline = 5
    rpm = 60
    labels = {{ team = "search" }}

    [keys.app.spend]
    max_usd = 5
    period = "day"

    [keys.other]
    sha256 = "{TWO}"
    tenant = "research"

    [tenants.research]
    max_in_flight = 20

    [tenants.research.spend]
    max_usd = 100
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load(text):
        (tmp_path / "s.toml").write_text(text)
        return load_settings("s.toml", environ={})

    return load


def test_a_gateway_and_its_keys_are_read(read):
    settings = read(FILE)
    gateway, app = settings.gateway, settings.keys["app"]
    assert (gateway.port, gateway.host, gateway.on_disconnect) == (9000, "127.0.0.1", "finish")
    assert app.spend == SpendPolicy(max_usd=5, period="day")
    assert (app.priority, app.rpm, app.labels) == (Priority.BATCH, 60, {"team": "search"})
    assert settings.tenants["research"] == TenantLimits(
        max_in_flight=20, spend=SpendPolicy(max_usd=100)
    )
    assert settings.prices == ("deal.toml",)


def test_a_gateway_is_described_as_a_file_that_reads_back_equal(read):
    settings = read(FILE)
    assert read(describe_settings(settings)) == settings


@table_test(
    ("model", "leads"),
    [
        ("smart", "chat"),
        ("main", "main"),
        ("chat", "chat"),
        ("any", None),  # which model, depends on the request
        ("gpt-9", None),
        ("claude-9", "any"),
        ("claude-9-large", "main"),
        ("claude", None),
    ],
)
def test_a_model_name_resolves_to_a_target_or_a_pool(read, model, leads):
    text = FILE.replace(
        'smart = "chat"', 'smart = "chat"\n"claude-*" = "any"\n"claude-9-*" = "main"'
    )
    assert read(text).leads_to(model) == leads


@table_test(
    ("old", "new", "message"),
    [
        ("port = 9000", "port = 90000", "gateway.port must be from 0 to 65535, got 90000"),
        ("port = 9000", "prt = 9000", "unknown key gateway.prt = 9000; did you mean port?"),
        ('"finish"', '"wait"', "gateway.on_disconnect must be one of cancel, finish, got 'wait'"),
        ("grace = 0", "grace = -1", "gateway.grace must not be negative, got -1"),
        ('smart = "chat"', 'smart = "cht"',
         "gateway.models.smart must be the name of a target or pool (main, any, chat), got 'cht'"),
        (TWO, ONE, "keys.other.sha256 is the same as that of keys.app"),
        (TWO, "hunter2", ("keys.other.sha256 must be 64 hex digits in lower case,"
         " as `stormbreak gateway key new` prints them")),
        (f'[keys.other]\n    sha256 = "{TWO}"', "[keys.other]\n    rpm = 1",
         "keys.other lacks sha256, got a table"),
        ('"main"]\n    priority', '"mian"]\n    priority',
         "keys.app.models names 'mian', which does not lead to a target: name it in gateway.models"),
        ("rpm = 60", "rpm = 0", "keys.app.rpm must be positive, got 0"),
        ("max_usd = 5", "max_usd = -5", "keys.app.spend.max_usd must be positive, got -5"),
        ("deadline = 5", "deadline = 0", "keys.app.deadline must be positive, got 0"),
        ("max_in_flight = 20", "rpm = 0", "tenants.research.rpm must be positive, got 0"),
        ("max_in_flight = 20", "models = []", "unknown key tenants.research.models = a list; known: rpm, tpm, max_in_flight, spend"),
        ('tenant = "research"', "", "tenants.research has no key: set it as the tenant of a key"),
        ('["deal.toml"]', '"deal.toml"', "prices must be a list, got 'deal.toml'"),
        ("api_key_file", "api_key_env = 'A'\n    api_key_file",
         "targets.main.api_key_env and api_key_file exclude each other: name one"),
    ],
)  # fmt: skip
def test_an_error_in_the_gateway_tables_names_key_and_value(read, old, new, message):
    assert FILE.count(old) == 1
    with pytest.raises(ConfigurationError) as caught:
        read(FILE.replace(old, new))
    assert str(caught.value) == f"s.toml: {message}"


@table_test("key", ["sha256", "models", "labels"])
def test_a_literal_api_key_is_rejected_and_not_echoed(read, key):
    token = "sk-Zk39fjA0qLm2Xw7RtY5b"
    value = {"sha256": f'"{token}"', "models": f'["{token}"]', "labels": f'{{ a = "{token}" }}'}
    with pytest.raises(ConfigurationError) as caught:
        read(f"[targets.a]\nmodel = 'm'\n[keys.a]\n{key} = {value[key]}")
    assert token not in str(caught.value)


def test_a_policy_file_with_a_gateway_table_is_rejected(read, tmp_path):
    from stormbreak.config import load_policy  # noqa: PLC0415

    read("prices = []\n[gateway]\nport = 1")
    with pytest.raises(ConfigurationError, match="only a policy, without prices and gateway"):
        load_policy("s.toml")
