"""What was tried for one request: for headers, for notes on exceptions, and for `explain`."""

from collections.abc import Iterator
from typing import Any

from stormbreak.core.flow import DeliverStream
from stormbreak.core.tried import history_lines
from stormbreak.errors import CallError
from stormbreak.types import CallResult, Target

KEPT_AS = "stormbreak"
"""Under this name a story is kept among the extensions of a response, and on an exception."""

_LINKS = ("response", "__cause__", "__context__")
_MAX_DEPTH = 16


class AttemptHistory:
    """The story of a call to `target`; it may be told before it has ended."""

    def __init__(self, target: Target, told: CallResult | DeliverStream) -> None:
        self.target = target
        self._told = told

    @property
    def attempts(self) -> int:
        """How often something was sent."""
        return self._told.attempts

    @property
    def ended(self) -> CallResult | None:
        """How it ended; None while its answer is on its way."""
        return self._told if isinstance(self._told, CallResult) else None

    def end(self, ended: CallResult) -> None:
        """Note how it ended."""
        self._told = ended

    def lines(self) -> Iterator[str]:
        """Tell it, a line for each attempt and each move, and one that sums up."""
        told = self._told
        if isinstance(told, CallResult):
            yield from history_lines(told.history)
        yield f"{self.target}: {self._summary()}"

    def _summary(self) -> str:
        told = self._told
        spent = f"{told.attempts} attempt(s), {told.waited:.2f} s waited"
        if not isinstance(told, CallResult):
            return f"its answer is on its way; {spent}"
        stopped = f"; no further retry: {told.stopped}" if told.stopped else ""
        return f"{told.outcome.verdict} after {spent}{stopped}"


def explain(what: object) -> str:
    """Tell what was tried for an answer or a failure: a response, an exception of an SDK's, or one of ours.

    Empty where nothing is known of it.
    """
    for place, link in enumerate(_chain(what)):
        story = history_of(link)
        if story is not None:
            return "\n".join(story.lines())
        if place == _MAX_DEPTH:
            break
    return ""


def _chain(what: object) -> Iterator[object]:
    waiting, seen = [what], set()
    while waiting:
        each = waiting.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [getattr(each, name, None) for name in _LINKS]


def history_of(what: object) -> AttemptHistory | None:
    """The story that this very object carries, if any."""
    if isinstance(what, CallError):
        return AttemptHistory(what.target, what.ended)
    story: Any = getattr(what, KEPT_AS, None)
    if story is None:
        extensions = getattr(what, "extensions", None)
        story = extensions.get(KEPT_AS) if isinstance(extensions, dict) else None
    return story if isinstance(story, AttemptHistory) else None
