"""The driver for virtual time: hours pass in seconds, and the same seed gives the same events.

`Timeline` is a clock that jumps to the next event. A `VirtualDriver` runs the calls of one
engine on it; many drivers may share one timeline, like many processes.
"""

import random
from collections import deque
from collections.abc import Callable
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Any, TypeAlias

import msgspec

from stormbreak.core.engine import Engine
from stormbreak.core.flow import Ask, Command, DeliverStream, Flow, Race, Send, WaitFor
from stormbreak.drivers.flow_stepper import Stepper
from stormbreak.types import Call, CallResult, Outcome, Verdict

Reply: TypeAlias = Callable[[Outcome], None]
VirtualSender: TypeAlias = Callable[[Send, Reply], Callable[[], None] | None]
"""Takes an attempt and a callback for its outcome; it may return a function that cancels the attempt.

The callback of a call that delivers is called twice: at its first output, `committed`, and at the end.
"""

_TIMED_OUT = Outcome(Verdict.TIMEOUT, maybe_processed=True)


Timer: TypeAlias = list[Any]
"""[when, order, action]; the action is None after it has run or was cancelled. A timeout has a fourth element."""

_TIMER = 3  # elements of a timer that is not a timeout
MANY = 64  # minimum cancelled timers for a cleanup


class Timeline:
    """A clock that jumps. Events at the same time happen in the order of their scheduling."""

    def __init__(self, start: float = 0.0) -> None:
        self.now = start
        self._due: list[Timer] = []
        self._timeouts: deque[Timer] = deque()  # in order; only the first is in the heap
        self._order = count()
        self._cancelled = 0  # cancelled timers in the heap, without timeouts

    def time(self) -> float:
        """The virtual time in seconds."""
        return self.now

    def at(self, when: float, do: Callable[[], None]) -> Timer:
        """Schedule an action at `when`, or now if that has passed. Returns a timer."""
        if when < self.now:  # noqa: PLR1730 - `max` takes longer
            when = self.now
        timer = [when, next(self._order), do]
        heappush(self._due, timer)
        return timer

    def timeout(self, when: float, do: Callable[[], None]) -> Timer:
        """Schedule like `at`; best for actions that are usually cancelled, and seldom due before the last timeout."""
        timeouts = self._timeouts
        if when < (timeouts[-1][0] if timeouts else self.now):
            return self.at(when, do)
        timer = [when, next(self._order), do, True]
        if not timeouts:
            heappush(self._due, timer)
        timeouts.append(timer)
        return timer

    def cancel(self, timer: Timer) -> None:
        """Cancel `timer`; does nothing if it has fired."""
        if timer[2] is None:
            return
        timer[2] = None
        if len(timer) > _TIMER:
            return
        self._cancelled += 1
        if self._cancelled > MANY and self._cancelled > len(self._due) // 2:
            self._due[:] = [
                timer for timer in self._due if timer[2] is not None or len(timer) > _TIMER
            ]
            heapify(self._due)
            self._cancelled = 0

    def run(self, until: float = inf) -> None:
        """Run all events up to `until`."""
        due = self._due
        while due and due[0][0] <= until:
            timer = heappop(due)
            do = timer[2]
            if len(timer) > _TIMER:
                self._expire()
            elif do is None:
                self._cancelled -= 1
            if do is not None:
                timer[2] = None
                self.now = timer[0]
                do()
        if until != inf:
            self.now = max(self.now, until)

    def _expire(self) -> None:
        """Put the next timeout into the heap."""
        timeouts = self._timeouts
        timeouts.popleft()
        while timeouts and timeouts[0][2] is None:
            timeouts.popleft()
        if timeouts:
            heappush(self._due, timeouts[0])


class VirtualDriver:
    """Runs calls of one engine on a timeline."""

    def __init__(
        self, engine: Engine, timeline: Timeline, *, chance: Callable[[], float] | None = None
    ) -> None:
        self.engine = engine
        self.timeline = timeline
        self.stepper = Stepper(
            engine,
            clock=timeline.time,
            chance=chance or random.Random(0).random,  # noqa: S311 - reproducible, not secret
        )

    def start(
        self, call: Call, sender: VirtualSender, done: Callable[[CallResult], None]
    ) -> Callable[[], None]:
        """Start `call` now; `done` gets the result. Returns a function that cancels it."""
        run = _Run(self, sender, done)
        if self.engine.races:
            call = call._replace(races=True)
        run.flow, command = self.stepper.start(call)
        run.execute(command)
        return run.cancel

    def first_output(self, send: Send) -> None:
        self.stepper.first_output(send)


class _Rival(msgspec.Struct, eq=False):
    """One of several attempts of a call that are in flight at the same time."""

    give_up: Callable[[], None] | None = None
    timer: Timer | None = None


