"""The ideal throughput: the best possible result of any client, the reference of goodput (docs/storms.md).

A fluid optimum: calls are a continuous amount in one queue, oldest first; the queue knows the capacity at every moment.
In short steps:

- calls in service leave at a rate of `in service / service time` per second; each is answered one service time after
  its start;
- waiting calls start while slots are free, and as the front end and the request limit allow;
- a call starts only if it will be answered by its deadline. If the present service time is too long, the call waits
  for a shorter one later in the scenario; if there is none, it is dropped.

It needs no retries: a random refusal costs it nothing unless every request is refused, and a broken answer costs the
slot it took. Attempt timeouts do not apply.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count
from math import fsum, inf
from typing import NamedTuple

from stormbreak.errors import ConfigurationError
from stormbreak.provider.fault_kinds import REFUSALS
from stormbreak.provider.rate_limit import Meter, meter_of
from stormbreak.provider.scenario import Limit, Load, Scenario
from stormbreak.provider.timeline import Phase, forecast

_STEP = 0.05  # seconds; shorter where service is
_MIN_STEP = 0.001
_STEPS_IN_A_SERVICE = 10
_NEGLIGIBLE = 1e-9
MAX_STEPS = 20_000_000  # maximum steps: some minutes of work


class Amount(NamedTuple):
    """The amount of `calls` that are answered at about `at`."""

    at: float
    calls: float


class _Conditions(NamedTuple):
    at: float
    slots: float  # slots with good answers
    service: float
    shortest: float  # shortest service time from `at` on


def ideal_throughput(scenario: Scenario, arrivals: Sequence[float]) -> list[Amount]:
    """Compute the answers of the optimum for calls that arrive at `arrivals` (in order)."""
    assert scenario.load is not None
    conditions = _conditions(scenario)
    step = _step(conditions)
    fluid = _Fluid(scenario, deadline=scenario.load.deadline, step=step)
    starts = [part.at for part in conditions]
    answers, place = [], 0
    last = arrivals[-1] + scenario.load.deadline if arrivals else 0.0
    for number in count():
        now = number * step
        if now > last:
            break
        before, place = place, bisect_right(arrivals, (number + 1) * step - _NEGLIGIBLE, place)
        fluid.arrive(arrivals[before:place])
        part = conditions[bisect_right(starts, now + _NEGLIGIBLE) - 1]
        started = fluid.flow(now, part)
        if started:
            answers.append(Amount(now + part.service, started))
        if place == len(arrivals) and not fluid.waits:
            break
    return answers


def within(amounts: Sequence[Amount], start: float, end: float = inf) -> float:
    """Sum the answers from `start` until before `end`."""
    return fsum(calls for at, calls in amounts if start <= at < end)


def check_length(scenario: Scenario) -> None:
    """Reject a scenario that would take hours: ConfigurationError."""
    assert scenario.load is not None
    longest = MAX_STEPS * _step(_conditions(scenario))
    if scenario.duration + scenario.load.deadline > longest:
        raise ConfigurationError(
            f"duration and load.deadline must be at most {longest:,.0f} s together in a simulation with such"
            f" service times, got {scenario.duration:g} and {scenario.load.deadline:g}"
        )


class _Fluid:
    """The amounts of waiting calls and of calls in service."""

    def __init__(self, scenario: Scenario, *, deadline: float, step: float) -> None:
        self._deadline = deadline
        self._step = step
        self._front_end = step * (scenario.provider.max_requests_per_second or inf)
        self._meters = _meters(scenario.limit, scenario.load)
        self._waiting: deque[tuple[float, float]] = deque()  # (arrival, amount), oldest first
        self._in_service = 0.0

    @property
    def waits(self) -> bool:
        return bool(self._waiting)

    def arrive(self, times: Sequence[float]) -> None:
        """Queue calls; the calls of one step are one entry."""
        if times:
            self._waiting.append((fsum(times) / len(times), float(len(times))))

    def flow(self, now: float, part: _Conditions) -> float:
        """Advance by one step; return the amount that started."""
        if part.service:
            self._in_service *= 1 - min(1.0, self._step / part.service)
        waiting = self._waiting
        while waiting and now + part.shortest > waiting[0][0] + self._deadline + _NEGLIGIBLE:
            waiting.popleft()
        started = self._start(now, part, self._room(now, part))
        if part.service:
            self._in_service += started
        for meter in self._meters:
            meter.charge(started)
        return started

    def _room(self, now: float, part: _Conditions) -> float:
        room = min(max(0.0, part.slots - self._in_service), self._front_end)
        return min([room, *(meter.state(now + _NEGLIGIBLE)[0] for meter in self._meters)])

    def _start(self, now: float, part: _Conditions, room: float) -> float:
        late = deque[tuple[float, float]]()
        parts = []
        while self._waiting and room > _NEGLIGIBLE:
            arrived, amount = self._waiting.popleft()
            if now + part.service > arrived + self._deadline + _NEGLIGIBLE:
                late.append((arrived, amount))
                continue
            taken = min(amount, room)
            room -= taken
            parts.append(taken)
            if amount - taken > _NEGLIGIBLE:
                self._waiting.appendleft((arrived, amount - taken))
        self._waiting.extendleft(reversed(late))
        return fsum(parts)


def _meters(limit: Limit | None, load: Load | None) -> list[Meter]:
    """The limits of requests and of tokens, both in calls: every call has the mean number of tokens."""
    if limit is None:
        return []
    calls = limit.tokens / load.tokens if limit.tokens and load and load.tokens else None
    both = meter_of(limit, limit.requests, limit.burst), meter_of(limit, calls, None)
    return [meter for meter in both if meter is not None]


def _conditions(scenario: Scenario) -> list[_Conditions]:
    phases = forecast(scenario)
    service = scenario.provider.service
    spans = [service * phase.slowdown for phase in phases]
    return [
        _Conditions(phase.at, _good_slots(phase), span, min(spans[place:]))
        for place, (phase, span) in enumerate(zip(phases, spans, strict=True))
    ]


def _good_slots(phase: Phase) -> float:
    if phase.down is not None:
        return 0.0
    passed = 1.0 - fsum(_shares(phase, refusals=True))
    if passed <= _NEGLIGIBLE:
        return 0.0
    good = max(0.0, 1.0 - fsum(_shares(phase, refusals=False)) / passed)
    return phase.slots * good if good else 0.0


def _shares(phase: Phase, *, refusals: bool) -> Iterator[float]:
    before = 0.0
    for end, fault in phase.faults:
        if (fault.kind in REFUSALS) is refusals:
            yield end - before
        before = end


def _step(conditions: Sequence[_Conditions]) -> float:
    spans = [part.service for part in conditions if part.service]
    shortest = min(spans, default=inf) / _STEPS_IN_A_SERVICE
    return max(_MIN_STEP, min(_STEP, shortest))
