"""Every refusal has its status, type and code, in the format of the called API."""

import pytest

from stormbreak.provider.fault_kinds import REFUSALS, Kind

from .conftest import CHAT, STREAM

CLAUDE = {**CHAT, "max_tokens": 100}
VERSION = ["anthropic-version: 2023-06-01", "x-api-key: any"]
WORDS = [  # kind, status, type and code as OpenAI has them, type as Anthropic has it
    ("400", 400, "invalid_request_error", "invalid_value", "invalid_request_error"),
    ("401", 401, "invalid_request_error", "invalid_api_key", "authentication_error"),
    (
        "403",
        403,
        "invalid_request_error",
        "unsupported_country_region_territory",
        "permission_error",
    ),
    ("404", 404, "invalid_request_error", "model_not_found", "not_found_error"),
    ("408", 408, "timeout_error", None, "invalid_request_error"),
    ("409", 409, "conflict_error", None, "invalid_request_error"),
    ("413", 413, "invalid_request_error", "request_too_large", "request_too_large"),
    ("422", 422, "invalid_request_error", None, "invalid_request_error"),
    ("424", 424, "failed_dependency", None, "invalid_request_error"),
    ("425", 425, "too_early", None, "invalid_request_error"),
    ("429", 429, "requests", "rate_limit_exceeded", "rate_limit_error"),
    ("498", 498, "invalid_request_error", "capacity_exceeded", "invalid_request_error"),
    ("500", 500, "server_error", None, "api_error"),
    ("501", 501, "server_error", None, "api_error"),
    ("503", 503, "service_unavailable_error", "server_is_overloaded", "api_error"),
    ("down", 503, "service_unavailable_error", "server_is_overloaded", "api_error"),
    ("504", 504, "timeout_error", None, "timeout_error"),
    ("529", 529, "overloaded_error", "overloaded", "overloaded_error"),
    ("quota", 429, "insufficient_quota", "insufficient_quota", "rate_limit_error"),
    ("billing", 402, "billing_error", None, "billing_error"),
    ("spend_limit", 429, "rate_limit_error", "enforced_spend_limit_reached", "rate_limit_error"),
    ("balance", 402, "unknown_error", None, "billing_error"),
    ("model_not_found", 404, "invalid_request_error", "model_not_found", "not_found_error"),
    (
        "context_length",
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "invalid_request_error",
    ),
    ("content_filter", 400, "invalid_request_error", "content_filter", "invalid_request_error"),
]
PAGES = ["502", "520", "521", "522", "523", "524"]
ELSEWHERE = {"budget", "redirect", "reset", "half_close", "hang"}  # tested separately


def test_every_refusal_is_tested():
    tested = {row[0] for row in WORDS} | set(PAGES) | ELSEWHERE
    assert tested == {kind.value for kind in REFUSALS} | {Kind.DOWN.value}


@pytest.mark.parametrize(("kind", "status", "type_", "code", "claude"), WORDS)
def test_a_refusal_is_an_error_in_the_format_of_the_called_api(
    faulty, dial, kind, status, type_, code, claude
):
    provider = faulty(kind)
    client = dial(provider)
    for payload in (CHAT, STREAM):  # both on one connection, which stays open
        response = client.ask(payload=payload)
        assert response.status == status
        assert (response.json["error"]["type"], response.json["error"]["code"]) == (type_, code)
        assert "retry-after" not in response.headers
        assert response.headers["x-request-id"].startswith("req_")
    response = client.ask(path="/v1/messages", payload=CLAUDE, headers=VERSION)
    assert (response.status, response.json["type"]) == (status, "error")
    assert response.json["error"]["type"] == claude
    stats = provider.stats()
    assert stats["answers"] == {str(status): 3}
    assert stats["faults"][kind] == 3


@pytest.mark.parametrize("kind", PAGES)
def test_errors_of_an_edge_proxy_are_html_pages(faulty, dial, kind):
    response = dial(faulty(kind)).ask()
    assert response.status == int(kind)
    assert response.headers["content-type"] == "text/html"
    assert response.body.startswith(b"<html>")
    assert kind.encode() in response.body


def test_a_spend_limit_is_in_the_error_details(faulty, dial):
    response = dial(faulty("spend_limit")).ask(path="/v1/messages", payload=CLAUDE, headers=VERSION)
    assert response.json["error"]["details"] == {"error_code": "enforced_spend_limit_reached"}


def test_a_budget_refusal_is_a_402_with_retry_after(faulty, dial):
    response = dial(faulty("budget", "retry_after = 3")).ask()
    assert (response.status, response.headers["retry-after"]) == (402, "3")
    assert response.json["error"]["metadata"] == {"limit_source": "openrouter_in_flight_budget"}


def test_a_redirect_leads_to_another_host(faulty, dial):
    response = dial(faulty("redirect")).ask()
    assert response.status == 307
    assert response.headers["location"].startswith("https://elsewhere.invalid/")


def test_half_close_ends_the_response_but_still_reads(faulty, dial):
    client = dial(faulty("half_close"))
    response = client.ask()
    assert (response.status, response.ending) == (None, "closed")
    for _ in range(3):
        client.send(b"more")  # no RST comes back
    assert client.closed()
