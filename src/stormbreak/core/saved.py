"""What is kept of a circuit when a process ends, and taken up by the next one.

In spans only: the clocks of two processes have nothing in common. How much time has passed in between is for
whoever keeps it to say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from stormbreak.core.checks import require
from stormbreak.core.circuit import State
from stormbreak.errors import ConfigurationError

KEPT = (State.CLOSED, State.OPEN, State.ISOLATED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A circuit, at rest. `open_left` seconds of the open time are left; `open_for` has it grown to so far."""

    state: State
    open_left: float
    open_for: float

    def __post_init__(self) -> None:
        known = ", ".join(KEPT)
        require(self.state in KEPT, f"state must be one of {known}", self.state)
        require(self.open_left >= 0, "open_left must not be negative", self.open_left)
        require(self.open_for > 0, "open_for must be positive", self.open_for)

    def as_dict(self) -> dict[str, Any]:
        """In plain values, as JSON has them."""
        return {
            "state": self.state.value,
            "open_left": self.open_left,
            "open_for": self.open_for,
        }


def read_saved(values: Mapping[str, Any]) -> Saved:
    """Read what `as_dict` wrote; other keys are left alone.

    Raises:
        ConfigurationError: names the key and the value that cannot be right.
    """
    state = values.get("state")
    known = ", ".join(KEPT)
    if state not in [kept.value for kept in KEPT]:
        raise ConfigurationError(f"state must be one of {known}, got {state!r}")
    return Saved(
        state=State(state),
        open_left=span_in(values, "open_left"),
        open_for=span_in(values, "open_for"),
    )


def span_in(values: Mapping[str, Any], key: str) -> float:
    """A finite number of seconds.

    Raises:
        ConfigurationError: it is none.
    """
    value = values.get(key)
    number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    if not number:
        raise ConfigurationError(f"{key} must be a finite number, got {value!r}")
    return float(value)  # type: ignore[arg-type]
