"""What stands between a call and its target, and the permit that says it may pass.

Every attempt passes the same gates in the same order, all in one step; whoever passed holds one permit,
owned by one frame and settled exactly once.
"""

from math import inf
from typing import Any, Protocol

from stormbreak.types import Call, Outcome, Rejection

OPEN = -inf
"""`ready_at` of a gate that would let a call pass now."""

UNTIL_EVENT = inf
"""`ready_at` of a gate that waits for something to happen, not for a time."""


class SlotGate(Protocol):
    """What the queue needs to know of the gate that counts slots."""

    limit: int
    in_flight: int

    @property
    def most(self) -> float:
        """What the limit may grow to."""
        ...

    def binds(self, now: float) -> bool:
        """Whether the limit is one that congestion, or a user, has set."""
        ...

    def learned(self, now: float) -> bool:
        """Whether congestion of late has taught it a limit that a new one would have to find again."""
        ...

    def tick(self, now: float, waited: float) -> None:
        """Look at the time; the oldest call in the queue has `waited` so long."""
        ...


class PacingGate(Protocol):
    """What the queue needs to know of a gate that spaces out sends."""

    def in_force(self, now: float) -> bool:
        """Whether a send rate holds."""
        ...

    def time_to_send(self, sends: float, now: float) -> float:
        """Seconds until so many more have been sent; 0 where no rate holds."""
        ...


class VetoGate(Protocol):
    """What the queue needs to know of the gate that may refuse a call for good."""

    def veto(self, call: Call, now: float) -> Rejection | None:
        """Why `call`, which cannot leave now, never will; None: it may."""
        ...

    def recheck_at(self) -> float:
        """When the gate that waits for an event has another look, whatever happens; inf: never."""
        ...


class Gate(Protocol):
    """One condition for leaving. A gate changes nothing but itself."""

    name: str

    settles_success: bool
    """Whether `settle` does anything after a success."""

    def ready_at(self, now: float) -> float:
        """OPEN, the time at which it makes sense to ask again, or UNTIL_EVENT. Never changes anything."""
        ...

    def take(self, now: float) -> Any:
        """Let one attempt pass and return a token for `settle`. Call only when `ready_at` says OPEN."""
        ...

    def settle(self, token: Any, outcome: Outcome, now: float, uniform: float) -> None:
        """Take back `token` and learn from `outcome`; CANCELLED frees and teaches nothing."""
        ...


class Circuit(Gate, Protocol):
    """What the queue needs to know of the gate that is a circuit breaker."""

    def standing(self, now: float) -> str:
        """How it counts now: closed, open, half-open or isolated."""
        ...
