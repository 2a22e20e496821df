"""What holds for every call that is made within a block, however far down: a context variable.

It goes with tasks and with what is handed to the background loop, as context variables do.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from stormbreak.core.checks import require


class Scope(NamedTuple):
    """What holds here. `deadline_at` is on the monotonic clock."""

    deadline_at: float | None = None

    def earlier(self, deadline_at: float | None) -> float | None:
        """Which deadline comes first: this one, or that of a call itself."""
        if self.deadline_at is None or deadline_at is None:
            return self.deadline_at if deadline_at is None else deadline_at
        return min(self.deadline_at, deadline_at)


_NOTHING = Scope()
_CURRENT: ContextVar[Scope] = ContextVar("stormbreak.scope", default=_NOTHING)


def current() -> Scope:
    """What holds where this is called."""
    return _CURRENT.get()


@contextmanager
def scope(*, deadline: float | None = None) -> Iterator[Scope]:
    """Have all calls in the block end within `deadline` seconds from now; no inner scope may extend that.

    Raises:
        ConfigurationError: the deadline is negative, or no number.
    """
    outer = current()
    deadline_at = None
    if deadline is not None:
        require(deadline >= 0, "deadline must not be negative", deadline)
        deadline_at = time.monotonic() + deadline
    inner = outer._replace(deadline_at=outer.earlier(deadline_at))
    token = _CURRENT.set(inner)
    try:
        yield inner
    finally:
        _CURRENT.reset(token)
