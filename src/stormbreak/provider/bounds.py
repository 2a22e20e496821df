"""Ranges written into the types of a scenario's fields, and the check that reads them back.

A scenario made in Python and one read from a file go through the same check. It also refuses NaN and the
infinities, which no comparison would catch later.
"""

import math
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from stormbreak.errors import ConfigurationError


class Range(NamedTuple):
    """What a number may be, and how a message calls it."""

    words: str
    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf

    def holds(self, value: float) -> bool:
        """Tell whether `value` is a finite number in this range."""
        return math.isfinite(value) and self.least <= value <= self.most and value > self.above


Seconds = Annotated[float, Range("zero or positive", least=0)]
Rate = Annotated[float, Range("zero or positive", least=0)]
Positive = Annotated[float, Range("positive", above=0)]
AtLeastOne = Annotated[float, Range("at least 1", least=1)]
Share = Annotated[float, Range("between 0 and 1", least=0, most=1)]
Count = Annotated[int, Range("at least 1", least=1)]
Depth = Annotated[int, Range("zero or positive", least=0)]


def _ranges(kind: type) -> tuple[tuple[str, Range], ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple((name, found) for name, hint in hints.items() if (found := _range_in(hint)))


def _range_in(hint: Any) -> Range | None:
    if get_origin(hint) is Annotated:
        return next((extra for extra in get_args(hint)[1:] if isinstance(extra, Range)), None)
    found = (_range_in(part) for part in get_args(hint))
    return next((range_ for range_ in found if range_ is not None), None)


def check_ranges(value: object) -> None:
    """Raise ConfigurationError for the first field of a dataclass that is out of its range."""
    for name, allowed in _ranges(type(value)):
        number = getattr(value, name)
        if number is not None and not allowed.holds(number):
            raise ConfigurationError(f"{name} must be {allowed.words}, got {number!r}")
