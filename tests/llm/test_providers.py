"""The header for the key of each API."""

from table_test import table_test

from stormbreak.llm.endpoints import Shape
from stormbreak.llm.providers import key_headers

KEY = "canary-0123456789"
CLAUDE = "sk-ant-api03-canary"
BEARER = {"Authorization": f"Bearer {KEY}"}
AZURE = {"api-key": KEY}
VERSION = {"anthropic-version": "2023-06-01"}
OTHERS = set(Shape) - {Shape.MESSAGES}


@table_test(
    "host",
    ["api.openai.com", "openrouter.ai", "127.0.0.1", "api.deepseek.com", "api.anthropic.com.evil.example",
     "evil-openai.azure.com", "openai.azure.com", "x.openai.azure.com.evil.example", "azure.com", ""],
)  # fmt: skip
def test_an_unknown_host_gets_a_bearer_token(host):
    assert [key_headers(host, KEY, shape) for shape in OTHERS] == [BEARER] * len(OTHERS)


@table_test("host", ["127.0.0.1", "openrouter.ai", "litellm.example"])
def test_a_messages_request_has_the_key_in_both_headers(host):
    assert key_headers(host, KEY, Shape.MESSAGES) == BEARER | VERSION | {"x-api-key": KEY}


def test_a_key_of_anthropic_is_sent_only_as_x_api_key():
    expected = VERSION | {"x-api-key": CLAUDE}
    assert key_headers("proxy.example", CLAUDE, Shape.MESSAGES) == expected


def test_anthropic_gets_x_api_key_except_for_chat():
    host = "api.anthropic.com"
    assert key_headers(host, KEY, Shape.CHAT) == BEARER
    native = VERSION | {"x-api-key": KEY}
    for shape in set(Shape) - {Shape.CHAT}:
        assert key_headers(host, KEY, shape) == native


@table_test("domain", ["openai", "cognitiveservices", "services.ai"])
def test_azure_gets_an_api_key_header(domain):
    host = f"my-resource.{domain}.azure.com"
    assert [key_headers(host, KEY, shape) for shape in OTHERS] == [AZURE] * len(OTHERS)
    assert key_headers(host, KEY, Shape.MESSAGES) == AZURE | VERSION | {"x-api-key": KEY}


@table_test("host", ["127.0.0.1", "x.openai.azure.com", "api.anthropic.com"])
def test_without_a_key_none_is_sent(host):
    for shape in Shape:
        assert set(key_headers(host, None, shape)) <= set(VERSION)
    assert key_headers(host, None, Shape.MESSAGES) == VERSION
