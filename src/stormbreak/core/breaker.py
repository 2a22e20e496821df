"""The circuit breaker: stops sending to a target that is ill, and finds out when it is well again.

States and what moves them::

    state      event                                     next
    closed     the trip rule says so                     open
    open       open time is over, and a call would leave half-open (that call is the first probe)
    half-open  enough probes succeeded                   closed
    half-open  enough probes failed to make that         open
               impossible (or any, with any_failure_reopens)
    any        isolate()                                 isolated
    isolated   reset()                                   closed

`ready_at` looks and changes nothing; only `take` moves open to half-open. Each state has an epoch, and each
token carries the epoch that gave it: a result that comes late, from an earlier state, moves nothing.
A probe holds its place for at most its lease; when that is over another call may have the place, so a probe
that hangs cannot hold the circuit. Its own result still counts, however late, while the state that sent it
lasts: otherwise a target slower than the lease, and well, would never be let back in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil
from typing import Protocol, TypeAlias

from stormbreak.core.checks import require
from stormbreak.core.gate import OPEN, UNTIL_EVENT
from stormbreak.core.trip import FailureRate, TripRule
from stormbreak.types import Outcome, Tally, Treatment, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """When to open, how long to stay open, and what it takes to close again.

    `open_for` seconds are moved by chance by up to +-`jitter` of themselves. Half-open sends at most
    `probes`, `at_once` at the same time; one unanswered for `lease` seconds makes room for another. `close_at`
    is the share of them that must succeed.
    """

    trip: TripRule = field(default_factory=FailureRate)
    open_for: float = 5.0
    jitter: float = 0.5
    probes: int = 3
    at_once: int = 3
    close_at: float = 0.5
    any_failure_reopens: bool = False
    lease: float = 60.0

    def __post_init__(self) -> None:
        require(self.open_for > 0, "open_for must be positive", self.open_for)
        require(0 <= self.jitter < 1, "jitter must lie in [0, 1)", self.jitter)
        require(self.probes >= 1, "probes must be at least 1", self.probes)
        require(1 <= self.at_once <= self.probes, "at_once must lie in [1, probes]", self.at_once)
        require(0 < self.close_at <= 1, "close_at must lie in (0, 1]", self.close_at)
        require(self.lease > 0, "lease must be positive", self.lease)


class State(StrEnum):
    """Where a circuit stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    ISOLATED = "isolated"


class OnChange(Protocol):
    """Is told of every change of state."""

    def __call__(self, before: State, after: State, *, now: float, until: float | None) -> None:
        """`until` is the end of the open time, where the circuit opened."""
        ...


class _Probe:
    __slots__ = ("epoch", "lease_until")

    def __init__(self, epoch: int, lease_until: float) -> None:
        self.epoch = epoch
        self.lease_until = lease_until


BreakerToken: TypeAlias = int | _Probe


class Breaker:
    """The gate that asks whether the target is well."""

    __slots__ = (
        "_epoch", "_failed", "_needed", "_on_change", "_policy", "_probes", "_succeeded", "_treatments", "_trip",
        "state", "until",
    )  # fmt: skip
    name = "breaker"

    def __init__(
        self, policy: BreakerPolicy, treatments: Mapping[Verdict, Treatment], on_change: OnChange
    ) -> None:
        self._policy = policy
        self._treatments = treatments
        self._on_change = on_change
        self._trip = policy.trip.machine()
        self._needed = max(1, ceil(policy.close_at * policy.probes - 1e-9))
        self._epoch = 0
        self._probes: list[_Probe] = []
        self._succeeded = self._failed = 0
        self.state = State.CLOSED
        self.until = OPEN  # end of the open time

    def ready_at(self, now: float) -> float:
        """When a call may leave: see `Gate`."""
        if self.state is State.CLOSED:
            return OPEN
        if self.state is State.OPEN:
            return self.until if self.until > now else OPEN
        if self.state is State.ISOLATED:
            return UNTIL_EVENT
        return self._probe_at(now)

    def _probe_at(self, now: float) -> float:
        holding = [probe.lease_until for probe in self._probes if probe.lease_until > now]
        left = self._policy.probes - self._succeeded - self._failed - len(holding)
        if left > 0 and len(holding) < self._policy.at_once:
            return OPEN
        return min(holding, default=OPEN)

    def take(self, now: float) -> BreakerToken:
        """Let one call pass: freely while closed, as a probe otherwise."""
        if self.state is State.CLOSED:
            return self._epoch
        if self.state is State.OPEN:
            self._move(State.HALF_OPEN, now)
        self._probes = [probe for probe in self._probes if probe.lease_until > now]
        probe = _Probe(self._epoch, now + self._policy.lease)
        self._probes.append(probe)
        return probe

    def settle(self, token: BreakerToken, outcome: Outcome, now: float, uniform: float) -> None:
        """Count the outcome, unless it belongs to an earlier state."""
        tally = Tally.NOTHING if outcome.own_deadline else self._treatments[outcome.verdict].tally
        if isinstance(token, _Probe):
            if token.epoch == self._epoch:
                if token in self._probes:  # else its lease is over, and its place given away
                    self._probes.remove(token)
                self._settle_probe(tally, now, uniform)
        elif (
            token == self._epoch
            and tally is not Tally.NOTHING
            and self._trip.record(now, failed=tally is Tally.FAILURE)
        ):
            self._open(now, uniform)

    def _settle_probe(self, tally: Tally, now: float, uniform: float) -> None:
        if tally is Tally.SUCCESS:
            self._succeeded += 1
        elif tally is Tally.FAILURE:
            self._failed += 1
        tolerated = 0 if self._policy.any_failure_reopens else self._policy.probes - self._needed
        if self._failed > tolerated:
            self._open(now, uniform)
        elif self._succeeded >= self._needed:
            self._trip.reset()
            self._move(State.CLOSED, now)

    def _open(self, now: float, uniform: float) -> None:
        spread = 1 + self._policy.jitter * (2 * uniform - 1)
        self.until = now + self._policy.open_for * spread
        self._move(State.OPEN, now)

    def isolate(self, now: float) -> None:
        """Open by hand, until `reset`."""
        self._move(State.ISOLATED, now)

    def reset(self, now: float) -> None:
        """Close by hand, and forget what was counted."""
        self._trip.reset()
        self._move(State.CLOSED, now)

    def _move(self, after: State, now: float) -> None:
        before, self.state = self.state, after
        self._epoch += 1
        self._probes = []
        self._succeeded = self._failed = 0
        self._on_change(before, after, now=now, until=self.until if after is State.OPEN else None)
