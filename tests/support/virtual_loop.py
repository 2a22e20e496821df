"""An asyncio event loop in virtual time: hours pass in milliseconds, and every run is the same."""

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import TypeVar

T = TypeVar("T")

TURN = 1e-9
"""Seconds that one iteration of the loop takes; with 0, a timer set again and again would never pass."""

MOMENT = 0.01
"""Real seconds in which what was written to a socket of this process can be read from it."""


class _Jumping(selectors.SelectSelector):
    """A selector that moves the clock to the next timer instead of sleeping."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None):
        if timeout is None:
            raise RuntimeError("nothing will ever happen again: every task waits for another")
        self.now += max(timeout, TURN)
        return super().select(0)


class _JumpingWithSockets(_Jumping):
    """A selector that moves the clock when no socket of this process has been ready for a moment."""

    def select(self, timeout: float | None = None):
        ready = selectors.SelectSelector.select(self, MOMENT if timeout else timeout)
        self.now += TURN if ready or timeout is None else max(timeout, TURN)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose `time` and timers are virtual."""

    kind = _Jumping

    def __init__(self) -> None:
        self._jumping = self.kind()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


class VirtualLoopWithSockets(VirtualLoop):
    """For real sockets with both ends on this loop: no timer is early, even if the process pauses."""

    kind = _JumpingWithSockets


def run(main: Callable[[], Awaitable[T]], loop: type[VirtualLoop] = VirtualLoop) -> T:
    """Run `main()` to its end in virtual time."""
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main())


def on_virtual_loop(
    test: Callable[..., Awaitable[None]], loop: type[VirtualLoop] = VirtualLoop
) -> Callable[..., None]:
    """Make a coroutine test run in virtual time."""

    @wraps(test)
    def wrapped(*args: object, **kwargs: object) -> None:
        run(partial(test, *args, **kwargs), loop)

    return wrapped


def in_virtual_time(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a coroutine test with real sockets run in virtual time."""
    return on_virtual_loop(test, VirtualLoopWithSockets)


def now() -> float:
    """The time of the running loop."""
    return asyncio.get_running_loop().time()
