from dataclasses import replace

import pytest
from table_test import table_test

from stormbreak.core.policy import Policy
from stormbreak.core.presets import BATCH
from stormbreak.errors import ConfigurationError
from stormbreak.http.client import AsyncClient
from stormbreak.http.endpoint import find_endpoint, origin_of
from stormbreak.http.h1.connection_factory import tls_context
from stormbreak.http.h1.proxy import proxy_for
from stormbreak.http.policy_in_force import in_force, is_disabled
from stormbreak.llm.providers import PRESETS

OPENAI = "https://api.openai.com/v1"
EVERY_KEY = {
    "OPENAI_API_KEY": "openai-key",
    "HOLYSHEEP_API_KEY": "holysheep-key",
    "STORMBREAK_API_KEY": "stormbreak-key",
    "OTHER_KEY": "other-key",
}


def found(environ, provider=None, **given):
    endpoint = find_endpoint(provider, environ=environ, **given)
    return endpoint.provider, endpoint.origin.base_url, endpoint.origin.api_key


@table_test(
    ("more", "provider", "given", "key"),
    [
        # the variable the user named wins over everything
        ({}, "holysheep", {"api_key_env": "OTHER_KEY"}, "other-key"),
        ({"STORMBREAK_BASE_URL": "https://h/v1"}, None, {"api_key_env": "OTHER_KEY"}, "other-key"),
        ({}, "holysheep", {"api_key": "given"}, "given"),
        # then the provider's own
        ({}, "holysheep", {}, "holysheep-key"),
        ({"STORMBREAK_BASE_URL": "https://api.holysheep.ai/v1"}, "holysheep", {}, "holysheep-key"),
        # then STORMBREAK_API_KEY, with its base URL
        ({"STORMBREAK_BASE_URL": "https://h/v1"}, None, {}, "stormbreak-key"),
        ({"STORMBREAK_BASE_URL": OPENAI}, None, {}, "stormbreak-key"),
        ({"STORMBREAK_BASE_URL": "https://h/v1"}, None, {"base_url": "https://h/v2"}, "stormbreak-key"),
        ({"STORMBREAK_BASE_URL": "https://h/v1"}, None, {"base_url": "https://other/v1"}, None),
        ({}, None, {"base_url": "https://other/v1"}, None),
        # then OPENAI_API_KEY, for its own base URL or OpenAI's own address
        ({"OPENAI_BASE_URL": "https://h/v1"}, None, {}, "openai-key"),
        ({"OPENAI_BASE_URL": "https://h/v1"}, None, {"base_url": "https://other/v1"}, None),
        ({}, None, {}, "openai-key"),
        ({}, None, {"base_url": OPENAI}, "openai-key"),
        ({}, "openai", {}, "openai-key"),
        ({}, None, {"base_url": "https://api.openai.com.evil.com/v1"}, None),
        ({}, None, {"base_url": "https://api.openai.com:8443/v1"}, None),
        # a provider that needs no key gets none
        ({}, "local", {}, None),
    ],
)  # fmt: skip
def test_the_most_specific_key_is_used(more, provider, given, key):
    assert found(EVERY_KEY | more, provider, **given)[2] == key


@table_test("provider", [name for name in PRESETS if PRESETS[name].key_env])
def test_the_key_of_a_provider_is_sent_to_no_other_host(provider):
    """Found: the key was sent wherever `base_url` pointed."""
    environ = EVERY_KEY | {f"{provider.upper()}_API_KEY": "own-key"}
    with pytest.raises(
        ConfigurationError, match=r"no API key for evil\.com: .* belongs to"
    ) as caught:
        find_endpoint(provider, base_url="https://evil.com/v1", environ=environ)
    assert "own-key" not in str(caught.value)
    with_one = found(environ, provider, base_url="https://evil.com/v1", api_key_env="OTHER_KEY")
    assert with_one == (provider, "https://evil.com/v1", "other-key")


