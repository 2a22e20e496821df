"""Leave to send one attempt."""

from typing import Any, Protocol

from stormbreak.types import Outcome


class Settle(Protocol):
    """Gives the gates their tokens back, with what came of the attempt that left at `taken_at`."""

    def __call__(
        self, tokens: list[Any], taken_at: float, outcome: Outcome, now: float, uniform: float
    ) -> None:
        """Called once per permit."""
        ...


class Permit:
    """What every gate gave, in one hand. Owned by one frame, settled once; a second time does nothing."""

    __slots__ = ("_settle", "_tokens", "taken_at")

    def __init__(self, settle: Settle, tokens: list[Any], taken_at: float) -> None:
        self._settle = settle
        self._tokens: list[Any] | None = tokens
        self.taken_at = taken_at

    def settle(self, outcome: Outcome, now: float, uniform: float) -> None:
        """Give every gate its token back, with what came of it."""
        tokens, self._tokens = self._tokens, None
        if tokens is not None:
            self._settle(tokens, self.taken_at, outcome, now, uniform)
