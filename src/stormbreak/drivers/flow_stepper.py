"""Step flows under the engine's lock: the common part of all drivers.

A step is a turn at the engine (`turn_lock`). Afterwards, with the lock released, the owners of woken tickets are
woken and events are delivered.
"""

import logging
import threading
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar
from weakref import WeakMethod, ref

from stormbreak.core.call import run_call
from stormbreak.core.engine import ContextListener, Engine
from stormbreak.core.explain import shown
from stormbreak.core.flow import Command, DeliverStream, Flow, Race, Send, close
from stormbreak.core.queue_order import Ticket
from stormbreak.drivers.locks import new_lock
from stormbreak.drivers.turn_lock import TurnLock
from stormbreak.events import CallCancelled, Event
from stormbreak.types import Call, CallResult, Outcome

R = TypeVar("R")

_Left: TypeAlias = tuple[Sequence[Callable[[], None]], Sequence[Event]]

_TROUBLE = (Exception, CancelledError, GeneratorExit)
"""Errors of listeners. A listener is a plain function, never cancelled or closed, so these two are its own errors."""

_log = logging.getLogger("stormbreak")


class Stepper(TurnLock[Flow, _Left]):
    """Steps the flows of one engine; thread-safe. Flows without an owner are postponed."""

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Callable[[], float],
        chance: Callable[[], float],
        steps_alone: bool = True,
    ) -> None:
        self.engine = engine
        self.clock = clock
        self.chance = chance
        self._warned: dict[int, Callable[[], object]] = {}  # by id, which may be reused
        super().__init__()
        self.weak_snapshot = WeakMethod(self.snapshot)
        if steps_alone:  # otherwise `shared_stepper` does it
            engine.weak_snapshot = self.weak_snapshot

    def _begin(self) -> None:
        super()._begin()
        self._delivering: set[int] = set()
        self._pending: dict[Flow, tuple[Call, Command]] = {}
        self._last: dict[Flow, Outcome] = {}  # of flows that were dropped with an outcome
        self._interrupted = False  # a signal interrupted a step: see `_settle`

    def _reset_after_fork(self) -> None:
        super()._reset_after_fork()
        self.engine.start_over()

    def start(self, call: Call) -> tuple[Flow, Command | CallResult]:
        """Start the flow of `call` and run it to its first command.

        Raises:
            RuntimeError: called by a listener, or by a finalizer that interrupts a step of this thread.
        """
        context_listener = self.engine.context_listener
        if context_listener is not None:
            if self._delivering:
                self._refuse_reentry()
            self._enter_contexts(context_listener, call)
        return self.step(None, None, call)

    def step(
        self, flow: Flow | None, outcome: Outcome | None, call: Call | None = None
    ) -> tuple[Flow, Command | CallResult]:
        """Resume `flow` with the result of its last command. After an interrupt (KeyboardInterrupt) it has to be closed.

        With None, start the flow of `call`, which has no owner yet.

        Raises:
            RuntimeError: as from `start`.
        """
        if self._delivering:
            self._refuse_reentry()
        engine, pending = self.engine, self._pending
        left: _Left | None = None
        try:
            with self._lock:
                if self._busy:
                    self._refuse_in_the_middle()
                clock, chance = self.clock, self.chance  # a method call would take twice as long
                now, uniform = clock(), chance()
                self._busy = True
                try:
                    command: Command | CallResult
                    try:
                        if call is not None:
                            flow = run_call(engine, call, now, uniform)
                            command = next(flow)
                            pending[flow] = call, command
                        else:
                            command = flow.send((outcome, now, uniform))  # type: ignore[union-attr]
                            if flow in pending:  # not a flow of the parent in a forked child
                                pending[flow] = pending[flow][0], command
                    except StopIteration as stop:
                        command = stop.value
                        pending.pop(flow, None)  # type: ignore[arg-type]
                    if engine.woken or engine.events:
                        left = self._collect()
                except BaseException:
                    self._interrupted = True
                    raise
                finally:
                    self._busy = False
            if left is not None or self._postponed:
                self._act(left)
        except BaseException:  # an interrupt, perhaps in a listener
            self._after_interrupt(left, None if call is None else flow)
            raise
        return flow, command  # type: ignore[return-value]  # there is one, with its first command

    def _after_interrupt(self, left: _Left | None, unowned: Flow | None) -> None:
        if left is not None:
            _wake_all(left)
        if unowned is not None:
            self.close(unowned)

    def first_output(self, send: Send) -> None:
        """Record the first output of the attempt of `send`, in a call that `streams`; do nothing after its end."""
        if self._delivering:
            self._refuse_reentry()
        if send.permit is None:
            return
        permit = send.permit
        self._turn(lambda: permit.first_output(self.clock()))

    def between_steps(self, do: Callable[[Engine, float], R]) -> R:
        """Change the engine between two steps; affected calls are woken.

        Raises:
            RuntimeError: a listener calls it within a step's events.
        """
        if self._delivering:
            self._refuse_reentry()
        return self._turn(lambda: do(self.engine, self.clock()))

    def rest(self) -> None:
        """Give back the leases of a fleet when no call needs them, until one does: a driver was closed."""
        fleet = self.engine.fleet
        if fleet is not None:
            self._turn(fleet.rest)

    def snapshot(self, *, pending: bool = True) -> dict[str, Any]:
        """Return a snapshot between two steps, with the wait of each `pending` call; listeners may call it."""
        return self._turn(lambda: self._snapshot(pending=pending))

    def _snapshot(self, *, pending: bool) -> dict[str, Any]:
        now = self.clock()
        calls = self._pending.values() if pending else ()
        waiting = (
            {"pending": [shown(call, command, now) for call, command in calls]} if pending else {}
        )
        return self.engine.snapshot(now) | waiting

    def close(self, flow: Flow) -> None:
        """Close `flow`; its permits go to the next waiting calls.

        During another flow's step on the same thread, it is closed at the end of that step.
        """
        self.abandon(flow)
        self._catch_up()

    def give_up(self, flow: Flow, error: BaseException) -> None:
        """Close `flow` after an exception in its runner; a GeneratorExit comes from the garbage collector."""
        if isinstance(error, GeneratorExit):
            self.drop(flow)
        else:
            self.close(flow)

    def drop(self, flow: Flow, last: Outcome | None = None) -> None:
        """Close `flow` in a finalizer: its permits are freed at once, and listeners get its events with the next step.

        Listeners may have locks that the interrupted thread holds.
        A flow with a `last` outcome is resumed with it first.
        """
        if last is not None:
            self._last[flow] = last
        self._postpone(flow)
        self._catch_up(self._collect_woken)

    def deliver_events(self) -> None:
        """Deliver the events of dropped flows now."""
        self._turn(lambda: None)

    def abandon(self, flow: Flow) -> None:
        """Close `flow`, which has no owner, at the end of the present step."""
        self._postpone(flow)

    def arm(self, ticket: Ticket, waker: Callable[[], None]) -> bool:
        """Call `waker` when the ticket is woken; return False if it was woken already."""
        with self._lock:
            if ticket.due:
                return False
            ticket.waker = waker
            return True

    def _collect(self) -> _Left | None:
        engine = self.engine
        if not engine.woken and not engine.events:
            return None
        wakers, _ = self._collect_woken()
        events = engine.events.copy()
        engine.events.clear()
        return wakers, events

    def _collect_woken(self) -> _Left:
        woken = self.engine.woken
        wakers = [ticket.waker for ticket in woken if ticket.waker is not None]
        woken.clear()
        return wakers, ()

    def _settle(self, held: Flow) -> None:
        try:
            self._close(held)
        except BaseException as error:
            self._interrupted = self._interrupted or not isinstance(error, Exception)
            raise

    def _close(self, held: Flow) -> None:
        known, now = self._pending.pop(held, None), self.clock()
        last = self._last.pop(held, None)
        if last is not None:
            with suppress(StopIteration):
                held.send((last, now, self.chance()))
        if self._interrupted:
            self._interrupted = False
            with suppress(Exception):  # the state after the interrupted step may make it fail
                close(held, now, self.chance())
            self.engine.recover([command for _, command in self._pending.values()], now)
        else:
            close(held, now, self.chance())
        if last is None and known is not None and self.engine.listeners:
            call, command = known
            sent = isinstance(command, Send | Race | DeliverStream)
            self.engine.events.append(CallCancelled(now, call.number, call.target, sent))

    def _deliver_later(self, left: _Left) -> None:
        _wake_all(left)
        _, events = left
        if events:
            self._deliver(events)

    def _deliver(self, events: Sequence[Event]) -> None:
        here = threading.get_ident()
        within = here in self._delivering  # called from a listener
        self._delivering.add(here)
        try:
            for event in events:
                for listener in tuple(self.engine.listeners):
                    try:
                        listener(event)
                    except _TROUBLE:  # a listener's error must never fail a call
                        self._warn_once(listener)
        finally:
            if not within:
                self._delivering.discard(here)

    def _enter_contexts(self, context_listener: ContextListener, call: Call) -> None:
        try:
            context_listener.begins(call, self.clock())
        except _TROUBLE:
            self._warn_once(context_listener)

    def _warn_once(self, listener: object) -> None:
        known = self._warned.get(id(listener))
        if known is None or known() is not listener:
            self._warned[id(listener)] = _reference(listener)
            _log.exception("a listener failed; its further failures are not reported")

    def _refuse_in_the_middle(self) -> None:
        raise RuntimeError("a finalizer may not make calls in the middle of a step of the engine")

    def _refuse_reentry(self) -> None:
        if threading.get_ident() in self._delivering:
            raise RuntimeError("a listener may not make calls on the engine it listens to")


