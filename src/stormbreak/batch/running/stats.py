"""Counts the events of one run: totals, histograms of seconds, and a timeseries. Pure, and bounded in memory.

The timeseries has a fixed number of slices that become wider during the run: ten million rows in a day take as much
memory as a minute. Times are those of the monotonic clock.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import floor, log
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

from stormbreak import events
from stormbreak.batch.running.failure_reasons import FailureReasons
from stormbreak.batch.running.snapshot import RunSnapshot
from stormbreak.events import Event
from stormbreak.types import Outcome, Usage, Verdict

SLICES = 240
FIRST_WIDTH = 0.5  # seconds of a slice at first
KINDS = 40
"""Maximum number of kinds of failed attempts, and of targets, with their own counters; later ones count as `OTHERS`."""

OTHERS = "others"
TOTALS = (
    "attempts", "retries", "maybe_processed", "from_fallback", "circuits_opened", "cooldowns", "waited",
    "input_tokens", "output_tokens",
)  # fmt: skip
"""The counts of a run that add up over processes; a summary has them too."""


_REACHED_NOTHING = frozenset({Verdict.CONNECT_FAILED, Verdict.RESET, Verdict.BROKEN})

T = TypeVar("T")


# ---------------------------------------------------------------- histogram

GROWTH = 1.1  # ratio of the widths of two neighbouring classes: quantiles are right to within 5 %
LEAST = 0.001  # seconds; shorter times count as this
MOST = 1e6  # seconds, nearly two weeks; longer times count as this
_LOG = log(GROWTH)


class Histogram:
    """A histogram of seconds, in classes whose widths grow by a tenth each."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def __len__(self) -> int:
        return self._counts.total()

    def add(self, seconds: float) -> None:
        bounded = min(max(seconds, LEAST), MOST) if seconds == seconds else LEAST  # noqa: PLR0124 - NaN
        self._counts[floor(log(bounded / LEAST) / _LOG)] += 1

    def update(self, other: "Histogram") -> None:
        self._counts.update(other._counts)  # noqa: SLF001 - of this very class

    def quantile(self, ratio: float) -> float | None:
        """Return the seconds that `ratio` of them did not exceed; None if there are none."""
        wanted, seen = ratio * len(self), 0
        for place in sorted(self._counts):
            seen += self._counts[place]
            if seen >= wanted:
                return LEAST * float(GROWTH ** (place + 0.5))  # the middle of the class
        return None


# ---------------------------------------------------------------- slices of time


@dataclass(slots=True)
class Slice:
    """The events of a period, and the sums of `samples` snapshots of the run in it."""

    attempts: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    latencies: Histogram = field(default_factory=Histogram)  # of successful attempts
    samples: int = 0
    in_flight: int = 0
    limit: int = 0
    waiting: int = 0
    open_circuits: int = 0  # the maximum of the snapshots
    cooling: int = 0  # the maximum of the snapshots
    last: RunSnapshot | None = None

    def sample(self, snapshot: RunSnapshot) -> None:
        self.samples += 1
        self.in_flight += snapshot.in_flight
        self.limit += snapshot.limit
        self.waiting += snapshot.waiting
        self.open_circuits = max(self.open_circuits, snapshot.open_circuits)
        self.cooling = max(self.cooling, snapshot.cooling)
        self.last = snapshot

    def absorb(self, later: "Slice") -> Self:
        """Merge the next slice into this one."""
        self.attempts += later.attempts
        self.verdicts.update(later.verdicts)
        self.latencies.update(later.latencies)
        for name in ("samples", "in_flight", "limit", "waiting"):
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.open_circuits = max(self.open_circuits, later.open_circuits)
        self.cooling = max(self.cooling, later.cooling)
        self.last = later.last or self.last
        return self


class FailureKind(NamedTuple):
    """A failed attempt: its verdict, and the status and the provider's code, if any."""

    verdict: str
    status: int | None = None
    code: str | None = None


# ---------------------------------------------------------------- the listener


