"""What may still be spent under one limit, whatever the target.

The most that an attempt can cost is set aside before it leaves. When it has ended, what it did cost is spent, and the rest
is there again; where nobody knows what it cost, all of it is spent. So what is spent and what is set aside never pass the
limit together, as long as no attempt costs more than was taken for the most.

A limit may be per period. The first begins with the first attempt, and what an attempt costs belongs to the one in which
it left.
"""

from decimal import Decimal
from math import inf
from typing import NamedTuple

from stormbreak.core.gate import OPEN, UNTIL_EVENT
from stormbreak.core.spend_policy import EXACT, SpendPolicy

ALERTS = (50, 80, 100)
"""Per cent of the limit that are told when they are reached."""

MET = ALERTS[-1]

NOTHING = Decimal(0)
INFINITE = Decimal("inf")


class Share(NamedTuple):
    """How much of a limit has been reached, in per cent; `until` is the end of the period, where there is one."""

    percent: int
    spent: Decimal
    limit: Decimal
    until: float | None


class Purse:
    """The money of one policy. The period that was begun last `ends_at` that time; inf: never, or none has begun.

    No more is set aside than is `allowed` by now, where that is less than the limit: somebody writes down first what may be
    spent. `largest` is the most that any attempt was asked about for so far.
    """

    __slots__ = (
        "_met",
        "_per",
        "_period",
        "_reserved",
        "_spent",
        "_told",
        "allowed",
        "ends_at",
        "largest",
        "limit",
    )

    def __init__(self, policy: SpendPolicy) -> None:
        self._per = inf if policy.period is None else policy.period
        self.ends_at = inf
        self._period = 0
        self._spent = NOTHING
        self._reserved = NOTHING
        self._told = 0  # per cent
        self._met = False  # and that has been told
        self.allowed = INFINITE
        self.largest = NOTHING
        self.govern(policy)

    def govern(self, policy: SpendPolicy) -> None:
        """Go by another limit for the same period from now on; parts of it that are not reached yet will be told."""
        assert policy.max_usd is not None, "there is a limit"
        self.limit = Decimal(str(policy.max_usd))
        self._told = min(self._told, self._reached())
        self._met = self._told == MET

    def branch(self, policy: SpendPolicy) -> "Purse":
        """Another purse with a limit of its own for the same period, of which as much is spent as of this one."""
        purse = Purse(policy)
        purse.ends_at, purse._period, purse._spent = self.ends_at, self._period, self._spent
        purse._told = purse._reached()
        purse._met = purse._told == MET
        return purse

    def ready_at(self, most: Decimal, now: float) -> float:
        """OPEN; or the end of the period; or UNTIL_EVENT, where more may be there when others have ended."""
        taken = NOTHING if now >= self.ends_at else self.taken
        if EXACT.add(taken, most) <= min(self.limit, self.allowed):
            return OPEN
        return self.ends_at if self._lacks(most, now) else UNTIL_EVENT

    def lacks_for(self, most: Decimal, now: float) -> bool:
        """Whether so much cannot be had in this period, whatever others give back."""
        return most > self.limit or self._lacks(most, now)

    def _lacks(self, most: Decimal, now: float) -> bool:
        """Whether what is spent in this period leaves too little for it."""
        return now < self.ends_at and EXACT.add(self._spent, most) > self.limit

    @property
    def taken(self) -> Decimal:
        """What is spent and set aside, in the period that was begun last."""
        return EXACT.add(self._spent, self._reserved)

    @property
    def room(self) -> Decimal:
        """What else may be set aside in it by now."""
        return EXACT.subtract(min(self.limit, self.allowed), self.taken)

    @property
    def spent(self) -> Decimal:
        """US dollars, at the most, in the period that was begun last."""
        return self._spent

    @property
    def refunds_at(self) -> bool:
        """Whether another period follows."""
        return self._per != inf

    def set_aside(self, most: Decimal, now: float) -> int:
        """Take so much; returns the period that it is of."""
        self._turn(now)
        if self.ends_at == inf and self._per != inf:
            self.ends_at = now + self._per
        self._reserved = EXACT.add(self._reserved, most)
        return self._period

    def settle(self, most: Decimal, cost: Decimal, period: int, now: float) -> None:
        """Of `most`, set aside in that period, so much was spent."""
        self._turn(now)
        if period == self._period:
            self._reserved = EXACT.subtract(self._reserved, most)
            self.spend(cost)

    def spend(self, cost: Decimal) -> None:
        """Spend what nothing is set aside for any more, or never was: it was spent before there was this purse."""
        self._spent = EXACT.add(self._spent, cost)

    def news(self, *, refused: bool = False) -> Share | None:
        """The next of the `ALERTS`, once it is reached; the last also where a call was refused for want of money.

        Each is told once, those below the last also after such a refusal: there may be much left for lighter calls.
        """
        before, self._told = self._told, max(self._told, self._reached())
        met = refused or self._told == MET
        if met and not self._met:
            self._met = True
            return self._share(MET)
        return self._share(self._told) if before < self._told < MET else None

    def _share(self, percent: int) -> Share:
        return Share(
            percent, self._spent, self.limit, None if self.ends_at == inf else self.ends_at
        )

    def _reached(self) -> int:
        percent = int(100 * self._spent / self.limit)
        return max((alert for alert in ALERTS if alert <= percent), default=0)

    def snapshot(self, now: float) -> dict[str, str | float | None]:
        """What stands where: US dollars in digits, and seconds until the period ends."""
        over = now >= self.ends_at
        return {
            "limit": str(self.limit),
            "spent": str(NOTHING if over else self._spent),
            "set_aside": str(NOTHING if over else self._reserved),
            "ends": None if over or self.ends_at == inf else self.ends_at - now,
        }

    def _turn(self, now: float) -> None:
        """Begin another period, if the last one is over: what was spent and set aside then is none of it."""
        if now >= self.ends_at:
            self._period += 1
            self.ends_at = inf
            self._spent = self._reserved = NOTHING
            self._told = 0
            self._met = False
