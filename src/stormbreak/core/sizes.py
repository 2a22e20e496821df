"""Numbers of a policy that are too small or too large for anything sensible to come of them.

Windows are cut into slices and rates turned into seconds: with 1e-310 such a quotient overflows, and beside 1e300 a
clock stands still. So a number that is not 0 lies between bounds that nobody comes near who means it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from stormbreak.core.checks import require

SMALLEST = 1e-6
LARGEST = 1e12


def check_magnitudes(part: Any) -> None:
    """Raise ConfigurationError for the first number in `part`, at any depth, that is out of bounds; names its path."""
    for path, number in _numbers(part, ""):
        if number:
            rule = f"{path} must be at least {SMALLEST:g} and at most {LARGEST:g}"
            require(SMALLEST <= abs(number) <= LARGEST, rule, number)


def _numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value
    for step, below in _steps(value):
        yield from _numbers(below, f"{path}{step}".removeprefix("."))


def _steps(value: Any) -> Iterator[tuple[str, Any]]:
    if is_dataclass(value):
        yield from ((f".{field.name}", getattr(value, field.name)) for field in fields(value))
    elif isinstance(value, Mapping):
        yield from ((f".{key}", below) for key, below in value.items())
    elif isinstance(value, tuple):
        yield from ((f"[{place}]", below) for place, below in enumerate(value))
