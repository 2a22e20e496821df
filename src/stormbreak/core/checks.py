"""The checks that policy values make of themselves."""

from collections.abc import Callable

from stormbreak.errors import ConfigurationError

SHORTEST_WINDOW = 1e-6
"""Seconds: a window is cut into slices, and times are divided by their width."""

LONGEST_SHOWN = 100  # characters of a value


def require(holds: bool, rule: str, value: object) -> None:  # noqa: FBT001
    """Raise a ConfigurationError "<rule>, got <value>" unless the rule holds (NaN never does)."""
    if not holds:
        raise ConfigurationError(f"{rule}, got {shown(value)}")


def require_window(name: str, seconds: float) -> None:
    """Refuse a window that is none, or too short to be counted in."""
    require(seconds > 0, f"{name} must be positive", seconds)
    require(seconds >= SHORTEST_WINDOW, f"{name} must be at least {SHORTEST_WINDOW:g}", seconds)


def shown(
    value: object, *, longest: int = LONGEST_SHOWN, write: Callable[[object], str] = str
) -> str:
    """A value for a message, as `write` has it, not at length."""
    try:
        text = write(value)
    except ValueError:  # Python writes no integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= longest else f"{text[:longest]}..."
