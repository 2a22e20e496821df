"""Guarded functions that call guarded functions: who is inside of whose attempt, in the present context.

A call to the same target of the same engine, from within one of its attempts, rides along: it is a part of that
attempt. Were it a call of its own, it would wait for a place that its own caller holds. And what an inner call gave up
on is not tried again by an outer one: three times three attempts are how storms are made.

What is held is noted in a context variable: tasks and `to_thread` inherit it, a bare thread pool does not.
"""

from collections.abc import Iterator
from contextvars import ContextVar

from stormbreak.core.engine import Engine
from stormbreak.drivers.explain import AttemptHistory, history_of
from stormbreak.errors import CallError
from stormbreak.types import CallResult, Target

_OWN_GATES = frozenset(("verdict", "forbidden", "committed"))
"""Gates that say of an error that it is not to be retried there at all; whoever is outside may think otherwise."""

_MAX_DEPTH = 16


class Held:
    """An attempt that is under way; it knows what inner calls gave up on meanwhile."""

    __slots__ = ("engine", "given_up", "live", "outer", "target")

    def __init__(self, engine: Engine, target: Target, outer: "Held | None") -> None:
        self.engine = engine
        self.target = target
        self.outer = outer
        self.live = True
        self.given_up: BaseException | None = None


HELD: ContextVar[Held | None] = ContextVar("stormbreak_held", default=None)


def innermost() -> Held | None:
    """The innermost attempt here that has not ended: a task may outlive the attempt that it was started in."""
    held = HELD.get()
    while held is not None and not held.live:
        held = held.outer
    return held


def rides(engine: Engine, target: Target) -> bool:
    """Whether a call to `target` from here is a part of an attempt there."""
    held = HELD.get()
    while held is not None:
        if held.live and held.engine is engine and held.target == target:
            return True
        held = held.outer
    return False


def record_given_up(ended: CallResult) -> bool:
    """Whether a call ended with something that would have been retried, were there no gates."""
    return ended.stopped is not None and ended.stopped not in _OWN_GATES


def was_given_up(error: BaseException, held: Held) -> bool:
    """Whether a call within `held` retried `error`, or its cause, for as long as it could: a guarded one, or a client's."""
    link: BaseException | None = error
    for _ in range(_MAX_DEPTH):
        if link is None:
            break
        if link is held.given_up or any(map(record_given_up, _history_from(link))):
            return True
        link = link.__cause__
    return False


def _history_from(error: BaseException) -> Iterator[CallResult]:
    """How calls of a client or through a door ended, as their errors tell.

    Those around functions tell `held` instead: their error may be one object, raised again and again.
    """
    if isinstance(error, CallError):
        yield error.ended
    for place in (error, getattr(error, "response", None)):
        story = history_of(place)
        if type(story) is AttemptHistory and story.ended is not None:
            yield story.ended
