"""Who pays, for retries and for all attempts: policies that say the same of it share one payer, across targets."""

from collections.abc import Callable, Sequence
from typing import Any

from stormbreak.core.policy import Policy
from stormbreak.core.retry_budget import Budget, BudgetPolicy
from stormbreak.core.spend_account import Purse
from stormbreak.core.spend_policy import PriceOf, SpendPolicy
from stormbreak.core.spending import Report, Spending
from stormbreak.types import Target


class SharedBudgets:
    """The budgets and purses of one engine.

    `freed(now, gate)` is called when an attempt has been paid through that gate; `price_of` is asked where there is a limit of
    spending.
    """

    __slots__ = ("_budgets", "_freed", "_purses", "price_of")

    def __init__(
        self, freed: Callable[[float, Spending], None], price_of: PriceOf | None = None
    ) -> None:
        self._freed = freed
        self.price_of = price_of
        self._budgets: dict[tuple[str, BudgetPolicy], Budget] = {}
        self._purses: dict[SpendPolicy, Purse] = {}

    def budgets(self, policy: Policy) -> tuple[Budget | None, Budget | None]:
        """Who pays for retries under `policy`, and who would in its shadow."""
        beside = None if policy.shadow is None else policy.shadow.retry_budget
        return self._budget("real", policy.retry_budget), self._budget("shadow", beside)

    def purse(self, policy: Policy) -> Purse | None:
        """Who pays for attempts under `policy`, where it has a limit of spending."""
        spend = policy.spend
        if not spend.acts:
            return None
        purse = self._purses.get(spend)
        if purse is None:
            purse = self._purses[spend] = Purse(spend)
        return purse

    def spending(self, policy: Policy, target: Target, report: Report) -> Spending | None:
        """The gate of a target under `policy`, where that has a limit of spending; `report` as it has it."""
        purse = self.purse(policy)
        if purse is None:
            return None
        prices = self.price_of and self.price_of(target.provider, target.model)
        return Spending(purse, prices, report, self._freed)

    def succeed(self, changes: Sequence[tuple[Policy, Policy]]) -> None:
        """Other policies come, each in the place of one: what was spent in a period goes on counting under another limit for it.

        A limit that some of them keep stays with those: who leaves begins with what all of them have spent. So does who
        leaves for another limit than the first.
        """
        before = dict(self._purses)
        kept = {after.spend for _, after in changes}
        for old, new in ((first.spend, after.spend) for first, after in changes):
            purse = before.get(old)
            if purse is None or not new.acts or old.period != new.period or new in self._purses:
                continue
            if old in kept or old not in self._purses:
                self._purses[new] = purse.branch(new)
            else:
                purse.govern(new)
                self._purses[new] = self._purses.pop(old)

    def snapshot(self, now: float) -> dict[str, Any]:
        """How each purse stands, where there is one."""
        purses = [purse.snapshot(now) for purse in self._purses.values()]
        return {"spend": purses} if purses else {}

    def _budget(self, whose: str, policy: BudgetPolicy | None) -> Budget | None:
        if policy is None:
            return None
        budget = self._budgets.get((whose, policy))
        if budget is None:
            budget = self._budgets[whose, policy] = Budget(policy)
        return budget
