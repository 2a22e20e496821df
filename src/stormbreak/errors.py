"""All exceptions of stormbreak, split first by where the fault is.

::

    StormbreakError
    ├── ConfigurationError            misconfigured: names the key or file, and the value
    ├── RejectedError                 refused here: nothing was sent
    │   ├── CircuitOpenError          the circuit is not closed; says when to retry
    │   ├── QueueFullError            the bounded queue is full
    │   ├── ShedError                 could not be served within patience and deadline
    │   └── CooldownError             the target's Retry-After is longer than the call may wait
    ├── ClientClosedError             the client was closed before or during the call
    └── UpstreamError                 failed there: carries verdict, status, code, target, attempts
        ├── ThrottledError            429 and similar
        ├── OverloadedError           503, 529: no capacity
        ├── ServerError               500, 502, 504 and other 5xx; also if the server forbids a retry
        ├── BrokenAnswerError         cut, malformed, empty or not an answer, with any status
        ├── StreamBrokenError         the same, after the first output reached the caller
        ├── ConnectionLostError       reset, or never connected
        ├── AttemptTimeoutError       no answer in time
        ├── BillingError              quota or credit is used up; waiting does not help
        ├── AuthenticationError       key or permission
        ├── NotFoundError             no such model or path
        ├── PromptTooLongError        beyond the model's context
        ├── InvalidRequestError       the request itself is wrong
        ├── FilteredError             a content filter refused
        ├── SchemaMismatchError       the answer does not fit the schema of the call
        └── RedirectedError           a 3xx; never followed, names the host

Messages carry codes and types, never keys, prompts or provider bodies.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from typing import Any

from stormbreak.types import CallResult, Outcome, Target, Verdict

_nested: ContextVar[bool] = ContextVar("nested", default=False)  # in `_travels`

ENDED_BY_CLOSING = "closed"  # the reason of a call whose client was closed


class StormbreakError(Exception):
    """Base of all exceptions of stormbreak."""


class ConfigurationError(StormbreakError, ValueError):
    """An invalid setting or argument; the message names the key or file and the value."""


@contextmanager
def errors_at(where: object) -> Iterator[None]:
    """Put a file or a key before the message of a ConfigurationError: `where: message`."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None


class CallError(StormbreakError):
    """A call without an answer. `ended` is its result, `target` its first target."""

    def __init__(self, message: str, *, target: Target, ended: CallResult) -> None:
        super().__init__(message)
        self.target = target
        self.ended = ended

    def __reduce__(self) -> tuple[Any, ...]:
        """Make the error picklable: a process pool breaks on errors that are not.

        Objects that cannot be pickled are dropped: exceptions that hold sockets or contexts, and their HTTP responses.
        """
        state = {name: it for name, it in self.__dict__.items() if name == "ended" or _travels(it)}
        state["ended"] = _portable(self.ended)
        # No cause of a cause: they may form a cycle.
        if self.__cause__ is not None and not _nested.get() and _travels(self.__cause__):
            state["__cause__"] = self.__cause__
        state["__suppress_context__"] = self.__suppress_context__
        return _made_again, (type(self), self.args), state

    @property
    def verdict(self) -> Verdict:
        """The verdict of the last outcome."""
        return self.ended.outcome.verdict

    @property
    def attempts(self) -> int:
        return self.ended.attempts

    @property
    def retry_at(self) -> float | None:
        """When to retry, on the driver's monotonic clock; None if unknown."""
        return self.ended.retry_at


class RejectedError(CallError):
    """Rejected here: nothing was sent; `policy` names the policy."""

    @property
    def policy(self) -> str:
        rejection = self.ended.outcome.rejection
        return rejection.policy if rejection else ""


class CircuitOpenError(RejectedError):
    """The circuit of the target is open, half-open without a free probe, or isolated."""


class QueueFullError(RejectedError):
    """The queue of the target is full."""


class ShedError(RejectedError):
    """The call could not be served within its patience and deadline."""


class CooldownError(RejectedError):
    """The target's cooldown is longer than the call may wait."""


class ClientClosedError(CallError):
    """The client was closed before or during the call; the last of the `attempts` may have been processed."""


class UpstreamError(CallError):
    """The last attempt failed at the target or on the network."""

    @property
    def status(self) -> int | None:
        """HTTP status of the last response, if any."""
        return self.ended.outcome.status

    @property
    def code(self) -> str | None:
        """The provider's error code or type, if it sent one."""
        return self.ended.outcome.code


class ThrottledError(UpstreamError):
    """Too many requests or tokens."""


class OverloadedError(UpstreamError):
    """The provider has no capacity."""


class ServerError(UpstreamError):
    """The provider failed."""


class BrokenAnswerError(UpstreamError):
    """The answer was cut, malformed, empty or not an answer."""


