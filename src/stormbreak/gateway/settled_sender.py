"""Wrap a sender: reserve something for each attempt of a call, and settle it when the attempt has ended."""

from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

from stormbreak.core.flow import Send
from stormbreak.drivers.asyncio_driver import Sender
from stormbreak.drivers.timeouts import AnsweredError
from stormbreak.types import CANCELLED_AFTER_SEND, Outcome

T = TypeVar("T")


class SettledSender(ABC, Generic[T]):
    """Its `__call__` takes a T for an attempt, which `_send` makes. Streams that continue are settled by `end`.

    `unsent` attempts were refused instead.
    """

    unsent = 0

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._open: list[T] = []  # of streams that continue

    @abstractmethod
    def __call__(self, command: Send) -> Coroutine[Any, Any, Outcome]:
        """Send once."""

    @abstractmethod
    def _settle(self, taken: T, outcome: Outcome) -> None:
        """Settle the T that was taken for an attempt."""

    async def _send(self, command: Send, taken: T) -> Outcome:
        outcome = CANCELLED_AFTER_SEND
        try:
            outcome = await self._sender(command)
        except AnsweredError as answered:
            outcome = answered.outcome
            raise
        finally:
            if outcome.committed:
                self._open.append(taken)
            else:
                self._settle(taken, outcome)
        return outcome

    def end(self, outcome: Outcome | None) -> None:
        """Settle streams that continued, with the outcome of the one that was read; None: it was cancelled."""
        opened, self._open = self._open, []
        for taken in opened:
            self._settle(taken, outcome or CANCELLED_AFTER_SEND)
