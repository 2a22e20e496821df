"""The calls of one simulation: when each arrives, and in which process.

Both come from streams of chance of their own, so that they are the same for every policy.
"""

from collections.abc import Iterator
from heapq import merge
from itertools import takewhile
from typing import NamedTuple

from stormbreak.provider.arrivals import Even, Poisson
from stormbreak.provider.chance import mix
from stormbreak.provider.scenario import Herd, Load

_ARRIVALS, _PROCESSES = 0xA1, 0xB2  # keys of the two streams


class Traffic(NamedTuple):
    """Call number i arrives at `times[i]` in process `processes[i]`."""

    times: list[float]
    processes: list[int]


def traffic(load: Load, duration: float, seed: int) -> Traffic:
    """Draw every call that arrives before `duration`, in order."""
    flow = takewhile(lambda at: at < duration, _flow(load, mix(mix(seed) ^ _ARRIVALS)))
    herds = (at for at in _herds(load.herds) if at < duration)
    times = list(merge(flow, herds))
    salt = mix(mix(seed) ^ _PROCESSES)
    return Traffic(times, [mix(salt + number) % load.processes for number in range(len(times))])


def _flow(load: Load, salt: int) -> Iterator[float]:
    even = load.arrivals == "even"
    stream = Even(load.rate, load.steps) if even else Poisson(load.rate, load.steps, salt)
    at = stream.next_after(0.0)
    while at is not None:
        yield at
        at = stream.next_after(at)


def _herds(herds: tuple[Herd, ...]) -> list[float]:
    return sorted(
        herd.at + herd.every * time
        for herd in herds
        for time in range(herd.times)
        for _ in range(herd.calls)
    )
