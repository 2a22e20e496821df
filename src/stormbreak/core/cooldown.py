"""A target that named a time is left alone until then, and approached slowly afterwards.

Two machines, because they end differently. `Cooldown` holds every call until the named time. `Pace` then
lets the standing queue leave one by one for a while, so that the end of a pause is no stampede; a circuit
that closes starts it too.

The named time is moved by chance within [t, 1.5 t] for the whole process, so that a fleet does not come
back in one instant. One answer cannot speak for the target when others contradict it: an attempt that left
no earlier than the one that was told to wait, and was served, lifts the cooldown. The call that was told
still waits (its retry obeys by itself). Without this, a provider that turns away three in ten at random
would be approached by one call at a time.

Nor can one answer close the target for longer than `longest`, and its spread: the call that was told ends with its own
time, the others come back then, a few at first, and are told again if it was meant.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from stormbreak.core.gate import OPEN
from stormbreak.types import Outcome, Treatment, Verdict

SPREAD = 0.5
"""A named time t becomes anything within [t, (1 + SPREAD) t], where nothing else is said."""


MIN_GROUP = 4
"""Calls that leave together after a pause, at the least: one alone might be unlucky."""


class OnCooldown(Protocol):
    """Is told when a cooldown starts, moves or is lifted."""

    def __call__(self, *, now: float, until: float | None) -> None:
        """`until` is its end; None when it is lifted."""
        ...


class Cooldown:
    """The gate that keeps calls away until a named time. The token is the time an attempt left."""

    __slots__ = (
        "_longest",
        "_on_change",
        "_spared",
        "_spread",
        "_told_at",
        "_treatments",
        "asked",
        "until",
    )
    name = "cooldown"
    settles_success = True

    def __init__(
        self,
        treatments: Mapping[Verdict, Treatment],
        on_change: OnCooldown,
        *,
        longest: float,
        spread: float = SPREAD,
        spared: Callable[[Outcome, float], bool] = lambda *_: False,
    ) -> None:
        """`spared(outcome, now)` says that only the call that was told has to wait."""
        self._spared = spared
        self._spread = spread
        self._longest = longest
        self._treatments = treatments
        self._on_change = on_change
        self._told_at = OPEN  # when the attempt left that was told to wait
        self.asked = (
            0.0  # seconds that were named for the cooldown in force, before they were spread
        )
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
            if self.until > now and token >= self._told_at:
                self.lift(now)
            return
        wait = outcome.retry_after
        if not wait or not self._treatments[outcome.verdict].cools or self._spared(outcome, now):
            return
        self._told_at = max(self._told_at, token)
        wait = min(wait, self._longest)
        if self.until < now + wait:
            self.asked = wait
            self.until = now + wait * (1 + self._spread * uniform)
            self._on_change(now=now, until=self.until)

    def hold(self, until: float, now: float) -> None:
        """Keep calls away until then, as the target asked an earlier process."""
        if self.until < until:
            self.asked = until - now
            self.until = until
            self._on_change(now=now, until=until)

    def lift(self, now: float) -> None:
        """End the cooldown, if there is one."""
        if self.until > now:
            self.until = OPEN
            self._on_change(now=now, until=None)


class Pace:
    """The gate that lets calls leave in groups for a while. The token numbers the release.

    A group leaves at one instant. It starts small and doubles from one release to the next while most of
    those that left before were not sent away again; else it halves. So a target that is really exhausted is
    asked by a few, and one that turns some away at random is soon used in full.
    """

    __slots__ = ("_ends", "_gap", "_group", "_left", "_next", "_release", "_sent_away", "_vacant")
    name = "pace"
    settles_success = False

    def __init__(self) -> None:
        self._group = MIN_GROUP
        self._release = self._left = self._sent_away = self._vacant = 0
        self._next = self._ends = OPEN
        self._gap = 0.0

    def start(self, at: float, seconds: float, calls: int) -> None:
        """From `at` on, let at most `calls` leave within `seconds`, the groups evenly spaced.

        A pace that has begun is not cut short by another.
        """
        if self._left:
            fared_well = 2 * self._sent_away <= self._left
            self._group = self._group * 2 if fared_well else self._group // 2
            self._group = min(max(self._group, MIN_GROUP), max(calls, MIN_GROUP))
            self._left = self._sent_away = 0
        self._release += 1
        self._next = max(self._next, at)
        self._ends = max(self._ends, at + seconds)
        self._gap = (self._ends - self._next) / calls
        self._vacant = self._group

    def stop(self) -> None:
        """Let everything leave."""
        self._next = self._ends = OPEN

    def ready_at(self, now: float) -> float:
        """The time of the next group, or OPEN."""
        if self._next <= now or self._ends <= now:
            return OPEN
        return min(self._next, self._ends)

    def take(self, now: float) -> int:
        """One leaves; when its group is complete, the next may leave after as many gaps."""
        if now < self._ends:
            self._left += 1
            self._vacant -= 1
            if self._vacant <= 0:
                self._next = max(self._next, now) + self._gap * self._group
                self._vacant = self._group
        return self._release

    def settle(self, token: int, outcome: Outcome, now: float, uniform: float) -> None:  # noqa: ARG002
        """Count who was sent away again."""
        sent_away = outcome.retry_after is not None and outcome.verdict is not Verdict.OK
        if sent_away and token == self._release:
            self._sent_away += 1
