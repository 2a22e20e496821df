"""Settings for all calls within a block, at any depth: a context variable.

Tasks and `asyncio.to_thread` inherit it, like any context variable. A task started in a block keeps its settings.
"""

import re
import time
from collections.abc import Mapping
from contextvars import ContextVar, Token
from math import inf
from types import TracebackType
from typing import NamedTuple

import msgspec

from stormbreak.core.checks import require
from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import quoted
from stormbreak.types import Labels, Priority

MAX_LABELS = 16
MAX_TEXT = 200  # characters of a tenant, or of the value of a label

_LABEL = re.compile(r"[a-z0-9_.-]{1,64}")


class Scope(NamedTuple):
    """The settings of a scope; None, or empty, if the call or its policy decides.

    `deadline_at` is on the monotonic clock. An empty `tenant` means no tenant, whatever an outer scope sets.
    """

    deadline_at: float | None = None
    priority: Priority | None = None
    tenant: str | None = None
    labels: Labels = ()
    max_attempts: int | None = None

    def earlier(self, deadline_at: float | None) -> float | None:
        """Return the earlier deadline: that of this scope, or that of a call."""
        if self.deadline_at is None or deadline_at is None:
            return self.deadline_at if deadline_at is None else deadline_at
        return min(self.deadline_at, deadline_at)

    def around(self, inner: "Scope") -> "Scope":
        """Return the scope within this one: the inner settings win, but never extend the deadline.

        Raises:
            ConfigurationError: there are too many labels in total.
        """
        return Scope(
            self.earlier(inner.deadline_at),
            self.priority if inner.priority is None else inner.priority,
            self.tenant if inner.tenant is None else inner.tenant,
            _merged(self.labels, inner.labels),
            self.max_attempts if inner.max_attempts is None else inner.max_attempts,
        )


class _Frame(msgspec.Struct, eq=False):
    """A scope that was entered; `ended` if it was left in a context other than the one in which it was entered."""

    scope: Scope
    outer: "_Frame | None"
    ended: bool = False


_NOTHING = Scope()
_CURRENT: ContextVar[_Frame | None] = ContextVar("stormbreak.scope", default=None)


def _frame() -> _Frame | None:
    frame = _CURRENT.get()
    while frame is not None and frame.ended:
        frame = frame.outer
    return frame


def current() -> Scope:
    """Return the settings of the present context."""
    if _CURRENT.get() is None:  # as for most calls
        return _NOTHING
    frame = _frame()
    return _NOTHING if frame is None else frame.scope


class Block:
    """A scope for one `with`. Not a decorator: around an asynchronous function it would end before that begins."""

    def __init__(self, own: Scope, deadline: float) -> None:
        self._own = own
        self._deadline = deadline
        self._entered: tuple[_Frame, Token[_Frame | None]] | None = None

    def __enter__(self) -> Scope:
        if self._entered is not None:
            raise RuntimeError("a scope is entered once: write scope(...) again")
        own = self._own
        if self._deadline != inf:
            own = own._replace(deadline_at=time.monotonic() + self._deadline)
        frame = _Frame(current().around(own), _frame())
        self._entered = frame, _CURRENT.set(frame)
        return frame.scope

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        assert self._entered is not None
        frame, token = self._entered
        try:
            if _CURRENT.get() is frame:
                _CURRENT.reset(token)
                return
        except ValueError:
            pass  # a generator that is finished in another context
        frame.ended = True


def scope(
    *,
    priority: Priority | None = None,
    deadline: float | None = None,
    tenant: str | None = None,
    labels: Mapping[str, str] | None = None,
    retries: int | None = None,
) -> Block:
    """Set options for all calls in a `with` block; see docs/scope.md.

    Args:
        priority: the order of service in a queue.
        deadline: seconds from the start of the block in which all calls end; an inner scope cannot extend it.
        tenant: the tenant of the calls; empty: none, whatever the outer scope.
        labels: labels of the calls in events and snapshots; added to those of the outer scope.
        retries: maximum attempts after the first, if the policy allows more.

    Raises:
        ConfigurationError: names the invalid argument and its value.
    """
    if priority is not None:
        checked_priority(priority)
    if deadline is not None:
        number = isinstance(deadline, int | float)
        require(number, "deadline must be a number of seconds", type(deadline).__name__)
        require(deadline >= 0, "deadline must not be negative", deadline)
    if retries is not None:
        require(type(retries) is int, "retries must be a whole number", type(retries).__name__)
        require(retries >= 0, "retries must not be negative", retries)
    own = Scope(
        None,
        priority,
        None if tenant is None else checked_text("tenant", tenant),
        () if labels is None else checked_labels(labels),
        None if retries is None else retries + 1,
    )
    return Block(own, inf if deadline is None else deadline)


def checked_priority(priority: object) -> Priority:
    """Check the priority now instead of in a queue."""
    if not isinstance(priority, Priority):
        known = ", ".join(f"Priority.{one.name}" for one in Priority)
        raise ConfigurationError(f"priority must be one of {known}, got {quoted(str(priority))}")
    return priority


def checked_labels(labels: object) -> Labels:
    """Make labels from a mapping, in the order of their names.

    Raises:
        ConfigurationError: names the invalid label and the rule.
    """
    if not isinstance(labels, Mapping):
        raise ConfigurationError(
            f"labels must be a mapping of names to texts, got {type(labels).__name__}"
        )
    for name, value in labels.items():
        if not isinstance(name, str) or _LABEL.fullmatch(name) is None:
            raise ConfigurationError(
                f"the name of a label must be 1 to 64 of a-z, 0-9, _ . and -, got {quoted(str(name))}"
            )
        checked_text(f"label {quoted(name)}", value)
    return _merged((), tuple(labels.items()))


def checked_text(name: str, text: object) -> str:
    """Reject a value that is not a text, is too long, or would break a line of a log."""
    if not isinstance(text, str) or len(text) > MAX_TEXT or not text.isprintable():
        raise ConfigurationError(
            f"{name} must be printable text of at most {MAX_TEXT} characters, got {quoted(str(text))}"
        )
    return text


def _merged(outer: Labels, inner: Labels) -> Labels:
    if not inner:
        return outer
    merged = dict(outer) | dict(inner)
    require(len(merged) <= MAX_LABELS, f"there may be {MAX_LABELS} labels", len(merged))
    return tuple(sorted(merged.items()))
