"""Real clients are examined: exactly these findings, each at its place."""

import contextlib
import ssl
from dataclasses import replace

import anthropic
import httpx
import httpx2
import openai
import pytest
from canary import CANARIES, KEY, assert_clean
from table_test import table_test

import stormbreak.httpx
from stormbreak import AsyncClient, Client, ConfigurationError
from stormbreak.core.presets import BATCH
from stormbreak.doctor import Finding, Severity, examine
from stormbreak.httpx2 import AsyncTransport, Transport, wrap

MAKERS = [openai.OpenAI, openai.AsyncOpenAI, anthropic.Anthropic, anthropic.AsyncAnthropic]
UNBOUND = replace(BATCH, attempt_timeout=None)


def found(client, **more):
    """Severity, name and place of each finding."""
    return [(str(each.severity), each.name, each.where) for each in examine(client, **more)]


def over(transport, *, make=openai.OpenAI, sdk=None, **more):
    """An SDK over a client of httpx2 with this transport."""
    blocks = make in (openai.OpenAI, anthropic.Anthropic)
    http = (httpx2.Client if blocks else httpx2.AsyncClient)(transport=transport, **more)
    return make(api_key=KEY, http_client=http, **(sdk or {}))


@table_test("make", MAKERS)
def test_an_unwrapped_sdk_has_no_policy_and_a_long_timeout(make):
    assert found(make(api_key=KEY)) == [
        ("risk", "no-policy", "client"),
        ("risk", "long-timeout", "client.timeout"),
    ]
    policy, long = examine(make(api_key=KEY), name="llm")
    assert f"attempts per call: 3 ({make.__module__.partition('.')[0]}." in policy.what
    assert policy.instead == "stormbreak.httpx2.wrap(llm)"
    assert "600 s, 1800 s over 3 attempts" in long.what


@table_test("make", MAKERS)
def test_a_wrapped_sdk_has_only_a_note_about_its_own_retries(make):
    client = wrap(make(api_key=KEY))
    assert found(client) == [("note", "sdk-retries-stopped", "client.max_retries")]
    assert found(wrap(make(api_key=KEY, max_retries=0))) == []


@table_test("make", MAKERS)
def test_a_missing_timeout_is_wrong_unless_the_client_is_wrapped(make):
    client = make(api_key=KEY, timeout=None)
    assert ("wrong", "no-timeout", "client.timeout") in found(client)
    assert found(wrap(client)) == [("note", "sdk-retries-stopped", "client.max_retries")]


def test_the_timeout_of_the_sdk_overrides_that_of_its_http_client():
    http = httpx2.Client(timeout=None)
    client = openai.OpenAI(api_key=KEY, http_client=http, timeout=20)
    assert "no-timeout" not in str(found(client))
    assert ("wrong", "no-timeout", "client.timeout") in found(http)


def test_a_timeout_that_lacks_one_part_is_a_risk():
    http = httpx2.Client(timeout=httpx2.Timeout(20, pool=None))
    assert ("risk", "no-timeout", "client.timeout") in found(http)
    assert "no timeout for pool" in str(examine(http))


@table_test(
    ("module", "make"),
    [(m, make) for m in (httpx2, httpx) for make in ("Client", "AsyncClient")],
)
def test_a_plain_http_client_has_no_policy(module, make):
    assert found(getattr(module, make)()) == [("risk", "no-policy", "client")]
    (finding,) = examine(getattr(module, make)())
    assert finding.instead == f"stormbreak.{module.__name__}.wrap(client)"


@pytest.mark.parametrize("make", [AsyncClient, Client])
def test_our_own_clients_are_examined_for_their_policy(make, monkeypatch):
    assert found(make(base_url="http://127.0.0.1:1/v1")) == []
    unbound = make(base_url="http://127.0.0.1:1/v1", policy=UNBOUND)
    assert found(unbound) == [("wrong", "no-timeout", "client.policy")]
    monkeypatch.setenv("STORMBREAK_DISABLED", "1")
    (off, unbound) = examine(make(base_url="http://127.0.0.1:1/v1"))
    assert (off.name, unbound.name) == ("policy-off", "no-timeout")
    assert "STORMBREAK_DISABLED" in off.instead


def test_the_policy_off_is_reported_as_wrong():
    (off, *_) = examine(over(Transport("off"), sdk={"max_retries": 0}))
    assert (off.severity, off.name) == (Severity.WRONG, "policy-off")
    assert off.where == "client._client._transport.policy"
    assert "STORMBREAK_DISABLED" not in off.instead


def test_no_timeout_in_policy_and_sdk_is_wrong():
    sdk = {"max_retries": 0, "timeout": None}
    where = "client._client._transport.policy"
    assert found(over(Transport(UNBOUND), sdk=sdk)) == [("wrong", "no-timeout", where)]
    assert found(over(Transport(UNBOUND), sdk=sdk | {"timeout": 20})) == []


@table_test(
    ("transport", "better"),
    [
        (Transport, "stormbreak.httpx2.AsyncTransport"),
        (stormbreak.httpx.AsyncTransport, "stormbreak.httpx2.AsyncTransport"),
    ],
)
def test_a_transport_for_another_kind_of_client_is_wrong(transport, better):
    client = over(transport(), make=openai.AsyncOpenAI, sdk={"max_retries": 0})
    (finding,) = examine(client)
    assert (finding.severity, finding.name) == (Severity.WRONG, "wrong-transport")
    assert finding.instead == better


