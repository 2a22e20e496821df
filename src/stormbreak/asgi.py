"""For web applications: a rejected call becomes a 503 with `Retry-After`, and requests set deadlines.

`Rejections` is an ASGI middleware without a framework: `app.add_middleware(Rejections)` in Starlette and FastAPI,
`application = Rejections(application)` in anything else.

An exception of a client, or of an SDK over our transport, counts as a rejection if nothing was sent, if the request's
deadline ended the call, or if the time to retry is known. Other exceptions, and all exceptions after the response has
begun, pass unchanged.
"""

import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from math import ceil, inf
from typing import Any, TypeAlias

from stormbreak.core.checks import shown
from stormbreak.drivers.explain import results_of
from stormbreak.drivers.scope import scope as within
from stormbreak.errors import CallError, ConfigurationError
from stormbreak.types import CallResult

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

HEADER = "x-request-deadline-ms"

_RATES = frozenset(
    {"rate", "quota"}
)  # gates of rate limits, set here or in headers: too many requests
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_LONGEST = 20  # characters of a deadline; longer numbers make no sense


class Rejections:
    """Wraps an ASGI application.

    `deadline_header` names the header with the milliseconds that the caller still waits; all calls end by then. None:
    no such header. Raises ConfigurationError if it is not a valid header name.
    """

    def __init__(self, app: App, *, deadline_header: str | None = HEADER) -> None:
        self._app = app
        self._header = None if deadline_header is None else _name(deadline_header)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one HTTP request; pass other scopes on unchanged."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            deadline = self._deadline(scope.get("headers", ()))
        except ValueError as error:
            await _say(send, 400, f"{error}\n")
            return
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            with within(deadline=deadline):
                await self._app(scope, receive, sending)
        except Exception as error:
            ended = _ended(error)
            if begun or ended is None or not _is_refusal(ended):
                raise
            await _refuse(send, ended)

    def _deadline(self, headers: Iterable[tuple[bytes, bytes]]) -> float | None:
        """Return the seconds that the caller still waits; the minimum of several headers."""
        given = [value for name, value in headers if name.lower() == self._header]
        return min((self._seconds(value) for value in given), default=None)

    def _seconds(self, value: bytes) -> float:
        try:
            seconds = float(value) / 1000 if len(value) <= _LONGEST else -1.0
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < inf:
            assert self._header is not None
            name = self._header.decode()
            raise ValueError(f"{name} must be milliseconds from now, 0 or more")
        return seconds


def _name(header: object) -> bytes:
    """Return the name of a header in ASGI's form."""
    if not isinstance(header, str) or _HEADER.fullmatch(header) is None:
        raise ConfigurationError(
            f"deadline_header must be the name of a header, got {shown(header)}"
        )
    return header.lower().encode()


def _ended(error: Exception) -> CallResult | None:
    """Return the result of the call that raised `error`; None if it is not ours. Of several, the one to retry last.

    An SDK's error has our answer as its `response`, or the exception of an HTTP library as its cause.
    """
    if isinstance(error, ExceptionGroup):
        ends = [_ended(each) for each in error.exceptions]
        refused = [end for end in ends if end is not None and _is_refusal(end)]
        return max(refused, key=lambda end: end.retry_at or 0.0) if refused == ends else None
    cause = None if isinstance(error.__cause__, CallError) else error.__cause__
    return next(results_of(error, getattr(error, "response", None), cause), None)


def _is_refusal(ended: CallResult) -> bool:
    outcome = ended.outcome
    return outcome.rejection is not None or ended.retry_at is not None or outcome.own_deadline


async def _refuse(send: Send, ended: CallResult) -> None:
    """Write the response without targets: it goes to external clients."""
    rejection = ended.outcome.rejection
    status = 429 if rejection is not None and rejection.policy in _RATES else 503
    more = []
    if ended.retry_at is not None:
        seconds = max(1, ceil(ended.retry_at - time.monotonic()))
        more = [(b"retry-after", str(seconds).encode())]
    await _say(send, status, "The service is busy. Please try again later.\n", more)


async def _say(
    send: Send, status: int, text: str, more: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    body = text.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
