"""The state of a circuit that one process saves and the next restores.

It has durations only, since the clocks of two processes are unrelated. The caller supplies the time between.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from stormbreak.core.breaker_policy import State
from stormbreak.core.checks import check_types, require, require_at_least, require_positive, shown
from stormbreak.errors import ConfigurationError, errors_at
from stormbreak.hidden_keys import quoted

KEPT = (State.CLOSED, State.OPEN, State.ISOLATED)

MAX_SECONDS = 366 * 86400.0
"""Seconds. Longer times are not saved: no call waits for them."""

LONG = 60  # maximum characters of a value in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitSnapshot:
    """A saved circuit. `open_left` seconds of the open time remain, which has grown to `open_for`.

    `named_left` seconds of a Retry-After remain. A timed isolation also has an `open_left`; 0 means no end.
    """

    state: State
    open_left: float
    open_for: float
    named_left: float = 0.0

    def __post_init__(self) -> None:
        check_types(self)
        known = ", ".join(KEPT)
        require(self.state in KEPT, f"state must be one of {known}", self.state)
        require_at_least(self, 0, "open_left", "named_left")
        require_positive(self, "open_for")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "state": self.state.value,
            "open_left": min(self.open_left, MAX_SECONDS),
            "open_for": min(self.open_for, MAX_SECONDS),
            "named_left": min(self.named_left, MAX_SECONDS),
        }


def parse_snapshot(values: Mapping[str, Any]) -> CircuitSnapshot:
    """Parse the result of `as_dict`; ignore other keys.

    Raises:
        ConfigurationError: names the invalid key and value.
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
    """Parse the circuits of several models, by name, under `circuits`.

    Raises:
        ConfigurationError: names the model and the invalid key and value.
    """
    table_in(values, "saved circuits")
    circuits = table_in(values.get("circuits"), "circuits")
    return {model: _read_one(model, circuit) for model, circuit in circuits.items()}


def _read_one(model: object, circuit: Any) -> CircuitSnapshot:
    if not isinstance(model, str) or not model:
        raise ConfigurationError(f"circuits must have names of models, got {_quoted(model)}")
    with errors_at(f"circuits of {quoted(model)}"):
        return parse_snapshot(circuit)


def span_in(values: Mapping[str, Any], key: str) -> float:
    """Return a finite number of seconds.

    Raises:
        ConfigurationError: it is not one.
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
    """Return `values` if it is a mapping.

    Raises:
        ConfigurationError: it is not a mapping; `what` names the expected value.
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
