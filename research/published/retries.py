"""The retries of "Fixing retries with token buckets and circuit breakers", decided by our engine.

Each client is a process with an engine of its own. Its strategies are ours as follows:

- no retries, three retries: a `RetryPolicy`, and nothing else;
- token bucket: a `BudgetPolicy` that earns a tenth with each call, does not decay and pays for every retry. It wants a whole token
  where the published program wants more than one, hence a cap of 4.95 instead of 5. The published bucket is full at first: ours,
  which is empty, is filled by calls before the run;
- breaker on retries: our trip rule `FailureRate` in the place of the budget. It counts a call that begins as one more
  that is well, and opens at 1 failure in 11, which is one failure for ten calls;
- default: the preset `interactive` against 503s, as it is, an empty budget included.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from random import Random
from typing import NamedTuple

from published.bare_retries import (
    CLIENTS,
    FILL,
    RATE,
    RETRIES,
    SECONDS,
    SIZE,
    THRESHOLD,
    TRIP,
    Tally,
)
from stormbreak.core.backoff import Backoff
from stormbreak.core.diagnosis import Diagnosis
from stormbreak.core.engine import Engine
from stormbreak.core.flow import Send
from stormbreak.core.policy import Policy
from stormbreak.core.presets import INTERACTIVE, OFF
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import UNKNOWN, Budget, BudgetPolicy, Load
from stormbreak.core.trip import FailureRate
from stormbreak.drivers.virtual_time import Reply, Timeline, VirtualDriver
from stormbreak.types import TREATMENTS, Call, CallResult, Outcome, Target, Verdict

_TARGET = Target("service", "fails")
_WELL = Outcome(Verdict.OK)
_ILL = Outcome(Verdict.OVERLOADED, status=503)
_AGES = 1e9  # seconds: no decay
_MANY = 1000  # attempts
_LAST = 100_000  # outcomes, more than a client ever has


def _at_once(attempts: int) -> RetryPolicy:
    return RetryPolicy(
        max_attempts=attempts,
        backoff=Backoff(kind="constant", initial_delay=0.0),
        min_time_left=0.0,
    )


BUCKET = BudgetPolicy(ratio=FILL, capacity=SIZE - FILL / 2, decay_time=_AGES, no_free_retries=True)


class RetryBreaker(Budget):
    """Retries are free until too many requests fail, and cannot be paid then."""

    __slots__ = ("_may", "_trip")

    def __init__(self) -> None:
        super().__init__(BudgetPolicy(ratio=0.0, no_free_retries=True))
        share = THRESHOLD / (1 + THRESHOLD) + 1e-6  # more than that, not just as many
        self._trip = FailureRate(ratio=share, min_calls=1, window_calls=_LAST).counter(
            Diagnosis(TREATMENTS)
        )
        self._may = True

    def earn(self, now: float) -> None:
        """A call has come."""
        self._trip.record(now, failed=False, took=0.0)

    def record(self, outcome: Outcome, now: float) -> None:
        """Take note of how an attempt ended."""
        if outcome.verdict is not Verdict.OK:
            self._may = not self._trip.record(now, failed=True, took=0.0)

    def is_free(
        self,
        outcome: Outcome,  # noqa: ARG002
        now: float,  # noqa: ARG002
        load: Load = UNKNOWN,  # noqa: ARG002
    ) -> bool:
        """Whether the rule has not said to open."""
        return self._may


class Ours(NamedTuple):
    """A published strategy in our words: the policy, and what is done before."""

    policy: Policy
    prepare: Callable[[Engine], None] = lambda _: None


def _fill(engine: Engine) -> None:
    assert engine.budget is not None
    for _ in range(round(SIZE / FILL)):
        engine.budget.earn(0.0)


def _break(engine: Engine) -> None:
    engine.target_state(_TARGET).budget = RetryBreaker()


STRATEGIES: Mapping[str, Ours] = {
    "no retries": Ours(OFF),
    "three retries": Ours(replace(OFF, retry=_at_once(1 + RETRIES))),
    "token bucket": Ours(replace(OFF, retry=_at_once(_MANY), retry_budget=BUCKET), _fill),
    "breaker on retries": Ours(replace(OFF, retry=_at_once(1 + RETRIES)), _break),
}
DEFAULT, EMPTY = "default", "token bucket, empty"
MORE: Mapping[str, Ours] = {
    DEFAULT: Ours(INTERACTIVE),
    EMPTY: STRATEGIES["token bucket"]._replace(prepare=lambda _: None),
}
"""What is not published."""


class _Service:
    def __init__(self, ours: Ours, failing: float, seed: int, seconds: float) -> None:
        self.timeline = Timeline()
        self.calls = self.attempts = self.successes = 0
        self._ours = ours
        self._chance = Random(seed)
        self._engines = Random(f"engines {seed}").random
        self._failing = failing
        self._seconds = seconds

    def client(self, rate: float) -> None:
        """One more client starts."""
        engine = Engine(self._ours.policy)
        self._ours.prepare(engine)
        driver = VirtualDriver(engine, self.timeline, chance=self._engines)
        self.timeline.at(self._trip(), partial(self._arrive, driver, rate))

    def _trip(self) -> float:
        return self._chance.expovariate(1 / TRIP)

    def _arrive(self, driver: VirtualDriver, rate: float) -> None:
        now = self.timeline.now
        if now > self._seconds:
            return
        self.calls += 1
        driver.start(self._call(driver.engine), self._handle, self._end)
        self.timeline.at(now + self._chance.expovariate(rate), partial(self._arrive, driver, rate))

    def _call(self, engine: Engine) -> Call:
        policy = engine.policy
        return Call(engine.number(), _TARGET, patience=policy.patience, fail_fast=policy.fail_fast)

    def _handle(self, _: Send, reply: Reply) -> None:
        self.attempts += 1
        failed = self._chance.random() < self._failing
        at = self.timeline.now + self._trip() + self._trip()
        self.timeline.at(at, partial(reply, _ILL if failed else _WELL))

    def _end(self, ended: CallResult) -> None:
        self.successes += ended.outcome.verdict is Verdict.OK


def run(
    strategy: str,
    failing: float,
    seed: int,
    *,
    clients: int = CLIENTS,
    rate: float = CLIENTS * RATE,
    seconds: float = SECONDS,
) -> Tally:
    """Let `clients` share `rate` calls a second, of which the service fails the share `failing`."""
    service = _Service({**STRATEGIES, **MORE}[strategy], failing, seed, seconds)
    for _ in range(clients):
        service.client(rate / clients)
    service.timeline.run()
    return Tally(service.calls, service.attempts, service.successes)


def in_the_long_run(strategy: str, failing: float) -> tuple[float, float]:
    """Success and load in percent that a client comes to that has been there for ever.

    None, three: each attempt fails alone. The bucket pays for every retry until the calls earn fewer than are needed, from
    1 failure in 11 on; then for a tenth of a retry per call. The breaker allows all three retries until there is one failed
    request for ten calls, from 1 in 11 on (with retries without end; three are as good as that here). Then it lets pass as
    many as hold that share, and from 1 in 10 on, where first attempts alone fail as often, none.
    """
    well = 1 - failing
    three = 100 * (1 - failing**4), 100 * (1 - failing**4) / well
    free = 1 / well  # attempts per call, if all are retried until they succeed
    if strategy == "no retries":
        load = 1.0
    elif strategy == "three retries":
        return three
    elif strategy == "token bucket":
        load = min(free, 1 + FILL)
    elif failing * free <= THRESHOLD:
        return three
    else:
        load = max(1.0, THRESHOLD / failing)
    return 100 * load * well, 100 * load
