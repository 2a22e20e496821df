"""A place in a queue."""

from collections.abc import Callable
from typing import TypeAlias

from stormbreak.core.permit import Permit
from stormbreak.types import Call, Outcome, Rejection

Withdraw: TypeAlias = Callable[["Ticket", float], None]


class Ticket:
    """The place of one call in the queue of its target.

    The queue puts a `permit` or a `rejection` on it, never both; until then its owner waits, at the latest
    until `wake_at`. `due` says that the owner should be woken, `waker` is how; both belong to the driver,
    which touches them only under the engine's lock.
    """

    __slots__ = (
        "_withdraw",
        "call",
        "check_at",
        "due",
        "expires_at",
        "permit",
        "queued_at",
        "rejection",
        "waker",
    )

    def __init__(self, withdraw: Withdraw, call: Call, queued_at: float, expires_at: float) -> None:
        self._withdraw = withdraw
        self.call = call
        self.queued_at = queued_at
        self.expires_at = expires_at
        self.check_at: float | None = None  # set for the one ticket that keeps time for its queue
        self.permit: Permit | None = None
        self.rejection: Rejection | None = None
        self.due = False
        self.waker: Callable[[], None] | None = None

    @property
    def decided(self) -> bool:
        """Whether there is nothing left to wait for."""
        return self.permit is not None or self.rejection is not None

    def settle(self, outcome: Outcome, now: float, uniform: float) -> None:
        """Give back the permit, or the place in the queue; a second time does nothing."""
        if self.permit is not None:
            self.permit.settle(outcome, now, uniform)
        elif self.rejection is None:
            self._withdraw(self, now)

    @property
    def wake_at(self) -> float:
        """The latest time at which the owner should look again."""
        return self.expires_at if self.check_at is None else min(self.check_at, self.expires_at)
