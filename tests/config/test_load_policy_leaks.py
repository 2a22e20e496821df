"""A policy file that seems to hold an API key is rejected, and the key is not echoed."""

import pytest
from table_test import table_test

from stormbreak.config import load_policy
from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import holds_token

CANARY = "sk-canary-4f9a81c2d7"
TOKEN = "Zk39fjA0qLm2Xw7RtY5b"

REFUSED = {
    f'api_key = "{CANARY}"': "line 1 looks like it contains an API key",
    f'[retry]\nkind = "{CANARY}"': "line 2 looks like it contains an API key",
    f"# my key: {CANARY}": "line 1 looks like it contains an API key",
    f'x = "Bearer {TOKEN}"': "line 1 looks like it contains an API key",
    f"# X-Api-Key: {TOKEN}": "line 1 looks like it contains an API key",
    f"# api-key:{TOKEN}": "line 1 looks like it contains an API key",
    f"{CANARY} = 1": "line 1 looks like it contains an API key",
    f'broken = "{CANARY}': "line 1 looks like it contains an API key",
    'api_key = "hunter2"': "api_key looks like an API key",
    '[retry]\napikey = "hunter2"': "retry.apikey looks like an API key",
    '[retry.backoff]\nAuthorization = "hunter2"': "retry.backoff.Authorization looks like",
    '[[x]]\nsecrets = ["hunter2"]': "x.secrets looks like an API key",
    f'priority = "{TOKEN}"': "priority looks like an API key",
    f'failures = ["{TOKEN}"]': "failures looks like an API key",
    f'preset = "{TOKEN}"': "preset looks like an API key",
    f'[cache]\npath = "{TOKEN}"': "cache.path looks like an API key",
    f"[retry]\n{TOKEN} = 1": "retry has a key that looks like a secret",
    f"{TOKEN} = 1": "the file has a key that looks like a secret",
    f"a = {{{TOKEN} = 1, {TOKEN} = 2}}": "invalid TOML: a key that looks like a secret",
}


@table_test("text", REFUSED)
def test_an_api_key_in_a_policy_file_is_rejected_and_not_echoed(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_policy("policy.toml")
    message = str(caught.value)
    assert message.startswith(f"policy.toml: {REFUSED[text]}")
    for secret in (CANARY, TOKEN, "hunter2"):
        assert secret not in message


def test_an_api_key_given_as_a_path_is_not_echoed():
    with pytest.raises(ConfigurationError) as caught:
        load_policy(CANARY)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "tenant", ["9f3c2b7a51d04e88", "0b9f0a3e-2c55-4a5e-9f0e-7a1f3f1f9d11", "token"]
)
def test_a_tenant_id_is_not_taken_for_an_api_key(tenant, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(f'[queue.tenant_weights]\n"{tenant}" = 3')
    assert load_policy(path).queue.tenant_weights == {tenant: 3}


@pytest.mark.parametrize("place", ["/var/lib/app1/answers.db", "shop-2026-answers.sqlite", "a/b"])
def test_a_file_path_is_not_taken_for_an_api_key(place, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(f'[cache]\npath = "{place}"')
    assert load_policy(path).cache.path == place


MAPPED = '[[fallback]]\nkind = "targets"\ntargets = [{{ models = {{ "{}" = "{}" }} }}]'


def test_model_names_are_not_taken_for_api_keys(tmp_path):
    path = tmp_path / "policy.toml"
    names = "gpt-4.1-mini-2025-04-14", "ft:gpt-4.1:acme::A1b2C3"
    path.write_text(MAPPED.format(*names))
    assert load_policy(path).fallback[0].targets[0].models == dict([names])


@pytest.mark.parametrize("names", [(TOKEN, "m"), ("m", TOKEN)])
def test_an_api_key_among_model_names_is_rejected(names, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(MAPPED.format(*names))
    with pytest.raises(
        ConfigurationError, match=r"targets\.models looks like an API key"
    ) as caught:
        load_policy(path)
    assert TOKEN not in str(caught.value)


def test_an_ordinary_comment_is_not_taken_for_an_api_key(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(
        "# since incident-2026-01-31, see docs/adr/0005-configuration.md; task-force-x\n"
    )
    load_policy(path)


def test_ordinary_words_are_not_taken_for_tokens():
    assert not holds_token("proportional_jitter connect_failed max_wait 2026-01-31 600")
    assert holds_token(f"Duplicate inline table key '{TOKEN}'")
