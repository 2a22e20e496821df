"""Ranges written into the types of a scenario's fields, and the check that reads them back.

A scenario made in Python and one read from a file go through the same check. It also refuses NaN and the
infinities, which no comparison would catch later, and numbers so small or so large that nothing sensible can
come of them.
"""

import math
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from stormbreak.core.checks import shown
from stormbreak.errors import ConfigurationError
from stormbreak.toml_values import MAX_SHOWN

SMALLEST = 1e-6
"""What is not 0 is no less: sums of smaller numbers stand still, quotients by them overflow."""

LONGEST = 1_000_000
"""Seconds that anything lasts, at the most: more than eleven days."""

MAX_RAMP = 86_400
"""Seconds of a ramp: it becomes four steps a second."""

MIN_SPEED, MAX_SPEED = 0.001, 1_000_000
"""Scenario seconds in one real second."""

MOST = 1_000_000_000
"""Of whatever is counted."""


class Range(NamedTuple):
    """What a number may be and how a message calls it; between `shortest` and `cap` is what anybody needs."""

    words: str
    least: float = 0
    most: float = math.inf
    above: float = -math.inf
    shortest: float = SMALLEST
    cap: float = MOST

    def breach(self, value: float) -> str | None:
        """Say what a number that is out of the range must be; None for one that is in it."""
        if not (self.least <= value <= self.most and value > self.above) or value == math.inf:
            return self.words
        if value > self.cap:
            return f"at most {self.cap:,}"
        if 0 < value < self.shortest:
            return (
                f"at least {self.shortest:g}"
                if self.above == 0
                else f"0 or at least {self.shortest:g}"
            )
        return None


Seconds = Annotated[float, Range("zero or positive", cap=LONGEST)]
Span = Annotated[float, Range("positive", above=0, cap=LONGEST)]
Ramp = Annotated[float, Range("zero or positive", cap=MAX_RAMP)]
Speed = Annotated[float, Range("positive", above=0, shortest=MIN_SPEED, cap=MAX_SPEED)]
Rate = Annotated[float, Range("zero or positive")]
Positive = Annotated[float, Range("positive", above=0)]
AtLeastOne = Annotated[float, Range("at least 1", least=1)]
Share = Annotated[float, Range("between 0 and 1", most=1)]
Count = Annotated[int, Range("at least 1", least=1)]
Depth = Annotated[int, Range("zero or positive")]


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
        given = getattr(value, name)
        for number in given if isinstance(given, tuple) else (given,):
            breach = None if number is None else allowed.breach(number)
            if breach is not None:
                raise ConfigurationError(
                    f"{name} must be {breach}, got {shown(number, longest=MAX_SHOWN)}"
                )
