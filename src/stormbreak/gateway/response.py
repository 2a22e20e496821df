"""Make the result of a call a response to a client: status, body, and the headers that are passed on. Pure."""

from collections.abc import Collection
from functools import lru_cache

from stormbreak.drivers.explain import AttemptHistory
from stormbreak.gateway.errors import FINAL, retry_after
from stormbreak.http.h1.connection import RepeatableHeaders, with_repeats
from stormbreak.http.h1.request_parser import Headers
from stormbreak.http.h1.server_connection import JSON, ServerResponse
from stormbreak.http.response import Response
from stormbreak.http.transports.sdk_response import Failure, Reply, error_body, response_for
from stormbreak.llm.endpoints import Shape
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.types import VERDICT_OK, CallResult, Outcome, Target, Verdict

PASSED = frozenset(
    {
        "x-request-id", "request-id", "openai-processing-ms", "openai-version", "retry-after", "retry-after-ms",
    }
)  # fmt: skip
"""The response headers of a provider that are passed on to every client."""

ACCOUNT_LIMITS = ("x-ratelimit-", "anthropic-ratelimit-")
"""Prefixes of headers passed on only for keys without their own limits: they describe the account that all keys share.
"""

_WAITS = frozenset({"cooldown", "rate", "quota", "deadline", "patience", "max_wait", "fleet"})
"""Gates that end a call because it would have to wait for a known time. At the other gates a retry would only add load:
attempts are used up, a budget is spent, or the target is failing.
"""

_MAX_STATUS = 599  # RFC 9110, section 15: others are invalid

_ACCOUNT = {
    Verdict.AUTH: "the provider refused the key of this gateway",
    Verdict.BILLING: "the provider refused the account of this gateway",
    Verdict.REDIRECTED: "the provider redirected to another host",
}


def response_of(
    shape: Shape,
    ended: CallResult,
    history: AttemptHistory,
    now: float,
    *,
    limited: bool,
    secrets: Collection[bytes],
) -> ServerResponse:
    """Answer a call that ended without a stream. `limited`: the client's key has its own limits.

    An upstream error about the request is passed on unchanged, unless it contains one of `secrets`. An error about the
    gateway's own account becomes a 502: it may show part of the key, and would blame the client's key.
    """
    outcome = ended.outcome
    verdict, value = outcome.verdict, outcome.value
    original = value.original if isinstance(value, Response) else None
    if verdict is VERDICT_OK and original is not None:
        return _success(original, limited=limited)
    if verdict in _ACCOUNT:
        code, message = f"upstream_{verdict}", _ACCOUNT[verdict]
        return ServerResponse(502, error_body(shape, 502, code, message), (FINAL,))
    result = response_for(shape, history, ended, now)
    if isinstance(result, Failure) or result.status > _MAX_STATUS:
        return _without_response(shape, outcome, ended, now)
    headers = passed_headers(result.headers, limited=limited)
    if verdict is VERDICT_OK:
        return ServerResponse(result.status, result.body, headers, _media(result))
    if ended.retry_at is not None:  # for a pool, the earliest
        headers = tuple(pair for pair in headers if not pair[0].startswith("retry-after"))
    if ended.retry_at is not None or "retry-after" not in result.headers:
        headers += _time_to_come_back(outcome, ended, now)
    body = result.body
    if isinstance(value, Response) and any(secret in body for secret in secrets):
        body = value.body
    return ServerResponse(result.status, body, headers + _finality(ended), _media(result))


def passed_headers(headers: RepeatableHeaders, *, limited: bool) -> Headers:
    passed: list[tuple[str, str]] = []
    for name in _passing(tuple(headers), limited=limited):
        value = headers[name]
        if isinstance(value, str):
            passed.append((name, value))
        else:
            passed += [(name, each) for each in value]
    return tuple(passed)


@lru_cache(maxsize=256)
def _passing(names: tuple[str, ...], *, limited: bool) -> tuple[str, ...]:
    """Return the names of headers that are passed on. Cached: a provider repeats the same names."""
    limits = () if limited else ACCOUNT_LIMITS
    return tuple(name for name in names if name in PASSED or name.startswith(limits))


def our_headers(request_id: str, history: AttemptHistory | None) -> Headers:
    """Return the headers that describe how the gateway answered."""
    identity = ("x-stormbreak-request-id", request_id)
    if history is None:
        return (identity,)
    attempts = ("x-stormbreak-attempts", str(history.attempts))
    return identity, attempts, *_target_header(history.target)


@lru_cache(maxsize=256)
def _target_header(target: Target) -> Headers:
    place = target.place
    return (("x-stormbreak-target", place),) if place.isascii() and place.isprintable() else ()


def _success(original: HttpResponse, *, limited: bool) -> ServerResponse:
    headers: RepeatableHeaders = original.headers
    if original.repeated:
        headers = with_repeats(original.headers, original.repeated)
    media = original.headers.get("content-type", JSON)
    if media.lower().startswith("text/event-stream"):  # the body was assembled from a stream
        media = JSON
    passed = passed_headers(headers, limited=limited)
    return ServerResponse(original.status, original.body, passed, media)


def _without_response(
    shape: Shape, outcome: Outcome, ended: CallResult, now: float
) -> ServerResponse:
    status = 504 if outcome.verdict is Verdict.TIMEOUT else 502
    message = f"the provider sent no complete answer: {outcome.verdict}"
    if outcome.detail:
        message += f" ({outcome.detail})"
    body = error_body(shape, status, f"upstream_{outcome.verdict}", message)
    headers = _time_to_come_back(outcome, ended, now) + _finality(ended)
    return ServerResponse(status, body, headers)


def _finality(ended: CallResult) -> Headers:
    """Forbid a retry by the client, unless the gateway knows when it would be served and does not wait itself."""
    return () if ended.retry_at is not None and ended.stopped in _WAITS else (FINAL,)


def _time_to_come_back(outcome: Outcome, ended: CallResult, now: float) -> Headers:
    if ended.retry_at is not None:
        return (retry_after(ended.retry_at - now),)
    return () if outcome.retry_after is None else (retry_after(outcome.retry_after),)


def _media(reply: Reply) -> str:
    return str(reply.headers.get("content-type", JSON))
