"""The gate that holds a call until the most that it can cost may be spent.

Like the quota it asks how heavy a call is. What can never be had is refused at once: more than the whole limit, or than
what will ever be left of it, and what nobody can tell the most of.

| what came of the attempt | spent |
|---|---|
| its usage arrived | what that costs |
| an answer without, or something that may have been processed | all that was set aside |
| anything else: refused, never sent | nothing |
"""

from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple, TypeAlias

from stormbreak.core.gate import UNTIL_EVENT
from stormbreak.core.spend_account import NOTHING, Purse, Share
from stormbreak.core.spend_policy import PriceTable, known_cost, known_max_cost
from stormbreak.types import Call, Outcome, Rejection, Usage, Verdict

COST = "cost"
"""The policy that refuses a call for what it alone may cost: more than the whole limit, or nobody can tell how much."""

Report: TypeAlias = Callable[[float, Share], None]


class Reserved(NamedTuple):
    """What one attempt has set aside, in which period."""

    most: Decimal
    period: int


class Spending:
    """What one target may spend of a purse that it shares with others."""

    __slots__ = ("_freed", "_most", "_prices", "_report", "_weighed", "purse")
    name = "spend"
    settles_success = True

    def __init__(
        self,
        purse: Purse,
        prices: PriceTable | None,
        report: Report,
        freed: Callable[[float, "Spending"], None],
    ) -> None:
        """`report(now, share)` hears when a further part of the limit is reached.

        `freed(now, self)` is called when an attempt has been paid, for those who wait elsewhere: there is more again, or too
        little for good. Here, they are looked at when all gates have been settled.
        """
        self.purse = purse
        self._freed = freed
        self._prices = prices
        self._report = report
        self._weighed: Usage | None = None  # of the call that is asked about
        self._most: Decimal | None = None

    def weigh(self, call: Call) -> None:
        """The next questions are about `call`."""
        bound = call.bound
        if bound is not self._weighed:  # it is asked about at every gate, and while it waits
            self._weighed = bound
            self._most = most = None if bound is None else known_max_cost(self._prices, bound)
            if most is not None and most > self.purse.largest:
                self.purse.largest = most

    def veto(self, call: Call, now: float) -> Rejection | None:
        """Why `call` may never leave, if so."""
        self.weigh(call)
        purse, most = self.purse, self._most
        if most is None:
            return Rejection(COST, self._unknown(call))
        if not purse.lacks_for(most, now):
            return None
        if most > purse.limit:
            reason = f"it may cost {most:.6f} USD, and the limit is {purse.limit} USD"
            return Rejection(COST, reason)
        self._notify(now, refused=True)
        if purse.refunds_at:
            return None
        return Rejection(self.name, f"the limit of {purse.limit} USD leaves no {most:.6f} USD")

    def ready_at(self, now: float) -> float:
        """OPEN, when it may leave, or UNTIL_EVENT."""
        return UNTIL_EVENT if self._most is None else self.purse.ready_at(self._most, now)

    def take(self, now: float) -> Reserved:
        """Set aside for one attempt."""
        assert self._most is not None, "the gate was open"
        return Reserved(self._most, self.purse.set_aside(self._most, now))

    def settle(self, token: Reserved, outcome: Outcome, now: float, uniform: float) -> None:  # noqa: ARG002
        """Spend what it cost, and give back the rest."""
        most, period = token
        usage = outcome.usage
        cost = None if usage is None else known_cost(self._prices, usage)
        if cost is None:
            billed = outcome.verdict is Verdict.OK or outcome.maybe_processed
            cost = most if billed or usage is not None else NOTHING
        self.purse.settle(most, cost, period, now)
        self._notify(now)
        self._freed(now, self)

    def recheck_at(self) -> float:
        """When another period begins, whatever is still set aside in this one."""
        return self.purse.ends_at

    def _unknown(self, call: Call) -> str:
        if call.bound is None:
            return call.unbounded or "nothing bounds what it costs"
        return f"no price is known of {call.target.model} at {call.target.provider}"

    def _notify(self, now: float, *, refused: bool = False) -> None:
        share = self.purse.news(refused=refused)
        if share is not None:
            self._report(now, share)
