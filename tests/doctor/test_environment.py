"""Findings about environment variables show no value of a key."""

import certifi
import pytest
from canary import CANARIES, KEY, assert_clean
from table_test import table_test

from stormbreak.doctor.environment import check_environment

SECRET = f"{KEY}\n"


def findings(environ):
    return {
        each.where: (str(each.severity), each.name, each.what)
        for each in check_environment(environ)
    }


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@table_test(
    "environ",
    [
        {},
        {"STORMBREAK_DISABLED": "0"},
        {"OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY},
        {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "https://api.openai.com/v1"},
        {"STORMBREAK_BASE_URL": "http://127.0.0.1:9/v1", "STORMBREAK_API_KEY": KEY},
        {"SSL_CERT_FILE": certifi.where()},
    ],
)
def test_a_sound_environment_has_no_findings(environ):
    assert findings(environ) == {}


@table_test(
    ("environ", "where", "what"),
    [
        ({"STORMBREAK_DISABLED": "1"}, "STORMBREAK_DISABLED", "every policy is off"),
        ({"STORMBREAK_API_KEY": KEY}, "STORMBREAK_API_KEY", "is set without STORMBREAK_BASE_URL"),
        ({"OPENAI_API_KEY": SECRET}, "OPENAI_API_KEY", "a line break"),
        ({"GROQ_API_KEY": " "}, "GROQ_API_KEY", "the API key is empty"),
        (
            {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "http://llm.example.org/v1"},
            "OPENAI_BASE_URL",
            "plain http to 'llm.example.org'",
        ),
        (
            {"ANTHROPIC_BASE_URL": f"https://me:{KEY}@llm.example.org"},
            "ANTHROPIC_BASE_URL",
            "must hold no user or password",
        ),
        ({"OPENAI_BASE_URL": "llm.example.org"}, "OPENAI_BASE_URL", "must look like https://"),
        ({"SSL_CERT_FILE": "/nowhere.pem"}, "SSL_CERT_FILE", "No such file"),
    ],
)
def test_a_wrong_variable_is_one_finding_without_its_key(environ, where, what):
    (finding,) = check_environment(environ)
    assert (finding.severity, finding.where) == ("wrong", where)
    assert what in finding.what
    assert_clean(f"{finding} {finding!r}", "finding", CANARIES)


def test_an_openai_key_for_another_host_is_noted():
    environ = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "https://llm.example.org/v1"}
    finding = ("note", "key-elsewhere", "OPENAI_API_KEY goes to llm.example.org")
    assert findings(environ) == {"OPENAI_BASE_URL": finding}


def test_a_proxy_is_noted_without_its_password(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{KEY}@proxy.example.org:3128")
    (finding,) = check_environment({})
    assert (finding.severity, finding.name) == ("note", "proxy")
    assert "proxy.example.org" in finding.what
    assert_clean(f"{finding!r}", "finding", CANARIES)
    monkeypatch.setenv("HTTPS_PROXY", f"socks5://me:{KEY}@proxy.example.org:3128")
    (finding,) = check_environment({})
    assert (finding.severity, finding.name) == ("wrong", "bad-variable")
    assert_clean(f"{finding!r}", "finding", CANARIES)
