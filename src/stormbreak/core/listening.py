"""Who hears the events of an engine."""

from stormbreak.core.engine import Engine, Listener


def subscribe(engine: Engine, listener: Listener) -> None:
    """Have `listener` called with every event of `engine` from now on, once, however often it subscribes.

    It is called after the step that an event is of, on whatever thread, and may not make calls on this engine. What it
    raises is logged once, and fails no call. A listener that has a method `watch` is given the engine first.
    """
    if listener in engine.listeners:
        return
    watch = getattr(listener, "watch", None)
    if watch is not None:
        watch(engine)
    engine.listeners.append(listener)
