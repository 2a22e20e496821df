"""An asyncio event loop whose time jumps: hours pass in milliseconds, and every run is the same."""

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import TypeVar

T = TypeVar("T")

TURN = 1e-9
"""Seconds that a turn of the loop takes: were it nothing, a timer asked for again and again would never pass."""


class _Jumping(selectors.SelectSelector):
    """Never sleeps: it moves the clock to the next timer instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None):
        if timeout is None:
            raise RuntimeError("nothing will ever happen again: every task waits for another")
        self.now += max(timeout, TURN)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its `time` is virtual, and so are all its timers."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run(main: Callable[[], Awaitable[T]]) -> T:
    """Run `main()` to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def on_virtual_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test that runs to its end in virtual time."""

    @wraps(test)
    def wrapped(*args: object, **kwargs: object) -> None:
        run(partial(test, *args, **kwargs))

    return wrapped


def now() -> float:
    """The time of the running loop."""
    return asyncio.get_running_loop().time()
