"""Today's list prices, from the data installed with genai-prices; nothing is fetched.

Only text tokens are priced. If a price depends on the hour, the highest of the day counts. Charges per request are in
the notes. A model without a price per token has no price here.

The package is the extra `cost` and takes 0.4 s to load, so it is imported on the first lookup.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from stormbreak.cost.token_prices import Prices, Rate, Rates, Service, Source, Step
from stormbreak.drivers.locks import cached_value
from stormbreak.errors import ConfigurationError

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, PriceContext, Provider, TieredPrices

NAME = "market"

_ALIASES: Mapping[str, str] = {"gemini": "google", "xai": "x-ai"}
"""stormbreak's names of providers, and the names in genai-prices."""

_ADDRESS = re.compile("[.:]")
"""Characters that show an address: the provider has no name."""

_CONTEXTS: Mapping[Service, Mapping[str, str]] = {
    Service.BATCH: {"processing": "batch"},
    Service.FLEX: {"service_tier": "flex"},
    Service.PRIORITY: {"service_tier": "priority"},
}
_OTHER_CHARGES: Mapping[str, str] = {"requests_kcount": "each request has an extra charge"}


class ListPrices:
    """The list prices of a day."""

    def __init__(self, on: date | None = None) -> None:
        """`on` is the day; None: today."""
        self.on = on or datetime.now(UTC).date()

    def providers(self) -> list[str]:
        return sorted(self._by_name)

    def models(self, provider: str) -> list[str]:
        found = self._provider(provider)
        return [model.id for model in found.models] if found else []

    def sellers(self, model: str) -> list[str]:
        """Providers with a price for a model: makers first, resellers last."""
        own = {name for name, seller in self._by_name.items() if seller.find_model(model)}
        known = [name for name in self.providers() if self.find(name, model)]
        return sorted(known, key=lambda name: (name not in own, name not in self._makers))

    def find(self, provider: str, model: str) -> Prices | None:
        """The prices of `model`, named as in a request, at `provider`; None if unknown.

        The provider's name must be exact: a reseller is not the maker.
        """
        seller = self._provider(provider)
        found = seller and seller.find_model(model, all_providers=self._snapshot.providers)
        if not seller or not found:
            return None
        standard = self._rates(found)
        if standard is None:
            return None
        return Prices(
            provider=provider,
            model=model,
            listed_as=found.id,
            standard=standard,
            source=self.source,
            batch=self._variant(found, Service.BATCH),
            flex=self._variant(found, Service.FLEX),
            priority=self._variant(found, Service.PRIORITY),
            notes=tuple(self._notes(found)),
        )

    @property
    def installed(self) -> bool:
        return find_spec("genai_prices") is not None

    def check(self) -> None:
        if not self.installed:
            raise ConfigurationError(
                "prices of the market need genai-prices: pip install 'stormbreak[cost]'"
            )

    @cached_value
    def source(self) -> Source:
        from genai_prices import __version__  # noqa: PLC0415 - takes long

        return Source(
            name=NAME, about=f"list prices, from genai-prices {__version__}", as_of=self.on
        )

    def _provider(self, name: str) -> "Provider | None":
        if _ADDRESS.search(name):
            return None  # not in a list: do not load one
        return self._by_name.get(_ALIASES.get(name.lower(), name.lower()))

    @cached_value
    def _by_name(self) -> "dict[str, Provider]":
        return {provider.id: provider for provider in self._snapshot.providers}

    @cached_value
    def _makers(self) -> frozenset[str]:
        """Providers whose lists other providers refer to."""
        sellers = self._by_name.values()
        return frozenset(name for each in sellers for name in each.fallback_model_providers or ())

    @cached_value
    def _snapshot(self) -> Any:
        self.check()
        from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 - takes long

        return get_snapshot()

    def _variant(self, model: "ModelInfo", service: Service) -> Rates | None:
        context = _CONTEXTS[service]
        noon = datetime.combine(self.on, time(12), UTC)
        offered = any(
            variant.when == context
            and (variant.constraint is None or variant.constraint.active(noon))
            for variant in model.price_variants or ()
        )
        return self._rates(model, context) if offered else None

    def _rates(self, model: "ModelInfo", context: "PriceContext | None" = None) -> Rates | None:
        known = (_rates(price) for price in self._of_the_day(model, context))
        return max((rates for rates in known if rates), key=_height, default=None)

    def _of_the_day(
        self, model: "ModelInfo", context: "PriceContext | None" = None
    ) -> "Iterable[ModelPrice]":
        """The prices at each half hour of the day; only one if nothing depends on the time."""
        for half_hour in range(48 if _depends_on_time(model) else 1):
            at = time(half_hour // 2, 30 * (half_hour % 2))
            yield model.get_prices(datetime.combine(self.on, at, UTC), context)

    def _notes(self, model: "ModelInfo") -> Iterable[str]:
        prices = list(self._of_the_day(model))
        if any(price != prices[0] for price in prices):
            yield "cheaper at some hours of the day"
        yield from (
            note for key, note in _OTHER_CHARGES.items() if getattr(prices[0], key) is not None
        )
        if model.deprecated:
            yield "deprecated by its provider"


def _depends_on_time(model: "ModelInfo") -> bool:
    prices = model.prices if isinstance(model.prices, list) else []
    conditional = [*prices, *(model.price_variants or ())]
    return any(each.constraint is not None for each in conditional)


def _rates(price: "ModelPrice") -> Rates | None:
    entry = _rate(price.input_mtok)
    if entry is None:
        return None
    return Rates(
        input=entry,
        output=_rate(price.output_mtok),
        cached_input=_rate(price.cache_read_mtok),
        cache_write=_of_writing(price.cache_write_mtok, entry),
        cache_write_1h=_of_writing(price.cache_write_1h_mtok, entry),
    )


def _of_writing(price: "Decimal | TieredPrices | None", entry: Rate) -> Rate | None:
    """The price of cache writes; None if it is below that of other input: then it is only a part, such as storage."""
    rate = _rate(price)
    return None if rate is None or rate.base < entry.base else rate


def _rate(price: "Decimal | TieredPrices | None") -> Rate | None:
    if price is None or isinstance(price, Decimal):
        return None if price is None else Rate(price)
    return Rate(price.base, tuple(Step(tier.start, tier.price) for tier in price.tiers))


def _height(rates: Rates) -> Decimal:
    return rates.input.base + (rates.output.base if rates.output else 0)
