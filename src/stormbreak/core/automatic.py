"""The automatic in-flight limit: does no harm, and holds when it must.

Without evidence of congestion it does not bind, up to a ceiling: a calm burst from idle is sent at once, and
long and short answers side by side are no congestion. With evidence (`evidence`), the limit is a little above
what was just proven to be served (`proven`). After the last evidence it is held for `HOLD` seconds, then
doubles every `DOUBLING`, and after `FADE` it is gone. It is at least 1 and can always grow again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import floor, inf, log2
from typing import Literal

from stormbreak.core.baseline import Baseline
from stormbreak.core.checks import require
from stormbreak.core.evidence import Evidence
from stormbreak.core.flight import Flight, Landing
from stormbreak.core.gate import OPEN
from stormbreak.core.guard import Guard
from stormbreak.core.proven import ProvenByFirst, ProvenByRate
from stormbreak.types import Outcome

HOLD = 5.0  # seconds
DOUBLING = 20.0  # seconds
FADE = 120.0  # seconds
FAILING = 10.0  # seconds since failures stood out


@dataclass(frozen=True, slots=True, kw_only=True)
class AutomaticLimit:
    """Found by itself: `gain` times what was proven, and `plus`; without evidence, `ceiling`."""

    kind: Literal["automatic"] = "automatic"
    ceiling: int = 256
    gain: float = 1.5
    plus: float = 2.0

    def __post_init__(self) -> None:
        require(self.ceiling >= 1, "ceiling must be at least 1", self.ceiling)
        require(self.gain >= 1, "gain must be at least 1", self.gain)
        require(self.plus >= 0, "plus must not be negative", self.plus)


class AutomaticConcurrency:
    """The gate that counts slots, as many as seem good. The token is the attempt's flight."""

    __slots__ = (
        "_baseline", "_by_first", "_by_rate", "_evidence", "_floor", "_guard", "_held", "_held_at", "_paused", "_policy",
        "_successes", "in_flight", "limit",
    )  # fmt: skip
    name = "limit"

    def __init__(
        self, policy: AutomaticLimit, *, paused: Callable[[float], bool] = lambda _: False
    ) -> None:
        """`paused(now)` says whether the target asked to be left alone: then silence is no sign."""
        self._policy = policy
        self._paused = paused
        self._baseline = Baseline()
        self._evidence = Evidence()
        self._by_first = ProvenByFirst()
        self._by_rate = ProvenByRate()
        self._guard = Guard()
        self._floor = 0.0
        self._held = 0.0  # what the limit was when the last evidence came
        self._held_at = -inf
        self._successes = 0  # since the guard last looked
        self.in_flight = 0
        self.limit = policy.ceiling

    @property
    def late_at(self) -> float:
        """When lateness was last evidence of congestion."""
        return self._evidence.late_at

    def binds(self, now: float) -> bool:
        """Whether there is a limit but the ceiling."""
        return now - self._evidence.at - HOLD < FADE

    def ready_at(self, now: float) -> float:
        """OPEN while a slot is free; else when time alone frees one (an answer may come sooner)."""
        if self.in_flight < self._limit_at(now):
            return OPEN
        if not self.binds(now) or self._held <= 0:
            return inf
        growth = DOUBLING * log2(max(1.0, (self.in_flight + 1) / self._held))
        return max(now + 0.05, self._evidence.at + HOLD + min(growth, FADE))

    def tick(self, now: float, waited: float) -> None:
        """Look at the time: let attempts vote, and a queue stand whose oldest call has `waited` so long."""
        evidence, baseline = self._evidence, self._baseline
        evidence.vote(now, baseline.usual, streams=baseline.streams)
        evidence.stands(waited, now)
        self._review(now)

    def take(self, now: float) -> Flight:
        """Occupy a slot."""
        flight = Flight(now)
        self.in_flight += 1
        self._baseline.sent(flight)
        self._evidence.sent(flight)
        return flight

    def first(self, flight: Flight, now: float) -> None:
        """The first output of an attempt has come."""
        if flight.first_at is not None or flight.landing is not None:
            return
        if not self._baseline.streams:
            self._baseline.forget_first()
        flight.first_at = now
        self._by_first.first(now)

    def settle(self, token: Flight, outcome: Outcome, now: float, uniform: float) -> None:  # noqa: ARG002
        """Free the slot, and learn."""
        self.in_flight -= 1
        landing = token.land(outcome, now)
        if token.first_at is not None:
            self._by_first.ended(now)
        if landing is Landing.ANSWERED:
            self._successes += 1
            self._by_rate.succeeded(now, now - token.sent_at, self._baseline.mean)
        self._evidence.landed(landing, now)
        self._baseline.landed(now, self._evidence.at)
        self.tick(now, 0.0)

    def _proven(self, now: float) -> float:
        if self._baseline.streams:
            return self._by_first.at(now)
        return self._by_rate.at(now, self._baseline.mean)

    def _review(self, now: float) -> None:
        """Note what holds if this is the moment of evidence, and feed the guard."""
        evidence = self._evidence
        control = self._control(now)
        if evidence.at == now or evidence.at > self._held_at:
            self._held, self._held_at = control, evidence.at
        if not self._baseline.streams:
            self._guard_against_ourselves(now)
        self.limit = self._limit_at(now)

    def _guard_against_ourselves(self, now: float) -> None:
        successes, self._successes = self._successes, 0
        if not self.binds(now):
            self._floor = 0.0
            self._guard.quiet(now, successes, self.in_flight)
            return
        failing = now - self._evidence.errors_at < FAILING or self._paused(now)
        mean = self._baseline.mean or 0.0
        self._floor = self._guard.floor(now, successes, mean, failing=failing)

    def _control(self, now: float) -> float:
        return max(2.0, self._policy.gain * self._proven(now) + self._policy.plus)

    def _limit_at(self, now: float) -> int:
        quiet = now - self._evidence.at - HOLD
        if quiet >= FADE:
            return max(self._policy.ceiling, floor(self._control(now)))
        limit = self._control(now)
        if quiet > 0:
            limit = max(limit, self._held) * 2 ** (quiet / DOUBLING)
        return max(1, floor(max(limit, self._floor)))
