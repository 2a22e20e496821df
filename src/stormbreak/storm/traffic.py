"""The calls of one simulation: arrival, process and length.

They have separate random streams, so that they are the same for every policy.
"""

from collections.abc import Iterator
from heapq import merge
from itertools import takewhile
from math import fsum
from typing import NamedTuple

from stormbreak.errors import ConfigurationError
from stormbreak.provider.arrivals import Even, Poisson, rate_segments
from stormbreak.provider.chance import Lognormal, mix
from stormbreak.provider.scenario import Burst, Load, Scenario

MAX_CALLS = 10_000_000
MAX_PROCESSES = 100_000

_ARRIVALS, _PROCESSES, _TOKENS = 0xA1, 0xB2, 0xC3  # keys of the random streams


class Traffic(NamedTuple):
    """Call number i arrives at `times[i]` in process `processes[i]`, and has `tokens[i]`."""

    times: list[float]
    processes: list[int]
    tokens: list[int]


def traffic(load: Load, duration: float, seed: int) -> Traffic:
    """Draw every call before `duration`, in order, or use the load's arrival times.

    Raises:
        ConfigurationError: there are too many calls or processes.
    """
    _check(load, duration)
    times = list(load.arrival_times) or _drawn(load, duration, seed)
    salt = mix(mix(seed) ^ _PROCESSES)
    processes = [mix(salt + number) % load.processes for number in range(len(times))]
    return Traffic(times, processes, _tokens(load, len(times), mix(mix(seed) ^ _TOKENS)))


def check_measured(scenario: Scenario, calls: Traffic) -> None:
    """Raise ConfigurationError if no call would be measured."""
    assert scenario.load is not None
    start = scenario.load.trigger_at or 0.0
    if not calls.times or calls.times[-1] < start:
        since = f"from the trigger at {start:g} s on" if start else f"in {scenario.duration:g} s"
        raise ConfigurationError(
            f"{scenario.name}: no call arrives {since}, so nothing can be measured"
        )


def _drawn(load: Load, duration: float, seed: int) -> list[float]:
    flow = takewhile(lambda at: at < duration, _flow(load, mix(mix(seed) ^ _ARRIVALS)))
    herds = (at for at in _herds(load.bursts) if at < duration)
    return list(merge(flow, herds))


def _tokens(load: Load, calls: int, salt: int) -> list[int]:
    if load.arrival_tokens:
        return list(load.arrival_tokens)
    if not load.tokens:
        return [0] * calls
    drawn = Lognormal.of(mean=load.tokens, cv=load.tokens_variation, minimum=1.0)
    return [round(drawn.draw(mix(salt + number))) for number in range(calls)]


def _check(load: Load, duration: float) -> None:
    if load.processes > MAX_PROCESSES:
        raise ConfigurationError(
            f"load.processes must be at most {MAX_PROCESSES} in a simulation, got {load.processes}"
        )
    calls = _expected(load, duration)
    if calls > MAX_CALLS:
        raise ConfigurationError(
            f"load must have at most {MAX_CALLS} calls in a simulation, got about {calls:.3g}"
        )


def _expected(load: Load, duration: float) -> float:
    rates = [part for part in rate_segments(load.rate, load.steps) if part[0] < duration]
    ends = [*(at for at, _ in rates[1:]), duration]
    flow = fsum(rate * (end - at) for (at, rate), end in zip(rates, ends, strict=True))
    return flow + len(load.arrival_times) + sum(herd.calls * herd.repeat for herd in load.bursts)


def _flow(load: Load, salt: int) -> Iterator[float]:
    even = load.arrivals == "even"
    stream = Even(load.rate, load.steps) if even else Poisson(load.rate, load.steps, salt)
    at = stream.next_after(0.0)
    while at is not None:
        yield at
        at = stream.next_after(at)


def _herds(herds: tuple[Burst, ...]) -> list[float]:
    return sorted(
        herd.at + herd.every * time
        for herd in herds
        for time in range(herd.repeat)
        for _ in range(herd.calls)
    )
