"""The known facts about LLM APIs, by provider; compare with docs/verdicts.md.

A row: provider, status, its identification (a code, a type or a body), verdict, the named wait, and headers. `RA` stands
for a `Retry-After` of seven seconds, which counts only if waiting may help.
"""

from stormbreak.types import Verdict

V = Verdict

RA = {"retry-after": "7"}

HTML = b"<!doctype html><title>502 Bad Gateway</title>"


def anthropic(kind, code=None, message="x"):
    error = {"type": kind, "message": message}
    if code is not None:
        error["details"] = {"error_code": code}
    return {"type": "error", "error": error, "request_id": "req_011"}


def gemini(status, word, *, message="x", details=()):
    return {"error": {"code": status, "message": message, "status": word, "details": [*details]}}


def quota(name):
    kind = "type.googleapis.com/google.rpc.QuotaFailure"
    return {"@type": kind, "violations": [{"quotaMetric": "m", "quotaId": name}]}


def retry_info(delay):
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


def openrouter(code, **metadata):
    return {"error": {"code": code, "message": "x", "metadata": metadata}}


def aws(name):
    return {"x-amzn-errortype": name}


TODAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"

MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"

NO_TIER = "Quota exceeded for metric: m/free_tier_requests, limit: 0, model: g\nPlease retry in 9s."

AZURE = "Requests have exceeded token rate limit. Please retry after 37 seconds."

