"""Guarded functions that call guarded functions: which attempt a call runs in.

A call to the same target of the same engine, from within one of its attempts, is nested: it is part of that attempt. As
a call of its own it would wait for a slot that its own caller holds. An outer call does not retry what an inner call
gave up on: three times three attempts make a storm.

The running attempt is in a context variable: tasks and `to_thread` inherit it, a bare thread pool does not.
"""

from collections.abc import Iterator
from contextvars import ContextVar

from stormbreak.core.engine import Engine
from stormbreak.drivers.explain import AttemptHistory, history_of
from stormbreak.errors import CallError
from stormbreak.types import CallResult, Target

_FINAL_GATES = frozenset(("verdict", "forbidden", "committed"))
"""Gates that never retry an error at that level; an outer level may."""

_MAX_DEPTH = 16


class RunningAttempt:
    """An attempt in progress, and the error that an inner call gave up on meanwhile."""

    __slots__ = ("engine", "given_up", "live", "outer", "target")

    def __init__(self, engine: Engine, target: Target, outer: "RunningAttempt | None") -> None:
        self.engine = engine
        self.target = target
        self.outer = outer
        self.live = True
        self.given_up: BaseException | None = None


CURRENT: ContextVar[RunningAttempt | None] = ContextVar("stormbreak_attempt", default=None)


def innermost() -> RunningAttempt | None:
    """Return the innermost attempt around this call. A task may outlive the attempt in which it was started."""
    attempt = CURRENT.get()
    while attempt is not None and not attempt.live:
        attempt = attempt.outer
    return attempt


def is_nested(engine: Engine, target: Target) -> bool:
    """Whether a call to `target` from here is part of an attempt to it."""
    attempt = CURRENT.get()
    while attempt is not None:
        if attempt.live and attempt.engine is engine and attempt.target == target:
            return True
        attempt = attempt.outer
    return False


def gave_up(ended: CallResult) -> bool:
    """Whether a call ended with a failure that only a gate did not retry."""
    return ended.stopped is not None and ended.stopped not in _FINAL_GATES


def was_given_up(error: BaseException, attempt: RunningAttempt) -> bool:
    """Whether a guarded call or a client call within `attempt` gave up on `error` or its cause."""
    link: BaseException | None = error
    for _ in range(_MAX_DEPTH):
        if link is None:
            break
        if link is attempt.given_up or any(map(gave_up, _results_from(link))):
            return True
        link = link.__cause__
    return False


def _results_from(error: BaseException) -> Iterator[CallResult]:
    """The results of client and transport calls that an error carries.

    Calls of functions record it in the `RunningAttempt` instead: the same exception object may be raised many times.
    """
    if isinstance(error, CallError):
        yield error.ended
    for place in (error, getattr(error, "response", None)):
        story = history_of(place)
        if type(story) is AttemptHistory and story.ended is not None:
            yield story.ended
