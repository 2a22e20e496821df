"""How a run went, over time: a fixed number of slices that become wider as it lasts. Pure, and bounded in memory.

Ten million rows and a day take as much room as a minute. Events say what was sent and what came back; a look at the run,
four times a second, says how things stand. Times are those of the monotonic clock.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Self, TypeVar

from stormbreak.batch.histogram import Histogram
from stormbreak.events import CallEnded, Event, Hedged, Returned, Sent
from stormbreak.types import Verdict

SLICES = 240
FIRST_WIDTH = 0.5
"""Seconds of a slice, to begin with."""

KINDS = 40
"""Kinds of trouble, and targets, that are counted one by one; what comes later counts as `OTHERS`."""

OTHERS = "others"

T = TypeVar("T")


class RunSample(NamedTuple):
    """How a run stands; `answered`, `failed` and tokens since its beginning."""

    at: float
    in_flight: int
    limit: int  # how many may be in flight
    waiting: int  # rows under way that are not in flight, and rows that will come back
    open_circuits: int
    cooling: int  # targets that asked to be left alone
    answered: int
    failed: int
    input_tokens: int
    output_tokens: int


@dataclass(slots=True)
class Slice:
    """What happened in a stretch of time, and how things stood then: `sights` were taken, whose figures are summed up."""

    attempts: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    latencies: Histogram = field(default_factory=Histogram)  # of attempts that were answered well
    sights: int = 0
    in_flight: int = 0
    limit: int = 0
    waiting: int = 0
    open_circuits: int = 0  # the most at a time
    cooling: int = 0  # the most at a time
    last: RunSample | None = None

    def look(self, sight: RunSample) -> None:
        """Take note of how things stand."""
        self.sights += 1
        self.in_flight += sight.in_flight
        self.limit += sight.limit
        self.waiting += sight.waiting
        self.open_circuits = max(self.open_circuits, sight.open_circuits)
        self.cooling = max(self.cooling, sight.cooling)
        self.last = sight

    def absorb(self, later: "Slice") -> Self:
        """Become one with the slice that follows."""
        self.attempts += later.attempts
        self.verdicts.update(later.verdicts)
        self.latencies.update(later.latencies)
        for name in ("sights", "in_flight", "limit", "waiting"):
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.open_circuits = max(self.open_circuits, later.open_circuits)
        self.cooling = max(self.cooling, later.cooling)
        self.last = later.last or self.last
        return self


class Told(NamedTuple):
    """What came back in place of an answer: the verdict, the status and the provider's code, if there were any."""

    verdict: str
    status: int | None = None
    code: str | None = None


@dataclass(slots=True)
class Course:
    """One run, from `began` on. Feed `hear` the events of its client, and `look` how it stands."""

    began: float
    width: float = FIRST_WIDTH
    first: RunSample | None = None
    slices: list[Slice] = field(default_factory=list)
    latencies: Histogram = field(default_factory=Histogram)
    waits: Histogram = field(
        default_factory=Histogram
    )  # of whole calls, before and between their attempts
    retries: Counter[str] = field(default_factory=Counter)  # by what the attempt before came to
    trouble: Counter[Told] = field(default_factory=Counter)
    targets: Counter[str] = field(default_factory=Counter)  # attempts by where they went
    _before: dict[int, str] = field(default_factory=dict)  # by call: what its last attempt came to
    _hedges: set[tuple[int, int]] = field(default_factory=set)

    def hear(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, Sent):
            self._sent(event)
        elif isinstance(event, Returned):
            self._returned(event)
        elif isinstance(event, Hedged):
            self._hedges.add((event.call, event.attempt))
        elif isinstance(event, CallEnded):
            self.waits.add(event.waited)
            self._before.pop(event.call, None)
            if self._hedges:
                self._hedges = {hedge for hedge in self._hedges if hedge[0] != event.call}

    def look(self, sight: RunSample) -> None:
        """Take note of how the run stands."""
        self.first = self.first or sight
        self._slice(sight.at).look(sight)

    def times(self) -> Iterator[tuple[float, float, Slice]]:
        """Each slice with its beginning and its end, in seconds since the run began."""
        for place, each in enumerate(self.slices):
            yield place * self.width, (place + 1) * self.width, each

    def _sent(self, event: Sent) -> None:
        self._slice(event.at).attempts += 1
        _count(self.targets, str(event.target), OTHERS)
        hedge = (event.call, event.attempt)
        if hedge in self._hedges:
            self._hedges.discard(hedge)
        elif event.attempt > 1:
            self.retries[self._before.get(event.call, OTHERS)] += 1

    def _returned(self, event: Returned) -> None:
        here = self._slice(event.at)
        here.verdicts[event.verdict.value] += 1
        if event.verdict is Verdict.OK:
            here.latencies.add(event.took)
            self.latencies.add(event.took)
        else:
            self._before[event.call] = event.verdict.value
            told = Told(event.verdict.value, event.status, event.code)
            _count(self.trouble, told, Told(OTHERS))

    def _slice(self, at: float) -> Slice:
        """The slice of that time. One before the beginning is the first."""
        place = max(0, int((at - self.began) / self.width))
        while place >= SLICES:
            self._widen()
            place = int((at - self.began) / self.width)
        while len(self.slices) <= place:
            self.slices.append(Slice())
        return self.slices[place]

    def _widen(self) -> None:
        """Make each two slices one."""
        pairs = [self.slices[start : start + 2] for start in range(0, len(self.slices), 2)]
        self.slices = [pair[0].absorb(pair[1]) if len(pair) == 2 else pair[0] for pair in pairs]
        self.width *= 2


def _count(counter: Counter[T], what: T, others: T) -> None:
    """Count one, as one of the others where too many kinds have come already."""
    counter[what if what in counter or len(counter) < KINDS else others] += 1
