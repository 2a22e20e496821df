"""Decisions about a call, as events on its span: the names of `telemetry.names`, and attributes."""

import re
from typing import Any

from stormbreak.events import (
    CallRejected,
    Event,
    FallbackRefused,
    FellBack,
    Hedged,
    HedgeRefused,
    Overtaken,
    Queued,
    RetryPlanned,
    RetryRefused,
)
from stormbreak.telemetry.names import name_of
from stormbreak.telemetry.otel import conventions as names
from stormbreak.telemetry.tame import tame
from stormbreak.types import Verdict

TOLD = (
    Queued,
    CallRejected,
    Hedged,
    HedgeRefused,
    Overtaken,
    RetryPlanned,
    RetryRefused,
    FellBack,
    FallbackRefused,
)
"""Others begin or end a span, or are about a target."""

_DIGEST = re.compile(r"#[0-9a-f]{8}$")  # that of the key, behind a target
_ATTRIBUTES = {
    "attempt": names.ATTEMPT,
    "verdict": names.VERDICT,
    "gate": names.GATE,
    "held_by": names.GATE,
    "policy": names.POLICY,
    "reason": names.REASON,
    "free": names.FREE,
    "maybe_processed": names.MAYBE_PROCESSED,
    "to": names.TO,
}


def name_and_attributes(event: Event) -> tuple[str, names.Attributes]:
    """The name of an event and what it says; `stormbreak.seconds` is how long something takes or took, from then."""
    told: names.Attributes = {}
    for field, name in _ATTRIBUTES.items():
        value = getattr(event, field, None)
        if value is not None:
            told[name] = _plain(value)
    seconds = _seconds(event)
    if seconds is not None:
        told[names.SECONDS] = seconds
    return name_of(event), told


def _plain(value: Any) -> names.Value:
    if isinstance(value, Verdict):
        return value.value
    return tame(_DIGEST.sub("", value)) if isinstance(value, str) else value


def _seconds(event: Event) -> float | None:
    if isinstance(event, Hedged):
        return event.after
    if isinstance(event, Overtaken):
        return event.took
    until = None
    if isinstance(event, RetryPlanned):
        until = event.until
    elif isinstance(event, CallRejected):
        until = event.retry_at
    return None if until is None else max(0.0, until - event.at)
