"""The calls of one engine that have a span which is not ended yet.

A call that never ends, such as one of an event loop that stood still for ever, must not be kept for ever: beyond a bound
the oldest make way.
"""

from collections.abc import Callable

from opentelemetry.context import Context
from opentelemetry.trace import Span

from stormbreak.drivers.locks import new_lock
from stormbreak.types import TARGET


class ActiveSpan:
    """A call: its span, the context under which those of its attempts are, and what is open of these, by number."""

    __slots__ = ("attempts", "began", "context", "operation", "source", "span")

    def __init__(self, span: Span, context: Context, *, operation: str, began: float) -> None:
        self.span = span
        self.context = context
        self.operation = operation
        self.began = began  # on the clock of the engine
        self.source = TARGET
        self.attempts: dict[int, Span] = {}


class UnderWay:
    """At most `most` calls, by number; `overdue` is given one that has to make way. From any thread."""

    def __init__(self, most: int, overdue: Callable[[ActiveSpan], None]) -> None:
        self._most = most
        self._overdue = overdue
        # The garbage collector may come with a signal handler or a finalizer in the middle of this.
        self._lock = new_lock()
        self.forget()

    def forget(self) -> None:
        """Forget them all: in a child process they never end."""
        self._calls: dict[int, ActiveSpan] = {}

    def close(self) -> None:
        """Give up all of them, and from now on each that comes."""
        with self._lock:
            self._most = 0
            calls, self._calls = self._calls, {}
        for call in calls.values():
            self._overdue(call)

    def add(self, number: int, call: ActiveSpan) -> None:
        """Keep a call."""
        oldest: ActiveSpan | None = None
        with self._lock:
            self._calls[number] = call
            if len(self._calls) > self._most:
                oldest = self._calls.pop(next(iter(self._calls)))
        if oldest is not None:
            self._overdue(oldest)

    def find(self, number: int) -> ActiveSpan | None:
        """The call of this number."""
        return self._calls.get(number)

    def take(self, number: int) -> ActiveSpan | None:
        """The same, which is then no longer kept."""
        with self._lock:
            return self._calls.pop(number, None)
