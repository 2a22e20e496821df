"""What engines say of one target, as one: several engines, such as those of two clients, may have the same."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from stormbreak.core.engine import Engine
from stormbreak.drivers.explain import slow_reason

_WORST_FIRST = ("isolated", "open", "half_open", "closed")


def merge_targets(engines: Iterable[Engine]) -> Mapping[str, Mapping[str, Any]]:
    """What stands where, by the target as engines name it; an engine that nobody steps has nothing to say."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for engine in engines:
        try:
            targets = engine.snapshot(pending=False)["targets"]
        except RuntimeError:  # nobody steps it yet, or any more
            continue
        for target, lane in targets.items():
            found.setdefault(target, []).append(lane)
    return {target: _together(lanes) for target, lanes in found.items()}


def _together(lanes: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Counts add up; of circuits the worst is told, of cooldowns the longest, of budgets the poorest, of reasons that of the longest queue."""
    circuits = {lane["circuit"] for lane in lanes}
    budgets = [lane["budget"] for lane in lanes if lane["budget"] is not None]
    return {
        "circuit": next((state for state in _WORST_FIRST if state in circuits), None),
        "in_flight": sum(lane["in_flight"] for lane in lanes),
        "limit": sum(lane["limit"] for lane in lanes),
        "queued": sum(lane["queued"] for lane in lanes),
        "cooldown": round(max(lane["cooldown"] for lane in lanes), 3),
        "budget": round(min(budgets), 3) if budgets else None,
        "slow": _slow(lanes),
    }


def _slow(lanes: Sequence[Mapping[str, Any]]) -> str:
    """Why the target is slow, in words."""
    now = datetime.now().astimezone()
    by_queue = sorted(lanes, key=lambda lane: -lane["queued"])
    return next((reason for lane in by_queue if (reason := slow_reason(lane, now))), "")
