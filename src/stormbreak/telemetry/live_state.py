"""The live state of a process, for `/state` and `stormbreak top`.

A listener keeps counts, the verdicts of the last minute and the latest decisions. It reads the engines on request.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any

from stormbreak import events
from stormbreak.core.engine import Engine
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import new_lock
from stormbreak.drivers.slow_reason import slow_reason
from stormbreak.escape import shown
from stormbreak.events import Event
from stormbreak.telemetry.event_text import describe, name_of
from stormbreak.telemetry.gauges import (
    Snapshot,
    WatchedEngines,
    merge_target,
)
from stormbreak.telemetry.labels import MAX_TARGETS
from stormbreak.telemetry.state import (
    SECONDS,
    BatchSnapshot,
    CostSnapshot,
    Counts,
    Decision,
    State,
    TargetSnapshot,
    encoded,
)
from stormbreak.types import Target, Verdict

# ---------------------------------------------------------------- last minute


class LastMinute:
    """Counts the verdicts of one target by second, for the last `SECONDS`."""

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, Counter[Verdict]]] = deque(maxlen=SECONDS + 1)

    def add(self, at: float, verdict: Verdict) -> None:
        """Count a verdict. A late one counts in the latest second."""
        second = int(at)
        if self.latest < second or not self._seconds:
            self._seconds.append((second, Counter()))
        self._seconds[-1][1][verdict] += 1

    @property
    def latest(self) -> int:
        return self._seconds[-1][0] if self._seconds else 0

    def verdicts(self, now: float) -> Mapping[str, int]:
        """Count each verdict, the most frequent first."""
        total: Counter[Verdict] = Counter()
        for second, counts in self._seconds:
            if second >= int(now) - SECONDS:
                total += counts
        return {verdict.value: count for verdict, count in total.most_common()}

    def series(self, now: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Count the successes and the other verdicts of each complete second, oldest first."""
        known, nothing = dict(self._seconds), Counter[Verdict]()
        seconds = [known.get(int(now) - ago, nothing) for ago in range(SECONDS, 0, -1)]
        ok = tuple(counts[Verdict.OK] for counts in seconds)
        return ok, tuple(counts.total() - counts[Verdict.OK] for counts in seconds)


# ---------------------------------------------------------------- recent decisions
# Similar decisions within a short time count as one: otherwise only the last instant of a storm would remain.

MAX_DECISIONS = 50
GROUPED_WITHIN = 2.0  # seconds

_SIMILAR: Mapping[type, Callable[[Any], object]] = {
    events.RetryPlanned: attrgetter("verdict", "free"),
    events.RetryRefused: attrgetter("verdict", "gate"),
    events.Hedged: type,
    events.HedgeRefused: attrgetter("gate"),
    events.FellBack: attrgetter("to", "verdict"),
    events.FallbackRefused: attrgetter("to", "gate"),
    events.CallRejected: attrgetter("policy"),
    events.CircuitChanged: attrgetter("at"),  # each one counts
    events.CooldownStarted: type,
    events.WouldHave: attrgetter("mechanism", "what"),
}
"""The events that are decisions, and the fields in which similar decisions about one target agree."""


@dataclass(slots=True, eq=False)
class _Group:
    """Similar decisions: their number, and the last one."""

    key: object
    last: Any
    times: int = 1


class RecentDecisions:
    """Keeps the latest decisions. Their text is made on request."""

    def __init__(self) -> None:
        self._groups: list[_Group] = []
        self._growing: dict[object, _Group] = {}

    def add(self, event: Event) -> None:
        """Keep a decision; ignore other events."""
        similar = _SIMILAR.get(type(event))
        if similar is None:
            return
        key = type(event), event.target, similar(event)
        group = self._growing.get(key)
        if group is not None and event.at - group.last.at <= GROUPED_WITHIN:
            group.last = event
            group.times += 1
            return
        group = self._growing[key] = _Group(key, event)
        self._groups.append(group)
        if len(self._groups) > MAX_DECISIONS:
            self._drop(min(self._groups, key=lambda each: each.last.at))

    def kept(self) -> list[tuple[Event, int]]:
        groups = sorted(self._groups, key=lambda group: -group.last.at)
        return [(group.last, group.times) for group in groups]

    def _drop(self, group: _Group) -> None:
        self._groups.remove(group)
        if self._growing.get(group.key) is group:
            del self._growing[group.key]


# ---------------------------------------------------------------- live state

_MAX_NAME = 120  # characters of a target
_OTHERS = Target("others", "")

_COUNTERS: Mapping[type, str] = {
    events.Sent: "attempts",
    events.RetryPlanned: "retries",
    events.RetryRefused: "retries_refused",
    events.CallRejected: "rejected",
    events.CallEnded: "calls",
    events.CallCancelled: "cancelled",
    events.Hedged: "hedges",
    events.FellBack: "fallbacks",
    events.CooldownStarted: "cooldowns",
}


