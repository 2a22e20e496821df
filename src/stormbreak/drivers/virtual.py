"""The driver for virtual time: hours pass in seconds, and the same seed gives the same events.

`Timeline` is a clock that jumps to the next thing that is due. A `VirtualDriver` runs the calls of one
engine on it; many drivers may share one timeline, as many processes share the world's time.
"""

import random
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import TypeAlias

from stormbreak.core.engine import Engine
from stormbreak.core.flow import Command, Flow, Send, WaitFor
from stormbreak.drivers.steps import Stepper
from stormbreak.types import Call, Ended, Outcome, Verdict

Reply: TypeAlias = Callable[[Outcome], None]
VirtualSender: TypeAlias = Callable[[Send, Reply], Callable[[], None] | None]
"""Takes an attempt and a callback for its outcome; may return what to do if the attempt is given up."""

_TIMED_OUT = Outcome(Verdict.TIMEOUT, maybe_processed=True)


class Timeline:
    """A clock that jumps. Things due at the same time happen in the order in which they were asked for."""

    def __init__(self, start: float = 0.0) -> None:
        self.now = start
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def time(self) -> float:
        """The virtual time in seconds."""
        return self.now

    def at(self, when: float, do: Callable[[], None]) -> None:
        """Do something at `when`, or now if that has passed."""
        heappush(self._due, (max(when, self.now), next(self._order), do))

    def run(self, until: float = float("inf")) -> None:
        """Let everything happen that is due up to `until`."""
        due = self._due
        while due and due[0][0] <= until:
            self.now, _, do = heappop(due)
            do()
        if until != float("inf"):
            self.now = max(self.now, until)


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
        self, call: Call, sender: VirtualSender, done: Callable[[Ended], None]
    ) -> Callable[[], None]:
        """Start `call` now; `done` gets how it ended. Returns a function that cancels it."""
        run = _Run(self, sender, done)
        run.begin(call)
        return run.cancel


class _Run:
    """One call under way. `_turn` tells apart what it waits for now from what it no longer waits for."""

    __slots__ = ("_done", "_driver", "_ended", "_flow", "_give_up", "_sender", "_turn")

    def __init__(
        self, driver: VirtualDriver, sender: VirtualSender, done: Callable[[Ended], None]
    ) -> None:
        self._driver = driver
        self._sender = sender
        self._done = done
        self._turn = 0
        self._ended = False
        self._flow: Flow | None = None
        self._give_up: Callable[[], None] | None = None

    def begin(self, call: Call) -> None:
        self._flow, command = self._driver.stepper.start(call)
        self._obey(command)

    def cancel(self) -> None:
        if self._ended or self._flow is None:
            return
        self._ended = True
        self._turn += 1
        self._abandon()
        self._driver.stepper.close(self._flow)

    def _resume(self, turn: int, outcome: Outcome | None) -> None:
        if turn != self._turn or self._flow is None:
            return
        self._turn += 1
        if outcome is _TIMED_OUT:
            self._abandon()
        self._give_up = None
        self._obey(self._driver.stepper.step(self._flow, outcome))

    def _abandon(self) -> None:
        give_up, self._give_up = self._give_up, None
        if give_up is not None:
            give_up()

    def _obey(self, command: Command | Ended) -> None:
        turn, timeline = self._turn, self._driver.timeline
        if isinstance(command, Ended):
            self._ended = True
            self._done(command)
        elif isinstance(command, Send):
            give_up = self._sender(command, partial(self._resume, turn))
            if turn != self._turn:  # answered at once
                return
            self._give_up = give_up
            if command.timeout is not None:
                timeline.at(timeline.now + command.timeout, partial(self._resume, turn, _TIMED_OUT))
        elif isinstance(command, WaitFor):
            self._wait_for(command, turn)
        else:
            timeline.at(command.until, partial(self._resume, turn, None))

    def _wait_for(self, command: WaitFor, turn: int) -> None:
        timeline = self._driver.timeline

        def wake() -> None:
            timeline.at(timeline.now, partial(self._resume, turn, None))

        if not self._driver.stepper.arm(command.ticket, wake):
            wake()
        elif command.until != float("inf"):
            timeline.at(command.until, partial(self._resume, turn, None))
