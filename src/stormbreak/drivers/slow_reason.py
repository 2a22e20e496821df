"""Explain from one target's snapshot why its calls are slow: the gates that hold calls back, the strictest first.

Pure: the caller passes the time of day.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from math import ceil
from typing import Any

_MINUTES, _HOURS = 120.0, 7200.0  # seconds from which a duration is shown in minutes, and in hours

_CIRCUITS = {
    "isolated": "circuit isolated",
    "open": "circuit open",
    "half_open": "circuit half-open: waiting for its probes",
}

_CAUSES = {"overload": "answers are late", "dead": "nothing is answered"}


def slow_reason(target: Mapping[str, Any], at: datetime) -> str:
    """Explain what holds the calls to a target (`TargetState.snapshot`, taken `at` that time); "" if nothing does."""
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
    return f"waiting: provider asked for {asked}, next calls in {left}"


def _gate(target: Mapping[str, Any], at: datetime) -> str:
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
    if seconds >= _HOURS:
        return f"{ceil(seconds / 3600)} h"
    return f"{ceil(seconds)} s" if seconds < _MINUTES else f"{ceil(seconds / 60)} min"


def _clock(at: datetime, seconds: float) -> str:
    until = at + timedelta(seconds=seconds)
    return f"{until:%H:%M}" if until.date() == at.date() else f"{until:%Y-%m-%d %H:%M}"
