"""How the end of a call is told to an SDK: an answer as the provider sent it, one of our own, or an exception.

Every final answer forbids the SDK to try again by itself: that would multiply attempts.
"""

from math import ceil
from typing import NamedTuple

import msgspec

from stormbreak.core.spend_policy import COST
from stormbreak.drivers.explain import AttemptHistory
from stormbreak.http.exchange import Received
from stormbreak.http.h1.connection import Sent, with_repeats
from stormbreak.http.transports.sdk_request import without_hops
from stormbreak.llm.models import HttpResponse, Shape
from stormbreak.llm.surrogates import UNREADABLE
from stormbreak.types import TREATMENTS, CallResult, Outcome, Rejection, Verdict

FINAL = {"x-should-retry": "false"}

_JSON = "application/json"
_UNAVAILABLE = frozenset(
    {"breaker", "queue", "shed", "drain", "closed", "limit"}
)  # others tell of rates
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
}  # of an error inside of a success
_BROKEN = 502
_TYPES = {429: "rate_limit_error", 503: "overloaded_error", _BROKEN: "api_error"}


class Reply(NamedTuple):
    """An answer to an SDK. Its repr shows no text."""

    status: int
    headers: Sent
    body: bytes

    def __repr__(self) -> str:
        return f"Reply({self.status}, {len(self.body)} bytes)"


class Failure(NamedTuple):
    """An exception for an SDK: the name of its class in the HTTP library, and what it says."""

    kind: str
    message: str
    story: AttemptHistory | None
    cause: BaseException | None = None

    def notes(self) -> tuple[str, ...]:
        """What was tried, a line each."""
        return () if self.story is None else tuple(self.story.lines())


def response_for(
    shape: Shape, story: AttemptHistory, ended: CallResult, now: float
) -> Reply | Failure:
    """Tell an SDK, which asked for an answer of this shape, how its call ended."""
    outcome = ended.outcome
    if outcome.rejection is not None:
        return _rejected(shape, outcome.rejection, story, now)
    received = outcome.value
    if not isinstance(received, Received):
        return failure_of(outcome, story)
    sent = received.sent or HttpResponse(received.status, {}, received.body, now)
    headers = headers_of(sent, story)
    if outcome.verdict is Verdict.OK or not sent.succeeded or is_filtered(outcome):
        if sent.headers.get("content-type", "").startswith("text/event-stream"):
            headers["content-type"] = _JSON  # it was put together
        return Reply(sent.status, headers, sent.body)
    status = _STATUSES.get(outcome.verdict, _BROKEN)
    body = sent.body
    if not _is_error(body):
        body = _error(shape, status, outcome.code, f"the answer was no good: {outcome.detail}")
    return Reply(status, headers | {"content-type": _JSON}, body)


def is_filtered(outcome: Outcome) -> bool:
    """Whether an answer, and no error, says by its finish reason that nothing came of it: an SDK's user looks for that."""
    received = outcome.value
    told = isinstance(received, Received) and received.reading.finish_reason is not None
    return told and not TREATMENTS[outcome.verdict].retry


def headers_of(head: HttpResponse, story: AttemptHistory) -> dict[str, str | tuple[str, ...]]:
    """The headers of an answer as the SDK gets them: of one that was decoded, and is not to be followed."""
    headers = with_repeats(without_hops(head.headers.items()), head.repeated)
    for name in ("content-encoding", "location"):
        headers.pop(name, None)
    return headers | FINAL | _told(story)


def _told(story: AttemptHistory) -> dict[str, str]:
    target = str(story.target)
    named = {"x-stormbreak-target": target} if _is_plain(target) else {}
    return named | {"x-stormbreak-attempts": str(story.attempts)}


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _rejected(shape: Shape, rejection: Rejection, story: AttemptHistory, now: float) -> Reply:
    status = 503 if rejection.policy in _UNAVAILABLE else 429
    if rejection.policy == COST:  # it is about the request itself
        status = 400
    wait = 1 if rejection.retry_at is None else max(1, ceil(rejection.retry_at - now))
    message = f"stormbreak sent nothing to {story.target}: {rejection.reason} ({rejection.policy})"
    headers = {"content-type": _JSON, "retry-after": str(wait)} | FINAL | _told(story)
    return Reply(status, headers, _error(shape, status, f"stormbreak_{rejection.policy}", message))


def failure_of(outcome: Outcome, story: AttemptHistory | None) -> Failure:
    """Tell of an attempt, the last of `story`, that got no answer."""
    message = str(outcome.detail or outcome.error or outcome.verdict)
    return Failure(_kind_of(outcome), message, story, outcome.error)


def _kind_of(outcome: Outcome) -> str:
    """Name of the exception that an HTTP library has for a failure without an answer."""
    if outcome.verdict is Verdict.TIMEOUT:
        return "ReadTimeout"
    if outcome.verdict is Verdict.CONNECT_FAILED:
        return "ConnectTimeout" if isinstance(outcome.error, TimeoutError) else "ConnectError"
    return "RemoteProtocolError"


def _is_error(body: bytes) -> bool:
    try:
        said = msgspec.json.decode(body)
    except UNREADABLE:
        return False
    return isinstance(said, dict) and bool(said.get("error"))


def _error(shape: Shape, status: int, code: str | None, message: str) -> bytes:
    """Write an error as the API of this shape would."""
    kind = _TYPES.get(status, "api_error")
    if shape is Shape.MESSAGES:
        return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}})
    error = {"message": message, "type": kind, "param": None, "code": code}
    return msgspec.json.encode({"error": error})
