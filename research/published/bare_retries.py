"""The model of "Fixing retries with token buckets and circuit breakers", written anew without any of our code.

A service fails a share of all requests at random, whatever its load. A hundred independent clients begin calls as Poisson
processes, ten a second each, for ten seconds; a call that fails is sent again at once, if the client's strategy allows it.

The published text and the published program differ in places; the program made the figures, and is followed here:

- the bucket gains a tenth of a token when a call begins, whether it succeeds or not;
- a retry needs more than one token in the bucket, and a call may be retried as long as there are;
- the breaker compares failed requests with begun calls since the start of its client, however old they are.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from typing import NamedTuple

from published.bare import Clock

CLIENTS, RATE, SECONDS = 100, 10.0, 10.0
RETRIES = 3
FILL, SIZE = 0.1, 5.0  # of the bucket
THRESHOLD = 0.1  # of the breaker
TRIP = 0.01  # mean seconds of a trip over the network


class Tally(NamedTuple):
    """What came of a run."""

    calls: int
    attempts: int
    successes: int

    @property
    def success(self) -> float:
        """Percent of the calls that succeeded."""
        return 100 * self.successes / self.calls

    @property
    def load(self) -> float:
        """Percent of the load without any retry."""
        return 100 * self.attempts / self.calls


class Strategy(ABC):
    """What one client keeps in mind, and whether it sends a call again that has failed so often."""

    @abstractmethod
    def begin(self) -> None:
        """A call begins."""

    @abstractmethod
    def again(self, failures: int) -> bool:
        """Whether to send it again."""


class UpTo(Strategy):
    """So many retries."""

    def __init__(self, retries: int) -> None:
        self._retries = retries

    def begin(self) -> None:
        """Nothing to remember."""

    def again(self, failures: int) -> bool:
        return failures <= self._retries


class Bucket(Strategy):
    """Retries out of a bucket of tokens that is full at first."""

    def __init__(self) -> None:
        self._tokens = SIZE

    def begin(self) -> None:
        self._tokens = min(SIZE, self._tokens + FILL)

    def again(self, failures: int) -> bool:  # noqa: ARG002
        if self._tokens <= 1.0:
            return False
        self._tokens -= 1.0
        return True


class Breaker(Strategy):
    """Up to three retries, as long as few requests fail."""

    def __init__(self) -> None:
        self._calls = self._failures = 0

    def begin(self) -> None:
        self._calls += 1

    def again(self, failures: int) -> bool:
        self._failures += 1
        return self._failures <= THRESHOLD * self._calls and failures <= RETRIES


STRATEGIES: Mapping[str, Callable[[], Strategy]] = {
    "no retries": partial(UpTo, 0),
    "three retries": partial(UpTo, RETRIES),
    "token bucket": Bucket,
    "breaker on retries": Breaker,
}


class _Service:
    def __init__(self, failing: float, seed: int, seconds: float) -> None:
        self.clock = Clock()
        self.calls = self.attempts = self.successes = 0
        self._chance = Random(seed)
        self._failing = failing
        self._seconds = seconds

    def client(self, strategy: Strategy, rate: float) -> None:
        """One more client starts."""
        self.clock.after(self._trip(), lambda: self._arrive(strategy, rate))

    def _trip(self) -> float:
        return self._chance.expovariate(1 / TRIP)

    def _arrive(self, strategy: Strategy, rate: float) -> None:
        if self.clock.now > self._seconds:
            return
        self.calls += 1
        strategy.begin()
        self._send(strategy, 0)
        self.clock.after(self._chance.expovariate(rate), lambda: self._arrive(strategy, rate))

    def _send(self, strategy: Strategy, failures: int) -> None:
        self.attempts += 1
        failed = self._chance.random() < self._failing
        self.clock.after(
            self._trip() + self._trip(), lambda: self._heard(strategy, failures + failed, failed)
        )

    def _heard(self, strategy: Strategy, failures: int, failed: bool) -> None:  # noqa: FBT001
        if not failed:
            self.successes += 1
        elif strategy.again(failures):
            self._send(strategy, failures)


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
    service = _Service(failing, seed, seconds)
    for _ in range(clients):
        service.client(STRATEGIES[strategy](), rate / clients)
    service.clock.run()
    return Tally(service.calls, service.attempts, service.successes)
