"""Subscribe listeners to the events of an engine, and detach them."""

from typing import Any, Self

from stormbreak.core.engine import Engine
from stormbreak.core.target_state import Listener
from stormbreak.drivers.locks import new_lock


class Attached:
    """Listeners attached to an engine until `detach`, or the end of a `with` block.

    A listener gets every event, after its step, on any thread. It may not make calls on this engine. Its exceptions are
    logged once, and fail no call.

    A listener that was already attached stays attached, and gets no event twice. If a listener has a method `watch`, it
    is called first with the engine; a method `unwatch` is called last. Thread-safe.
    """

    def __init__(self, engine: Engine, *listeners: Listener) -> None:
        self.listeners = listeners
        self._engine = engine
        self._mine: list[Listener] = []  # listeners that were not attached before
        try:
            for listener in listeners:
                self._attach(listener)
        except BaseException:
            self.detach()
            raise

    def _attach(self, listener: Listener) -> None:
        with _turn:
            if listener in self._engine.listeners:
                return
            _notify(listener, "watch", self._engine)
            self._engine.listeners.append(listener)
            self._mine.append(listener)

    def detach(self) -> None:
        """Detach the listeners. Idempotent.

        An event that another thread is delivering at this moment may still reach them.
        """
        with _turn:
            mine, self._mine = self._mine, []
            for listener in mine:
                self._engine.listeners.remove(listener)
            for listener in mine:
                _notify(listener, "unwatch", self._engine)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()


class Observable:
    """Something with an engine, which a driver runs."""

    engine: Engine

    def subscribe(self, listener: Listener) -> Attached:
        """Call `listener` with every event, on any thread, until the returned handle's `detach()` is called.

        It may not make calls here.
        """
        return Attached(self.engine, listener)

    def snapshot(self, *, pending: bool = True) -> dict[str, Any]:
        """Return the state of every target (circuit, queue, limit, cooldown) and of the retry budget.

        With `pending`, also the wait of each call, which is much output if many calls wait.
        """
        return self.engine.snapshot(pending=pending)


# One thread attaches or detaches at a time. A `watch` may do so, too, within its turn.
_turn = new_lock()


def _notify(listener: Listener, what: str, engine: Engine) -> None:
    hears = getattr(listener, what, None)
    if hears is not None:
        hears(engine)
