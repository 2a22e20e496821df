"""What is kept of a circuit when a process ends, and taken up by the next one.

In spans only: the clocks of two processes have nothing in common. How much time has passed in between is for
whoever keeps it to say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from stormbreak.core.checks import check_types, require, shown
from stormbreak.core.circuit import State
from stormbreak.errors import ConfigurationError
from stormbreak.key_patterns import quoted

KEPT = (State.CLOSED, State.OPEN, State.ISOLATED)

MAX_SECONDS = 366 * 86400.0
"""Seconds. A longer span is not saved: no call waits for it."""

LONG = 60  # characters of a value that are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitSnapshot:
    """A circuit, at rest. `open_left` seconds of the open time are left; `open_for` has it grown to so far.

    `named_left` seconds are left of a time that the target named. An isolation by hand has an `open_left`, too, where
    it is for a time; 0 is without end.
    """

    state: State
    open_left: float
    open_for: float
    named_left: float = 0.0

    def __post_init__(self) -> None:
        check_types(self)
        known = ", ".join(KEPT)
        require(self.state in KEPT, f"state must be one of {known}", self.state)
        require(self.open_left >= 0, "open_left must not be negative", self.open_left)
        require(self.open_for > 0, "open_for must be positive", self.open_for)
        require(self.named_left >= 0, "named_left must not be negative", self.named_left)

    def as_dict(self) -> dict[str, Any]:
        """In plain values, as JSON has them."""
        return {
            "state": self.state.value,
            "open_left": min(self.open_left, MAX_SECONDS),
            "open_for": min(self.open_for, MAX_SECONDS),
            "named_left": min(self.named_left, MAX_SECONDS),
        }


def parse_snapshot(values: Mapping[str, Any]) -> CircuitSnapshot:
    """Read what `as_dict` wrote; other keys are left alone.

    Raises:
        ConfigurationError: names the key and the value that cannot be right.
    """
    table_in(values, "a saved circuit")
    state = values.get("state")
    known = ", ".join(KEPT)
    if state not in [kept.value for kept in KEPT]:
        raise ConfigurationError(f"state must be one of {known}, got {_quoted(state)}")
    return CircuitSnapshot(
        state=State(state),
        open_left=_bounded(values, "open_left"),
        open_for=_bounded(values, "open_for"),
        named_left=_bounded(values, "named_left") if "named_left" in values else 0.0,
    )


def parse_snapshots(values: Mapping[str, Any]) -> dict[str, CircuitSnapshot]:
    """Read the circuits of several models, by name, under `circuits`.

    Raises:
        ConfigurationError: names the model, the key and the value that cannot be right.
    """
    table_in(values, "saved circuits")
    circuits = table_in(values.get("circuits"), "circuits")
    return {model: _read_one(model, circuit) for model, circuit in circuits.items()}


def _read_one(model: object, circuit: Any) -> CircuitSnapshot:
    if not isinstance(model, str) or not model:
        raise ConfigurationError(f"circuits must have names of models, got {_quoted(model)}")
    try:
        return parse_snapshot(circuit)
    except ConfigurationError as error:
        raise ConfigurationError(f"circuits of {quoted(model)}: {error}") from None


def span_in(values: Mapping[str, Any], key: str) -> float:
    """A finite number of seconds.

    Raises:
        ConfigurationError: it is none.
    """
    value = values.get(key)
    if not _is_finite(value):
        raise ConfigurationError(f"{key} must be a finite number, got {_quoted(value)}")
    return float(value)  # type: ignore[arg-type]


def _bounded(values: Mapping[str, Any], key: str) -> float:
    span = span_in(values, key)
    require(span <= MAX_SECONDS, f"{key} must be at most {MAX_SECONDS:.0f} s", span)
    return span


def table_in(values: object, what: str) -> Mapping[Any, Any]:
    """The same, which has keys.

    Raises:
        ConfigurationError: it has none; `what` says what it would be.
    """
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{what} must be a table, got {_quoted(values)}")
    return values


def _is_finite(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _quoted(value: object) -> str:
    return shown(value, longest=LONG, write=repr)