class _Run(msgspec.Struct, eq=False):
    """One call in progress. `_turn` distinguishes its present wait from earlier ones.

    In a `_race` the `_rivals` are in flight; the `_winner` may bring further output.
    """

    _driver: VirtualDriver
    _sender: VirtualSender
    _done: Callable[[CallResult], None]
    _turn: int = 0
    _delivering: int | None = None  # the turn of the attempt that is being delivered
    _ended: bool = False
    flow: Flow | None = None
    _give_up: Callable[[], None] | None = None
    _timer: Timer | None = None
    _race: Race | None = None
    _rivals: dict[Send, _Rival] = {}
    _winner: Send | None = None

    def cancel(self) -> None:
        if self._ended or self.flow is None:
            return
        self._ended = True
        self._turn += 1
        self._delivering = None
        if self._timer is not None:
            self._driver.timeline.cancel(self._timer)
        self._abandon()
        self._lose()
        self._driver.stepper.close(self.flow)

    def _resume(self, turn: int, outcome: Outcome | None) -> None:
        if turn != self._turn and turn != self._delivering:  # noqa: PLR1714 - a tuple takes longer
            return
        self._turn += 1
        timer = self._timer
        if timer is not None:
            self._timer = None
            self._driver.timeline.cancel(timer)
        if outcome is _TIMED_OUT:
            self._abandon()
        elif self._give_up is not None and not (outcome and outcome.committed):
            self._give_up = None
        self._delivering = None
        self.execute(self._driver.stepper.step(self.flow, outcome)[1])

    def _abandon(self) -> None:
        give_up, self._give_up = self._give_up, None
        if give_up is not None:
            give_up()

    def execute(self, command: Command | CallResult) -> None:
        if self._rivals and not isinstance(command, Race):
            self._lose()
        if isinstance(command, Send):
            self._send(command, self._turn)
        elif isinstance(command, CallResult):
            self._ended = True
            self._done(command)
        elif isinstance(command, WaitFor):
            self._wait_for(command, self._turn)
        elif isinstance(command, Ask):  # there are no local answers in virtual time
            self._resume(self._turn, None)
        elif isinstance(command, Race):
            self._start_race(command, self._turn)
        elif isinstance(command, DeliverStream):
            self._delivering = self._turn - 1
            if command.until is not None:
                self._set_timer(command.until, _TIMED_OUT)
        else:
            self._set_timer(command.until, None)

    def _send(self, command: Send, turn: int) -> None:
        give_up = self._sender(command, partial(self._resume, turn))
        if turn != self._turn:  # answered at once
            if turn == self._delivering:
                self._give_up = give_up
            return
        self._give_up = give_up
        timeout, timeline = command.timeout, self._driver.timeline
        if timeout is not None:
            self._timer = timeline.timeout(
                timeline.now + timeout, partial(self._resume, turn, _TIMED_OUT)
            )

    def _start_race(self, race: Race, turn: int) -> None:
        self._race = race
        timeline = self._driver.timeline
        for send in race.sends:
            if send in self._rivals:
                continue
            rival = self._rivals[send] = _Rival()
            crossed = partial(self._late_answer, send)
            if send.timeout is not None:
                at = timeline.now + send.timeout
                rival.timer = timeline.at(at, partial(crossed, _TIMED_OUT))
            rival.give_up = self._sender(send, crossed)
            if turn != self._turn:  # answered at once
                if self._delivering is not None and send is self._winner:
                    self._give_up = rival.give_up
                return
        if race.until != inf:
            self._set_timer(race.until, None)

    def _late_answer(self, send: Send, outcome: Outcome) -> None:
        """Handle the end of one of several attempts, or further output of the winner."""
        rival = self._rivals.pop(send, None)
        if rival is None:
            if send is self._winner and self._delivering is not None:
                self._resume(self._delivering, outcome)
            return
        if rival.timer is not None:
            self._driver.timeline.cancel(rival.timer)
        assert self._race is not None, "a rival has started"
        self._race.first = self._winner = send
        self._give_up = rival.give_up
        self._resume(self._turn, outcome)

    def _lose(self) -> None:
        """Cancel all attempts in flight."""
        rivals, self._rivals = self._rivals, {}
        for rival in rivals.values():
            if rival.timer is not None:
                self._driver.timeline.cancel(rival.timer)
            if rival.give_up is not None:
                rival.give_up()

    def _wait_for(self, command: WaitFor, turn: int) -> None:
        timeline = self._driver.timeline

        def wake() -> None:
            timeline.at(timeline.now, partial(self._resume, turn, None))

        if not self._driver.stepper.arm(command.ticket, wake):
            wake()
        elif command.until != inf:
            self._set_timer(command.until, None)

    def _set_timer(self, at: float, outcome: Outcome | None) -> None:
        self._timer = self._driver.timeline.at(at, partial(self._resume, self._turn, outcome))
