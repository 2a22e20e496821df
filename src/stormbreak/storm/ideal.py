"""The best that any client could do: what goodput is measured against.

A fluid optimum. Calls are an amount that flows, not single ones; it knows the capacity at every moment, keeps all
calls in one queue of its own, oldest first, and drops only what cannot meet its deadline any more. In short steps:

- what is in service leaves at `in service / service time` per second, and is an answer one service time after it
  started;
- what waits starts while there are free slots, and as the front end and the request limit allow;
- a call starts only if it will be answered by its deadline; one that no longer can at the present service time waits
  on for a shorter one, if the scenario brings one, and is dropped if not.

It has no use for retries: a trouble that strikes at random costs it nothing as long as it strikes less than every
request, and a spoilt answer costs the slot it took. Attempt timeouts do not bind it.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from math import fsum, inf
from typing import NamedTuple

from stormbreak.errors import ConfigurationError
from stormbreak.provider.fault_kinds import REFUSALS
from stormbreak.provider.scenario import Limit, LimitKind, Load, Scenario
from stormbreak.provider.timeline import Spell, forecast

_STEP = 0.05  # seconds; shorter where service is
_MIN_STEP = 0.001
_STEPS_IN_A_SERVICE = 10
_NEGLIGIBLE = 1e-9
MAX_STEPS = 20_000_000
"""Some minutes of work."""


class Amount(NamedTuple):
    """So many answers at about `at`."""

    at: float
    calls: float


class _Conditions(NamedTuple):
    at: float
    slots: float  # those that bring good answers
    service: float
    shortest: float  # the shortest service time from now on


def ideal_throughput(scenario: Scenario, arrivals: Sequence[float]) -> list[Amount]:
    """Give the answers of the optimum for calls that arrive at `arrivals` (in order)."""
    assert scenario.load is not None
    conditions = _conditions(scenario)
    step = _step(conditions)
    fluid = _Fluid(scenario, deadline=scenario.load.deadline, step=step)
    starts = [part.at for part in conditions]
    answers, place, number = [], 0, 0
    last = arrivals[-1] + scenario.load.deadline if arrivals else 0.0
    while number * step <= last:
        now = number * step
        after = bisect_right(arrivals, (number + 1) * step - _NEGLIGIBLE, place)
        fluid.arrive(arrivals[place:after])
        part = conditions[bisect_right(starts, now + _NEGLIGIBLE) - 1]
        started = fluid.flow(now, part)
        if started:
            answers.append(Amount(now + part.service, started))
        place = after
        number += 1
        if place == len(arrivals) and not fluid.waits:
            break
    return answers


def within(amounts: Sequence[Amount], start: float, end: float = inf) -> float:
    """Add up what came at `start` or later and before `end`."""
    return fsum(calls for at, calls in amounts if start <= at < end)


def check_length(scenario: Scenario) -> None:
    """Refuse a scenario that would take hours: ConfigurationError."""
    assert scenario.load is not None
    longest = MAX_STEPS * _step(_conditions(scenario))
    if scenario.duration + scenario.load.deadline > longest:
        raise ConfigurationError(
            f"duration and load.deadline must be at most {longest:,.0f} s together in a simulation with such"
            f" service times, got {scenario.duration:g} and {scenario.load.deadline:g}"
        )


class _Fluid:
    """What waits and what is in service, as amounts."""

    def __init__(self, scenario: Scenario, *, deadline: float, step: float) -> None:
        self._deadline = deadline
        self._step = step
        self._front_end = step * (scenario.provider.max_requests_per_second or inf)
        self._quotas = _quotas_of(scenario.limit, scenario.load)
        self._waiting: deque[tuple[float, float]] = deque()  # (arrival, amount), oldest first
        self._in_service = 0.0

    @property
    def waits(self) -> bool:
        """Whether anything does."""
        return bool(self._waiting)

    def arrive(self, times: Sequence[float]) -> None:
        """Queue calls; those of one step stand together."""
        if times:
            self._waiting.append((fsum(times) / len(times), float(len(times))))

    def flow(self, now: float, part: _Conditions) -> float:
        """Let one step pass; return the amount that started."""
        if part.service:
            self._in_service *= 1 - min(1.0, self._step / part.service)
        waiting = self._waiting
        while waiting and now + part.shortest > waiting[0][0] + self._deadline + _NEGLIGIBLE:
            waiting.popleft()
        started = self._start(now, part, self._room(now, part))
        if part.service:
            self._in_service += started
        for quota in self._quotas:
            quota.left -= started
        return started

    def _room(self, now: float, part: _Conditions) -> float:
        room = min(max(0.0, part.slots - self._in_service), self._front_end)
        return min([room, *(quota.at(now) for quota in self._quotas)])

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


class _Quota:
    """How many calls a limit allows at once."""

    def __init__(self, limit: Limit, calls: float, burst: float | None = None) -> None:
        self._limit = limit
        self._calls = self._most = calls
        if limit.kind is LimitKind.BUCKET and burst is not None:
            self._most = burst
        self.left = self._most
        self._since = 0.0

    def at(self, now: float) -> float:
        limit = self._limit
        if limit.kind is LimitKind.BUCKET:
            gained = (now - self._since) * self._calls / limit.period
            self.left = min(self._most, self.left + gained)
        elif int((now + _NEGLIGIBLE) / limit.period) != int(
            (self._since + _NEGLIGIBLE) / limit.period
        ):
            self.left = self._most
        self._since = now
        return self.left


def _quotas_of(limit: Limit | None, load: Load | None) -> list[_Quota]:
    """One for requests and one for tokens, of which every call has as many as the mean."""
    quotas = []
    if limit is not None and limit.requests is not None:
        quotas.append(_Quota(limit, limit.requests, limit.burst))
    if limit is not None and limit.tokens is not None and load is not None and load.tokens:
        quotas.append(_Quota(limit, limit.tokens / load.tokens))
    return quotas


def _conditions(scenario: Scenario) -> list[_Conditions]:
    spells = forecast(scenario)
    service = scenario.provider.service
    spans = [service * spell.slowdown for spell in spells]
    return [
        _Conditions(spell.at, _good_slots(spell), span, min(spans[place:]))
        for place, (spell, span) in enumerate(zip(spells, spans, strict=True))
    ]


def _good_slots(spell: Spell) -> float:
    if spell.down is not None:
        return 0.0
    refused = fsum(_shares(spell, refusals=True))
    spoilt = fsum(_shares(spell, refusals=False))
    passed = 1.0 - refused
    if passed <= _NEGLIGIBLE:
        return 0.0
    good = max(0.0, 1.0 - spoilt / passed)
    return spell.slots * good if good else 0.0


def _shares(spell: Spell, *, refusals: bool) -> Iterator[float]:
    before = 0.0
    for end, trouble in spell.faults:
        if (trouble.kind in REFUSALS) is refusals:
            yield end - before
        before = end


def _step(conditions: Sequence[_Conditions]) -> float:
    spans = [part.service for part in conditions if part.service]
    shortest = min(spans, default=inf) / _STEPS_IN_A_SERVICE
    return max(_MIN_STEP, min(_STEP, shortest))
