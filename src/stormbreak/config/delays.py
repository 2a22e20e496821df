"""The delays of every backoff before the first retries, beside those of the article's table.

Where chance decides, the least and the most. A decorrelated delay depends on the one before: the least follows
from the least, the most from the most.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import get_args

from stormbreak.core.backoff import (
    Backoff,
    DecorrelatedJitter,
    Exponential,
    Linear,
    ProportionalJitter,
)

RETRIES = 4  # the columns of the article's table

ARTICLE: Mapping[type, tuple[str, ...]] = MappingProxyType(
    {
        Linear: ("1", "2", "3", "4"),
        Exponential: ("1", "2", "4", "8"),
        ProportionalJitter: ("0.8-1.2", "1.6-2.4", "3.2-4.8", "6.4-9.6"),
        DecorrelatedJitter: ("1-3", "3-9", "1-3", "3-9"),
    }
)
"""What the article says, in seconds. Its table has +-20 %, its code +-30 %; its decorrelated jitter alternates."""


def delays(backoff: Backoff) -> tuple[str, ...]:
    """Seconds before each of the first retries."""
    cells = []
    least = most = 0.0
    for retry in range(1, RETRIES + 1):
        least = backoff.delay(retry, 0.0, least)
        most = backoff.delay(retry, 1.0, most)
        cells.append(f"{least:.4g}" if least == most else f"{least:.4g}-{most:.4g}")
    return tuple(cells)


def table(own: Backoff) -> Iterator[str]:
    """Lines of the table: the policy's own backoff, then every kind with its defaults."""
    heads = tuple(f"retry {retry}" for retry in range(1, RETRIES + 1))
    yield _row("seconds before", heads, "in the article")
    yield _row(f"here: {own.kind}", delays(own), "  ".join(ARTICLE.get(type(own), ("-",))))
    for kind in get_args(Backoff):
        yield _row(kind().kind, delays(kind()), "  ".join(ARTICLE.get(kind, ("-",))))


def _row(name: str, cells: Sequence[str], last: str) -> str:
    return "".join([f"{name:<27}", *(f"{cell:<12}" for cell in cells), last])
