"""Leave to send one attempt."""

from typing import Any, Protocol

from stormbreak.types import Outcome


class SdkTransport(Protocol):
    """Who gave the permit, and takes the gates' tokens back."""

    def settle(
        self, tokens: list[Any], taken_at: float, outcome: Outcome, now: float, uniform: float
    ) -> None:
        """Give every gate its token back, with what came of the attempt that left at `taken_at`."""
        ...

    def first(self, tokens: list[Any], now: float) -> None:
        """Take note that the attempt begins to put out."""
        ...


class Permit:
    """What every gate gave, in one hand. Owned by one frame, settled once; a second time does nothing."""

    __slots__ = ("_door", "_tokens", "first_at", "taken_at")

    def __init__(self, door: SdkTransport, tokens: list[Any], taken_at: float) -> None:
        self._door = door
        self._tokens: list[Any] | None = tokens
        self.taken_at = taken_at
        self.first_at: float | None = None  # when the attempt began to put out

    def first(self, now: float) -> None:
        """Take note that the attempt begins to put out; once it has been settled, this does nothing."""
        if self._tokens is not None:
            self.first_at = now
            self._door.first(self._tokens, now)

    def settle(self, outcome: Outcome, now: float, uniform: float) -> None:
        """Give every gate its token back, with what came of it."""
        tokens, self._tokens = self._tokens, None
        if tokens is not None:
            self._door.settle(tokens, self.taken_at, outcome, now, uniform)
