"""What stands under a table of costs: what was assumed, and whose word the figures are."""

from collections.abc import Iterator, Sequence
from decimal import Decimal

from stormbreak.cost.compare import Row
from stormbreak.cost.lookup import Lookup
from stormbreak.cost.prices import Source
from stormbreak.cost.sheet import percent, volume


def assumed(
    volumes: Sequence[int], input_share: Decimal, cache_rate: Decimal, service: str | None
) -> str:
    """What kind of tokens they are taken to be."""
    tokens = ", ".join(volume(Decimal(each)) for each in volumes)
    cached = f"{percent(cache_rate)} of that from a cache" if cache_rate else "none of it cached"
    kind = f", at {service} prices" if service else ""
    return f"{tokens} tokens a month: {percent(input_share)} of them input, {cached}{kind}."


def said_of(rows: Sequence[Row], lookup: Lookup) -> Iterator[str]:
    """Where the prices come from; which are claims, and of what age."""
    yield from dict.fromkeys(sentence(row.why) for row in rows if row.why)
    sources = dict.fromkeys(row.prices.source for row in rows if row.prices)
    for source in sources:
        yield _whence(source)
        file = lookup.files.get(source.name)
        if file is not None and file.note:
            yield " ".join(file.note.split())
    if any(row.prices and row.prices.latency for row in rows):
        yield "Latencies are what the seller claims; nobody here has measured them."


def sentence(text: str) -> str:
    """A reason as a sentence."""
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith("?") else ".")


def _whence(source: Source) -> str:
    of = f", {source.as_of}" if source.as_of else ""
    about = f" ({source.about})" if source.about else ""
    if source.claim:
        return f"Prices by {source.name}{of} are a claim{about}."
    return f"Prices by {source.name}{of}{about}."
