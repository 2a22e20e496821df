"""The options that the subcommands of `stormbreak cost` share, and their types."""

import re
from collections.abc import Callable, Collection
from decimal import Decimal
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from click.core import ParameterSource

from stormbreak.cli.command import Value, flag, option, options
from stormbreak.cli.cost.output import Output
from stormbreak.cli.options import JSON, NAMES, PRICES, REPORT
from stormbreak.cost.compare import Mix
from stormbreak.cost.money import USD, Currency
from stormbreak.cost.price_lookup import Seller
from stormbreak.cost.token_prices import Service
from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import quoted

F = TypeVar("F", bound=Callable[..., Any])

MAX_TOKENS = 10**14  # a month; more than all providers together sell
_NUMBER = re.compile(r"[0-9]{1,30}(\.[0-9]{1,30})?")
_AMOUNT = re.compile(r"([0-9]{1,30}(?:\.[0-9]{1,30})?)([kMB]?)", re.IGNORECASE)
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


class Amount(Value[Decimal]):
    """An exact decimal number from `low` to `high`, or 0 if `zero`."""

    def __init__(
        self, wanted: str, high: int, *, low: str = "0", zero: bool = True, name: str = "N"
    ) -> None:
        self.name = name
        self._wanted = wanted
        self._high = high
        self._low = Decimal(low)
        self._zero = zero

    def parse(self, text: str) -> Decimal:
        number = Decimal(text) if _NUMBER.fullmatch(text) else None
        if number is None or not (
            self._low <= number <= self._high or (self._zero and number == 0)
        ):
            raise ValueError(f"must be {self._wanted}, got {quoted(text)}")
        return number


class Volume(Value[tuple[int, ...]]):
    """A whole number of tokens, such as 50M, or several different ones."""

    def __init__(self, *, several: bool = False) -> None:
        self.name = "N,..." if several else "N"
        self._several = several

    def parse(self, text: str) -> tuple[int, ...]:
        words = text.split(",") if self._several else [text]
        return tuple(dict.fromkeys(self._one(word.strip()) for word in words))

    def _one(self, word: str) -> int:
        found = _AMOUNT.fullmatch(word)
        amount = Decimal(found[1]) * _SIZES[found[2].lower()] if found else Decimal(0)
        if amount != int(amount) or not 1 <= amount <= MAX_TOKENS:
            wanted = f"a number of tokens from 1 to {MAX_TOKENS:,}, such as 50M"
            raise ValueError(f"must be {wanted}, got {quoted(word)}")
        return int(amount)


SHARE = Amount("a share between 0 and 1", 1, name="SHARE")
MONEY = Amount("an amount between 0.01 and 1,000,000,000, or 0", 10**9, low="0.01", name="USD")
PROVIDERS = option(
    "--providers", NAMES, "Only these, as PROVIDER or PROVIDER@SOURCE; all by default.", default=()
)
_PRICES = options(
    "Prices",
    PRICES,
    option("--currency", "CODE", "Currency of amounts, by ISO 4217.", default=USD.code),
    option("--rate", "N", "Units of that currency per US dollar."),
)
_OUTPUT = options("Output", JSON, flag("--csv as_csv", "Print CSV."), REPORT)
traffic_options = options(
    "Traffic",
    option("--input-share", SHARE, "Share of the tokens that is input.", default="0.7"),
    option("--cache-rate", SHARE, "Share of the input read from a cache.", default="0"),
    option(
        "--prompt-tokens",
        Volume(),
        "Tokens of one prompt; some models cost more for long prompts.",
        default="1",
    ),
    option(
        "--service-tier",
        click.Choice([service.value for service in Service]),
        "Use the prices of this tier.",
        show_default=Service.STANDARD.value,
    ),
)
"""The options that describe the tokens; `mix_of` takes their values."""


def cost_options(command: F) -> F:
    """Add the options of all subcommands; the command gets them as `output`, and its price files as `prices`.

    A report must not replace a price file or a path argument of the command.
    """

    @wraps(command)
    def run(
        *,
        prices: tuple[str, ...],
        currency: str,
        rate: str | None,
        as_json: bool,
        as_csv: bool,
        report: str | None,
        **given: Any,
    ) -> Any:
        shown_in = _currency_of(currency, rate)
        output = Output.of(as_json=as_json, as_csv=as_csv, report=report, currency=shown_in)
        paths = [value for value in given.values() if isinstance(value, Path)]
        output.protect(*paths, *prices)
        return command(output=output, prices=prices, **given)

    return cast("F", _PRICES(_OUTPUT(run)))


def mix_of(
    *,
    input_share: Decimal,
    cache_rate: Decimal,
    prompt_tokens: tuple[int, ...],
    service_tier: str | None,
) -> Mix:
    service = Service(service_tier or Service.STANDARD)
    return Mix(input_share, cache_rate, prompt_tokens[0], service)


def _currency_of(code: str, rate: str | None) -> Currency:
    if rate is not None and not _NUMBER.fullmatch(rate):
        raise click.UsageError(f"--rate must be a number, got {quoted(rate)}")
    try:
        currency = Currency(code.upper(), Decimal(rate or 1))
    except ConfigurationError as error:
        raise click.UsageError(f"--{error}") from None
    if rate is None and currency.code != USD.code:
        raise click.UsageError(f"--currency {currency.code} needs --rate, its units per US dollar")
    return currency


def sellers_in(names: Collection[str]) -> list[Seller]:
    try:
        return [Seller.parse(name) for name in names]
    except ConfigurationError as error:
        raise ConfigurationError(f"--providers {error}") from None


def reject_unused_options(names: Collection[str], why: str) -> None:
    """Reject those options of this command that were given but have no effect."""
    context = click.get_current_context()
    for param in context.command.params:
        source = param.name and context.get_parameter_source(param.name)
        if param.name in names and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{param.opts[0]} has no effect {why}")
