"""The options that the subcommands of `stormbreak cost` share, and how what is typed becomes a value."""

import re
from collections.abc import Callable, Collection, Sequence
from decimal import Decimal
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from stormbreak.cost.money import USD, Currency
from stormbreak.cost.price_lookup import Seller
from stormbreak.cost.prices import Service
from stormbreak.errors import ConfigurationError
from stormbreak.key_patterns import quoted

F = TypeVar("F", bound=Callable[..., Any])

MAX_TOKENS = 10**14
"""A month; more than all providers together sell."""

_NUMBER = re.compile(r"[0-9]{1,30}(\.[0-9]{1,30})?")
_AMOUNT = re.compile(r"([0-9]{1,30}(?:\.[0-9]{1,30})?)([kMB]?)", re.IGNORECASE)
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


class Amount(click.ParamType[Decimal]):
    """A number in digits, within bounds."""

    name = "number"

    def __init__(self, words: str, most: int, *, least: str = "0", zero: bool = True) -> None:
        self.words = words
        self.most = most
        self.least = Decimal(least)
        self.zero = zero

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Decimal:
        """Read it; fail with what it must be."""
        if isinstance(value, Decimal):
            return value
        number = Decimal(value) if _NUMBER.fullmatch(value) else None
        if number is None or not self._fits(number):
            self.fail(f"must be {self.words}, got {quoted(value)}", param, ctx)
        return number

    def _fits(self, number: Decimal) -> bool:
        return self.least <= number <= self.most or (self.zero and number == 0)


class Volume(click.ParamType[tuple[int, ...]]):
    """A whole number of tokens, such as 50M, or several of them, each once."""

    name = "tokens"

    def __init__(self, *, several: bool = False) -> None:
        self.several = several

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Read them; fail with what they must be."""
        if isinstance(value, tuple):
            return value
        words = value.split(",") if self.several else [value]
        return tuple(dict.fromkeys(self._one(word.strip(), param, ctx) for word in words))

    def _one(self, word: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = _AMOUNT.fullmatch(word)
        amount = Decimal(found[1]) * _SIZES[found[2].lower()] if found else Decimal(0)
        if amount != int(amount) or not 1 <= amount <= MAX_TOKENS:
            wanted = f"a number of tokens from 1 to {MAX_TOKENS:,}, such as 50M"
            self.fail(f"must be {wanted}, got {quoted(word)}", param, ctx)
        return int(amount)


SHARE = Amount("a share between 0 and 1", 1)
MONEY = Amount("an amount between 0.01 and 1,000,000,000, or 0", 10**9, least="0.01")

_PRICES = (
    click.option(
        "--prices",
        "files",
        metavar="FILE",
        multiple=True,
        help="A price file, or article-2025; its word counts before the market's.",
    ),
)
_CURRENCY = (
    click.option(
        "--currency",
        metavar="CODE",
        default=USD.code,
        show_default=True,
        help="What amounts are shown in, by its ISO 4217 code.",
    ),
    click.option("--rate", metavar="N", help="How much of that currency one dollar is."),
)
_OUTPUT = (
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
    click.option("--csv", "as_csv", is_flag=True, help="Print CSV."),
    click.option("--report", metavar="FILE", help="Also a report: FILE.html, or FILE.png."),
)
_TRAFFIC = (
    click.option(
        "--input-share",
        type=SHARE,
        default="0.7",
        show_default=True,
        help="The share of all tokens that is input.",
    ),
    click.option(
        "--cache-rate",
        type=SHARE,
        default="0",
        show_default=True,
        help="The share of the input that is read from a cache.",
    ),
    click.option(
        "--prompt",
        type=Volume(),
        default="1",
        help="Tokens of one prompt, where long ones have prices of their own.",
    ),
    click.option(
        "--service",
        type=click.Choice([service.value for service in Service]),
        help="Whose prices: those of a batch API, say.  [default: standard]",
    ),
)


def shared(command: F) -> F:
    """Add the options of all subcommands."""
    return _with(command, (*_PRICES, *_CURRENCY, *_OUTPUT))


def priced(command: F) -> F:
    """Add the option that names price files."""
    return _with(command, _PRICES)


def traffic(command: F) -> F:
    """Add the options that say what kind of tokens they are."""
    return _with(command, _TRAFFIC)


def _with(command: F, options: Sequence[Callable[[F], F]]) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def currency_of(code: str, rate: str | None) -> Currency:
    """The currency that results are shown in."""
    if rate is not None and not _NUMBER.fullmatch(rate):
        raise click.UsageError(f"--rate must be a number, got {quoted(rate)}")
    try:
        currency = Currency(code.upper(), Decimal(rate or 1))
    except ConfigurationError as error:
        raise click.UsageError(f"--{error}") from None
    if rate is None and currency.code != USD.code:
        raise click.UsageError(
            f"--currency {currency.code} needs --rate, how much of it one dollar is"
        )
    return currency


def sellers_in(text: str) -> list[Seller]:
    """Who is listed by `--providers`."""
    try:
        return [Seller.parse(name) for name in names_in(text)]
    except ConfigurationError as error:
        raise ConfigurationError(f"--providers {error}") from None


def reject_unused_options(names: Collection[str], why: str) -> None:
    """Refuse those options of this command that were given, and say nothing here."""
    context = click.get_current_context()
    for option in context.command.params:
        source = option.name and context.get_parameter_source(option.name)
        if option.name in names and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} says nothing {why}")


def names_in(text: str) -> list[str]:
    """What is listed with commas, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
