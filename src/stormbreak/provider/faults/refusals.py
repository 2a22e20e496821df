"""Refusals: status and message of each kind, in the format of the endpoint."""

from collections.abc import Mapping

from stormbreak.http.h1.request_parser import Headers
from stormbreak.provider.fault_kinds import Kind
from stormbreak.provider.formats.base import Format, Refusal
from stormbreak.provider.scripts import Ending, Script, plain

ELSEWHERE = "elsewhere.invalid"  # the host of redirects
_EDGE = frozenset({Kind.S502, Kind.S520, Kind.S521, Kind.S522, Kind.S523, Kind.S524})
_HTML = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n"
    "<center><h1>{0}</h1></center>\r\n</body>\r\n</html>\r\n"
)
THROTTLED = Refusal(429, "too many requests", "requests", "rate_limit_exceeded")

_REFUSALS: Mapping[Kind, Refusal] = {
    Kind.S400: Refusal(400, "the request is not acceptable", code="invalid_value"),
    Kind.S401: Refusal(401, "the key was not accepted", code="invalid_api_key"),
    Kind.S403: Refusal(
        403, "not allowed from this region", code="unsupported_country_region_territory"
    ),
    Kind.S404: Refusal(404, "there is no such model", code="model_not_found"),
    Kind.S408: Refusal(408, "the model did not answer in time", "timeout_error"),
    Kind.S409: Refusal(409, "the resource is locked", "conflict_error"),
    Kind.S413: Refusal(413, "the request is too large", code="request_too_large"),
    Kind.S422: Refusal(422, "the request cannot be processed"),
    Kind.S424: Refusal(424, "a dependency failed", "failed_dependency"),
    Kind.S425: Refusal(425, "too early", "too_early"),
    Kind.S429: THROTTLED,
    Kind.S498: Refusal(498, "the flex tier has no capacity", code="capacity_exceeded"),
    Kind.S500: Refusal(500, "the server had an error", "server_error"),
    Kind.S501: Refusal(501, "this is not implemented", "server_error"),
    Kind.S503: Refusal(503, "no capacity", "service_unavailable_error", "server_is_overloaded"),
    Kind.DOWN: Refusal(503, "out of service", "service_unavailable_error", "server_is_overloaded"),
    Kind.S504: Refusal(504, "the server did not answer in time", "timeout_error"),
    Kind.S529: Refusal(529, "overloaded", "overloaded_error", "overloaded"),
    Kind.QUOTA: Refusal(429, "the credit is used up", "insufficient_quota", "insufficient_quota"),
    Kind.BILLING: Refusal(402, "the payment failed", "billing_error"),
    Kind.SPEND_LIMIT: Refusal(
        429,
        "the spend limit of this month is reached",
        "rate_limit_error",
        "enforced_spend_limit_reached",
    ),
    Kind.BALANCE: Refusal(402, "Insufficient Balance", "unknown_error"),
    Kind.BUDGET: Refusal(
        402,
        "too much in flight for the budget",
        code=402,
        metadata={"limit_source": "openrouter_in_flight_budget"},
    ),
    Kind.MODEL_NOT_FOUND: Refusal(404, "there is no such model", code="model_not_found"),
    Kind.CONTEXT_LENGTH: Refusal(
        400,
        "prompt is too long: this model's maximum context length is 128000 tokens",
        code="context_length_exceeded",
    ),
    Kind.CONTENT_FILTER: Refusal(400, "the prompt was filtered", code="content_filter"),
}


def refused(kind: Kind, format_: Format, headers: Headers) -> Script:
    if kind in _CONNECTION:
        return _CONNECTION[kind]
    if kind in _EDGE:
        title = "502 Bad Gateway" if kind is Kind.S502 else f"error code: {kind.value}"
        return plain(int(kind), _HTML.format(title).encode(), headers, "text/html")
    if kind is Kind.REDIRECT:
        location = ("location", f"https://{ELSEWHERE}/v1/chat/completions")
        return plain(307, b"", (*headers, location))
    refusal = _REFUSALS[kind]
    return plain(refusal.status, format_.error(refusal), headers)


_CONNECTION: Mapping[Kind, Script] = {
    Kind.RESET: Script([], Ending.RESET, None),
    Kind.HALF_CLOSE: Script([], Ending.HALF, None),
}
