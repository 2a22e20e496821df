"""What stands under a table of costs: what was assumed, and whose word the figures are."""

from collections.abc import Iterator, Sequence
from decimal import Decimal

from stormbreak.cost.compare import Mix, Row
from stormbreak.cost.lookup import PriceLookup
from stormbreak.cost.prices import Prices, Service, Source
from stormbreak.cost.sheet import percent, volume


def assumed(volumes: Sequence[int], mix: Mix) -> str:
    """What kind of tokens they are taken to be."""
    tokens = ", ".join(volume(Decimal(each)) for each in volumes)
    cached = "none of it cached"
    if mix.cache_rate:
        cached = f"{percent(mix.cache_rate)} of that from a cache"
    long = f", in prompts of {volume(Decimal(mix.prompt))}" if mix.prompt > 1 else ""
    kind = f", at {mix.service} prices" if mix.service is not Service.STANDARD else ""
    return (
        f"{tokens} tokens a month: {percent(mix.input_share)} of them input, {cached}{long}{kind}."
    )


def source_notes(rows: Sequence[Row], lookup: PriceLookup) -> Iterator[str]:
    """What has no price, and of whom the others are."""
    yield from dict.fromkeys(sentence(row.why) for row in rows if row.why)
    yield from price_notes([row.prices for row in rows if row.prices], lookup)


def price_notes(priced: Sequence[Prices], lookup: PriceLookup) -> Iterator[str]:
    """Where prices come from, which of them are claims, and of when."""
    for source in dict.fromkeys(prices.source for prices in priced):
        yield whence(source)
        file = lookup.files.get(source.name)
        if file is not None and file.note:
            yield " ".join(file.note.split())
    yield from notes_of(priced)


def notes_of(priced: Sequence[Prices]) -> Iterator[str]:
    """What one should know of single prices."""
    for prices in dict.fromkeys(priced):
        if prices.notes:
            yield f"{prices.provider}/{prices.model}: {'; '.join(prices.notes)}."
    if any(prices.latency for prices in priced):
        yield "Latencies are what the seller claims; nobody here has measured them."


def sentence(text: str) -> str:
    """A reason as a sentence."""
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith("?") else ".")


def whence(source: Source) -> str:
    """Where prices come from, of when they are, and whether that is somebody's claim."""
    of = f", {source.as_of}" if source.as_of else ""
    about = f" ({source.about})" if source.about else ""
    if source.claim:
        return f"Prices by {source.name}{of} are a claim{about}."
    return f"Prices by {source.name}{of}{about}."
