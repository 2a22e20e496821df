"""Numbers of a policy as people say them: seconds, shares, counts, lists."""

from collections.abc import Iterable
from enum import Enum

from stormbreak.config.schema import toml_word

_SPANS = (("hour", 3600.0), ("minute", 60.0))


def seconds(span: float) -> str:
    """Say a span in the largest unit that divides it: 600 is "10 minutes", 90 is "90 s"."""
    for name, length in _SPANS:
        count = span / length
        if count >= 1 and count == int(count):
            return times(int(count), name)
    return f"{span:g} s"


def share(part: float) -> str:
    """Say a part of one in per cent."""
    return f"{100 * part:g} %"


def moved(part: float, how: str) -> str:
    """Say by how much chance moves something, `how` it does."""
    return f"{how} by chance by up to {share(part)}" if part else f"not {how} by chance"


def grown(factor: float) -> str:
    """Say how long the next one is."""
    return "as long again" if factor == 1 else f"{factor:g} times as long"


def times(count: float, name: str) -> str:
    """Say how many: "1 minute", "3 minutes"."""
    if count == 1:
        return f"1 {name}"
    number = plain(count)
    return f"{number} {name[:-1]}ies" if name.endswith("ry") else f"{number} {name}s"


def plain(number: float) -> str:
    """Say a number: "268,435,456" if it is whole, "0.1" if not."""
    return f"{int(number):,}" if number == int(number) else f"{number:g}"


def several(items: Iterable[object]) -> str:
    """List them: "504", "throttled and timeout", "none"."""
    words = [toml_word(item) if isinstance(item, Enum) else str(item) for item in items]
    *others, last = words or ["none"]
    return f"{', '.join(others)} and {last}" if others else last
