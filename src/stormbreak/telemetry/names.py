"""The names of events, the same in logs, metrics, traces and pages; who counts on them may, for they do not change.

The first word says what it is about, the second what happened to it: see docs/telemetry.md.
"""

from collections.abc import Mapping
from types import MappingProxyType

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