def _wake_all(left: _Left) -> None:
    """Wake the owners of tickets. Idempotent."""
    for wake in left[0]:
        wake()


def _reference(listener: object) -> Callable[[], object]:
    try:
        return ref(listener)
    except TypeError:  # it has slots; kept alive, so that its id is not reused
        return lambda: listener


# ---------------------------------------------------------------- one stepper for each engine
# The stepper has the lock. Two steppers on one engine would step its flows at the same time.

_lock = new_lock()


def stepper_of(engine: Engine) -> Stepper | None:
    """Return the stepper of `engine`; None if no driver runs it."""
    stepper: Stepper | None = getattr(engine.weak_snapshot(), "__self__", None)
    return stepper


def shared_stepper(
    engine: Engine, *, clock: Callable[[], float], chance: Callable[[], float]
) -> Stepper:
    """Return the stepper of `engine`, shared while a driver has it.

    Raises:
        ValueError: a driver steps it already, by another clock or chance.
    """
    while True:
        before = engine.weak_snapshot
        stepper = stepper_of(engine)
        if stepper is not None:
            if (stepper.clock, stepper.chance) != (clock, chance):
                raise ValueError(
                    "an engine has one clock and one source of chance, and this one has others"
                )
            return stepper
        # Not under the lock: meanwhile the garbage collector may call this function, too.
        made = Stepper(engine, clock=clock, chance=chance, steps_alone=False)
        mine = made.weak_snapshot
        with _lock:
            if engine.weak_snapshot is before:  # nothing can run between this and the next line
                engine.weak_snapshot = mine
                return made


class Driver:
    """The common part of drivers in real time. Those of one engine step it in turn, on any thread.

    `chance` returns numbers in [0, 1).
    """

    def __init__(
        self, engine: Engine, clock: Callable[[], float], chance: Callable[[], float]
    ) -> None:
        self.engine = engine
        self.clock = clock
        self._stepper = stepper = shared_stepper(engine, clock=clock, chance=chance)
        # From any thread.
        self.first_output = stepper.first_output
        self.between_steps = stepper.between_steps
        self.snapshot = stepper.snapshot
        self.rest = stepper.rest
