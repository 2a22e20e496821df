"""Price files: TOML with the prices of resellers and private deals, and with claims.

docs/cost.md has the format. An error is one line with the file, the path of the key and the value.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import date
from decimal import Decimal
from importlib.resources import files
from pathlib import Path

from stormbreak import file_reader, toml_reader
from stormbreak.core.checks import require, shown
from stormbreak.cost.list_prices import NAME as MARKET
from stormbreak.cost.money import USD, Currency, check_rate, without_zeros
from stormbreak.cost.token_prices import Prices, Rate, Rates, Source, Step, normalise_model
from stormbreak.errors import ConfigurationError, errors_at
from stormbreak.escape import path_of
from stormbreak.hidden_keys import quote_model

CHEAPEST, DEAREST = Decimal("0.000001"), Decimal(100_000)
"""Limits in dollars per million tokens; the upper one is ten cents a token. Prices outside are typing errors."""

_WHAT = "a price file"
_LONGEST = 200  # characters of a name
_MAX_PROMPT = 10**9  # tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Prices per million tokens, in the currency of the file; `flat` is one price for input and output."""

    flat: Decimal | None = None
    input: Decimal | None = None
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    output: Decimal | None = None

    def __post_init__(self) -> None:
        for item in fields(Asked):
            price = getattr(self, item.name)
            if price is not None and not (price.is_finite() and (price == 0 or price >= CHEAPEST)):
                wanted = f"0 or at least {CHEAPEST}"
                raise ConfigurationError(f"{item.name} must be {wanted}, got {shown(price)}")
        require(
            self.flat is not None or self.input is not None,
            "input, or flat instead, must be given",
            self,
        )
        for name in ("input", "output"):
            price = getattr(self, name)
            twice = self.flat is not None and price is not None
            require(not twice, f"{name} cannot be combined with flat", price)

    def __str__(self) -> str:
        given = ((item.name, getattr(self, item.name)) for item in fields(Asked))
        return (
            ", ".join(f"{name} = {price}" for name, price in given if price is not None) or "none"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LongPrompts(Asked):
    """Prices of requests whose prompts are longer than `above` tokens."""

    above: int

    def __post_init__(self) -> None:
        Asked.__post_init__(self)
        require(0 < self.above <= _MAX_PROMPT, "above must be a number of tokens", self.above)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Asked):
    """One model at one provider."""

    provider: str
    model: str
    long_prompts: tuple[LongPrompts, ...] = ()
    batch: Asked | None = None
    flex: Asked | None = None
    priority: Asked | None = None
    latency: str = ""
    maker: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        Asked.__post_init__(self)
        _check_name("provider", self.provider)
        _check_name("model", self.model)
        if "/" in self.provider or "@" in self.provider:
            raise ConfigurationError(f"provider must hold no / and no @, got {self.provider!r}")
        steps = [step.above for step in self.long_prompts]
        for place, above in enumerate(steps):
            if above in steps[:place]:
                raise ConfigurationError(f"long_prompts[{place}].above must be unique, got {above}")
        provider, _, model = self.maker.partition("/")
        if self.maker and not (provider and model):
            raise ConfigurationError(f"maker must be provider/model, got {quote_model(self.maker)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceFile:
    """The content of a file. `per_usd` is the amount of its currency that one dollar buys."""

    name: str
    source: str = ""
    as_of: date | None = None
    claim: bool = False
    note: str = ""
    currency: str = "USD"
    per_usd: Decimal = Decimal(1)
    prices: tuple[Entry, ...]

    def __post_init__(self) -> None:
        check_rate("per_usd", self.per_usd)
        Currency(self.currency, self.per_usd)
        if self.currency != USD.code and self.per_usd == 1:
            raise ConfigurationError(
                f"per_usd must be the amount of {self.currency} per dollar, got {self.per_usd}"
            )
        _check_name("name", self.name)
        require(self.name != MARKET, "name must not be the name of the list prices", repr(MARKET))
        require(bool(self.prices), "prices must have at least one price", "none")
        self._check_prices()

    def _check_prices(self) -> None:
        dearest = DEAREST * self.per_usd
        known = set()
        for place, entry in enumerate(self.prices):
            for key, price in _asked(entry):
                limit = f"at most {without_zeros(dearest):,} {self.currency} per million tokens"
                require(price <= dearest, f"prices[{place}].{key} must be {limit}", price)
            name = (entry.provider.lower(), normalise_model(entry.model))
            if name in known:
                twice = quote_model(f"{entry.provider}/{entry.model}")
                raise ConfigurationError(f"prices[{place}] repeats the price of {twice}")
            known.add(name)

    def offers(self) -> Iterator[Prices]:
        about = " ".join(self.source.split())
        source = Source(name=self.name, about=about, as_of=self.as_of, claim=self.claim)
        for entry in self.prices:
            yield Prices(
                provider=entry.provider,
                model=entry.model,
                listed_as=entry.model,
                standard=self._rates(entry, entry.long_prompts),
                source=source,
                batch=self._optional(entry.batch),
                flex=self._optional(entry.flex),
                priority=self._optional(entry.priority),
                latency=entry.latency,
                maker=entry.maker,
                notes=(entry.note,) if entry.note else (),
            )

    def _optional(self, asked: Asked | None) -> Rates | None:
        return None if asked is None else self._rates(asked)

    def _rates(self, asked: Asked, longer: tuple[LongPrompts, ...] = ()) -> Rates:
        steps = sorted(longer, key=lambda step: step.above)

        def rate(*names: str) -> Rate | None:
            base = _first(asked, names)
            if base is None:
                return None
            dearer = ((step.above, _first(step, names)) for step in steps)
            return Rate(
                base / self.per_usd,
                tuple(
                    Step(above, price / self.per_usd)
                    for above, price in dearer
                    if price is not None
                ),
            )

        entry = rate("input", "flat")
        assert entry is not None
        return Rates(
            input=entry,
            output=rate("output", "flat"),
            cached_input=rate("cached_input"),
            cache_write=rate("cache_write"),
            cache_write_1h=rate("cache_write_1h"),
        )


def builtin_names() -> list[str]:
    folder = files("stormbreak.cost") / "files"
    return sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".toml"))


