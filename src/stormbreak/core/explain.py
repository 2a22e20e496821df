"""Explain calls in plain values: the current wait of each active call, and its attempts. No keys, no prompts."""

from collections.abc import Iterable, Iterator
from math import inf
from typing import Any, TypeVar

from stormbreak.core.flow import Ask, Command, DeliverStream, Race, Send, Wait, WaitFor
from stormbreak.errors import CallError
from stormbreak.events import (
    CallRejected,
    FallbackRefused,
    FellBack,
    Hedged,
    Overtaken,
    RetryPlanned,
    Returned,
)
from stormbreak.types import Call, CallResult


def shown(call: Call, command: Command, now: float) -> dict[str, Any]:
    """Describe one call; times are seconds from `now`, None if unbounded."""
    target = call.target
    if isinstance(command, WaitFor):
        target = command.ticket.call.target
    elif isinstance(command, Send):
        target = command.target
    elif isinstance(command, Race):
        target = command.sends[0].target
    return {
        "call": call.number,
        "target": str(target),
        "priority": call.priority.name.lower(),
        "tenant": call.tenant,
        "labels": dict(call.labels),
        "deadline": _left(call.deadline_at, now),
        "command": _NAMES[type(command)],
        **_more(command, now),
    }


_NAMES = {
    Wait: "wait", WaitFor: "wait_for", Send: "send", Race: "race", DeliverStream: "deliver", Ask: "ask",
}  # fmt: skip


def _more(command: Command, now: float) -> dict[str, Any]:
    if isinstance(command, Send):
        return {"attempt": command.attempt, "timeout": command.timeout}
    if isinstance(command, Race):
        under_way = [send.attempt for send in command.sends]
        return {"under_way": under_way, "until": _left(command.until, now)}
    if isinstance(command, Ask):
        return {"source": command.step.source, "until": _left(command.until, now)}
    if isinstance(command, WaitFor):
        ticket = command.ticket
        return {"until": _left(ticket.expires_at, now), "waited": max(0.0, now - ticket.queued_at)}
    if isinstance(command, DeliverStream):
        return {"attempts": command.attempts, "until": _left(command.until, now)}
    return {"until": _left(command.until, now)}


def _left(until: float | None, now: float) -> float | None:
    return None if until is None or until == inf else max(0.0, until - now)


# ---------------------------------------------------------------- attempt notes
# The notes of an error: a line for each attempt and fallback, the last `MAX_LINES`. They are made
# from events, so they cannot contain keys, prompts or provider text.

MAX_LINES = 12

Error = TypeVar("Error", bound=CallError)


def add_attempt_notes(error: Error) -> Error:
    """Add the attempts, if any, to the notes of `error`; return it."""
    if error.ended.attempts:
        for line in notes_of(error.ended):
            error.add_note(line)
    return error


def notes_of(ended: CallResult) -> list[str]:
    """Return the attempts of a call, a line each, after a summary line."""
    lines = list(history_lines(ended.history))
    summary = f"tried: {ended.attempts} attempt(s), {ended.waited:.1f} s unserved"
    if ended.maybe_processed:
        summary += f", {ended.maybe_processed} may have been processed and billed"
    if len(lines) > MAX_LINES:
        summary += f"; the last {MAX_LINES} lines of {len(lines)}"
    return [summary, *lines[-MAX_LINES:]]


def history_lines(history: Iterable[object]) -> Iterator[str]:
    """Format the events of a call, a line for each attempt and fallback."""
    line = ""
    for event in history:
        if isinstance(event, RetryPlanned):
            line = line and f"{line}; again after {event.until - event.at:.1f} s"
            continue
        if line:
            yield line
        line = line_for(event)
    if line:
        yield line


def line_for(event: object) -> str:
    """Format an attempt, a fallback or a rejection; empty for other events."""
    if isinstance(event, Returned | Hedged | Overtaken):
        return f"attempt {event.attempt} at {event.target}: {_result_text(event)}"
    if isinstance(event, FellBack):
        return f"fell back from {event.target} to {event.to}: {event.verdict}"
    if isinstance(event, FallbackRefused):
        return f"no fallback from {event.target} to {event.to}: {event.gate}"
    if isinstance(event, CallRejected):
        return f"rejected by {event.policy} at {event.target}: {event.reason}"
    return ""


def _result_text(event: Returned | Hedged | Overtaken) -> str:
    if isinstance(event, Hedged):
        return f"beside the one before, unanswered after {event.after:.1f} s"
    if isinstance(event, Overtaken):
        return f"overtaken after {event.took:.1f} s"
    status = f", status {event.status}" if event.status else ""
    more = "".join(f", {part}" for part in (event.code, event.detail) if part)
    return f"{event.verdict}{status}{more} after {event.took:.1f} s"