@table_test(
    ("environ", "provider", "given", "message"),
    [
        ({}, None, {}, "no provider: name one, or give a base URL"),
        ({"STORMBREAK_API_KEY": "x" * 9}, None, {}, "set STORMBREAK_BASE_URL"),
        ({}, "openai", {}, "no API key: set OPENAI_API_KEY"),
        ({"HOLYSHEEP_API_KEY": ""}, "holysheep", {}, "no API key: set HOLYSHEEP_API_KEY"),
        ({}, None, {"base_url": OPENAI, "api_key_env": "MINE"}, "variable MINE is not set"),
        ({"MINE": ""}, None, {"base_url": OPENAI, "api_key_env": "MINE"}, "variable MINE is not set"),
        ({}, "nobody", {}, "provider must be one of openai"),
        ({"STORMBREAK_BASE_URL": "https://[x"}, None, {}, "cannot be read as a URL"),
        ({}, "openai", {"api_key": ""}, "API key is empty"),
    ],
)  # fmt: skip
def test_a_missing_setting_is_named(environ, provider, given, message):
    with pytest.raises(ConfigurationError, match=message):
        find_endpoint(provider, environ=environ, **given)


LITERAL = "sk-proj-CANARYCANARYCANARY1234"
TOKEN = "Zk39fjA0qLm2Xw7RtY5b"


@table_test(
    "literal", [LITERAL, LITERAL.replace("-", "_"), TOKEN, "AIzaCanaryCanaryCanary", f" {TOKEN}"]
)
def test_a_key_where_a_name_is_expected_is_not_echoed(literal):
    """Found: the error contained the key."""
    for given, message in (
        ({"base_url": OPENAI, "api_key_env": literal}, "a key, not like the name of a variable"),
        ({"provider": literal}, "provider must be one of openai.*a key, not like a name"),
        ({"base_url": literal}, "base_url"),
        ({"base_url": f"{literal}:x@api.example.com/v1"}, "base_url"),
        ({"base_url": f"https://{literal}@api.example.com/v1"}, "base_url"),
        ({"base_url": f"https://api.example.com@{literal.strip()}/v1"}, "base_url"),
    ):
        with pytest.raises(ConfigurationError, match=message) as caught:
            find_endpoint(**given, environ={})
        assert literal.strip().lower() not in str(caught.value).lower()
    with pytest.raises(ConfigurationError, match="a key, not like the name of a") as caught:
        AsyncClient(base_url="http://127.0.0.1/v1", policy=literal)
    assert literal.strip() not in str(caught.value)


@table_test("name", ["my-key", "1KEY", "", "KEY=x", "SCHLÜSSEL", "KEY\n"])
def test_an_invalid_name_of_a_variable_is_rejected(name):
    with pytest.raises(ConfigurationError, match="api_key_env must be the name of a variable"):
        find_endpoint(base_url=OPENAI, api_key_env=name, environ={name: "key"})


@table_test("name", ["AZURE_OPENAI_API_KEY_2", "_x1", "mine"])
def test_a_long_variable_name_is_not_taken_for_a_key(name):
    assert found({name: "key"}, base_url=OPENAI, api_key_env=name)[2] == "key"
    with pytest.raises(ConfigurationError, match=f"variable {name} is not set"):
        find_endpoint(base_url=OPENAI, api_key_env=name, environ={})


def test_a_variable_that_is_set_is_used_even_if_its_name_looks_like_a_key():
    assert found({TOKEN: "key"}, base_url=OPENAI, api_key_env=TOKEN)[2] == "key"


@table_test(
    ("base_url", "name"),
    [(OPENAI, "openai"), ("https://h:8443/v1", "h:8443"), ("http://[::1]:9/v1", "[::1]:9")],
)
def test_a_target_is_named_after_its_provider_or_host(base_url, name):
    assert found({}, base_url=base_url)[0] == name


# ------------------------------------------------------------ proxies

PROXIES = [f"{name}_proxy" for name in ("http", "https", "all", "no")]


@pytest.fixture
def proxied(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)

    def ask(url="https://api.example.com/v1", **names):
        for name, value in names.items():
            monkeypatch.setenv(name, value)
        return proxy_for(origin_of(url, None))

    return ask


