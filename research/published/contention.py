"""The contention of "Exponential Backoff And Jitter" with our engine as each client, and our backoff rules.

Every client is a process with an engine of its own, whose policy is retries without end and nothing else; an attempt is a
read and a write. What is published as n failures, n = 1 the first, is our retry number n, so that our base is the first
delay: 10 ms, twice the published base of 5 ms (but for decorrelated jitter, which begins at its base). Our decorrelated
jitter cuts the range from which chance draws at the cap, the published one what was drawn: both are played.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from random import Random

from stormbreak.core.backoff import Backoff
from stormbreak.core.engine import Engine
from stormbreak.core.flow import Send
from stormbreak.core.presets import OFF
from stormbreak.core.retry import RetryPolicy
from stormbreak.drivers.virtual_time import Reply, Timeline, VirtualDriver
from stormbreak.types import Call, CallResult, Outcome, Target, Verdict

MEAN, DEVIATION = 0.010, 0.002  # seconds of a trip
BASE, CAP = 0.005, 2.0
CLIENTS = (1, 10, 50, 100, 200)
OURS = "decorrelated, cut as ours"


@dataclass(frozen=True, slots=True, kw_only=True)
class CutAsPublished(Backoff):
    """The cap cuts what chance has drawn, so that delays at the cap are the same."""

    def delay(self, retry: int, uniform: float, previous: float = 0.0) -> float:
        """Return min(cap, base + uniform * (growth * max(base, previous) - base))."""
        drawn = replace(self, max_delay=inf)
        return min(self.max_delay, Backoff.delay(drawn, retry, uniform, previous))


STRATEGIES: Mapping[str, Backoff] = {
    "none": Backoff(kind="constant", initial_delay=0.0),
    "exponential": Backoff(kind="exponential", initial_delay=2 * BASE, max_delay=CAP),
    "equal": Backoff(kind="equal_jitter", initial_delay=2 * BASE, max_delay=CAP),
    "full": Backoff(initial_delay=2 * BASE, max_delay=CAP),
    "decorrelated": CutAsPublished(
        kind="decorrelated_jitter", initial_delay=BASE, factor=3.0, max_delay=CAP
    ),
}
MORE: Mapping[str, Backoff] = {
    OURS: Backoff(kind="decorrelated_jitter", initial_delay=BASE, factor=3.0, max_delay=CAP)
}
"""What is not published, to be held against `decorrelated`."""

_FOREVER = 1_000_000  # attempts
_TARGET = Target("table", "row")
_WRITTEN = Outcome(Verdict.OK)
_CONFLICT = Outcome(Verdict.SERVER_ERROR, status=409)


class _Table:
    """One row with a version, at the other end of a network."""

    def __init__(self, timeline: Timeline, chance: Random) -> None:
        self.calls = 0
        self._timeline = timeline
        self._chance = chance
        self._version = 0

    def attempt(self, _: Send, reply: Reply) -> None:
        """Read, and write what was read if nobody else has."""
        self._travel(1, partial(self._read, reply))

    def _read(self, reply: Reply) -> None:
        self._travel(2, partial(self._write, reply, self._version))

    def _write(self, reply: Reply, version: int) -> None:
        self.calls += 1
        fresh = version == self._version
        self._version += fresh
        self._travel(1, partial(reply, _WRITTEN if fresh else _CONFLICT))

    def _travel(self, trips: int, do: Callable[[], None]) -> None:
        delay = sum(abs(self._chance.normalvariate(MEAN, DEVIATION)) for _ in range(trips))
        self._timeline.at(self._timeline.now + delay, do)


def run(strategy: str, clients: int, seed: int) -> tuple[int, float]:
    """How many writes it took until every client was done, and how many milliseconds."""
    rule = RetryPolicy(
        max_attempts=_FOREVER, backoff={**STRATEGIES, **MORE}[strategy], min_time_left=0.0
    )
    policy = replace(OFF, retry=rule)
    timeline = Timeline()
    table = _Table(timeline, Random(seed))
    chance = Random(f"engines {seed}").random
    ended: list[CallResult] = []
    for _ in range(clients):
        driver = VirtualDriver(Engine(policy), timeline, chance=chance)
        driver.start(Call(driver.engine.number(), _TARGET), table.attempt, ended.append)
    timeline.run()
    assert len(ended) == clients, "everybody is done in the end"
    return table.calls, 1000 * timeline.now
