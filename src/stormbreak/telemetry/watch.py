"""What a live view needs to know of an engine: a listener that keeps a little, and asks the engine when somebody looks."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from stormbreak.core.engine import Engine
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import LiveSet, new_lock
from stormbreak.escape import tame
from stormbreak.events import (
    CallCancelled,
    CallEnded,
    CallRejected,
    CircuitChanged,
    CooldownStarted,
    Event,
    FellBack,
    Hedged,
    RetryPlanned,
    RetryRefused,
    Returned,
    Sent,
)
from stormbreak.telemetry.last_minute import LastMinute
from stormbreak.telemetry.recent_decisions import RecentDecisions, in_words
from stormbreak.telemetry.state import (
    SECONDS,
    BatchSnapshot,
    CostSnapshot,
    Counts,
    State,
    TargetSnapshot,
    encoded,
)
from stormbreak.telemetry.target_snapshots import merge_targets
from stormbreak.types import Target, Verdict

MOST_TARGETS = 100  # with those that are not told apart, which are the last
_MAX_NAME = 120  # characters of a target
_OTHERS = Target("others", "")

_COUNTED: Mapping[type, str] = MappingProxyType(
    {
        Sent: "attempts",
        RetryPlanned: "retries",
        RetryRefused: "retries_refused",
        CallRejected: "rejected",
        CallEnded: "calls",
        CallCancelled: "cancelled",
        Hedged: "hedges",
        FellBack: "fallbacks",
        CooldownStarted: "cooldowns",
    }
)


def _nobody_knows() -> None:
    return None


class Watch:
    """A listener, on any thread and of any number of engines.

    `batch` is what a batch says of its rows, if it is one; `cost` is asked what all has cost, whenever somebody looks.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.batch: BatchSnapshot | None = None
        self.cost: Callable[[], CostSnapshot | None] = _nobody_knows
        self._engines: LiveSet[Engine] = LiveSet()
        self._lock = new_lock()
        self._clock = clock
        self._begin()
        reset_in_child(self._begin)

    def _begin(self) -> None:
        self._began = self._clock()
        self._counts: Counter[str] = Counter()
        self._minutes: dict[Target, LastMinute] = {}
        self._recent = RecentDecisions()

    def watch(self, engine: Engine) -> None:
        """Ask this engine, too, whenever somebody looks."""
        self._engines.add(engine)

    def unwatch(self, engine: Engine) -> None:
        """Ask it no more."""
        self._engines.discard(engine)

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        counted = _COUNTED.get(type(event))
        with self._lock:
            if counted is not None:
                self._counts[counted] += 1
            if isinstance(event, Sent):
                return
            if isinstance(event, Returned):
                self._minute(event).add(event.at, event.verdict)
                return
            if isinstance(event, CallEnded):
                self._counts["answered"] += event.verdict is Verdict.OK
                return
            if isinstance(event, CircuitChanged):
                self._counts["circuits_opened"] += event.after == "open"
            self._recent.hear(event)

    def state(self) -> State:
        """What stands where, and what happened of late."""
        standing = merge_targets(self._engines)  # takes their locks, and so not within ours
        with self._lock:
            now = self._clock()
            watched, counts = now - self._began, Counts(**self._counts)
            targets = sorted(self._targets(standing, now), key=_busy_first)
            kept = self._recent.kept()
        return State(
            pid=os.getpid(),
            watched=round(watched, 3),
            counts=counts,
            targets=tuple(targets[:MOST_TARGETS]),
            more_targets=max(0, len(targets) - MOST_TARGETS),
            decisions=in_words(kept, now),
            batch=self.batch,
            cost=self.cost(),
        )

    def plain(self) -> dict[str, Any]:
        """The same in plain values: see docs/top.md."""
        told = msgspec.to_builtins(self.state())
        assert isinstance(told, dict)
        return told

    def page(self) -> tuple[str, bytes]:
        """The same, as a port serves it."""
        return "application/json", encoded(self.state())

    def _minute(self, event: Returned) -> LastMinute:
        minute = self._minutes.get(event.target)
        if minute is not None:
            return minute
        if len(self._minutes) >= MOST_TARGETS - 1:
            self._forget_silent(event.at)
        target = event.target if len(self._minutes) < MOST_TARGETS - 1 else _OTHERS
        return self._minutes.setdefault(target, LastMinute())

    def _forget_silent(self, now: float) -> None:
        silent = [target for target, minute in self._minutes.items() if minute.last < now - SECONDS]
        for target in silent:
            del self._minutes[target]

    def _targets(
        self, standing: Mapping[str, Mapping[str, Any]], now: float
    ) -> Iterator[TargetSnapshot]:
        minutes = {str(target): minute for target, minute in self._minutes.items()}
        nothing = LastMinute()
        for name in {**standing, **minutes}:
            minute = minutes.get(name, nothing)
            ok, not_ok = minute.series(now)
            yield TargetSnapshot(
                target=tame(name, _MAX_NAME),
                verdicts=minute.verdicts(now),
                ok=ok,
                not_ok=not_ok,
                **standing.get(name, {}),
            )


def _busy_first(target: TargetSnapshot) -> tuple[int, str]:
    return -(target.in_flight + target.queued + sum(target.verdicts.values())), target.target
