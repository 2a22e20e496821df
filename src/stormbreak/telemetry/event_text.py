"""Names and one-line texts of events, the same in logs, metrics, traces and pages.

Names are stable, for programs. Texts may change from release to release. They hold no key, prompt or provider text.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

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
"""Names by class: the subject, then the change."""


def name_of(event: Event) -> str:
    """Return the name of an event, such as "retry.refused"."""
    return NAMES[type(event)]


def describe(event: Event) -> str:
    """Describe an event in one line. Names from outside are escaped."""
    event = event._replace(target=escape_target(event.target))
    if isinstance(event, events.FellBack | events.FallbackRefused):
        event = event._replace(to=shown(event.to, LABEL))
    return _TEXTS.get(type(event), line_for)(event)


def _call(event: Any) -> str:
    return f"call to {event.target}: "


def _attempt(event: Any) -> str:
    verdict = getattr(event, "verdict", None)
    return f"attempt {event.attempt} at {event.target}: " + (f"{verdict}, " if verdict else "")


def _seconds(event: Event, until: float | None, text: str = " for {:.1f} s") -> str:
    return "" if until is None else text.format(max(0.0, until - event.at))


def _billed(event: Any) -> str:
    return ", may have been processed and billed" if event.maybe_processed else ""


_TEXTS: Mapping[type, Callable[[Any], str]] = {
    events.Labelled: lambda e: f"{_call(e)}started with {len(e.labels)} label(s)",
    events.Queued: lambda e: f"{_call(e)}queued, held by {e.held_by}",
    events.CallCancelled: lambda e: f"{_call(e)}cancelled{' with an attempt in flight' * e.sent}",
    events.CallEnded: lambda e: (
        f"{_call(e)}{e.verdict} after {e.attempts} attempt(s), {e.waited:.1f} s waiting{_billed(e)}"
    ),
    events.CallRejected: lambda e: line_for(e) + _seconds(e, e.retry_at, "; come back in {:.1f} s"),
    events.Sent: lambda e: f"{_attempt(e)}sent",
    events.Committed: lambda e: f"{_attempt(e)}first output after {e.took:.1f} s",
    events.HedgeRefused: lambda e: f"{_attempt(e)}slow, but not hedged: {e.gate}",
    events.RetryPlanned: lambda e: (
        f"{_attempt(e)}again after {e.until - e.at:.1f} s, {'free' if e.free else 'paid'}{_billed(e)}"
    ),
    events.RetryRefused: lambda e: f"{_attempt(e)}no retry: {e.gate}",
    events.CircuitChanged: lambda e: (
        f"circuit of {e.target}: {e.before} to {e.after}{_seconds(e, e.until)}"
    ),
    events.CooldownStarted: lambda e: f"cooldown of {e.target}: no calls{_seconds(e, e.until)}",
    events.WouldHave: lambda e: (
        f"shadow of {e.target}: {e.mechanism} would {e.what}{_seconds(e, e.until)}"
    ),
    events.SpendReached: lambda e: (
        f"spending{' of a tenant' * e.of_tenant}, last at {e.target}: {e.percent} % of {e.limit:f} USD"
        + _seconds(e, e.until, "; resets in {:.0f} s")
    ),
}
