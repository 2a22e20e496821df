"""What every status, code and message of an LLM API means: data only, `classify` applies it.

`docs/verdicts.md` is the same for readers. What is in no table falls to a default that can do no harm:
an unknown 4xx is final, since sending it again would fail again; an unknown 5xx is a server error.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

from stormbreak.types import Verdict

_V = Verdict


def _by_name(names: Mapping[Verdict, str]) -> Mapping[str, Verdict]:
    return MappingProxyType(
        {name: verdict for verdict, listed in names.items() for name in listed.split()}
    )


STATUSES: Mapping[int, Verdict] = MappingProxyType(
    {
        401: _V.AUTH,
        402: _V.BILLING,
        403: _V.AUTH,
        404: _V.NOT_FOUND,
        405: _V.NOT_FOUND,  # something is there, but not this API
        407: _V.AUTH,
        408: _V.TIMEOUT,
        409: _V.THROTTLED,  # a lock is held: worth a retry, and no sign of ill health
        410: _V.NOT_FOUND,
        424: _V.INVALID,
        425: _V.SERVER_ERROR,
        429: _V.THROTTLED,
        498: _V.OVERLOADED,  # Groq's flex tier: capacity exceeded
        499: _V.INVALID,  # the server saw a client hang up: it speaks of a call that is gone
        501: _V.INVALID,
        503: _V.OVERLOADED,
        529: _V.OVERLOADED,
    }
)

UNTOUCHED = frozenset({501, 505, 521, 522, 523, 525, 526, 529})
"""Failures of 500 and above that came before any work: a refusal, or an edge that never reached the model's server."""

NAMED: Mapping[str, Verdict] = _by_name(
    {
        _V.BILLING: """
            insufficient_quota credit_balance_exhausted organization_spend_limit_exceeded
            project_spend_limit_exceeded organization_usage_limit_exceeded billing_hard_limit_reached
            billing_not_active insufficient_balance insufficient_user_quota insufficient_credits
            billing_error enforced_spend_limit_reached contract_spend_limit_reached
            failed_precondition
        """,
        _V.TOO_LONG: """
            context_length_exceeded context_window_exceeded exceed_context_size_error prompt_too_long
        """,
        _V.FILTERED: """
            content_filter content_policy_violation responsibleaipolicyviolation moderation_blocked
        """,
        _V.AUTH: "invalid_api_key incorrect_api_key api_key_invalid account_deactivated",
        _V.NOT_FOUND: "model_not_found model_not_exist model_decommissioned",
        _V.THROTTLED: """
            rate_limit_exceeded rate_limit_error slow_down too_many_requests resource_exhausted
            ramp_limit_exceeded throttlingexception modelnotreadyexception
        """,
        _V.OVERLOADED: """
            server_is_overloaded overloaded_error overloaded engine_overloaded engine_overloaded_error
            capacity_exceeded service_unavailable_error service_unavailable unavailable
            serviceunavailableexception
        """,
        _V.UNREPEATABLE: "change_outcome_unknown",
    }
)
"""Codes that say more than a status does, in lower case."""

BROAD: Mapping[str, Verdict] = _by_name(
    {
        _V.INVALID: """
            invalid_request_error invalid_argument badrequesterror invalid_request request_too_large
            validationexception
        """,
        _V.AUTH: """
            authentication_error permission_error permission_denied unauthenticated
            accessdeniedexception
        """,
        _V.NOT_FOUND: "not_found_error not_found notfounderror resourcenotfoundexception",
        _V.TIMEOUT: "timeout_error timeout deadline_exceeded modeltimeoutexception",
    }
)
"""Types so wide that any status says more; they decide where an error came without a status of its own."""

PAIRS: Mapping[tuple[int, str], Verdict] = MappingProxyType(
    {(424, "modelstreamerrorexception"): _V.SERVER_ERROR}  # Bedrock; to Groq, 424 is final
)
"""A status and a code that together mean what neither does alone."""

_NUMBER = re.compile("[45][0-9][0-9]")


def is_known(code: str | None) -> bool:
    """Whether a code is one of these, or the number of a status: no secret, wherever it is met."""
    return code is not None and bool(
        code.lower() in NAMED
        or code.lower() in BROAD
        or any(code.lower() == name for _, name in PAIRS)
        or _NUMBER.fullmatch(code)
    )


PHRASES: tuple[tuple[re.Pattern[str], Verdict], ...] = tuple(
    (re.compile(phrase), verdict)
    for phrase, verdict in (
        ("maximum context length", _V.TOO_LONG),
        ("prompt is too long", _V.TOO_LONG),
        ("context (?:window|length|size)[^.]{0,40} exceeded", _V.TOO_LONG),
        ("exceeds? [^.]{0,40}context (?:window|length|size)", _V.TOO_LONG),
        ("please reduce the length of the (?:messages|prompt)", _V.TOO_LONG),
        ("exceeds? context limit", _V.TOO_LONG),
        ("input token count[^.]{0,40} exceeds the maximum", _V.TOO_LONG),
        ("input is too long", _V.TOO_LONG),
        ("credit balance is too low", _V.BILLING),
        ("content exists risk", _V.FILTERED),
        ("model not exist", _V.NOT_FOUND),
        ("is not a valid model id", _V.NOT_FOUND),
    )
)
"""What a refused request may say in words only; read in lower case, where nothing better is known."""

OVERSIZED = re.compile(
    r"request too large.{0,400}?limit:? (\d{1,18}), requested:? (\d{1,18})", re.DOTALL
)
"""A request beyond a per-minute limit as a whole: no wait makes it fit."""

DAILY = re.compile("per_?day")
"""In the id of a quota: it is back tomorrow, whatever shorter wait is named beside it."""

NONE_GRANTED = re.compile(r"\blimit: 0(?!\d|[.,]\d)")
"""In the message of a throttle: this account has no quota at all."""

RETRYABLE_BUDGET = "openrouter_in_flight_budget"
"""The one limit source behind which OpenRouter's 402 means: come back in a moment."""