class LiveState:
    """A listener for any number of engines, on any thread.

    A batch sets `batch` to the snapshot of its rows. `cost` is called for the cost so far at each request. A
    parent that makes no calls itself sets `workers` to the states of its processes, which are merged.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.batch: BatchSnapshot | None = None
        self.workers: Sequence[State] = ()
        self.cost: Callable[[], CostSnapshot | None] = lambda: None
        self._engines = WatchedEngines()
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
        self._engines.add(engine)

    def unwatch(self, engine: Engine) -> None:
        self._engines.discard(engine)

    def __call__(self, event: Event) -> None:
        counter = _COUNTERS.get(type(event))
        with self._lock:
            if counter is not None:
                self._counts[counter] += 1
            if isinstance(event, events.Sent):
                return
            if isinstance(event, events.Returned):
                self._minute(event).add(event.at, event.verdict)
                return
            if isinstance(event, events.CallEnded):
                self._counts["answered"] += event.verdict is Verdict.OK
                return
            if isinstance(event, events.CircuitChanged):
                self._counts["circuits_opened"] += event.after == "open"
            self._recent.add(event)

    def state(self) -> State:
        workers = self.workers
        return self._merged(workers) if workers else self._own()

    def _merged(self, workers: Sequence[State]) -> State:
        by_name: dict[str, list[Snapshot]] = {}
        for each in workers:
            for target in each.targets:
                by_name.setdefault(target.target, []).append(asdict(target))
        counts: Counter[str] = Counter()
        for each in workers:
            counts.update(asdict(each.counts))
        decisions = sorted(
            (decision for each in workers for decision in each.decisions), key=attrgetter("ago")
        )
        return self._state(
            max(each.watched for each in workers),
            Counts(**counts),
            [_merged_target(name, each) for name, each in by_name.items()],
            decisions[:MAX_DECISIONS],
            more_targets=max(each.more_targets for each in workers),
        )

    def _own(self) -> State:
        slow = partial(slow_reason, at=datetime.now().astimezone())
        # The engines take their own locks, so this does not happen under ours.
        engines = {name: merge_target(each, slow) for name, each in self._engines.targets().items()}
        with self._lock:
            now = self._clock()
            watched, counts = now - self._began, Counts(**self._counts)
            targets = list(self._targets(engines, now))
            kept = self._recent.kept()
        decisions = [
            Decision(
                ago=round(max(0.0, now - event.at), 1),
                name=name_of(event),
                text=describe(event),
                times=times,
            )
            for event, times in kept
        ]
        return self._state(round(watched, 3), counts, targets, decisions)

    def _state(
        self,
        watched: float,
        counts: Counts,
        targets: Sequence[TargetSnapshot],
        decisions: Sequence[Decision],
        more_targets: int = 0,
    ) -> State:
        return State(
            pid=os.getpid(),
            watched=watched,
            counts=counts,
            targets=tuple(sorted(targets, key=_busiest_first)[:MAX_TARGETS]),
            more_targets=more_targets + max(0, len(targets) - MAX_TARGETS),
            decisions=tuple(decisions),
            batch=self.batch,
            cost=self.cost(),
        )

    def page(self) -> tuple[str, bytes]:
        """Read the state as a page of the status server."""
        return "application/json", encoded(self.state())

    def _minute(self, event: events.Returned) -> LastMinute:
        minute = self._minutes.get(event.target)
        if minute is not None:
            return minute
        if len(self._minutes) >= MAX_TARGETS - 1:
            expired = event.at - SECONDS
            silent = [each for each, minute in self._minutes.items() if minute.latest < expired]
            for target in silent:
                del self._minutes[target]
        target = event.target if len(self._minutes) < MAX_TARGETS - 1 else _OTHERS
        return self._minutes.setdefault(target, LastMinute())

    def _targets(self, engines: Mapping[str, Snapshot], now: float) -> Iterator[TargetSnapshot]:
        minutes = {str(target): minute for target, minute in self._minutes.items()}
        nothing = LastMinute()
        for name in {**engines, **minutes}:
            minute = minutes.get(name, nothing)
            ok, not_ok = minute.series(now)
            yield TargetSnapshot(
                target=shown(name, _MAX_NAME),
                verdicts=minute.verdicts(now),
                ok=ok,
                not_ok=not_ok,
                **engines.get(name, {}),
            )


def _merged_target(name: str, parts: Sequence[Snapshot]) -> TargetSnapshot:
    """Merge the snapshots of one target in several processes."""
    verdicts: Counter[str] = Counter()
    for each in parts:
        verdicts.update(each["verdicts"])
    return TargetSnapshot(
        target=name,
        verdicts=dict(verdicts.most_common()),
        ok=tuple(map(sum, zip(*(each["ok"] for each in parts), strict=True))),
        not_ok=tuple(map(sum, zip(*(each["not_ok"] for each in parts), strict=True))),
        **merge_target(parts, itemgetter("slow")),
    )


def _busiest_first(target: TargetSnapshot) -> tuple[int, str]:
    return -(target.in_flight + target.queued + sum(target.verdicts.values())), target.target
