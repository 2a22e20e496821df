"""The end of a call for an SDK: a response as the provider sent it, one of our own, or an exception.

Every final response forbids the SDK to retry, which would multiply attempts.
"""

from functools import lru_cache
from math import ceil
from typing import NamedTuple

import msgspec

from stormbreak.core.spend_policy import COST
from stormbreak.drivers.delivery import Delivery
from stormbreak.drivers.explain import AttemptHistory
from stormbreak.http.h1.connection import RepeatableHeaders, with_repeats
from stormbreak.http.response import Response
from stormbreak.http.sender import Sender
from stormbreak.http.stream import Stream
from stormbreak.http.transports.sdk_request import without_hops
from stormbreak.llm.endpoints import Shape
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.llm.surrogates import UNREADABLE
from stormbreak.types import TREATMENTS, Call, CallResult, Outcome, Rejection, Target, Verdict

FINAL = {"x-should-retry": "false"}

_JSON = "application/json"
# others are about rates
_UNAVAILABLE = frozenset({"breaker", "queue", "shed", "drain", "closed", "limit"})
_STATUSES = {
    Verdict.THROTTLED: 429,
    Verdict.BILLING: 429,
    Verdict.OVERLOADED: 503,
    Verdict.SERVER_ERROR: 500,
    Verdict.UNREPEATABLE: 500,
    Verdict.AUTH: 401,
    Verdict.NOT_FOUND: 404,
    Verdict.TOO_LONG: 400,
    Verdict.INVALID: 400,
    Verdict.FILTERED: 400,
}  # of an error inside a success
_BROKEN = 502
_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    405: "invalid_request_error", 408: "timeout_error", 413: "request_too_large", 429: "rate_limit_error",
    431: "invalid_request_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip


class Reply(NamedTuple):
    """A response to an SDK. Its repr shows no text."""

    status: int
    headers: RepeatableHeaders
    body: bytes

    def __repr__(self) -> str:
        return f"Reply({self.status}, {len(self.body)} bytes)"


class Failure(NamedTuple):
    """An exception for an SDK: the name of its class in the HTTP library, and its message."""

    kind: str
    message: str
    history: AttemptHistory | None
    cause: BaseException | None = None

    def notes(self) -> tuple[str, ...]:
        """Return the attempts, a line each."""
        return () if self.history is None else tuple(self.history.lines())


def response_for(
    shape: Shape, history: AttemptHistory, ended: CallResult, now: float
) -> Reply | Failure:
    """Return the end of a call for an SDK that requested this shape."""
    outcome = ended.outcome
    if outcome.rejection is not None:
        return _rejected(shape, outcome.rejection, history, now)
    response = outcome.value
    if not isinstance(response, Response):
        return failure_of(outcome, history)
    original = response.original or HttpResponse(response.status, {}, response.body, now)
    headers = response_headers(original, history)
    if outcome.verdict is Verdict.OK or not original.succeeded or is_filtered(outcome):
        if original.headers.get("content-type", "").lower().startswith("text/event-stream"):
            headers["content-type"] = _JSON  # it was assembled
        return Reply(original.status, headers, original.body)
    status = _STATUSES.get(outcome.verdict, _BROKEN)
    body = original.body
    if not _is_error(body):
        body = error_body(
            shape, status, outcome.code, f"the answer is not usable: {outcome.detail}"
        )
    return Reply(status, headers | {"content-type": _JSON}, body)


def begun_stream(sender: Sender, call: Call, opened: Delivery | CallResult) -> Stream | None:
    """Return the stream that a call has begun, or that came whole; None if there is none, or it has failed."""
    source = sender.stream_source
    if isinstance(opened, Delivery):
        assert source is not None
        return Stream(sender.target or call.target, source, opened)
    outcome = opened.outcome
    if source is None or not (outcome.verdict is Verdict.OK or is_filtered(outcome)):
        return None
    source.make_events(outcome)
    ended = opened._replace(outcome=outcome._replace(verdict=Verdict.OK))
    return Stream(opened.target or call.target, source, ended)


def is_filtered(outcome: Outcome) -> bool:
    """Whether an answer (not an error) failed by its finish reason, which users of SDKs check."""
    response = outcome.value
    finished = isinstance(response, Response) and response.parsed.finish_reason is not None
    return finished and not TREATMENTS[outcome.verdict].retry


def response_headers(
    head: HttpResponse, history: AttemptHistory
) -> dict[str, str | tuple[str, ...]]:
    """Return the headers for the SDK, for an unpacked body and without a redirect."""
    headers = with_repeats(without_hops(head.headers), head.repeated)
    headers.pop("content-encoding", None)
    headers.pop("location", None)
    headers.update(_our_headers(history))
    return headers


def _our_headers(history: AttemptHistory) -> dict[str, str]:
    """Return our own headers, which also forbid the SDK to retry."""
    return {**_fixed_headers(history.target), "x-stormbreak-attempts": str(history.attempts)}


@lru_cache(maxsize=256)
def _fixed_headers(target: Target) -> dict[str, str]:
    name = str(target)
    is_plain = name.isascii() and name.isprintable()
    return {**FINAL, "x-stormbreak-target": name} if is_plain else FINAL


def _rejected(shape: Shape, rejection: Rejection, history: AttemptHistory, now: float) -> Reply:
    status = 503 if rejection.policy in _UNAVAILABLE else 429
    if rejection.policy == COST:  # the request itself is the cause
        status = 400
    message = f"stormbreak sent nothing to {history.target}: {rejection.text} ({rejection.policy})"
    headers: dict[str, str | tuple[str, ...]] = {"content-type": _JSON}
    if rejection.retry_at is not None:
        headers["retry-after"] = str(max(1, ceil(rejection.retry_at - now)))
    headers |= _our_headers(history)
    return Reply(
        status, headers, error_body(shape, status, f"stormbreak_{rejection.policy}", message)
    )


def failure_of(outcome: Outcome, history: AttemptHistory | None) -> Failure:
    """Return the exception of an attempt without a response, the last of `history`."""
    message = str(outcome.detail or outcome.error or outcome.verdict)
    return Failure(_kind_of(outcome), message, history, outcome.error)


def _kind_of(outcome: Outcome) -> str:
    """Return the name of the HTTP library's exception for a failure without a response."""
    if outcome.verdict is Verdict.TIMEOUT:
        return "ReadTimeout"
    if outcome.verdict is Verdict.CONNECT_FAILED:
        return "ConnectTimeout" if isinstance(outcome.error, TimeoutError) else "ConnectError"
    return "RemoteProtocolError"


def _is_error(body: bytes) -> bool:
    try:
        error = msgspec.json.decode(body)
    except UNREADABLE:
        return False
    return isinstance(error, dict) and bool(error.get("error"))


def error_body(shape: Shape, status: int, code: str | None, message: str) -> bytes:
    """Write an error in the format of this shape's API."""
    kind = _TYPES.get(status, "api_error")
    if shape is Shape.MESSAGES:
        return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}})
    error = {"message": message, "type": kind, "param": None, "code": code}
    return msgspec.json.encode({"error": error})