def test_a_proxy_that_bypasses_the_transport_is_wrong():
    client = over(Transport(), proxy=f"http://me:{KEY}@127.0.0.1:9", sdk={"max_retries": 0})
    assert ("wrong", "bypassed-transport", "client._client._mounts['all://']") in found(client)
    assert "no-policy" not in str(found(client))
    proxied = wrap(httpx2.Client(proxy=f"http://me:{KEY}@127.0.0.1:9"))
    assert {each.name for each in examine(proxied)} == {"small-pool"}
    assert_clean(f"{examine(client)}", "findings", CANARIES)


def test_a_closed_client_is_wrong():
    client = over(Transport())
    client.close()
    assert ("wrong", "closed", "client._client") in found(client)


def test_unverified_certificates_and_trust_env_are_reported():
    assert ("wrong", "unverified-certificates", "client._transport._pool") in found(
        httpx2.Client(verify=False)
    )
    context = ssl.create_default_context()
    assert "unverified-certificates" not in str(found(httpx2.Client(verify=context)))
    distrustful = over(Transport(), trust_env=False, sdk={"max_retries": 0})
    assert found(distrustful) == [("risk", "trust-env", "client._client.trust_env")]
    assert found(over(Transport(trust_env=False), trust_env=False, sdk={"max_retries": 0})) == []


def limits(max_connections):
    return httpx2.HTTPTransport(limits=httpx2.Limits(max_connections=max_connections))


def test_a_small_connection_pool_is_reported():
    pool = "client._client._transport._pool"
    assert ("risk", "small-pool", pool) in found(over(limits(99)))
    assert ("note", "small-pool", pool) in found(over(limits(100)))
    assert "small-pool" not in str(found(over(limits(1000))))
    inner = "client._client._transport.inner._pool"
    assert ("risk", "small-pool", inner) in found(over(Transport(inner=limits(255))))
    assert "small-pool" not in str(found(over(Transport(inner=limits(256)))))
    assert "small-pool" not in str(found(over(Transport("off", inner=limits(None)))))


class Http2Transport(httpx2.HTTPTransport):
    """Stands for `http2=True`, since the package h2 is not installed here."""

    def __init__(self):
        super().__init__()
        self._pool._http2 = True


def test_http2_and_connection_retries_are_reported():
    assert ("note", "http2", "client._transport._pool") in found(
        httpx2.Client(transport=Http2Transport())
    )
    retrying = httpx2.Client(transport=httpx2.HTTPTransport(retries=3))
    assert ("risk", "connection-retries", "client._transport._pool") in found(retrying)


@table_test(
    ("base_url", "problem"),
    [
        ("http://api.example.org/v1", "plain http to 'api.example.org'"),
        (f"https://me:{KEY}@api.example.org/v1", "must hold no user or password"),
        ("http://127.0.0.1:9/v1", None),
        ("https://api.example.org/v1", None),
    ],
)
def test_an_unsafe_base_url_of_a_key_is_reported(base_url, problem):
    client = wrap(openai.OpenAI(api_key=KEY, base_url=base_url, max_retries=0))
    bad_addresses = [each.what for each in examine(client) if each.name == "bad-address"]
    assert len(bad_addresses) == (problem is not None)
    assert problem is None or problem in bad_addresses[0]
    assert_clean(f"{examine(client)}", "findings", CANARIES)


@table_test("header", ["authorization", "x-api-key"])
def test_a_key_in_the_headers_of_a_plain_http_client_is_found(header):
    plain = httpx2.Client(base_url="http://api.example.org", headers={header: f"Bearer {KEY}"})
    assert ("wrong", "bad-address", "client.base_url") in found(plain)
    assert_clean(f"{examine(plain)}", "findings", CANARIES)
    assert "bad-address" not in str(found(httpx2.Client(base_url="http://api.example.org")))


def test_a_token_provider_counts_as_a_key():
    azure = openai.AzureOpenAI(
        azure_ad_token_provider=lambda: "token",
        azure_endpoint="https://mine.openai.azure.com",
        api_version="2024-06-01",
    )
    assert "bad-address" not in str(found(azure))
    azure = azure.with_options(base_url="http://mine.openai.azure.com/openai")
    assert ("wrong", "bad-address", "client.base_url") in found(azure)


def test_many_open_clients_are_a_risk():
    with contextlib.ExitStack() as open_ones:
        for _ in range(17):
            last = open_ones.enter_context(openai.OpenAI(api_key=KEY))
        assert ("risk", "many-clients", "client._client") in found(last)
    assert "many-clients" not in str(found(last))


async def test_examine_changes_and_sends_nothing():
    transport = AsyncTransport()
    client = over(transport, make=openai.AsyncOpenAI)
    before = (vars(client) | {}, vars(client._client) | {})
    examine(client)
    assert (vars(client), vars(client._client)) == before
    assert transport.snapshot()["targets"] == {}


@table_test("thing", [object(), 3, "client", None, openai, [openai], print])
def test_an_object_that_is_not_a_client_is_rejected(thing):
    with pytest.raises(ConfigurationError, match="no client of a known SDK or HTTP library"):
        examine(thing)


def test_an_object_without_readable_attributes_is_rejected():
    class Unreadable:
        @property
        def __dict__(self):
            raise ValueError("nobody looks in here")

    with pytest.raises(ConfigurationError, match="no client of a known SDK or HTTP library"):
        examine(Unreadable())


def test_a_finding_is_shown_with_severity_place_and_advice():
    finding = Finding(
        severity=Severity.RISK, name="n", where="w", what="fact", why="Because.", instead="this"
    )
    assert str(finding) == "risk: w: fact [n]\n  why: Because.\n  instead: this"


def test_findings_are_sorted_by_severity():
    client = openai.OpenAI(api_key=KEY, timeout=None, http_client=httpx2.Client(verify=False))
    order = list(Severity)
    severities = [order.index(each.severity) for each in examine(client)]
    assert severities == sorted(severities)
    assert len(set(severities)) == 3