class StreamBrokenError(UpstreamError):
    """A stream broke after its first output reached the caller, so there was no retry.

    `received` has the received bytes, for a long stream only the last ones; neither the message nor the repr shows
    them. `verdict`, `status` and `code` give the cause.
    """

    def __init__(self, message: str, *, target: Target, ended: CallResult, received: bytes) -> None:
        super().__init__(message, target=target, ended=ended)
        self.received = received


class ConnectionLostError(UpstreamError):
    """The connection was refused or reset."""


class AttemptTimeoutError(UpstreamError):
    """No answer in time."""


class BillingError(UpstreamError):
    """Quota or credit is used up."""


class AuthenticationError(UpstreamError):
    """The key was rejected, or lacks permission."""


class NotFoundError(UpstreamError):
    """No such model or path."""


class PromptTooLongError(UpstreamError):
    """The prompt exceeds the model's context."""


class InvalidRequestError(UpstreamError):
    """The request itself is wrong."""


class FilteredError(UpstreamError):
    """A content filter rejected the prompt or the answer."""


class SchemaMismatchError(UpstreamError):
    """The answer does not match the schema of the call, even after repairs."""


class RedirectedError(UpstreamError):
    """The response was a redirect; stormbreak never follows it."""


_REJECTIONS: dict[str, type[RejectedError]] = {
    "breaker": CircuitOpenError,
    "queue": QueueFullError,
    "shed": ShedError,
    "cooldown": CooldownError,
}
_FAILURES: dict[Verdict, type[UpstreamError]] = {
    Verdict.THROTTLED: ThrottledError,
    Verdict.OVERLOADED: OverloadedError,
    Verdict.SERVER_ERROR: ServerError,
    Verdict.UNREPEATABLE: ServerError,
    Verdict.BROKEN: BrokenAnswerError,
    Verdict.RESET: ConnectionLostError,
    Verdict.CONNECT_FAILED: ConnectionLostError,
    Verdict.TIMEOUT: AttemptTimeoutError,
    Verdict.BILLING: BillingError,
    Verdict.AUTH: AuthenticationError,
    Verdict.NOT_FOUND: NotFoundError,
    Verdict.TOO_LONG: PromptTooLongError,
    Verdict.INVALID: InvalidRequestError,
    Verdict.FILTERED: FilteredError,
    Verdict.SCHEMA_MISMATCH: SchemaMismatchError,
    Verdict.REDIRECTED: RedirectedError,
}


def error_for(target: Target, ended: CallResult) -> CallError:
    """Make the exception for a call to `target`."""
    outcome = ended.outcome
    if ended.stopped == ENDED_BY_CLOSING:
        message = f"{target}: the client is closed"
        if ended.attempts:
            message = f"{target}: the client was closed after {ended.attempts} attempt(s)"
        return ClientClosedError(message, target=target, ended=ended)
    if outcome.rejection is not None:
        kind: type[CallError] = _REJECTIONS.get(outcome.rejection.policy, RejectedError)
        message = f"{target}: {outcome.rejection.text}"
        if kind is RejectedError:  # the class does not name the policy
            message += f" ({outcome.rejection.policy})"
        return kind(message, target=target, ended=ended)
    message = f"{target}: {_describe(outcome, f'after {ended.attempts} attempt(s)')}"
    message += f"; no further retry: {ended.stopped}" if ended.stopped else ""
    return _FAILURES.get(outcome.verdict, UpstreamError)(message, target=target, ended=ended)


def broken_stream(
    target: Target, ended: CallResult, *, size: int, received: bytes
) -> StreamBrokenError:
    """Make the exception for a stream that broke after `size` bytes."""
    message = f"{target}: {_describe(ended.outcome, f'after {size} bytes of a stream')}"
    return StreamBrokenError(message, target=target, ended=ended, received=received)


def _describe(outcome: Outcome, after: str) -> str:
    details = " ".join(str(part) for part in (outcome.status, outcome.code, outcome.detail) if part)
    return f"{outcome.verdict} {after}" + (f" ({details})" if details else "")


def _made_again(kind: type[CallError], args: tuple[object, ...]) -> CallError:
    return kind.__new__(kind, *args)


def _portable(ended: CallResult) -> CallResult:
    if _travels(ended):
        return ended
    outcome = ended.outcome
    if not _travels(outcome.error):
        outcome = outcome._replace(error=None)
    if not _travels(outcome.value):
        outcome = outcome._replace(value=None)
    history = tuple(event for event in ended.history if _travels(event))
    return ended._replace(outcome=outcome, history=history)


def _travels(value: object) -> bool:
    """Whether it can be pickled and unpickled (some exceptions cannot), and another process can import its class."""
    token = _nested.set(True)
    try:
        deepcopy(value)
    except Exception:  # noqa: BLE001 - of any class
        return False
    finally:
        _nested.reset(token)
    return "<locals>" not in getattr(value, "__qualname__", type(value).__qualname__)
