"""Drives flows by hand: the clock and the chance are numbers, and there is no driver."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from stormbreak.core.call import run_call
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.core.flow import Command, DeliverStream, Race, Send, Wait, WaitFor, close
from stormbreak.core.policy import Policy
from stormbreak.core.target_state import TargetState
from stormbreak.events import Event
from stormbreak.types import Call, CallResult, Outcome, Target, Verdict

TARGET = Target("acme", "large")
OTHER = Target("acme", "small")

OK = Outcome(Verdict.OK)
SERVER_ERROR = Outcome(Verdict.SERVER_ERROR, status=500)
THROTTLED = Outcome(Verdict.THROTTLED, status=429)
TIMEOUT = Outcome(Verdict.TIMEOUT)
INVALID = Outcome(Verdict.INVALID, status=400)


def retry_in(seconds: float, verdict: Verdict = Verdict.THROTTLED) -> Outcome:
    """An answer that asks for a retry after `seconds`."""
    return Outcome(verdict, status=429, retry_after=seconds)


class Spaced:
    """A fixed send rate."""

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second

    def paces(self, _call: Call, _now: float) -> bool:
        return True

    def time_to_send(self, sends: float, now: float) -> float:
        return sends / self.per_second


class Run:
    """One running call: its last command, and its result."""

    def __init__(self, stage: "Stage", call: Call) -> None:
        self.stage = stage
        self.call = call
        self.ended: CallResult | None = None
        self.closed = False
        self.command: Command | None = None
        self.since = stage.now  # when it gave its last command
        self._flow = run_call(stage.engine, call, stage.now, stage.chance)
        with self._stepping():
            self.command = next(self._flow)

    @contextmanager
    def _stepping(self) -> Iterator[None]:
        try:
            yield
        except StopIteration as stop:
            self.command, self.ended = None, stop.value
        self.since = self.stage.now
        self.stage.take_away()

    def step(self, outcome: Outcome | None = None) -> "Run":
        """Resume with the outcome of the last command."""
        with self._stepping():
            self.command = self._flow.send((outcome, self.stage.now, self.stage.chance))
        return self

    def cross(self, attempt: int, outcome: Outcome) -> "Run":
        """Resume a race with the outcome of one attempt."""
        assert isinstance(self.command, Race)
        self.command.first = next(send for send in self.command.sends if send.attempt == attempt)
        return self.step(outcome)

    def close(self) -> None:
        """Close the flow as a driver does."""
        self.command, self.closed = None, True
        close(self._flow, self.stage.now, self.stage.chance)
        self.stage.take_away()

    def drop(self) -> None:
        """Close the flow as the garbage collector does, without a time."""
        self.command, self.closed = None, True
        self._flow.close()
        self.stage.take_away()

    @property
    def over(self) -> bool:
        return self.closed or self.ended is not None

    @property
    def sending(self) -> bool:
        return isinstance(self.command, Send)

    @property
    def delivering(self) -> bool:
        return isinstance(self.command, DeliverStream)

    @property
    def racing(self) -> list[int]:
        """The numbers of the attempts in flight."""
        race = self.command
        return [send.attempt for send in race.sends] if isinstance(race, Race) else []

    @property
    def queued(self) -> bool:
        return isinstance(self.command, WaitFor)

    @property
    def backing_off(self) -> bool:
        return isinstance(self.command, Wait)

    @property
    def due(self) -> bool:
        """Whether a driver would resume this flow now."""
        if isinstance(self.command, Wait | Race):
            return self.stage.now >= self.command.until
        if isinstance(self.command, WaitFor):
            return self.command.ticket.due or self.stage.now >= self.command.until
        return False


class Stage:
    """One engine, and the calls started on it."""

    def __init__(self, policy: Policy | None = None, *, now: float = 100.0, chance: float = 0.0):
        self.engine = Engine(policy or Policy())
        self.now = now
        self.chance = chance
        self.runs: list[Run] = []
        self.events: list[Event] = []

    @property
    def state(self) -> TargetState:
        return self.engine.target_state(TARGET)

    def listen(self) -> "Stage":
        self.engine.listeners.append(self.events.append)
        return self

    def start(self, *, within: float | None = None, target: Target = TARGET, **call) -> Run:
        """Start a call; `within` seconds is its deadline."""
        deadline_at = None if within is None else self.now + within
        run = Run(self, Call(self.engine.number(), target, deadline_at=deadline_at, **call))
        self.runs.append(run)
        return run

    def take_away(self) -> None:
        """What a driver does after each step."""
        self.engine.woken.clear()
        for event in self.engine.events:
            for listener in self.engine.listeners:
                listener(event)
        self.engine.events.clear()

    def settle(self) -> None:
        """Resume due flows until none is due."""
        while due := next((run for run in self.runs if run.due), None):
            due.step()

    def tick(self, seconds: float) -> None:
        """Move the clock in one jump."""
        self.now += seconds
        self.settle()

    def pass_time(self, seconds: float) -> None:
        """Move the clock from one due flow to the next."""
        until = self.now + seconds
        self.settle()
        while (due_at := self._due_at()) <= until:
            self.now = max(self.now, due_at)
            self.settle()
        self.now = until

    def _due_at(self) -> float:
        waits = (
            run.command.until
            for run in self.runs
            if run.backing_off or run.queued or isinstance(run.command, Race)
        )
        return min(waits, default=float("inf"))

    def fail_until_open(self) -> None:
        """Fail calls until the circuit is open; their own retries are cancelled."""
        while self.state.breaker.state.value == "closed":
            run = self.start()
            run.step(SERVER_ERROR)
            run.close()


def policy(**changes) -> Policy:
    """A policy with a fixed limit, no other part, and `changes`."""
    bare = Policy(
        deadline=None,
        patience=None,
        attempt_timeout=None,
        retry_budget=None,
        breaker=None,
        limit=FixedLimit(),
        adaptive_rate=False,
    )
    return replace(bare, **changes)
