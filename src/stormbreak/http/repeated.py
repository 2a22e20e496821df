"""Headers that come several times in one answer, as `Set-Cookie` does: whoever passes an answer on passes all of them on."""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

Sent: TypeAlias = Mapping[str, str | tuple[str, ...]]
"""Headers of an answer by their lower-case names; of those that come several times all values, in their order."""


def repeated_headers(came: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Of the headers, by their lower-case names, those that came several times, with all their values."""
    values: dict[str, tuple[str, ...]] = {}
    for name, value in came:
        key = name.lower()
        values[key] = (*values.get(key, ()), value)
    return {name: several for name, several in values.items() if len(several) > 1}


def with_repeats(
    headers: Mapping[str, str], repeated: Mapping[str, tuple[str, ...]]
) -> dict[str, str | tuple[str, ...]]:
    """The headers, each with all the values that it came with."""
    return {**headers, **{name: repeated[name] for name in repeated if name in headers}}


def split_repeats(headers: Sent) -> list[tuple[str, str]]:
    """A line for each value."""
    return [
        (name, each)
        for name, value in headers.items()
        for each in ((value,) if isinstance(value, str) else value)
    ]
