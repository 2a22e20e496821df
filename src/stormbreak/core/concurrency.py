"""How many attempts may be in flight to one target at once: always the same number."""

from dataclasses import dataclass
from typing import Literal

from stormbreak.core.checks import check_types, require
from stormbreak.core.gate import OPEN, UNTIL_EVENT
from stormbreak.types import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedLimit:
    """Always the same number."""

    kind: Literal["fixed"] = "fixed"
    finds_itself = False
    in_flight: int = 256

    def __post_init__(self) -> None:
        check_types(self)
        require(self.in_flight >= 1, "in_flight must be at least 1", self.in_flight)

    @property
    def ceiling(self) -> int:
        """What it never exceeds."""
        return self.in_flight


class FixedLimiter:
    """The gate that counts slots."""

    __slots__ = ("in_flight", "limit")
    name = "limit"
    settles_success = True

    def __init__(self, policy: FixedLimit) -> None:
        self.limit = policy.in_flight
        self.in_flight = 0

    @property
    def most(self) -> float:
        """It stays what it is."""
        return self.limit

    def ready_at(self, now: float) -> float:  # noqa: ARG002
        """OPEN while a slot is free."""
        return OPEN if self.in_flight < self.limit else UNTIL_EVENT

    def binds(self, now: float) -> bool:  # noqa: ARG002
        """A fixed limit always does."""
        return True

    def learned(self, now: float) -> bool:  # noqa: ARG002
        """It learns nothing."""
        return False

    def tick(self, now: float, waited: float) -> None:
        """Nothing changes with time."""

    def take(self, now: float) -> None:  # noqa: ARG002
        """Occupy a slot."""
        self.in_flight += 1

    def settle(self, token: None, outcome: Outcome, now: float, uniform: float) -> None:  # noqa: ARG002
        """Free the slot."""
        self.in_flight -= 1
