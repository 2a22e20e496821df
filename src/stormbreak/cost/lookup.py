"""Prices by provider and model: from price files first, in the order given, then from the market.

What nobody knows the price of is an error with the nearest names, and never free. Models are found whatever the case, and
whether a version is written with a point or a dash.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from difflib import get_close_matches
from functools import lru_cache
from typing import NamedTuple, Self

from stormbreak.cost.market import NAME as MARKET
from stormbreak.cost.market import Market
from stormbreak.cost.price_file import PriceFile
from stormbreak.cost.prices import Prices
from stormbreak.errors import ConfigurationError
from stormbreak.keylike import quoted


class Seller(NamedTuple):
    """A provider, and the source whose word counts; None: the first that knows."""

    provider: str
    source: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `provider` or `provider@source`."""
        provider, _, source = text.strip().partition("@")
        if not provider or ("@" in text and not source):
            raise ConfigurationError(f"must be PROVIDER or PROVIDER@SOURCE, got {quoted(text)}")
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
            raise ConfigurationError(f"must be PROVIDER/MODEL, got {quoted(text)}")
        return cls(Seller.parse(seller), model)

    def __str__(self) -> str:
        return f"{self.seller}/{self.model}"


class UnknownPriceError(ConfigurationError):
    """Nobody here knows what that costs."""


class Lookup:
    """Where prices are looked up."""

    def __init__(self, files: Sequence[PriceFile] = (), *, market: Market | None = None) -> None:
        self.files = {file.name: file for file in files}
        self.market = market or Market()
        self._known: dict[tuple[str, str, str], Prices] = {}
        for file in files:
            if file.name == MARKET:
                raise ConfigurationError(f"a price file must not be called {MARKET!r}")
            for prices in file.offers():
                self._known[file.name, prices.provider.lower(), _word(prices.model)] = prices

    def price_of(self, provider: str, model: str, source: str | None = None) -> Prices | None:
        """What `provider` asks for `model`; None where that is not known."""
        for name in self.files if source is None else (source,):
            found = self._known.get((name, provider.lower(), _word(model)))
            if found is not None:
                return found
        return self.market.find(provider, model) if source in (None, MARKET) else None

    def find(self, offer: Offer) -> Prices:
        """What is asked for an offer.

        Raises:
            UnknownPriceError: nobody knows; the message names what is near.
        """
        found = self.price_of(offer.seller.provider, offer.model, offer.seller.source)
        if found is not None:
            return found
        self.check(offer.seller)
        near = _near(offer.model, self.models(offer.seller))
        raise UnknownPriceError(
            f"no price is known for {quoted(offer.model)} at {offer.seller}{near}"
        )

    def check(self, seller: Seller) -> None:
        """Refuse a source or a provider that is not known. Raises UnknownPriceError."""
        sources = [*self.files, MARKET]
        if seller.source is not None and seller.source not in sources:
            near = _near(seller.source, sources)
            raise UnknownPriceError(f"no prices come from {quoted(seller.source)}{near}")
        known = self.providers(seller.source)
        if not self.models(seller):
            near = _near(seller.provider, known)
            raise UnknownPriceError(f"no prices are known of {quoted(seller.provider)}{near}")

    def providers(self, source: str | None = None) -> list[str]:
        """Those that a source, or any, has prices of."""
        names = [
            prices.provider
            for (file, _, _), prices in self._known.items()
            if source in (None, file)
        ]
        return list(dict.fromkeys([*names, *self._of_market(source)]))

    def models(self, seller: Seller) -> list[str]:
        """What is known of a seller; nothing where it is not known itself."""
        names = [
            prices.model
            for (file, provider, _), prices in self._known.items()
            if provider == seller.provider.lower() and seller.source in (None, file)
        ]
        if seller.source in (None, MARKET):
            names += self.market.models(seller.provider)
        return list(dict.fromkeys(names))

    def everywhere(self, model: str) -> Iterator[Prices]:
        """What anybody asks for a model, the files first."""
        for (_, _, word), prices in self._known.items():
            if word == _word(model):
                yield prices
        for provider in self.market.providers():
            found = self.market.find(provider, model)
            if found is not None:
                yield found

    def _of_market(self, source: str | None) -> list[str]:
        return self.market.providers() if source in (None, MARKET) else []


def price_of(provider: str, model: str) -> Prices | None:
    """Today's list price of `model` at `provider`; None where it is not known."""
    return _list_price(provider, model, datetime.now(UTC).date())


@lru_cache(maxsize=1024)
def _list_price(provider: str, model: str, on: date) -> Prices | None:
    return Market(on).find(provider, model)


def _word(model: str) -> str:
    return model.strip().lower().replace(".", "-")


def _near(name: str, known: Iterable[str]) -> str:
    candidates = list(known)
    near = get_close_matches(name, candidates, n=3, cutoff=0.5)
    if near:
        return f"; did you mean {', '.join(near)}?"
    few = len(candidates) <= 12
    return f"; known: {', '.join(candidates)}" if few and candidates else ""
