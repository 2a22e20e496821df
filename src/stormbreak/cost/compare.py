"""The cost of a month's tokens at several providers, compared with the first of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from stormbreak.cost.list_prices import NAME as MARKET
from stormbreak.cost.price_lookup import Offer, PriceLookup, Seller, UnknownPriceError, same
from stormbreak.cost.token_prices import Number, Prices, Service, Tokens
from stormbreak.errors import ConfigurationError

MONTHS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The tokens of a month, in requests with `prompt` input tokens each.

    Real traffic also has the model that `used` them, and the number of requests with `estimated` tokens.
    """

    tokens: Tokens
    service: Service = Service.STANDARD
    prompt: Number = 0
    used: str = ""
    estimated: int = 0

    def cost(self, prices: Prices) -> Decimal:
        """The cost in dollars. Raises UnknownPriceError if the service, or one of its prices, is unknown."""
        rates = prices.rates(self.service)
        if rates is None:
            raise UnknownPriceError(f"no {self.service} prices are known for {prices.place}")
        try:
            return rates.cost(self.tokens, prompt=self.prompt)
        except ConfigurationError as error:
            raise UnknownPriceError(f"{prices.place}: {error}") from None


class Mix(NamedTuple):
    """Planned traffic: shares of its tokens, tokens of one prompt, and the service."""

    input_share: Decimal
    cache_rate: Decimal
    prompt: int = 1
    service: Service = Service.STANDARD

    def demand(self, total: int) -> Demand:
        tokens = Tokens.split(total, input_share=self.input_share, cache_rate=self.cache_rate)
        return Demand(tokens=tokens, service=self.service, prompt=self.prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One offer for a demand, in dollars. Without a price every amount is None, and `why` has the reason."""

    demand: Demand
    offer: Offer
    prices: Prices | None = None
    why: str = ""
    monthly: Decimal | None = None
    against: Decimal | None = None  # the monthly cost of the first row

    @property
    def yearly(self) -> Decimal | None:
        return None if self.monthly is None else self.monthly * MONTHS

    @property
    def saved(self) -> Decimal | None:
        """Savings per month; negative if it costs more."""
        if self.monthly is None or self.against is None:
            return None
        return self.against - self.monthly

    @property
    def saved_a_year(self) -> Decimal | None:
        return None if self.saved is None else self.saved * MONTHS

    @property
    def share(self) -> Decimal | None:
        """Savings as a share of the first row's cost; None if that is zero or unknown."""
        return None if self.saved is None or not self.against else self.saved / self.against


def compare(demand: Demand, offers: Sequence[Offer], lookup: PriceLookup) -> list[Row]:
    """Compare each offer with the first that has a price; keep offers without a price, with the reason.

    Raises UnknownPriceError if no offer has a price.
    """
    found: list[tuple[Offer, Prices | None, Decimal | None, str]] = []
    for offer in offers:
        try:
            prices = lookup.find(offer)
            found.append((offer, prices, demand.cost(prices), ""))
        except UnknownPriceError as error:
            found.append((offer, None, None, str(error)))
    against = next((monthly for *_, monthly, _ in found if monthly is not None), None)
    if against is None:
        raise UnknownPriceError(found[0][-1])
    return [
        Row(demand=demand, offer=offer, prices=prices, why=why, monthly=monthly, against=against)
        for offer, prices, monthly, why in found
    ]


def offers_for(model: str, sellers: Sequence[Seller], lookup: PriceLookup) -> list[Offer]:
    """The offers of `model` by the named sellers.

    Without names: all sellers in the price files, and their makers at the list price; without files, all in the list
    prices. Raises UnknownPriceError if no seller is known.
    """
    if sellers:
        return [Offer(seller, model) for seller in sellers]
    filed = [prices for prices in lookup.file_prices() if same(prices.model, model)]
    offers = [Offer(Seller(prices.provider, prices.source.name), prices.model) for prices in filed]
    if filed and lookup.market.installed:
        offers += [at_list_price(prices.maker) for prices in filed if prices.maker]
    if not filed:
        offers = [Offer(Seller(name), model) for name in lookup.market.sellers(model)]
    if not offers:
        raise lookup.unknown_model(model)
    return list(dict.fromkeys(offers))


def at_list_price(maker: str) -> Offer:
    """The list-price offer that the `maker` of a price file names."""
    seller, model = Offer.parse(maker)
    return Offer(Seller(seller.provider, MARKET), model)


def at_list(prices: Prices, demand: Demand, lookup: PriceLookup) -> Decimal | None:
    """The cost at the list price of the model's maker; None if there is no other maker or no price."""
    if not prices.maker or not lookup.market.installed:
        return None
    try:
        return demand.cost(lookup.find(at_list_price(prices.maker)))
    except UnknownPriceError:
        return None
