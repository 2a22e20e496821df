"""Who goes along with the calls of an engine: in the context of whoever makes them, where events only tell of them.

A trace needs that. Its spans begin under the span that is current where a call is made, and whatever else is measured
while an attempt is being sent belongs under that of the attempt. Flows know no contexts; the drivers are where they are.
"""

from contextlib import AbstractContextManager
from typing import Protocol

from stormbreak.core.flow import Send
from stormbreak.types import Call


class ContextListener(Protocol):
    """Told of every call before its first event, on the thread and in the context of whoever makes it."""

    def begins(self, call: Call, now: float) -> None:
        """Hear that `call` begins. What this raises is logged once, and fails no call."""
        ...

    def around(self, number: int, sent: Send) -> AbstractContextManager[object]:
        """What an attempt of that call is to be made in: entered before it is sent, left when its sender is done.

        It raises nothing.
        """
        ...
