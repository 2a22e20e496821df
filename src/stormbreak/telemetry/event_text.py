"""Names and one-line texts of events, the same in logs, metrics, traces and pages.

Names are stable, for programs. Texts may change from release to release. They hold no key, prompt or provider text.
"""

from collections.abc import Mapping
from types import MappingProxyType

from stormbreak.core.explain import line_for
from stormbreak.escape import LABEL, escape_target, shown
from stormbreak.events import (
    CallCancelled,
    CallEnded,
    CallRejected,
    CircuitChanged,
    Committed,
    CooldownStarted,
    Event,
    FallbackRefused,
    FellBack,
    Hedged,
    HedgeRefused,
    Labelled,
    Overtaken,
    Queued,
    RetryPlanned,
    RetryRefused,
    Returned,
    Sent,
    SpendReached,
    WouldHave,
)

NAMES: Mapping[type, str] = MappingProxyType(
    {
        Labelled: "call.labelled",
        Queued: "call.queued",
        CallRejected: "call.rejected",
        CallEnded: "call.ended",
        CallCancelled: "call.cancelled",
        Sent: "attempt.sent",
        Returned: "attempt.ended",
        Committed: "attempt.first_output",
        Overtaken: "attempt.superseded",
        Hedged: "hedge.sent",
        HedgeRefused: "hedge.refused",
        RetryPlanned: "retry.scheduled",
        RetryRefused: "retry.refused",
        FellBack: "fallback.started",
        FallbackRefused: "fallback.refused",
        CircuitChanged: "circuit.changed",
        CooldownStarted: "cooldown.started",
        SpendReached: "spend.threshold_reached",
        WouldHave: "shadow.decision",
    }
)
"""By class: the subject, then what happened to it."""


def name_of(event: Event) -> str:
    """Return the name of an event, such as "retry.refused"."""
    return NAMES[type(event)]


def describe(event: Event) -> str:
    """Describe an event in one line. Names chosen by others are escaped."""
    event = event._replace(target=escape_target(event.target))
    if isinstance(event, FellBack | FallbackRefused):
        event = event._replace(to=shown(event.to, LABEL))
    return _of_call(event) or _of_attempt(event) or _of_target(event) or line_for(event)


def _of_call(event: Event) -> str:
    match event:
        case Labelled():
            text = f"started with {len(event.labels)} label(s)"
        case Queued():
            text = f"queued, held by {event.held_by}"
        case CallCancelled():
            text = f"cancelled{' with an attempt in flight' * event.sent}"
        case CallEnded():
            text = (
                f"{event.verdict} after {event.attempts} attempt(s), {event.waited:.1f} s waiting"
                f"{_billed(event.maybe_processed)}"
            )
        case CallRejected():
            return line_for(event) + _seconds(event, event.retry_at, "; come back in {:.1f} s")
        case _:
            return ""
    return f"call to {event.target}: {text}"


def _of_attempt(event: Event) -> str:
    match event:
        case Sent():
            text = "sent"
        case Committed():
            text = f"first output after {event.took:.1f} s"
        case HedgeRefused():
            text = f"slow, but not hedged: {event.gate}"
        case RetryPlanned():
            paid = "free" if event.free else "paid"
            text = (
                f"{_verdict(event)}again after {event.until - event.at:.1f} s, {paid}"
                f"{_billed(event.maybe_processed)}"
            )
        case RetryRefused():
            text = f"{_verdict(event)}no retry: {event.gate}"
        case _:
            return ""
    return f"attempt {event.attempt} at {event.target}: {text}"


def _of_target(event: Event) -> str:
    match event:
        case CircuitChanged():
            text = f"circuit of {event.target}: {event.before} to {event.after}"
        case CooldownStarted():
            text = f"cooldown of {event.target}: no calls"
        case WouldHave():
            text = f"shadow of {event.target}: {event.mechanism} would {event.what}"
        case SpendReached():
            text = f"spending, last at {event.target}: {event.percent} % of {event.limit:f} USD"
            return text + _seconds(event, event.until, "; resets in {:.0f} s")
        case _:
            return ""
    return text + _seconds(event, event.until, " for {:.1f} s")


def _verdict(event: RetryPlanned | RetryRefused) -> str:
    return f"{event.verdict}, " if event.verdict else ""


def _seconds(event: Event, until: float | None, text: str) -> str:
    return "" if until is None else text.format(max(0.0, until - event.at))


def _billed(attempts: int) -> str:
    return ", may have been processed and billed" if attempts else ""
