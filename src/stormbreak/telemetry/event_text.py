"""Names and one-line texts of events, the same in logs, metrics, traces and pages. Names do not change.

The first word of a name says what it is about, the second what happened to it: see docs/telemetry.md.
"""

from collections.abc import Mapping
from types import MappingProxyType

from stormbreak.core.explain import line_for
from stormbreak.escape import tame, tamed
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
        Returned: "attempt.returned",
        Committed: "attempt.committed",
        Overtaken: "attempt.overtaken",
        Hedged: "hedge.sent",
        HedgeRefused: "hedge.refused",
        RetryPlanned: "retry.planned",
        RetryRefused: "retry.refused",
        FellBack: "fallback.taken",
        FallbackRefused: "fallback.refused",
        CircuitChanged: "circuit.changed",
        CooldownStarted: "cooldown.started",
        SpendReached: "spend.reached",
        WouldHave: "shadow.would_have",
    }
)
"""By kind of event."""


def name_of(event: Event) -> str:
    """The name of an event, such as "retry.refused"."""
    return NAMES[type(event)]


# ---------------------------------------------------------------- text of events
# There is no key, no prompt and no text of a provider's in it, only what the event carries; names
# that others chose are made fit for one line. Words may get better from release to release:
# programs go by `name_of`.


def words_for(event: Event) -> str:
    """What happened, in one line."""
    event = event._replace(target=tamed(event.target))
    if isinstance(event, FellBack | FallbackRefused):
        event = event._replace(to=tame(event.to))
    return _of_a_call(event) or _of_an_attempt(event) or _of_a_target(event) or line_for(event)


def _of_a_call(event: Event) -> str:
    if isinstance(event, Labelled):
        return f"call to {event.target}: begins, with {len(event.labels)} label(s)"
    if isinstance(event, Queued):
        return f"call to {event.target}: waits for {event.held_by}"
    if isinstance(event, CallRejected):
        return line_for(event) + _come_back(event)
    if isinstance(event, CallCancelled):
        return f"call to {event.target}: cancelled{' while an attempt was under way' * event.sent}"
    if isinstance(event, CallEnded):
        said = f"{event.verdict} after {event.attempts} attempt(s), {event.waited:.1f} s unserved"
        return f"call to {event.target}: {said}{_billed(event.maybe_processed)}"
    return ""


def _of_an_attempt(event: Event) -> str:
    if isinstance(event, Sent):
        told = "sent"
    elif isinstance(event, Committed):
        told = f"first output after {event.took:.1f} s"
    elif isinstance(event, HedgeRefused):
        told = f"takes long, and gets none beside it: {event.gate}"
    elif isinstance(event, RetryPlanned):
        paid = "free" if event.free else "paid"
        again = f"again after {event.until - event.at:.1f} s, {paid}"
        told = f"{_verdict(event)}{again}{_billed(event.maybe_processed)}"
    elif isinstance(event, RetryRefused):
        told = f"{_verdict(event)}no retry: {event.gate}"
    else:
        return ""
    return f"attempt {event.attempt} at {event.target}: {told}"


def _of_a_target(event: Event) -> str:
    if isinstance(event, CircuitChanged):
        return f"circuit of {event.target}: {event.before} to {event.after}{_for(event)}"
    if isinstance(event, CooldownStarted):
        return f"cooldown of {event.target}: left alone{_for(event)}"
    if isinstance(event, SpendReached):
        spent = f"{event.percent} % of {event.limit:f} USD are spent"
        return f"spending, last at {event.target}: {spent}{_new(event)}"
    if isinstance(event, WouldHave):
        return f"shadow of {event.target}: {event.mechanism} would {event.what}{_for(event)}"
    return ""


def _verdict(event: RetryPlanned | RetryRefused) -> str:
    return f"{event.verdict}, " if event.verdict else ""


def _come_back(event: CallRejected) -> str:
    if event.retry_at is None:
        return ""
    return f"; come back in {max(0.0, event.retry_at - event.at):.1f} s"


def _for(event: CircuitChanged | CooldownStarted | WouldHave) -> str:
    return "" if event.until is None else f" for {max(0.0, event.until - event.at):.1f} s"


def _new(event: SpendReached) -> str:
    return (
        ""
        if event.until is None
        else f"; all of it is there again in {max(0.0, event.until - event.at):.0f} s"
    )


def _billed(attempts: int) -> str:
    return ", may have been processed and billed" if attempts else ""
