"""How much the measures differ from seed to seed: mean, standard deviation, and the worst."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import fsum, inf, sqrt
from types import MappingProxyType
from typing import Any, TypeAlias

from stormbreak.storm.measures import SHARES, Measures, rounded

Value: TypeAlias = float | int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One measure over `seeds` runs.

    Of a time that never came in `never` of them there is no mean, and the worst is None. So it is with a share of
    nothing, but that the worst is the lowest of the others. One run alone has no deviation.
    """

    mean: float | None
    deviation: float | None
    worst: Value
    never: int
    seeds: int

    def plain(self) -> dict[str, Value]:
        """The same by name, rounded to what is meant."""
        return {name: rounded(value) for name, value in asdict(self).items()}


def spread(several: Sequence[Measures]) -> Mapping[str, Spread]:
    """Give the spread of each measure over runs that differ by their seed only."""
    tables = [asdict(measures) for measures in several]
    return MappingProxyType(
        {name: _of(name, [table[name] for table in tables]) for name in tables[0]}
    )


def plain(spreads: Mapping[str, Spread]) -> dict[str, Any]:
    """The same as plain values."""
    return {name: each.plain() for name, each in spreads.items()}


def _of(name: str, values: Sequence[Value]) -> Spread:
    known = [value for value in values if value is not None]
    never = len(values) - len(known)
    mean = fsum(known) / len(known) if not never else None
    deviation = _deviation(known, mean) if mean is not None and len(known) > 1 else None
    if name in SHARES:
        worst: Value = min(known, default=None)
    else:
        worst = max(values, key=lambda value: inf if value is None else value)
    return Spread(mean=mean, deviation=deviation, worst=worst, never=never, seeds=len(values))


def _deviation(values: Sequence[float], mean: float) -> float:
    """That of a sample."""
    return sqrt(fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
