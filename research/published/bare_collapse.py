"""The collapse of an overloaded service, as published by Marc Brooker, written anew without any of our code.

A server answers after 1 s and 10 ms for each request in it, the new one included: what clients wait for longer than 3 s is
answered to nobody. Calls come as a Poisson process and are made up to three times. The server's rate is at most 100 answers a
second, and 64 where they come in time: with c requests in it, it answers c / (1 + c / 100) a second.

- ramp: from 40 calls a second up to 80 at 25 s, and down to none at 75 s;
- spike: 40 calls a second, but 80 from 20 s to 25 s;
- no backoff; or backoff: anything up to 20 s before the second attempt, up to 40 s before the third.
"""

from collections.abc import Callable, Mapping
from random import Random
from typing import NamedTuple

from published.bare import Clock

TRIP = 0.1  # mean seconds of a trip over the network
SERVICE, SLOPE = 1.0, 0.01  # seconds, and more for each request
TIMEOUT = 3.0
ATTEMPTS = 3
FIRST_BACKOFF = 20.0  # the longest; then twice that
SECONDS = 80
SPIKE = (20.0, 25.0)

Rate = Callable[[float], float]


def ramp(now: float) -> float:
    """Up and down."""
    return 80 - 1.6 * abs(now - 25)


def spike(now: float) -> float:
    """A burst of five seconds."""
    return 80.0 if SPIKE[0] <= now <= SPIKE[1] else 40.0


LOADS: Mapping[str, Rate] = {"ramp": ramp, "spike": spike}
BACKOFFS = ("no backoff", "backoff and jitter")


class Second(NamedTuple):
    """What happened in one second."""

    calls: int = 0
    successes: int = 0
    retries: int = 0


class Seconds:
    """Counts what happens in each second."""

    def __init__(self) -> None:
        self.counted = {name: [0] * SECONDS for name in Second._fields}

    def count(self, name: str, now: float) -> None:
        """Count one."""
        if now < SECONDS:
            self.counted[name][int(now)] += 1

    def each(self) -> list[Second]:
        """Every second in turn."""
        return [Second(*row) for row in zip(*self.counted.values(), strict=True)]


class _World:
    def __init__(self, rate: Rate, longest: float, seed: int) -> None:
        self.clock = Clock()
        self.seconds = Seconds()
        self._chance = Random(seed)
        self._rate = rate
        self._longest = longest
        self._inside = 0

    def arrive(self) -> None:
        """A call begins, and the next will."""
        now = self.clock.now
        self.seconds.count("calls", now)
        self._send({"attempt": 1}, 0.0)
        rate = self._rate(now)
        if rate > 0:
            self.clock.after(self._chance.expovariate(rate), self.arrive)

    def _trip(self) -> float:
        return self._chance.expovariate(1 / TRIP)

    def _send(self, call: dict[str, int], delay: float) -> None:
        attempt = call["attempt"]
        self.clock.after(delay + self._trip(), lambda: self._serve(call, attempt))
        self.clock.after(delay + TIMEOUT, lambda: self._time_out(call, attempt))

    def _serve(self, call: dict[str, int], attempt: int) -> None:
        self._inside += 1
        self.clock.after(SERVICE + SLOPE * self._inside, lambda: self._served(call, attempt))

    def _served(self, call: dict[str, int], attempt: int) -> None:
        self._inside -= 1
        self.clock.after(self._trip(), lambda: self._heard(call, attempt))

    def _heard(self, call: dict[str, int], attempt: int) -> None:
        if call["attempt"] == attempt:
            call["attempt"] = 0  # nobody waits any more
            self.seconds.count("successes", self.clock.now)

    def _time_out(self, call: dict[str, int], attempt: int) -> None:
        if call["attempt"] != attempt:
            return
        if attempt == ATTEMPTS:
            call["attempt"] = 0
            return
        call["attempt"] += 1
        self.seconds.count("retries", self.clock.now)
        longest = self._longest * 2 ** (attempt - 1)
        self._send(call, self._chance.uniform(0, longest) if longest else 0.0)


def run(load: str, backoff: str, seed: int) -> list[Second]:
    """What happened in each second."""
    longest = FIRST_BACKOFF if backoff == BACKOFFS[1] else 0.0
    world = _World(LOADS[load], longest, seed)
    world.clock.after(0.01, world.arrive)
    world.clock.run(until=SECONDS)
    return world.seconds.each()
