"""Explain from one target's snapshot why its calls are slow, and keep the attempt history of a request.

Pure: the caller passes the time of day. `slow_reason` names only what holds calls back, the strictest gate first.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from math import ceil
from typing import Any

from stormbreak.core.explain import history_lines
from stormbreak.core.flow import DeliverStream
from stormbreak.errors import CallError
from stormbreak.types import CallResult, Target

_MINUTES = 120.0  # seconds from which a span is shown in minutes

_CIRCUITS = {
    "isolated": "circuit isolated",
    "open": "circuit open",
    "half_open": "circuit half-open: waiting for its probes",
}

_CAUSES = {"overload": "answers are late", "dead": "nothing is answered"}


def slow_reason(target: Mapping[str, Any], at: datetime) -> str:
    """Explain what holds the calls to a target (`TargetState.snapshot`); "" if nothing does. `at` is the time of the snapshot."""
    return (
        _circuit(target)
        or _cooldown(target)
        or _gate(target, at)
        or ("retry budget empty" if target["retries_refused"] else "")
    )


def _circuit(target: Mapping[str, Any]) -> str:
    words, probe = _CIRCUITS.get(target["circuit"], ""), target["next_probe"]
    if not words or probe is None:
        return words
    return f"{words}, next probe {f'in {_span(probe)}' if probe > 0 else 'now'}"


def _cooldown(target: Mapping[str, Any]) -> str:
    if target["cooldown"] <= 0:
        return ""
    asked, left = _span(target["cooldown_asked"]), _span(target["cooldown"])
    return f"waiting: provider asked for {asked}, {left} left"


def _gate(target: Mapping[str, Any], at: datetime) -> str:
    """The gate that holds the queue."""
    gate, seconds = target["held_by"], target["held_for"]
    if gate == "spend":
        if seconds is None:
            return "spending limit: the rest is reserved for requests in flight"
        return f"spending limit until {_clock(at, seconds)}"
    if gate == "quota":
        return f"waiting for {target['quota']} per minute: {_span(seconds or 0.0)}"
    if gate == "limit":
        return _limit(target) if target["limit_learned"] else ""
    if gate is not None and target["rate"] is not None:
        rate = target["rate"]
        return f"429s: at most {rate:{'.1f' if rate >= 1 else '.2g'}} requests/s"
    return "starting slowly after a pause" if gate == "pace" else ""


def _limit(target: Mapping[str, Any]) -> str:
    why = _CAUSES.get(target["diagnosis"], "it grows again after an overload")
    return f"limit: {target['limit']:,} in flight, {why}"


def _span(seconds: float) -> str:
    return f"{ceil(seconds)} s" if seconds < _MINUTES else f"{ceil(seconds / 60)} min"


def _clock(at: datetime, seconds: float) -> str:
    until = at + timedelta(seconds=seconds)
    return f"{until:%H:%M}" if until.date() == at.date() else f"{until:%Y-%m-%d %H:%M}"


# ---------------------------------------------------------------- attempt history

KEPT_AS = "stormbreak"
"""The name of the history in the extensions of a response, and on an exception."""

_LINKS = ("response", "__cause__", "__context__")
_MAX_DEPTH = 16


class AttemptHistory:
    """The attempt history of a call to `target`; also before the call has ended."""

    def __init__(self, target: Target, result: CallResult | DeliverStream) -> None:
        self.target = target
        self._result = result

    @property
    def attempts(self) -> int:
        """The number of attempts."""
        return self._result.attempts

    @property
    def ended(self) -> CallResult | None:
        """Its result; None while it is in flight."""
        return self._result if isinstance(self._result, CallResult) else None

    def end(self, ended: CallResult) -> None:
        """Record the result."""
        self._result = ended

    def lines(self) -> Iterator[str]:
        """Format it: a line for each attempt and fallback, and a summary line."""
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
    """Explain the attempts of an answer or a failure: a response, an SDK's exception, or one of ours.

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


def history_of(what: object) -> AttemptHistory | None:
    """Return the history of this object, if any."""
    if isinstance(what, CallError):
        return AttemptHistory(what.target, what.ended)
    story: Any = getattr(what, KEPT_AS, None)
    if story is None:
        extensions = getattr(what, "extensions", None)
        story = extensions.get(KEPT_AS) if isinstance(extensions, dict) else None
    return story if isinstance(story, AttemptHistory) else None
