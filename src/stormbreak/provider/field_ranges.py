"""Ranges written into the types of a scenario's fields, and the check that reads them back.

A scenario made in Python and one read from a file go through the same check. It also rejects NaN, infinities,
and numbers that are too small or too large to make sense.
"""

import math
from collections.abc import Hashable
from functools import cache
from typing import Annotated, Any, NamedTuple, cast, get_args, get_origin, get_type_hints

from stormbreak.core.checks import shown
from stormbreak.errors import ConfigurationError
from stormbreak.toml_reader import MAX_SHOWN

SMALLEST = 1e-6
"""Minimum of a number that is not 0: smaller ones vanish in sums and overflow in quotients."""

MAX_SECONDS = 1_000_000  # maximum duration in seconds: more than eleven days
MAX_RAMP = 86_400  # maximum seconds of a ramp: it becomes four steps a second

MIN_SPEED, MAX_SPEED = 0.001, 1_000_000  # bounds of the scenario seconds in one real second
MAX_COUNT = 1_000_000_000  # maximum of a count


class Range(NamedTuple):
    """The range of a number, and its name in messages."""

    words: str
    lower: float = 0
    upper: float = math.inf
    above: float = -math.inf
    minimum: float = SMALLEST
    maximum: float = MAX_COUNT

    def problem(self, value: float) -> str | None:
        """Describe the range that a number is out of; None if it is in range."""
        if not (self.lower <= value <= self.upper and value > self.above) or value == math.inf:
            return self.words
        if value > self.maximum:
            return f"at most {self.maximum:,}"
        if 0 < value < self.minimum:
            return (
                f"at least {self.minimum:g}"
                if self.above == 0
                else f"0 or at least {self.minimum:g}"
            )
        return None


Seconds = Annotated[float, Range("zero or positive", maximum=MAX_SECONDS)]
Span = Annotated[float, Range("positive", above=0, maximum=MAX_SECONDS)]
Ramp = Annotated[float, Range("zero or positive", maximum=MAX_RAMP)]
Speed = Annotated[float, Range("positive", above=0, minimum=MIN_SPEED, maximum=MAX_SPEED)]
Rate = Annotated[float, Range("zero or positive")]
Positive = Annotated[float, Range("positive", above=0)]
AtLeastOne = Annotated[float, Range("at least 1", lower=1)]
Share = Annotated[float, Range("between 0 and 1", upper=1)]
Count = Annotated[int, Range("at least 1", lower=1)]
Depth = Annotated[int, Range("zero or positive")]


@cache
def _ranges(kind: Hashable) -> tuple[tuple[str, Range], ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple((name, found) for name, hint in hints.items() if (found := _range_in(hint)))


def _range_in(hint: Any) -> Range | None:
    if get_origin(hint) is Annotated:
        return next((extra for extra in get_args(hint)[1:] if isinstance(extra, Range)), None)
    found = (_range_in(part) for part in get_args(hint))
    return next((range_ for range_ in found if range_ is not None), None)


def check_ranges(value: object) -> None:
    """Raise ConfigurationError for the first field of a dataclass that is out of its range."""
    for name, allowed in _ranges(cast("Hashable", type(value))):
        given = getattr(value, name)
        for number in given if isinstance(given, tuple) else (given,):
            problem = None if number is None else allowed.problem(number)
            if problem is not None:
                raise ConfigurationError(
                    f"{name} must be {problem}, got {shown(number, longest=MAX_SHOWN)}"
                )
