"""Calculate a migration from one offer to another: savings, payback, return, and reasons against it.

Two figures are often confused: the *savings share* is savings divided by today's cost; the *return* over twelve months
is savings less the migration's cost, divided by that cost.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from decimal import ROUND_CEILING, Decimal

from stormbreak.cost.compare import MONTHS
from stormbreak.cost.money import Currency, near
from stormbreak.cost.sheet import percent, volume
from stormbreak.cost.token_prices import Number, Prices

PRICE_STEP, VOLUME_STEP = Decimal("0.2"), Decimal("0.5")
"""Changes of prices and volume in the sensitivity table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The tokens of a month, their cost before and after the move, and the one-time cost of the move; in dollars."""

    tokens: Number
    current: Decimal
    candidate: Decimal
    migration: Decimal

    @property
    def saving(self) -> Decimal:
        """Savings per month; negative if the move costs more."""
        return self.current - self.candidate

    @property
    def saving_a_year(self) -> Decimal:
        return self.saving * MONTHS

    @property
    def share(self) -> Decimal | None:
        """Savings as a share of today's cost; None if that is zero."""
        return self.saving / self.current if self.current else None

    @property
    def payback(self) -> Decimal | None:
        """Months until savings cover the migration; None: never."""
        if not self.migration:
            return Decimal(0) if self.saving >= 0 else None
        return self.migration / self.saving if self.saving > 0 else None

    @property
    def net(self) -> Decimal:
        return self.saving_a_year - self.migration

    @property
    def returned(self) -> Decimal | None:
        """The return over twelve months, as a share of the migration's cost; None if that is zero."""
        return self.net / self.migration if self.migration else None

    @property
    def break_even(self) -> Decimal | None:
        """The tokens per month at which twelve months pay for the migration; None: no number does."""
        if self.saving <= 0:
            return None
        return self.tokens * self.migration / self.saving_a_year

    @property
    def headroom(self) -> Decimal | None:
        """The rise of the new price, as a share, at which twelve months save nothing; None if they save nothing now."""
        if self.net <= 0 or not self.candidate:
            return None
        return self.net / (self.candidate * MONTHS)

    def scaled(
        self,
        *,
        current: Decimal = Decimal(1),
        candidate: Decimal = Decimal(1),
        volume: Decimal = Decimal(1),
    ) -> "Case":
        return Case(
            tokens=self.tokens * volume,
            current=self.current * current * volume,
            candidate=self.candidate * candidate * volume,
            migration=self.migration,
        )


def sensitivity(case: Case) -> Iterator[tuple[str, Case]]:
    """Vary each price by a fifth and the volume by half, up and down."""
    for name, step in (("current", PRICE_STEP), ("candidate", PRICE_STEP), ("volume", VOLUME_STEP)):
        for sign, factor in (("+", 1 + step), ("-", 1 - step)):
            what = "volume" if name == "volume" else f"{name} price"
            yield f"{what} {sign}{step:.0%}", case.scaled(**{name: factor})


OLD = 90  # days: list prices change more often than that
_ALIKE = Decimal("0.05")  # a smaller difference of a list price does not matter

Amount = Callable[[Decimal], str]  # formats an amount of dollars


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """A reason against a move, which `holds` now or under the condition in its text."""

    holds: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """A move: the prices on both sides, a month at their makers' list prices, and the cost of a minute of downtime."""

    case: Case
    current: Prices
    candidate: Prices
    listed_current: Decimal | None = None
    listed_candidate: Decimal | None = None
    per_minute: Decimal | None = None
    on: date

    @property
    def listed(self) -> Case | None:
        """The case against today's list price, if the current price is a claim."""
        if self.listed_current is None:
            return None
        return replace(self.case, current=self.listed_current)


def reasons(move: Migration, currency: Currency) -> Iterator[Reason]:
    """Yield the reasons from the figures, the most important first."""
    case, amount = move.case, currency.with_code
    if case.saving < 0:
        yield Reason(holds=True, text=f"It costs {amount(-case.saving)} a month more.")
    elif case.saving == 0:
        yield Reason(holds=True, text="It saves nothing.")
    yield from _at_list_prices(move, amount)
    yield from _break_even(move)
    if case.headroom is not None:
        text = (
            f"Once the new price has risen by {percent(case.headroom)}, twelve months save nothing."
        )
        yield Reason(holds=False, text=text)
    if move.per_minute and case.saving > 0:
        minutes = case.saving / move.per_minute
        each = amount(move.per_minute)
        text = (
            f"{near(minutes, 2)} minutes more downtime a month, at {each} each, cost what it saves."
        )
        yield Reason(holds=False, text=text)
    yield from _old(move)


def outcome(saving: Decimal, amount: Amount) -> str:
    """The savings of a month as a verb phrase."""
    if saving > 0:
        return f"saves {amount(saving)} a month"
    return f"costs {amount(-saving)} a month more" if saving else "saves nothing"


def _break_even(move: Migration) -> Iterator[Reason]:
    least = move.case.break_even
    if not least:
        return
    text = f"Below {volume(_in_short(least))} tokens a month, {MONTHS} months do not pay for the migration."
    yield Reason(holds=move.case.tokens < least, text=text)


def _at_list_prices(move: Migration, amount: Amount) -> Iterator[Reason]:
    """Compare claims and resellers with list prices."""
    case = move.case
    listed = move.listed_current
    if listed is not None and abs(listed - case.current) > _ALIKE * case.current:
        saving = listed - case.candidate
        text = (
            f"At today's list price, {move.current.maker} costs {amount(listed)} a month, not"
            f" {amount(case.current)}: against that the move {outcome(saving, amount)}."
        )
        yield Reason(holds=saving <= 0, text=text)
        if move.current.maker == move.candidate.maker:
            return
    listed = move.listed_candidate
    if listed is not None and listed < case.candidate and listed != case.current:
        text = (
            f"{move.candidate.maker} at the list price is {amount(listed)} a month:"
            f" {amount(case.candidate - listed)} less than {move.candidate.place}."
        )
        yield Reason(holds=True, text=text)


def _old(move: Migration) -> Iterator[Reason]:
    sources = dict.fromkeys(
        prices.source for prices in (move.current, move.candidate) if prices.source.as_of
    )
    for source in sources:
        assert source.as_of is not None
        days = (move.on - source.as_of).days
        if days > OLD:
            text = f"The prices of {source.name} are {days:,} days old: ask again before you move."
            yield Reason(holds=True, text=text)


def _in_short(number: Decimal) -> Decimal:
    """Round up to three digits."""
    digits = max(0, number.adjusted() - 2)
    return number.quantize(Decimal(1).scaleb(digits), rounding=ROUND_CEILING)
