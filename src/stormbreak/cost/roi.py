"""What moving from one offer to another brings: savings, payback, return, and how far all of it can be relied on.

Two figures that are often taken for each other:

- the *savings share* is what is saved of what is paid today;
- the *return* over twelve months is what is left of the savings after the migration is paid, against what it costs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from stormbreak.cost.compare import MONTHS
from stormbreak.cost.prices import Number

PRICE_STEP, VOLUME_STEP = Decimal("0.2"), Decimal("0.5")
"""How far prices and volume are moved to see what depends on them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A month of so many tokens today, the same after the move, and what the move costs once; in dollars."""

    tokens: Number
    current: Decimal
    candidate: Decimal
    migration: Decimal

    @property
    def saving(self) -> Decimal:
        """What is saved in a month; negative where the move makes it dearer."""
        return self.current - self.candidate

    @property
    def saving_a_year(self) -> Decimal:
        """What is saved in twelve months, before the migration is paid."""
        return self.saving * MONTHS

    @property
    def share(self) -> Decimal | None:
        """What is saved of what is paid today; None where nothing is paid today."""
        return self.saving / self.current if self.current else None

    @property
    def payback(self) -> Decimal | None:
        """Months until the migration is paid; None: never."""
        if not self.migration:
            return Decimal(0) if self.saving >= 0 else None
        return self.migration / self.saving if self.saving > 0 else None

    @property
    def net(self) -> Decimal:
        """What is left after twelve months, the migration paid."""
        return self.saving_a_year - self.migration

    @property
    def returned(self) -> Decimal | None:
        """The return over twelve months, as a share of the migration's cost; None where that is nothing."""
        return self.net / self.migration if self.migration else None

    @property
    def break_even(self) -> Decimal | None:
        """The tokens a month at which twelve months just pay for the migration; None: no number of them does."""
        if self.saving <= 0:
            return None
        return self.tokens * self.migration / self.saving_a_year

    @property
    def headroom(self) -> Decimal | None:
        """The rise of the new price, as a share, that leaves nothing after twelve months; None where nothing is left now."""
        if self.net <= 0 or not self.candidate:
            return None
        return self.net / (self.candidate * MONTHS)

    def moved(
        self,
        *,
        current: Decimal = Decimal(1),
        candidate: Decimal = Decimal(1),
        volume: Decimal = Decimal(1),
    ) -> "Case":
        """The same with prices and volume so many times what they are."""
        return Case(
            tokens=self.tokens * volume,
            current=self.current * current * volume,
            candidate=self.candidate * candidate * volume,
            migration=self.migration,
        )


def sensitivity(case: Case) -> Iterator[tuple[str, Case]]:
    """The case with each price a fifth higher and lower, and with half as much volume more and less."""
    for name, step in (("current", PRICE_STEP), ("candidate", PRICE_STEP), ("volume", VOLUME_STEP)):
        for sign, factor in (("+", 1 + step), ("-", 1 - step)):
            what = "volume" if name == "volume" else f"{name} price"
            yield f"{what} {sign}{step:.0%}", case.moved(**{name: factor})
