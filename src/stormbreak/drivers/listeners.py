"""Who hears the events of an engine, and how they stop hearing them."""

from typing import Self

from stormbreak.core.engine import Engine
from stormbreak.core.target_state import Listener
from stormbreak.drivers.locks import new_lock


class Attached:
    """Listeners that hear an engine from now on, until `detach`; in a `with`, until its end.

    A listener that heard it before is somebody else's to take away: it stays. One that has a method `watch` is given
    the engine first; one that has `unwatch` is given it last. Any thread may attach and detach.
    """

    def __init__(self, engine: Engine, *listeners: Listener) -> None:
        self.listeners = listeners
        self._engine = engine
        self._mine: list[Listener] = []  # those that did not hear it before
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
        """Have them hear no more; a second time does nothing.

        An event that another thread is telling at this moment may still reach them.
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


# One attaches or detaches at a time. What a `watch` does in its turn may do so, too.
_turn = new_lock()


def subscribe(engine: Engine, listener: Listener) -> Attached:
    """Have `listener` called with every event of `engine` from now on, once, however often it subscribes.

    It is called after the step that an event is of, on whatever thread, and may not make calls on this engine. What it
    raises is logged once, and fails no call.
    """
    return Attached(engine, listener)


def _notify(listener: Listener, what: str, engine: Engine) -> None:
    hears = getattr(listener, what, None)
    if hears is not None:
        hears(engine)
