"""Why nothing of a run is in flight, in few words: what holds its rows back, and the trouble that began it."""

import time
from collections.abc import Collection, Mapping
from math import ceil
from types import MappingProxyType
from typing import Any

from stormbreak.batch.runner import Runner

_NOT_CLOSED = ("isolated", "open", "half_open")
_HELD_BY = MappingProxyType(
    {
        "spend": "what may be spent is set aside for others",
        "quota": "requests or tokens per minute are used up",
        "rate": "sends slowly",
        "pace": "sends slowly after a pause",
    }
)
"""By the gate that holds a queue; circuits and pauses have words of their own."""

_OF_OURS = ("spend", "quota")  # limits that hold without any trouble


def idle_because(runner: Runner, targets: Collection[Mapping[str, Any]]) -> str:
    """Say why, by the snapshots of its targets; nothing where it stops, has ended, or is about to send."""
    if runner.stopping:
        return ""
    circuits = {each["circuit"] for each in targets}
    circuit = next((state for state in _NOT_CLOSED if state in circuits), None)
    if circuit is not None:
        return f"the circuit is {circuit.replace('_', '-')}{_after(runner)}"
    pause = max((each["cooldown"] for each in targets), default=0.0)
    if pause > 0:
        return f"a pause was asked for{_after(runner)}, {ceil(pause)} s left"
    held_by = {each["held_by"] for each in targets}
    gate = next((gate for gate in _HELD_BY if gate in held_by), None)
    if gate is not None:
        return _HELD_BY[gate] + ("" if gate in _OF_OURS else _after(runner))
    return _waiting(runner)


def _waiting(runner: Runner) -> str:
    """Rows that back off, and rows that come back later."""
    rows = runner.counts.backing_off + runner.schedule.waiting
    if not rows:
        return ""
    said = f"{rows:,} row{'s' * (rows > 1)} to be sent again{_after(runner)}"
    next_at = runner.schedule.next_at
    if next_at is None or runner.counts.backing_off:
        return said
    return f"{said}, first in {max(1, ceil(next_at - time.monotonic()))} s"


def _after(runner: Runner) -> str:
    trouble = runner.counts.last_trouble
    if trouble is None:
        return ""
    status = "" if trouble.status is None else f" ({trouble.status})"
    return f" after {trouble.verdict.value.replace('_', ' ')}{status}"