def load(name_or_path: str | Path) -> PriceFile:
    """Find a price file by its name, or read it. Raises ConfigurationError if it is missing or has an invalid value."""
    name = str(name_or_path)
    if name in builtin_names():
        text = (files("stormbreak.cost") / "files" / f"{name}.toml").read_text("utf-8")
        return parse(text, source=f"{name}.toml")
    if not os.path.isfile(name):  # noqa: PTH113 - Path raises for odd names
        known = ", ".join(builtin_names())
        named = path_of(name) if os.sep in name else quote_model(name)
        raise ConfigurationError(f"no price file is named {named}; built-in price files: {known}")
    with errors_at(name):
        text = file_reader.read_text(name, what=_WHAT)
    return parse(text, source=name)


def parse(text: str, *, source: str) -> PriceFile:
    """Read prices from TOML; `source` is its name in messages, and its default name."""
    with errors_at(source):
        table = toml_reader.parse(text, what=_WHAT, parse_float=Decimal)
        table.setdefault("name", Path(source).stem)
        return toml_reader.read(PriceFile, table)


def _first(asked: Asked, names: tuple[str, ...]) -> Decimal | None:
    given = (getattr(asked, name) for name in names)
    return next((price for price in given if price is not None), None)


def _asked(entry: Entry) -> Iterator[tuple[str, Decimal]]:
    """Every price of an entry, by the path of its key."""
    steps = ((f"long_prompts[{place}].", step) for place, step in enumerate(entry.long_prompts))
    services = (("batch.", entry.batch), ("flex.", entry.flex), ("priority.", entry.priority))
    for path, part in (("", entry), *steps, *services):
        for item in fields(Asked):
            price = None if part is None else getattr(part, item.name)
            if price is not None:
                yield f"{path}{item.name}", price


def _check_name(key: str, name: str) -> None:
    fits = name and name == name.strip() and len(name) <= _LONGEST and name.isprintable()
    if not fits:
        raise ConfigurationError(f"{key} must be a name, got {quote_model(name)}")
