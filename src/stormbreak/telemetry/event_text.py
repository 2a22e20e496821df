"""Names and one-line texts of events, the same in logs, metrics, traces and pages.

Names are stable, for programs. Texts may change from release to release. They hold no key, prompt or provider text.
"""

from collections.abc import Mapping
from types import MappingProxyType

from stormbreak import events
from stormbreak.core.explain import line_for
from stormbreak.escape import LABEL, escape_target, shown
from stormbreak.events import Event

NAMES: Mapping[type, str] = MappingProxyType(
    {
        events.Labelled: "call.labelled",
        events.Queued: "call.queued",
        events.CallRejected: "call.rejected",
        events.CallEnded: "call.ended",
        events.CallCancelled: "call.cancelled",
        events.Sent: "attempt.sent",
        events.Returned: "attempt.ended",
        events.Committed: "attempt.first_output",
        events.Overtaken: "attempt.superseded",
        events.Hedged: "hedge.sent",
        events.HedgeRefused: "hedge.refused",
        events.RetryPlanned: "retry.scheduled",
        events.RetryRefused: "retry.refused",
        events.FellBack: "fallback.started",
        events.FallbackRefused: "fallback.refused",
        events.CircuitChanged: "circuit.changed",
        events.CooldownStarted: "cooldown.started",
        events.SpendReached: "spend.threshold_reached",
        events.WouldHave: "shadow.decision",
    }
)
"""By class: the subject, then what happened to it."""


def name_of(event: Event) -> str:
    """Return the name of an event, such as "retry.refused"."""
    return NAMES[type(event)]


def describe(event: Event) -> str:
    """Describe an event in one line. Names chosen by others are escaped."""
    event = event._replace(target=escape_target(event.target))
    if isinstance(event, events.FellBack | events.FallbackRefused):
        event = event._replace(to=shown(event.to, LABEL))
    return _of_call(event) or _of_attempt(event) or _of_target(event) or line_for(event)


def _of_call(event: Event) -> str:
    match event:
        case events.Labelled():
            text = f"started with {len(event.labels)} label(s)"
        case events.Queued():
            text = f"queued, held by {event.held_by}"
        case events.CallCancelled():
            text = f"cancelled{' with an attempt in flight' * event.sent}"
        case events.CallEnded():
            text = (
                f"{event.verdict} after {event.attempts} attempt(s), {event.waited:.1f} s waiting"
                f"{_billed(event.maybe_processed)}"
            )
        case events.CallRejected():
            return line_for(event) + _seconds(event, event.retry_at, "; come back in {:.1f} s")
        case _:
            return ""
    return f"call to {event.target}: {text}"


def _of_attempt(event: Event) -> str:
    match event:
        case events.Sent():
            text = "sent"
        case events.Committed():
            text = f"first output after {event.took:.1f} s"
        case events.HedgeRefused():
            text = f"slow, but not hedged: {event.gate}"
        case events.RetryPlanned():
            paid = "free" if event.free else "paid"
            text = (
                f"{_verdict(event)}again after {event.until - event.at:.1f} s, {paid}"
                f"{_billed(event.maybe_processed)}"
            )
        case events.RetryRefused():
            text = f"{_verdict(event)}no retry: {event.gate}"
        case _:
            return ""
    return f"attempt {event.attempt} at {event.target}: {text}"


def _of_target(event: Event) -> str:
    match event:
        case events.CircuitChanged():
            text = f"circuit of {event.target}: {event.before} to {event.after}"
        case events.CooldownStarted():
            text = f"cooldown of {event.target}: no calls"
        case events.WouldHave():
            text = f"shadow of {event.target}: {event.mechanism} would {event.what}"
        case events.SpendReached():
            text = f"spending, last at {event.target}: {event.percent} % of {event.limit:f} USD"
            return text + _seconds(event, event.until, "; resets in {:.0f} s")
        case _:
            return ""
    return text + _seconds(event, event.until, " for {:.1f} s")


def _verdict(event: events.RetryPlanned | events.RetryRefused) -> str:
    return f"{event.verdict}, " if event.verdict else ""


def _seconds(event: Event, until: float | None, text: str) -> str:
    return "" if until is None else text.format(max(0.0, until - event.at))


def _billed(attempts: int) -> str:
    return ", may have been processed and billed" if attempts else ""
