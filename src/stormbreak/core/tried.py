"""What a call has tried, in a few lines for whoever reads the traceback: the notes of its error.

A line for each attempt and each move elsewhere, the last `MOST` of them. They are made of events, so that no key, prompt or
provider's text can be in them.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

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
from stormbreak.types import CallResult

MOST = 12  # lines

Error = TypeVar("Error", bound=CallError)


def add_attempt_notes(error: Error) -> Error:
    """Add to `error` what was tried; where nothing was sent, there is nothing to add. Returns the same object."""
    if error.ended.attempts:
        for line in notes_of(error.ended):
            error.add_note(line)
    return error


def notes_of(ended: CallResult) -> list[str]:
    """What a call has tried, a line each; the first sums up."""
    lines = list(history_lines(ended.history))
    said = f"tried: {ended.attempts} attempt(s), {ended.waited:.1f} s unserved"
    if ended.maybe_processed:
        said += f", {ended.maybe_processed} may have been processed and billed"
    if len(lines) > MOST:
        said += f"; the last {MOST} lines of {len(lines)}"
    return [said, *lines[-MOST:]]


def history_lines(history: Iterable[object]) -> Iterator[str]:
    """Tell the events of a call, a line for each attempt and each move."""
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
    """One line for an attempt, a move or a rejection; empty for what is none."""
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
    more = "".join(f", {said}" for said in (event.code, event.detail) if said)
    return f"{event.verdict}{status}{more} after {event.took:.1f} s"
