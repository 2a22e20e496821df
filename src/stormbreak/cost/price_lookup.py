"""Prices by provider and model: from price files in their order, then from the list prices.

An unknown price is an error that suggests the nearest names, never zero. Lookup ignores case, and reads a point in a
version as a dash.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from difflib import get_close_matches
from functools import lru_cache
from typing import NamedTuple, Self

from stormbreak.cost.list_prices import NAME as MARKET
from stormbreak.cost.list_prices import ListPrices
from stormbreak.cost.price_file import PriceFile, load
from stormbreak.cost.token_prices import Prices, normalise_model
from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import quote_model

_DATE = re.compile(r"-20\d\d-?[01]\d-?[0-3]\d$")  # gpt-4.1-2025-04-14 costs what gpt-4.1 costs


class Seller(NamedTuple):
    """A provider, and the source of its prices; None: the first source that has them."""

    provider: str
    source: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        provider, _, source = text.strip().partition("@")
        if not provider or ("@" in text and not source):
            raise ConfigurationError(
                f"must be PROVIDER or PROVIDER@SOURCE, got {quote_model(text)}"
            )
        return cls(provider, source or None)

    def __str__(self) -> str:
        return f"{self.provider}@{self.source}" if self.source else self.provider


class Offer(NamedTuple):
    """A model at a seller."""

    seller: Seller
    model: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `provider/model` or `provider@source/model`; the model may hold more slashes."""
        seller, _, model = text.strip().partition("/")
        if not seller or not model:
            raise ConfigurationError(f"must be PROVIDER/MODEL, got {quote_model(text)}")
        return cls(Seller.parse(seller), model)

    def __str__(self) -> str:
        return f"{self.seller}/{self.model}"


class UnknownPriceError(ConfigurationError):
    """No source has a price for that."""


class PriceLookup:
    """Looks up prices in price files and list prices."""

    def __init__(
        self, files: Sequence[PriceFile] = (), *, market: ListPrices | None = None
    ) -> None:
        self.files: dict[str, PriceFile] = {}
        self.market = market or ListPrices()
        self._known: dict[tuple[str, str, str], Prices] = {}
        for file in files:
            if file.name in self.files:
                name = quote_model(file.name)
                raise ConfigurationError(
                    f"two price files have the name {name}: rename one of them (name = ...)"
                )
            self.files[file.name] = file
            for prices in file.offers():
                self._known[file.name, prices.provider.lower(), normalise_model(prices.model)] = (
                    prices
                )

    def price_of(self, provider: str, model: str, source: str | None = None) -> Prices | None:
        for name in self.files if source is None else (source,):
            for word in (normalise_model(model), _DATE.sub("", normalise_model(model))):
                found = self._known.get((name, provider.lower(), word))
                if found is not None:
                    return found
        return self.market.find(provider, model) if source in (None, MARKET) else None

    def find(self, offer: Offer) -> Prices:
        """The prices of an offer. Raises UnknownPriceError if they are unknown; the message suggests similar names."""
        found = self.price_of(offer.seller.provider, offer.model, offer.seller.source)
        if found is not None:
            return found
        self.check(offer.seller)
        near = _near(offer.model, self.models(offer.seller))
        raise UnknownPriceError(
            f"no price is known for {quote_model(offer.model)} at {offer.seller}{near}"
        )

    def check(self, seller: Seller) -> None:
        """Raise UnknownPriceError for an unknown source or provider."""
        sources = [*self.files, MARKET]
        if seller.source is not None and seller.source not in sources:
            near = _near(seller.source, sources)
            raise UnknownPriceError(f"no prices come from {quote_model(seller.source)}{near}")
        known = self.providers(seller.source)
        if not self.models(seller):
            near = _near(seller.provider, known)
            raise UnknownPriceError(f"no prices are known for {quote_model(seller.provider)}{near}")

    def providers(self, source: str | None = None) -> list[str]:
        names = [it.provider for it in self.file_prices() if source in (None, it.source.name)]
        market = self.market.providers() if source in (None, MARKET) else []
        return list(dict.fromkeys([*names, *market]))

    def models(self, seller: Seller) -> list[str]:
        """The models of a seller; none if it is unknown."""
        names = [
            it.model
            for it in self.file_prices()
            if it.provider.lower() == seller.provider.lower()
            and seller.source in (None, it.source.name)
        ]
        if seller.source in (None, MARKET):
            names += self.market.models(seller.provider)
        return list(dict.fromkeys(names))

    def unknown_model(self, model: str) -> UnknownPriceError:
        sellers = (Seller(name) for name in self.providers())
        known = dict.fromkeys(name for seller in sellers for name in self.models(seller))
        near = _near(model, known)
        return UnknownPriceError(f"no known provider sells {quote_model(model)}{near}")

    def file_prices(self) -> list[Prices]:
        return list(self._known.values())


def load_lookup(files: Iterable[str]) -> PriceLookup:
    return PriceLookup([load(name) for name in dict.fromkeys(files)])


def price_of(provider: str, model: str) -> Prices | None:
    """Today's list price of `model` at `provider`; None if unknown."""
    return _list_price(provider, model, datetime.now(UTC).date())


@lru_cache(maxsize=1024)
def _list_price(provider: str, model: str, on: date) -> Prices | None:
    return ListPrices(on).find(provider, model)


def same(model: str, other: str) -> bool:
    """Whether both name one model, or the second is a dated version of the first."""
    return normalise_model(model) in (normalise_model(other), _DATE.sub("", normalise_model(other)))


def _near(name: str, known: Iterable[str]) -> str:
    candidates = list(known)
    near = get_close_matches(name, candidates, n=3, cutoff=0.5)
    if near:
        return f"; did you mean {', '.join(near)}?"
    few = len(candidates) <= 12
    return f"; known: {', '.join(candidates)}" if few and candidates else ""
