"""A target that named a time is left alone until then, and approached slowly afterwards.

Two machines, because they end differently. `Cooldown` holds every call until the named time. `Pace` then
lets the standing queue leave one by one for a while, so that the end of a pause is no stampede; a circuit
that closes starts it too.

The named time is moved by chance within [t, 1.5 t] for the whole process, so that a fleet does not come
back in one instant. One answer cannot speak for the target when others contradict it: an attempt that left
*after* the one that was told to wait, and was served, lifts the cooldown. The call that was told still
waits (its retry obeys by itself). Without this, a provider that turns away three in ten at random would be
approached by one call at a time.
"""

from collections.abc import Mapping
from typing import Protocol

from stormbreak.core.gate import OPEN
from stormbreak.types import Outcome, Treatment, Verdict

SPREAD = 0.5
"""A named time t becomes anything within [t, (1 + SPREAD) t]."""


class OnCooldown(Protocol):
    """Is told when a cooldown starts, moves or is lifted."""

    def __call__(self, *, now: float, until: float | None) -> None:
        """`until` is its end; None when it is lifted."""
        ...


class Cooldown:
    """The gate that keeps calls away until a named time. The token is the time an attempt left."""

    __slots__ = ("_on_change", "_told_at", "_treatments", "until")
    name = "cooldown"

    def __init__(self, treatments: Mapping[Verdict, Treatment], on_change: OnCooldown) -> None:
        self._treatments = treatments
        self._on_change = on_change
        self._told_at = OPEN  # when the attempt left that was told to wait
        self.until = OPEN

    def ready_at(self, now: float) -> float:
        """The end of the cooldown, or OPEN."""
        return self.until if self.until > now else OPEN

    def take(self, now: float) -> float:
        """The time an attempt leaves."""
        return now

    def settle(self, token: float, outcome: Outcome, now: float, uniform: float) -> None:
        """Start, extend or lift the cooldown."""
        if outcome.verdict is Verdict.OK:
            if self.until > now and token > self._told_at:
                self.until = OPEN
                self._on_change(now=now, until=None)
            return
        wait = outcome.retry_after
        if not wait or not self._treatments[outcome.verdict].cools:
            return
        self._told_at = max(self._told_at, token)
        if self.until < now + wait:
            self.until = now + wait * (1 + SPREAD * uniform)
            self._on_change(now=now, until=self.until)


class Pace:
    """The gate that lets calls leave one by one for a while."""

    __slots__ = ("_ends", "_gap", "_next")
    name = "pace"

    def __init__(self) -> None:
        self._next = self._ends = OPEN
        self._gap = 0.0

    def start(self, at: float, seconds: float, calls: int) -> None:
        """From `at` on, let at most `calls` leave within `seconds`, evenly spaced.

        A pace that has begun is not cut short by another.
        """
        self._next = max(self._next, at)
        self._ends = max(self._ends, at + seconds)
        self._gap = (self._ends - self._next) / calls

    def stop(self) -> None:
        """Let everything leave."""
        self._next = self._ends = OPEN
        self._gap = 0.0

    def ready_at(self, now: float) -> float:
        """The time of the next leave, or OPEN."""
        ready_at = min(self._next, self._ends)
        return ready_at if ready_at > now else OPEN

    def take(self, now: float) -> None:
        """One leaves; the next may leave one gap later."""
        if now < self._ends:
            self._next = max(self._next, now) + self._gap

    def settle(self, token: None, outcome: Outcome, now: float, uniform: float) -> None:
        """Nothing to learn."""
