"""Hold calls to a target until its Retry-After, and ramp up afterwards.

There are two gates, because they end differently. `Cooldown` holds every call until the named time. `Pace` then lets
the queue leave in groups for a while, to avoid a stampede after the pause; a closing circuit also starts it.

The named time t becomes a random time within [t, 1.5 t] for the whole process, so that a fleet does not return at one
instant. If an attempt that left no earlier than the refused one is served, the cooldown is lifted; the refused call
still waits, since its retry respects the time. Without this, a provider that refuses three in ten at random would get
one call at a time.

One answer cannot close the target for longer than `max_wait` plus its spread. The refused call ends with the time that
it was given. The other calls come back after `max_wait`, a few at first, and are refused again if the longer time was
meant.
"""

from collections.abc import Callable, Mapping
from math import inf
from typing import NamedTuple, Protocol

from stormbreak.core.gate import READY
from stormbreak.types import VERDICT_OK, Outcome, Treatment, Verdict

SPREAD = 0.5
"""A named time t becomes a random time within [t, (1 + SPREAD) t], unless a policy sets another spread."""

MIN_GROUP = 4
"""Minimum number of calls that leave together after a pause: a single one might be unlucky."""


class CooldownNews(NamedTuple):
    """The attempt that left at `sent_at` was refused until `until` (without the spread), or was served (None)."""

    sent_at: float
    until: float | None


class OnCooldown(Protocol):
    """Called when a cooldown starts, moves or is lifted."""

    def __call__(self, *, now: float, until: float | None) -> None:
        """`until` is its end; None when it is lifted."""


class Cooldown:
    """The gate that holds calls until a named time. The token is the time at which an attempt left."""

    name = "cooldown"
    takes = False

    def __init__(
        self,
        treatments: Mapping[Verdict, Treatment],
        on_change: OnCooldown,
        *,
        max_wait: float,
        spread: float = SPREAD,
        affects_one_call: Callable[[Outcome, float], bool] = lambda *_: False,
    ) -> None:
        """`affects_one_call(outcome, now)`: whether only the refused call has to wait."""
        self._affects_one_call = affects_one_call
        self._spread = spread
        self._max_wait = max_wait
        self._treatments = treatments
        self._on_change = on_change
        self._refused_sent_at = -inf  # when the newest attempt left that got a Retry-After
        self.asked = 0.0  # the Retry-After of the cooldown in force, as it came, in seconds
        self.until = READY
        self.news: CooldownNews | None = None  # the latest change by an attempt of this process

    def ready_at(self, _call: object, now: float) -> float:
        return self.until if self.until > now else READY

    def take(self, _call: object, now: float) -> float:
        return now

    def settle(self, token: float, outcome: Outcome, now: float, uniform: float) -> None:
        """Start, extend or lift the cooldown."""
        if outcome.verdict is VERDICT_OK:
            self.on_success(token, outcome, now, uniform)
            return
        wait = outcome.retry_after
        if (
            not wait
            or not self._treatments[outcome.verdict].cools
            or self._affects_one_call(outcome, now)
        ):
            return
        self._refused_sent_at = max(self._refused_sent_at, token)
        asked, wait = wait, min(wait, self._max_wait)
        if self.until < now + wait:
            self.asked = asked
            self.news = CooldownNews(token, now + wait)
            self.until = now + wait * (1 + self._spread * uniform)
            self._on_change(now=now, until=self.until)

    def on_success(self, token: float, _outcome: Outcome, now: float, _uniform: float) -> None:
        if self.until > now and token >= self._refused_sent_at:
            self.news = CooldownNews(token, None)
            self.lift(now)

    def hold(self, until: float, now: float) -> None:
        """Hold calls until `until`: a cooldown from elsewhere."""
        if self.until < until:
            self.asked = until - now
            self.until = until
            self._on_change(now=now, until=until)

    def lift(self, now: float) -> None:
        if self.until > now:
            self.until = READY
            self._on_change(now=now, until=None)


class Pace:
    """The gate that lets calls leave in groups for a while. The token is the number of the pace.

    A group leaves at one instant. Groups start small. From one pace to the next their size doubles if most calls of the
    pace before got no Retry-After, and halves otherwise. So an exhausted target gets few calls, and a target that
    refuses at random is soon fully used.
    """

    name = "pace"
    takes = True
    on_success = None

    def __init__(self) -> None:
        self._group = MIN_GROUP
        self._number = self._left = self._refused = self._vacant = 0
        self._next_at = self.ends_at = READY
        self._gap = 0.0

    def start(self, at: float, seconds: float, calls: int) -> None:
        """From `at` on, let at most `calls` leave within `seconds`, in evenly spaced groups.

        A new pace does not end one that has begun.
        """
        if self._left:
            well = 2 * self._refused <= self._left
            self._group = self._group * 2 if well else self._group // 2
            self._group = min(max(self._group, MIN_GROUP), max(calls, MIN_GROUP))
            self._left = self._refused = 0
        self._number += 1
        self._next_at = max(self._next_at, at)
        self.ends_at = max(self.ends_at, at + seconds)
        self._gap = (self.ends_at - self._next_at) / calls
        self._vacant = self._group

    def stop(self) -> None:
        self._next_at = self.ends_at = READY

    def ready_at(self, _call: object, now: float) -> float:
        """Return the time of the next group, or READY."""
        if self._next_at <= now or self.ends_at <= now:
            return READY
        return min(self._next_at, self.ends_at)

    def take(self, _call: object, now: float) -> int:
        """Let one call leave; after a complete group, the next one leaves after as many gaps."""
        if now < self.ends_at:
            self._left += 1
            self._vacant -= 1
            if self._vacant <= 0:
                self._next_at = max(self._next_at, now) + self._gap * self._group
                self._vacant = self._group
        return self._number

    def settle(self, token: int, outcome: Outcome, _now: float, _uniform: float) -> None:
        """Count the attempts that were refused with a named time."""
        refused = outcome.retry_after is not None and outcome.verdict is not VERDICT_OK
        if refused and token == self._number:
            self._refused += 1