@dataclass(slots=True, kw_only=True)
class RunStats:
    """Counts one run. `hear` gets the events of its client; `sample` gets a snapshot, four times a second.

    With `began` it also keeps the data of a report: slices, histograms, and counters by kind.
    """

    began: float | None = None
    attempts: int = 0
    retries: int = 0
    maybe_processed: int = 0  # failed attempts that may have been billed
    from_fallback: int = 0  # answers from a fallback
    verdicts: Counter[str] = field(default_factory=Counter)  # of attempts that got a response
    circuits_opened: int = 0
    cooldowns: int = 0
    waited: float = 0.0  # seconds, over all calls
    input_tokens: int = 0
    output_tokens: int = 0
    last_failure: events.Returned | None = None
    reasons: FailureReasons = field(default_factory=FailureReasons)  # of rows that failed
    connect_error: str = ""  # of the last attempt that did not reach an HTTP server

    width: float = FIRST_WIDTH  # of a slice
    first: RunSnapshot | None = None
    slices: list[Slice] = field(default_factory=list)
    latencies: Histogram = field(default_factory=Histogram)  # of successful attempts
    waits: Histogram = field(default_factory=Histogram)  # of calls, before and between attempts
    retry_reasons: Counter[str] = field(default_factory=Counter)  # verdicts of the attempts before
    failures: Counter[FailureKind] = field(default_factory=Counter)  # failed attempts
    targets: Counter[str] = field(default_factory=Counter)  # attempts

    _connected: bool = False  # something there speaks HTTP, or accepted a request and stayed silent
    _sent: dict[int, float] = field(default_factory=dict)  # by call: when its attempt was sent
    _backing_off: set[int] = field(default_factory=set)  # numbers of calls
    _failed: dict[int, str] = field(default_factory=dict)  # by call: verdict of its last attempt
    _hedges: set[tuple[int, int]] = field(default_factory=set)  # calls and attempts

    @property
    def backing_off(self) -> int:
        return len(self._backing_off)

    @property
    def unreachable(self) -> bool:
        """Whether attempts have failed and nothing has spoken HTTP. A first answer may take long."""
        return bool(self.connect_error) and not self._connected

    def silent_since(self, now: float) -> float:
        """Seconds since the oldest attempt in flight was sent; 0 if there is none."""
        return now - min(self._sent.values(), default=now)

    def hear(self, event: Event) -> None:
        handler = self._HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event)

    def sample(self, snapshot: RunSnapshot) -> None:
        if self.began is not None:
            self.first = self.first or snapshot
            self._slice(snapshot.at, self.began).sample(snapshot)

    def explain(self, outcome: Outcome) -> None:
        """Note from the last outcome of a call why nothing was reached; it says more than an event."""
        if outcome.status is None and outcome.verdict in _REACHED_NOTHING and outcome.detail:
            self.connect_error = outcome.detail

    def add_straggler(self) -> None:
        self.verdicts[Verdict.TIMEOUT.value] += 1
        self.maybe_processed += 1

    def add_usage(self, usage: Usage) -> None:
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens

    def times(self) -> Iterator[tuple[float, float, Slice]]:
        """Each slice with its start and end, in seconds since the run began."""
        for place, each in enumerate(self.slices):
            yield place * self.width, (place + 1) * self.width, each

    def merge(self, other: "RunStats") -> None:
        """Add the counts of another process of the same run, which began at the same time. Do not add its snapshots."""
        for name in TOTALS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("verdicts", "retry_reasons", "failures", "targets", "latencies", "waits"):
            getattr(self, name).update(getattr(other, name))
        self.reasons.merge(other.reasons)
        self.connect_error = other.connect_error or self.connect_error
        while self.width < other.width:
            self._widen()
        while other.width < self.width:
            other._widen()  # noqa: SLF001 - of this very class
        while len(self.slices) < len(other.slices):
            self.slices.append(Slice())
        for mine, theirs in zip(self.slices, other.slices, strict=False):
            mine.attempts += theirs.attempts
            mine.verdicts.update(theirs.verdicts)
            mine.latencies.update(theirs.latencies)

    def _on_sent(self, event: events.Sent) -> None:
        call, attempt = event.call, event.attempt
        self.attempts += 1
        self._sent[call] = event.at
        self._backing_off.discard(call)
        is_hedge = attempt > 1 and (call, attempt) in self._hedges
        is_retry = attempt > 1 and not is_hedge
        self.retries += is_retry
        if is_hedge:
            self._hedges.discard((call, attempt))
        if self.began is not None:
            self._slice(event.at, self.began).attempts += 1
            _count(self.targets, str(event.target), OTHERS)
            if is_retry:
                self.retry_reasons[self._failed.get(call, OTHERS)] += 1

    def _on_returned(self, event: events.Returned) -> None:
        verdict = event.verdict
        self._sent.pop(event.call, None)
        self.verdicts[verdict.value] += 1
        if verdict is not Verdict.OK:
            self.last_failure = event
        if event.status is not None or verdict is Verdict.TIMEOUT:
            self._connected = True
        elif verdict in _REACHED_NOTHING or verdict is Verdict.REJECTED:
            self.connect_error = event.detail or verdict.value.replace("_", " ")
        if self.began is None:
            return
        here = self._slice(event.at, self.began)
        here.verdicts[verdict.value] += 1
        if verdict is Verdict.OK:
            here.latencies.add(event.took)
            self.latencies.add(event.took)
        else:
            self._failed[event.call] = verdict.value
            kind = FailureKind(verdict.value, event.status, event.code)
            _count(self.failures, kind, FailureKind(OTHERS))

    def _on_ended(self, event: events.CallEnded) -> None:
        call = event.call
        self.waited += event.waited
        self.maybe_processed += event.maybe_processed
        self._sent.pop(call, None)
        self._backing_off.discard(call)
        if self._hedges:
            self._hedges = {hedge for hedge in self._hedges if hedge[0] != call}
        if self.began is not None:
            self.waits.add(event.waited)
            self._failed.pop(call, None)

    def _on_cancelled(self, event: events.CallCancelled) -> None:
        self._sent.pop(event.call, None)
        self._backing_off.discard(event.call)
        self._failed.pop(event.call, None)

    def _on_circuit_changed(self, event: events.CircuitChanged) -> None:
        self.circuits_opened += event.after == "open"

    def _on_cooldown_started(self, _: events.CooldownStarted) -> None:
        self.cooldowns += 1

    _HANDLERS: ClassVar[Mapping[type, Callable[[Any, Any], None]]] = {
        events.Sent: _on_sent,
        events.Returned: _on_returned,
        events.CallEnded: _on_ended,
        events.CallCancelled: _on_cancelled,
        events.Hedged: lambda self, event: self._hedges.add((event.call, event.attempt)),
        events.RetryPlanned: lambda self, event: self._backing_off.add(event.call),
        events.Queued: lambda self, event: self._backing_off.discard(event.call),
        events.CircuitChanged: _on_circuit_changed,
        events.CooldownStarted: _on_cooldown_started,
    }

    def _slice(self, at: float, began: float) -> Slice:
        """Return the slice of that time; the first one for times before the run began."""
        place = max(0, int((at - began) / self.width))
        while place >= SLICES:
            self._widen()
            place = int((at - began) / self.width)
        while len(self.slices) <= place:
            self.slices.append(Slice())
        return self.slices[place]

    def _widen(self) -> None:
        """Merge every two slices into one."""
        pairs = [self.slices[start : start + 2] for start in range(0, len(self.slices), 2)]
        self.slices = [pair[0].absorb(pair[1]) if len(pair) == 2 else pair[0] for pair in pairs]
        self.width *= 2


def _count(counter: Counter[T], what: T, others: T) -> None:
    """Count one, as `others` if there are already too many kinds."""
    counter[what if what in counter or len(counter) < KINDS else others] += 1
