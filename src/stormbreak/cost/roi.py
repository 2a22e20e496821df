"""What a migration from one offer to another saves: savings, payback, return, and reasons against it.

Two figures that are often taken for each other:

- the *savings share* is what is saved of what is paid today;
- the *return* over twelve months is what is left of the savings after the migration is paid, against what it costs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, Decimal

from stormbreak.cost.compare import MONTHS
from stormbreak.cost.money import Currency, near
from stormbreak.cost.prices import Number, Prices
from stormbreak.cost.sheet import percent, volume

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


# ---------------------------------------------------------------- reasons not to migrate

OLD = 90  # days: list prices change more often than that
_ALIKE = Decimal("0.05")  # a list price that differs by less decides nothing

Amount = Callable[[Decimal], str]
"""Writes an amount of dollars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """A reason against a move; it `holds` now, or would under what it says."""

    holds: bool
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """A move and what is known of it: the prices on both sides, and a month at the list prices of their makers.

    `per_minute` is what downtime costs, where that is known.
    """

    case: Case
    current: Prices
    candidate: Prices
    listed_current: Decimal | None = None
    listed_candidate: Decimal | None = None
    per_minute: Decimal | None = None
    on: date


def reasons(move: Migration, currency: Currency) -> Iterator[Reason]:
    """Give each reason that the figures hold, the weightiest first."""
    case, amount = move.case, currency.told
    if case.saving < 0:
        yield Reason(holds=True, said=f"It costs {amount(-case.saving)} a month more.")
    elif case.saving == 0:
        yield Reason(holds=True, said="It saves nothing.")
    yield from _at_list_prices(move, amount)
    yield from _break_even(move)
    if case.headroom is not None:
        said = f"Once the new price has risen by {percent(case.headroom)}, twelve months bring nothing."
        yield Reason(holds=False, said=said)
    if move.per_minute and case.saving > 0:
        minutes = case.saving / move.per_minute
        each = amount(move.per_minute)
        said = (
            f"{near(minutes, 2)} minutes more downtime a month, at {each} each, cost what it saves."
        )
        yield Reason(holds=False, said=said)
    yield from _old(move)


def outcome(saving: Decimal, amount: Amount) -> str:
    """What a month saves, as a verb and what it says."""
    if saving > 0:
        return f"saves {amount(saving)} a month"
    return f"costs {amount(-saving)} a month more" if saving else "saves nothing"


def _break_even(move: Migration) -> Iterator[Reason]:
    least = move.case.break_even
    if not least:
        return
    said = f"Below {volume(_in_short(least))} tokens a month, {MONTHS} months do not pay for the migration."
    yield Reason(holds=move.case.tokens < least, said=said)


def _at_list_prices(move: Migration, amount: Amount) -> Iterator[Reason]:
    """What claims, and resellers, are worth beside the lists of the market."""
    case = move.case
    listed = move.listed_current
    if listed is not None and abs(listed - case.current) > _ALIKE * case.current:
        saving = listed - case.candidate
        said = (
            f"Today's list price of {move.current.maker} makes {amount(listed)} a month, not"
            f" {amount(case.current)}: against that the move {outcome(saving, amount)}."
        )
        yield Reason(holds=saving <= 0, said=said)
        if move.current.maker == move.candidate.maker:
            return
    listed = move.listed_candidate
    if listed is not None and listed < case.candidate and listed != case.current:
        said = (
            f"{move.candidate.maker} at the list price is {amount(listed)} a month:"
            f" {amount(case.candidate - listed)} less than {_name(move.candidate)}."
        )
        yield Reason(holds=True, said=said)


def _old(move: Migration) -> Iterator[Reason]:
    sources = dict.fromkeys(
        prices.source for prices in (move.current, move.candidate) if prices.source.as_of
    )
    for source in sources:
        assert source.as_of is not None
        days = (move.on - source.as_of).days
        if days > OLD:
            said = f"The prices of {source.name} are {days:,} days old: ask again before you move."
            yield Reason(holds=True, said=said)


def _name(prices: Prices) -> str:
    return f"{prices.provider}/{prices.model}"


def _in_short(number: Decimal) -> Decimal:
    """Three digits, which say enough; rounded up."""
    digits = max(0, number.adjusted() - 2)
    return number.quantize(Decimal(1).scaleb(digits), rounding=ROUND_CEILING)