@pytest.mark.parametrize(
    ("names", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ({"https_proxy": "http://p:1"}, "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, None),
        ({"ALL_PROXY": "http://p:1"}, "http://p:1"),
        ({"ALL_PROXY": "http://all:1", "HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ({"HTTPS_PROXY": "p:1"}, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "example.com"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".example.com,other"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "ample.com"}, "http://p:1"),
        ({"HTTPS_PROXY": ""}, None),
    ],
)
def test_the_environment_names_the_proxy(proxied, names, proxy):
    assert proxied(**names) == proxy


def test_no_proxy_may_contain_a_port(proxied):
    url = "https://api.example.com:8443/v1"
    assert proxied(url, HTTPS_PROXY="http://p:1", NO_PROXY="api.example.com:8443") is None


@pytest.mark.parametrize("host", ["127.0.0.1:8900", "localhost", "[::1]:8900"])
def test_loopback_bypasses_the_proxy(proxied, host):
    assert proxied(f"http://{host}/v1", HTTP_PROXY="http://p:1", ALL_PROXY="http://p:1") is None


def test_a_socks_proxy_is_rejected_without_its_password(proxied):
    with pytest.raises(ConfigurationError, match="must be an http:// URL, got 'socks5'") as caught:
        proxied(HTTPS_PROXY="socks5://user:secret@p:1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "proxy",
    [
        "http://",
        "http://:3128",
        "http://p:port",
        "http://p:99999",
        "http://p:0",
        "http://two words:1",
        "http://[::1:1",
        "http://a..b:1",
        f"http://{'x' * 64}:1",
        "://p:1",
        "http://user:canary@:1",
        "p:1:2",
    ],
)
def test_a_malformed_proxy_fails_at_the_start_and_is_not_echoed(proxied, proxy):
    """Found: each attempt was `broken`, counted as sent, and retried."""
    with pytest.raises(ConfigurationError, match="the proxy for https") as caught:
        proxied(HTTPS_PROXY=proxy)
    assert "canary" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="the proxy for https"):
        AsyncClient(base_url="https://api.example.com/v1")


@pytest.mark.parametrize(
    "proxy", ["http://user:p%40ss@p.example:3128/", "http://p", "[::1]:3128", "p"]
)
def test_a_proxy_may_have_a_user_or_no_port(proxied, proxy):
    assert proxied(HTTPS_PROXY=proxy).endswith(proxy)


# ------------------------------------------------------------ certificates, the off switch


def test_an_invalid_certificate_file_fails_at_the_start(tmp_path, monkeypatch):
    empty = tmp_path / "empty.pem"
    empty.touch()
    for path, message in ((tmp_path / "none.pem", "No such file"), (empty, "")):
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        with pytest.raises(ConfigurationError, match=f"SSL_CERT_FILE {path}: {message}"):
            AsyncClient(base_url="https://h/v1")
    AsyncClient(base_url="http://127.0.0.1/v1")  # plain http needs no certificates
    assert tls_context({}).verify_mode.name == "CERT_REQUIRED"


def test_certifi_is_trusted_on_a_machine_without_certificates(monkeypatch):
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(variable, "/nowhere")
    assert tls_context({}).cert_store_stats()["x509_ca"] > 0


@pytest.mark.parametrize(("value", "off"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_one_variable_turns_every_policy_off(value, off, monkeypatch):
    monkeypatch.setenv("STORMBREAK_DISABLED", value)
    assert is_disabled() is off
    policy = AsyncClient(base_url="http://127.0.0.1/v1").policy
    assert (
        policy.retry.max_attempts == 1,
        policy.breaker is None,
        policy.retry_budget is None,
    ) == (off,) * 3


@pytest.mark.parametrize(("value", "part"), [("1/4", 0.25), ("0.5", 0.5), ("1", 1.0), ("", 1.0)])
def test_a_variable_sets_the_share_of_a_process(value, part, monkeypatch):
    monkeypatch.setenv("STORMBREAK_SHARE", value)

    assert AsyncClient(base_url="http://127.0.0.1/v1").policy.process_share == part


def test_the_share_of_a_policy_overrides_the_variable(monkeypatch):
    monkeypatch.setenv("STORMBREAK_SHARE", "1/4")

    assert in_force(Policy(process_share=0.5)).process_share == 0.5
    assert in_force("off").process_share == 0.25


@pytest.mark.parametrize("value", ["4", "0", "-1/4", "1/0", "a quarter", "nan", "1/4/4", "1e999"])
def test_an_invalid_share_is_rejected(value, monkeypatch):
    monkeypatch.setenv("STORMBREAK_SHARE", value)
    with pytest.raises(ConfigurationError) as caught:
        in_force("interactive")

    assert (
        str(caught.value) == f"STORMBREAK_SHARE must be a part, such as 1/4 or 0.25, got {value!r}"
    )


def test_a_policy_may_be_a_file(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text('preset = "batch"\npatience = 7\n')
    assert in_force(str(path)) == replace(BATCH, patience=7.0)
    for wrong, message in (
        (tmp_path / "none.toml", "cannot be read"),
        ("speedy", "neither a preset"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            in_force(str(wrong))


def test_policies_are_enabled_by_default():
    assert not is_disabled({})
