"""Keep the attempt history of a request with its response or exception, and explain it."""

from collections.abc import Iterator
from typing import Any

from stormbreak.core.explain import history_lines
from stormbreak.core.flow import DeliverStream
from stormbreak.errors import CallError
from stormbreak.types import CallResult, Target

KEPT_AS = "stormbreak"
"""The name of the history in the extensions of a response, and on an exception."""

_LINKS = ("response", "__cause__", "__context__")
_MAX_DEPTH = 16


class AttemptHistory:
    """The attempt history of a call to `target`, also while the call is in progress."""

    def __init__(self, target: Target, result: CallResult | DeliverStream) -> None:
        self.target = target
        self._result = result

    @property
    def attempts(self) -> int:
        return self._result.attempts

    @property
    def ended(self) -> CallResult | None:
        """The result of the call; None while it is in flight."""
        return self._result if isinstance(self._result, CallResult) else None

    def end(self, ended: CallResult) -> None:
        self._result = ended

    def lines(self) -> Iterator[str]:
        """Format the history: a line for each attempt and fallback, and a summary line."""
        result = self._result
        if isinstance(result, CallResult):
            yield from history_lines(result.history)
        yield f"{self.target}: {self._summary()}"

    def _summary(self) -> str:
        result = self._result
        spent = f"{result.attempts} attempt(s), {result.waited:.2f} s waited"
        if not isinstance(result, CallResult):
            return f"in flight; {spent}"
        stopped = f"; no further retry: {result.stopped}" if result.stopped else ""
        return f"{result.outcome.verdict} after {spent}{stopped}"


def explain(what: object) -> str:
    """Explain the attempts of a response, an SDK's exception, or one of ours.

    Empty if nothing is known.
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


def results_of(*places: object) -> Iterator[CallResult]:
    """Yield the results of ended calls of clients and transports that these carry.

    Calls of functions are left out: their exceptions are those of the user.
    """
    for place in places:
        story = history_of(place)
        if type(story) is AttemptHistory and story.ended is not None:
            yield story.ended


def history_of(what: object) -> AttemptHistory | None:
    if isinstance(what, CallError):
        return AttemptHistory(what.target, what.ended)
    story: Any = getattr(what, KEPT_AS, None)
    if story is None:
        extensions = getattr(what, "extensions", None)
        story = extensions.get(KEPT_AS) if isinstance(extensions, dict) else None
    return story if isinstance(story, AttemptHistory) else None
