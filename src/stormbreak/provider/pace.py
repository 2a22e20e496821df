"""Scenario time on the wall: it begins once, runs `speed` times as fast as the clock, and rings when asked.

One timer serves everybody: it rings at most once a millisecond, however much is going on.
"""

import asyncio
import time
from collections.abc import Callable

_TICK = 0.001
_IDLE_TICK = 0.25  # nobody waits, but the crowd lives on


class Pace:
    """Translates between the scenario's seconds and the monotonic clock."""

    def __init__(self, speed: float, ring: Callable[[], None]) -> None:
        self.speed = speed
        self._ring = ring
        self._began: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    @property
    def running(self) -> bool:
        """Tell whether scenario time has begun."""
        return self._began is not None

    def begin(self) -> None:
        """Let scenario time begin, unless it has."""
        if self._began is None:
            self._began = time.monotonic()

    def stop(self) -> None:
        """Set scenario time back to before its beginning."""
        self._cancel()
        self._began = None

    def now(self) -> float:
        """Tell the scenario time; 0 before it begins."""
        return 0.0 if self._began is None else (time.monotonic() - self._began) * self.speed

    def aim(self, due: float | None, *, busy: bool) -> None:
        """Ring at the scenario time `due` or a little later, much later if nobody is waiting."""
        if due is None or self._began is None:
            return
        now = time.monotonic()
        at = max(self._began + due / self.speed, now + (_TICK if busy else _IDLE_TICK))
        if self._timer is not None and self._timer_at <= at:
            return
        self._cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_later(at - now, self._rung)

    def _rung(self) -> None:
        self._timer = None
        self._ring()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
