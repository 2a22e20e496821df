"""Why a run is slow, in one line: what holds its rows back at a target, or that all of them wait to be sent again."""

import time
from collections.abc import Collection, Mapping
from datetime import datetime
from math import ceil
from typing import Any

from stormbreak.batch.running.runner import Runner
from stormbreak.drivers.explain import slow_reason
from stormbreak.escape import plain


def slow_reason_for_run(
    runner: Runner, targets: Collection[Mapping[str, Any]], at: datetime
) -> str:
    """Say why, by the snapshots of its targets; "" where nothing holds the run, or it stops or has ended.

    A target without rows in its queue does not hold the run while nothing holds another one, such as a fallback.
    """
    if runner.stopping or not (runner.under_way or runner.schedule.waiting):
        return ""
    reasons = [(each, slow_reason(each, at)) for each in targets]
    free = any(not reason for _, reason in reasons)
    held = [(each, reason) for each, reason in reasons if reason and (each["queued"] or not free)]
    waiting = "" if any(each["in_flight"] for each in targets) else _waiting(runner)
    if not held:
        return waiting
    target, reason = max(held, key=lambda pair: pair[0]["queued"])
    trouble = _trouble(runner)
    if reason.startswith("circuit"):
        more = f"last failure: {trouble}" if trouble else ""
    else:
        more = "" if target["queued"] else waiting
    place = f"{plain(target['place'])}: " if len(targets) > 1 else ""
    return place + reason + (f"; {more}" if more else "")


def _waiting(runner: Runner) -> str:
    """Rows that back off, and rows that come back later."""
    rows = runner.counts.backing_off + runner.schedule.waiting
    if not rows:
        return ""
    trouble = _trouble(runner)
    after = f" after {trouble}" if trouble else ""
    said = f"{rows:,} row{'s' * (rows > 1)} to be sent again{after}"
    next_at = runner.schedule.next_at
    if next_at is None or runner.counts.backing_off:
        return said
    return f"{said}, first in {max(1, ceil(next_at - time.monotonic()))} s"


def _trouble(runner: Runner) -> str:
    """The last failure in words; "" if there was none."""
    trouble = runner.counts.last_trouble
    if trouble is None:
        return ""
    status = "" if trouble.status is None else f" ({trouble.status})"
    return f"{trouble.verdict.value.replace('_', ' ')}{status}"
