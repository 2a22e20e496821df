"""Numbers of the command line: option types, and short forms of counts, times and dollars."""

import math
from decimal import Decimal
from typing import Any

import click

from stormbreak.cost.ledger import Cost, SpendLimit
from stormbreak.cost.money import USD, between
from stormbreak.key_patterns import quoted

# ---------------------------------------------------------------- short counts and times


def short(count: int) -> str:
    """Write a large count in four characters or so."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)


def span(seconds: float) -> str:
    """Write seconds as minutes and seconds, or as hours, minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


# ---------------------------------------------------------------- cost of a batch

_NOTHING = USD.shown(Decimal(0))


def dollars(least: str, most: str, *, unpriced: int, unbounded: int) -> str:
    """Write what is known and what it can be at the most, both as they are shown, and what is in neither."""
    said = f"{between(least, most)} USD" + (" or more" if unbounded else "")
    if not unpriced:
        return said
    besides = f"{short(unpriced)} attempts without a known price"
    return besides if most == _NOTHING else f"{said}, and {besides}"


def format_cost(cost: Cost, limit: SpendLimit | None) -> str:
    """Write what a batch has cost, and how much of its limit that is; nothing of what is not known."""
    said = []
    if cost.is_known:
        least, most = USD.shown(cost.least), USD.shown(cost.most)
        said.append(dollars(least, most, unpriced=cost.unpriced, unbounded=cost.unbounded))
    if limit is not None:
        share = int(100 * limit.spent / limit.usd)
        said.append(f"{share} % of the {USD.exact(limit.usd)} USD that it may cost")
    return "; ".join(said)


# ---------------------------------------------------------------- option types


class Positive(click.ParamType[float]):
    """A positive number of something, such as seconds."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it; fail with what it must be."""
        try:
            number = float(value)
        except ValueError:
            self.fail(f"must be a number of {self.name}, got {quoted(str(value))}", param, ctx)
        if not 0 < number < float("inf"):
            self.fail(f"must be positive and finite, got {value}", param, ctx)
        return number


class Number(click.ParamType[float]):
    """From `least` to `most`; NaN is none."""

    name = "number"

    def __init__(self, least: float, most: float) -> None:
        self._least = least
        self._most = most

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it, or say what it must be."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not self._least <= number <= self._most:
            self.fail(
                f"must be a positive number from {self._least} to {self._most:,}, got {quoted(str(value))}",
                param,
                ctx,
            )
        return number


SECONDS = Positive("seconds")
REQUESTS = Positive("requests")
TOKENS = Positive("tokens")
DOLLARS = Positive("US dollars")