FACTS = [
    # provider, status, code or body, verdict, wait, headers
    ("openai", 429, "rate_limit_exceeded", V.THROTTLED, 7.0, RA),
    ("openai", 429, {"message": "Please try again in 599ms."}, V.THROTTLED, 0.599, {}),
    ("openai", 429, {"message": "Please try again in 599ms."}, V.THROTTLED, 7.0, RA),
    ("openai", 429, "slow_down", V.THROTTLED, 7.0, RA),
    ("openai", 503, "slow_down", V.THROTTLED, 7.0, RA),
    ("openai", 429, "insufficient_quota", V.BILLING, None, RA),
    ("openai", 429, "credit_balance_exhausted", V.BILLING, None, RA),
    ("openai", 429, "organization_spend_limit_exceeded", V.BILLING, None, RA),
    ("openai", 429, "project_spend_limit_exceeded", V.BILLING, None, RA),
    ("openai", 429, "organization_usage_limit_exceeded", V.BILLING, None, RA),
    ("openai", 503, "server_is_overloaded", V.OVERLOADED, 7.0, RA),
    ("openai", 500, "server_error", V.SERVER_ERROR, None, {}),
    ("openai", 400, "context_length_exceeded", V.TOO_LONG, None, RA),
    ("openai", 400, "invalid_request_error", V.INVALID, None, RA),
    ("openai", 422, None, V.INVALID, None, RA),
    ("openai", 413, None, V.INVALID, None, RA),
    ("openai", 401, "invalid_api_key", V.AUTH, None, RA),
    ("openai", 403, "unsupported_country_region_territory", V.AUTH, None, RA),
    ("openai", 404, "model_not_found", V.NOT_FOUND, None, RA),
    ("openai", 408, None, V.TIMEOUT, None, {}),
    ("openai", 409, None, V.THROTTLED, None, {}),
    ("openai", 200, {"code": "insufficient_quota"}, V.BILLING, None, {}),
    ("azure", 429, {"code": "429", "message": "x"}, V.THROTTLED, 0.25, {"retry-after-ms": "250"}),
    ("azure", 429, {"code": "429", "message": AZURE}, V.THROTTLED, 37.0, {}),
    ("azure", 429, {"message": "System is experiencing high demand"}, V.THROTTLED, None, {}),
    # a day, unchanged: no policy waits that long, see docs/verdicts.md
    ("azure", 429, {"message": "x"}, V.THROTTLED, 86_400.0, {"retry-after": "86400"}),
    ("azure", 400, "content_filter", V.FILTERED, None, {}),
    (
        "azure",
        400,
        {"code": None, "innererror": {"code": "ResponsibleAIPolicyViolation"}},
        V.FILTERED,
        None,
        {},
    ),
    (
        "anthropic",
        529,
        anthropic("overloaded_error"),
        V.OVERLOADED,
        None,
        {"x-should-retry": "true"},
    ),
    ("anthropic", 429, anthropic("rate_limit_error"), V.THROTTLED, 7.0, RA),
    ("anthropic", 429, anthropic("rate_limit_error", "ramp_limit_exceeded"), V.THROTTLED, 7.0, RA),
    (
        "anthropic",
        429,
        anthropic("rate_limit_error", "enforced_spend_limit_reached"),
        V.BILLING,
        None,
        {},
    ),
    (
        "anthropic",
        429,
        anthropic("rate_limit_error", "contract_spend_limit_reached"),
        V.BILLING,
        None,
        {},
    ),
    ("anthropic", 402, anthropic("billing_error"), V.BILLING, None, {}),
    ("anthropic", 402, anthropic("x", "linked_organization_suspended"), V.BILLING, None, {}),
    ("anthropic", 503, anthropic("api_error", "change_outcome_unknown"), V.UNREPEATABLE, None, RA),
    ("anthropic", 500, anthropic("api_error"), V.SERVER_ERROR, None, {}),
    ("anthropic", 504, anthropic("timeout_error"), V.SERVER_ERROR, None, {}),
    ("anthropic", 413, anthropic("request_too_large"), V.INVALID, None, {}),
    ("anthropic", 400, anthropic("invalid_request_error"), V.INVALID, None, {}),
    (
        "anthropic",
        400,
        anthropic("invalid_request_error", message="prompt is too long: 9 tokens > 8 maximum"),
        V.TOO_LONG,
        None,
        {},
    ),
    (
        "anthropic",
        400,
        anthropic("invalid_request_error", message="Your credit balance is too low to access"),
        V.BILLING,
        None,
        {},
    ),
    ("anthropic", 401, anthropic("authentication_error"), V.AUTH, None, {}),
    ("anthropic", 403, anthropic("permission_error"), V.AUTH, None, {}),
    ("anthropic", 404, anthropic("not_found_error"), V.NOT_FOUND, None, {}),
    ("anthropic", 200, anthropic("overloaded_error"), V.OVERLOADED, None, {}),
    ("anthropic", 200, anthropic("timeout_error"), V.TIMEOUT, None, {}),
    ("anthropic", 200, anthropic("api_error", "change_outcome_unknown"), V.UNREPEATABLE, None, {}),
    ("gemini", 429, gemini(429, "RESOURCE_EXHAUSTED"), V.THROTTLED, None, {}),
    (
        "gemini",
        429,
        gemini(429, "RESOURCE_EXHAUSTED", details=[quota(MINUTE), retry_info("53s")]),
        V.THROTTLED,
        53.0,
        {},
    ),
    (
        "gemini",
        429,
        gemini(429, "RESOURCE_EXHAUSTED", details=[quota(TODAY), retry_info("53s")]),
        V.BILLING,
        None,
        {},
    ),
    (
        "gemini",
        429,
        gemini(429, "RESOURCE_EXHAUSTED", details=[quota(MINUTE), quota(TODAY)]),
        V.BILLING,
        None,
        {},
    ),
    (
        "gemini",
        429,
        gemini(429, "RESOURCE_EXHAUSTED", message=NO_TIER, details=[retry_info("9s")]),
        V.BILLING,
        None,
        {},
    ),
    (
        "gemini",
        429,
        gemini(429, "RESOURCE_EXHAUSTED", message=NO_TIER.replace("limit: 0", "limit: 0.5")),
        V.THROTTLED,
        9.0,
        {},
    ),
    (
        "gemini",
        429,
        [gemini(429, "RESOURCE_EXHAUSTED", details=[quota(TODAY)])],
        V.BILLING,
        None,
        {},
    ),
    ("gemini", 400, gemini(400, "INVALID_ARGUMENT"), V.INVALID, None, {}),
    (
        "gemini",
        400,
        gemini(400, "INVALID_ARGUMENT", details=[{"reason": "API_KEY_INVALID"}]),
        V.AUTH,
        None,
        {},
    ),
    ("gemini", 400, gemini(400, "FAILED_PRECONDITION"), V.BILLING, None, {}),
    ("gemini", 403, gemini(403, "PERMISSION_DENIED"), V.AUTH, None, {}),
    ("vertex", 429, gemini(429, "RESOURCE_EXHAUSTED"), V.THROTTLED, None, {}),
    ("vertex", 500, gemini(500, "INTERNAL"), V.SERVER_ERROR, None, {}),
    ("vertex", 503, gemini(503, "UNAVAILABLE"), V.OVERLOADED, None, {}),
    ("vertex", 504, gemini(504, "DEADLINE_EXCEEDED"), V.SERVER_ERROR, None, {}),
    ("deepseek", 400, None, V.INVALID, None, {}),
    ("deepseek", 401, None, V.AUTH, None, {}),
    ("deepseek", 402, {"message": "Insufficient Balance"}, V.BILLING, None, {}),
    ("deepseek", 422, None, V.INVALID, None, {}),
    ("deepseek", 429, None, V.THROTTLED, None, {}),
    ("deepseek", 500, None, V.SERVER_ERROR, None, {}),
    ("deepseek", 503, None, V.OVERLOADED, None, {}),
    *(
        ("mistral", status, {"object": "error", "type": "x", "code": status}, verdict, wait, RA)
        for status, verdict, wait in (
            (429, V.THROTTLED, 7.0),
            (500, V.SERVER_ERROR, 7.0),
            (502, V.SERVER_ERROR, 7.0),
            (503, V.OVERLOADED, 7.0),
            (504, V.SERVER_ERROR, 7.0),
            (400, V.INVALID, None),
            (401, V.AUTH, None),
            (402, V.BILLING, None),
            (403, V.AUTH, None),
            (404, V.NOT_FOUND, None),
            (422, V.INVALID, None),
        )
    ),
    ("groq", 429, "rate_limit_exceeded", V.THROTTLED, 7.0, RA),
    ("groq", 429, {"message": "Please try again in 5.289s. Visit"}, V.THROTTLED, 5.289, {}),
    ("groq", 498, "capacity_exceeded", V.OVERLOADED, None, {}),
    ("groq", 413, None, V.INVALID, None, {}),
    ("groq", 422, None, V.INVALID, None, {}),
    ("groq", 424, None, V.INVALID, None, {}),
    ("groq", 500, None, V.SERVER_ERROR, None, {}),
    ("groq", 502, None, V.SERVER_ERROR, None, {}),
    ("groq", 503, None, V.OVERLOADED, None, {}),
    (
        "openrouter",
        402,
        openrouter(402, limit_source="openrouter_in_flight_budget"),
        V.THROTTLED,
        7.0,
        RA,
    ),
    (
        "openrouter",
        402,
        openrouter(402, limit_source="openrouter_in_flight_budget"),
        V.BILLING,
        None,
        {},
    ),
    ("openrouter", 402, openrouter(402), V.BILLING, None, RA),
    ("openrouter", 403, openrouter(403, limit_source="key_limit"), V.BILLING, None, RA),
    ("openrouter", 408, openrouter(408), V.TIMEOUT, None, {}),
    ("openrouter", 429, openrouter(429), V.THROTTLED, 7.0, RA),
    ("openrouter", 502, openrouter(502), V.SERVER_ERROR, 7.0, RA),
    ("openrouter", 503, openrouter(503), V.OVERLOADED, 7.0, RA),
    ("openrouter", 200, openrouter(502), V.SERVER_ERROR, None, {}),
    ("openrouter", 200, openrouter(429), V.THROTTLED, None, {}),
    ("bedrock", 429, {"message": "x"}, V.THROTTLED, None, aws("ThrottlingException")),
    ("bedrock", 429, {"message": "x"}, V.THROTTLED, None, aws("ModelNotReadyException")),
    ("bedrock", 408, {"message": "x"}, V.TIMEOUT, None, aws("ModelTimeoutException")),
    (
        "bedrock",
        424,
        {"message": "x"},
        V.SERVER_ERROR,
        None,
        aws("ModelStreamErrorException:http://internal.amazon.com/coral/"),
    ),
    ("bedrock", 424, {"__type": "com.x#ModelStreamErrorException"}, V.SERVER_ERROR, None, {}),
    ("bedrock", 424, {"message": "x"}, V.INVALID, None, aws("ModelErrorException")),
    ("bedrock", 500, {"message": "x"}, V.SERVER_ERROR, None, aws("InternalServerException")),
    ("bedrock", 503, {"message": "x"}, V.OVERLOADED, None, aws("ServiceUnavailableException")),
    ("bedrock", 400, {"message": "x"}, V.INVALID, None, aws("ValidationException")),
    (
        "bedrock",
        400,
        {"message": "Input is too long for requested model."},
        V.TOO_LONG,
        None,
        {},
    ),
    ("bedrock", 403, {"message": "x"}, V.AUTH, None, aws("AccessDeniedException")),
    *(
        ("edge", status, HTML, V.SERVER_ERROR, None, {"content-type": "text/html"})
        for status in (425, 502, 504, 520, 521, 522, 523, 524)
    ),
    ("edge", 501, HTML, V.INVALID, None, {}),
    ("edge", 499, HTML, V.INVALID, None, {}),
    ("edge", 503, HTML, V.OVERLOADED, 7.0, RA),
    ("edge", 200, HTML, V.BROKEN, None, {}),
    ("edge", 200, b"", V.BROKEN, None, {}),
    # the safe default
    ("unknown", 418, "never_heard_of", V.INVALID, None, RA),
    ("unknown", 418, "never_heard_of", V.INVALID, None, {"x-should-retry": "true"}),
    ("unknown", 599, "never_heard_of", V.SERVER_ERROR, 7.0, RA),
    ("unknown", 200, {"code": "never_heard_of"}, V.SERVER_ERROR, None, {}),
    ("unknown", 600, None, V.BROKEN, None, {}),
    # x-should-retry
    ("any", 500, None, V.UNREPEATABLE, None, {"x-should-retry": "false"}),
    ("any", 503, None, V.OVERLOADED, 7.0, {"x-should-retry": "false", **RA}),
    ("any", 429, None, V.THROTTLED, None, {"x-should-retry": "false"}),
    ("any", 429, None, V.THROTTLED, 7.0, {"x-should-retry": "false", **RA}),
    ("any", 409, None, V.THROTTLED, None, {"x-should-retry": "FALSE"}),
    ("any", 402, "insufficient_quota", V.BILLING, None, {"x-should-retry": "true"}),
    ("any", 401, None, V.AUTH, None, {"x-should-retry": "true"}),
    ("any", 429, "insufficient_quota", V.BILLING, None, {"x-should-retry": "true"}),
]
