"""The same collapse with our engine as the clients: published policies, and what prevents it.

All calls go through one engine, as from one application. `token bucket` retries at once out of a budget that earns a tenth with
each call; `interactive` is the preset as it is, but for the attempt's timeout and a deadline of three of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from random import Random

from published.bare_collapse import (
    ATTEMPTS,
    FIRST_BACKOFF,
    LOADS,
    SECONDS,
    SERVICE,
    SLOPE,
    TIMEOUT,
    TRIP,
    Rate,
    Second,
    Seconds,
)
from stormbreak.core.backoff import Backoff
from stormbreak.core.engine import Engine
from stormbreak.core.flow import Send
from stormbreak.core.policy import Policy
from stormbreak.core.presets import INTERACTIVE, OFF
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.drivers.virtual_time import Reply, Timeline, VirtualDriver
from stormbreak.events import Event, RetryPlanned
from stormbreak.types import Call, CallResult, Outcome, Target, Verdict

_TARGET = Target("server", "slows-down")
_ANSWER = Outcome(Verdict.OK)
_DEADLINE = ATTEMPTS * TIMEOUT


def _retrying(backoff: Backoff, budget: BudgetPolicy | None = None) -> Policy:
    rule = RetryPolicy(max_attempts=ATTEMPTS, backoff=backoff, min_time_left=0.0)
    return replace(OFF, attempt_timeout=TIMEOUT, retry=rule, retry_budget=budget)


def with_ratio(ratio: float) -> Policy:
    """Retries at once, paid for by calls that earn `ratio` of one each."""
    return _retrying(Backoff(kind="constant", initial_delay=0.0), BudgetPolicy(ratio=ratio))


POLICIES: Mapping[str, Policy] = {
    "no backoff": _retrying(Backoff(kind="constant", initial_delay=0.0)),
    "backoff and jitter": _retrying(Backoff(initial_delay=FIRST_BACKOFF, max_delay=1000.0)),
    "token bucket": with_ratio(0.1),
    "interactive": replace(INTERACTIVE, attempt_timeout=TIMEOUT, deadline=_DEADLINE),
}
"""The first two are published."""


class _World:
    def __init__(self, policy: Policy, rate: Rate, seed: int) -> None:
        self.timeline = Timeline()
        self.seconds = Seconds()
        self._chance = Random(seed)
        self._rate = rate
        self._inside = 0
        engine = Engine(policy)
        engine.listeners.append(self._on_event)
        self._driver = VirtualDriver(engine, self.timeline, chance=Random(f"engines {seed}").random)

    def arrive(self) -> None:
        """A call begins, and the next will."""
        now = self.timeline.now
        engine = self._driver.engine
        self.seconds.count("calls", now)
        deadline = engine.policy.deadline
        call = Call(
            engine.number(),
            _TARGET,
            deadline_at=None if deadline is None else now + deadline,
            patience=engine.policy.patience,
            fail_fast=engine.policy.fail_fast,
        )
        self._driver.start(call, self._send, self._end)
        rate = self._rate(now)
        if rate > 0:
            self._after(self._chance.expovariate(rate), self.arrive)

    def _after(self, delay: float, do: Callable[[], None]) -> None:
        self.timeline.at(self.timeline.now + delay, do)

    def _trip(self) -> float:
        return self._chance.expovariate(1 / TRIP)

    def _send(self, _: Send, reply: Reply) -> None:
        """Whoever gives up is gone, but the server does not know."""
        self._after(self._trip(), partial(self._serve, reply))

    def _serve(self, reply: Reply) -> None:
        self._inside += 1
        self._after(SERVICE + SLOPE * self._inside, partial(self._served, reply))

    def _served(self, reply: Reply) -> None:
        self._inside -= 1
        self._after(self._trip(), partial(reply, _ANSWER))

    def _end(self, ended: CallResult) -> None:
        if ended.outcome.verdict is Verdict.OK:
            self.seconds.count("successes", self.timeline.now)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, RetryPlanned):
            self.seconds.count("retries", event.at)


def run(load: str, policy: str, seed: int) -> list[Second]:
    """What happened in each second under one of `POLICIES`."""
    return play(POLICIES[policy], LOADS[load], seed)


def play(policy: Policy, rate: Rate, seed: int) -> list[Second]:
    """What happened in each second."""
    world = _World(policy, rate, seed)
    world.timeline.at(0.01, world.arrive)
    world.timeline.run(until=SECONDS)
    return world.seconds.each()
