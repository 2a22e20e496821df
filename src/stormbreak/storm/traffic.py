"""The calls of one simulation: arrival, process and length. They are drawn, or taken from a log or a batch, and scaled.

Each quantity has a separate random stream, so that every policy gets the same calls.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from heapq import merge
from itertools import chain, takewhile
from math import floor, fsum, inf
from statistics import fmean, pstdev
from typing import NamedTuple

from stormbreak.errors import ConfigurationError
from stormbreak.provider.arrivals import Even, Poisson, rate_segments
from stormbreak.provider.chance import Lognormal, mix, uniform
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

    Raises ConfigurationError if there are too many calls or processes.
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
    times = ([herd.at + herd.every * n for n in range(herd.repeat)] * herd.calls for herd in herds)
    return sorted(chain.from_iterable(times))


# ---------------------------------------------------------------- user traffic

BATCH_DEADLINE = 3600.0  # seconds of each call, unless the scenario is a batch
BATCH_TIMEOUT = 60.0
_NEIGHBOURS = 20  # arrivals on each side that bound a copy
_COPIES, _PLACES = 0xE5, 0xF6  # keys of the random streams


def with_arrivals(scenario: Scenario, times: Sequence[float]) -> Scenario:
    """Return the scenario with calls at these times, in order; it lasts until the last arrival."""
    given = tuple(times)
    load = scenario.load or Load(arrival_times=given)
    load = replace(load, rate=0.0, steps=(), bursts=(), arrival_times=given, arrival_tokens=())
    return replace(scenario, load=load, duration=max(scenario.duration, floor(times[-1]) + 1.0))


def with_batch(scenario: Scenario, tokens: Sequence[int]) -> Scenario:
    """Return the scenario with a batch of calls of these `tokens`: one process, all at second 0.

    The measures cover the whole scenario, not only the time after the trigger.
    """
    own = scenario.load if scenario.load is not None and scenario.load.preset == "batch" else None
    load = Load(
        arrival_times=(0.0,) * len(tokens),
        arrival_tokens=tuple(tokens),
        tokens=fmean(tokens),
        preset="batch",
        deadline=own.deadline if own else BATCH_DEADLINE,
        timeout=own.timeout if own else BATCH_TIMEOUT,
    )
    return replace(scenario, load=load)


def scaled(scenario: Scenario, factor: float) -> Scenario:
    """Return the scenario with `factor` times its calls. ConfigurationError if it has no load or no call is left."""
    if scenario.load is None:
        raise ConfigurationError(f"{scenario.name}: --scale needs a [load] or --arrivals")
    return replace(scenario, load=scaled_load(scenario.load, factor))


def scaled_load(load: Load, factor: float) -> Load:
    """Return the load with `factor` times its calls; raise ConfigurationError if none is left."""
    if load.arrival_times and factor != 1:
        times = tuple(scaled_arrivals(load.arrival_times, factor))
        if load.arrival_tokens:  # a list has no place for other calls
            mean = fmean(load.arrival_tokens)
            variation = pstdev(load.arrival_tokens, mean) / (mean or 1.0)
            load = replace(load, arrival_tokens=(), tokens=mean, tokens_variation=variation)
        load = replace(load, arrival_times=times)
    return replace(
        load,
        rate=load.rate * factor,
        steps=tuple(replace(step, rate=step.rate * factor) for step in load.steps),
        bursts=tuple(replace(each, calls=scaled_count(each.calls, factor)) for each in load.bursts),
    )


def scaled_count(count: int, factor: float) -> int:
    """Multiply a count; at least 1 remains."""
    return max(1, round(count * factor))


def scaled_arrivals(times: Sequence[float], factor: float) -> list[float]:
    """Multiply arrivals, given in order, by `factor`, on average; the same arguments give the same times.

    Below 1, each arrival is kept with that probability: thinning multiplies the rate of a point process and leaves a
    Poisson process one (Lewis and Shedler, "Simulation of nonhomogeneous Poisson processes by thinning", 1979). Above
    1, each arrival stays and gets copies, which are resampled from the smoothed log (Cowling, Hall and Phillips,
    "Bootstrap confidence regions for the intensity of a Poisson process", 1996): a copy is at most as far away as the
    nearer of the twentieth arrival before and the twentieth after. So peaks keep their place and shape, a herd in one
    instant stays one, and copies do not come in pairs, as duplicates would. Over many arrivals, the scaled log has the
    same relative variation as the log.
    """
    found = list(times) if factor >= 1 else []
    more = factor - 1 if factor >= 1 else factor
    for place, at in enumerate(times):
        copies = int(more) + (uniform(mix(mix(_COPIES) + place)) < more - int(more))
        if factor < 1:
            found.extend([at] * copies)
            continue
        before, after = place - _NEIGHBOURS, place + _NEIGHBOURS
        near = min(
            at - times[before] if before >= 0 else inf,
            times[after] - at if after < len(times) else inf,
            times[-1] - times[0],
        )
        for copy in range(copies):
            draw = uniform(mix(mix(mix(_PLACES) + place) + copy))
            moved = at + near * (2.0 * draw - 1.0)
            moved = times[0] + abs(moved - times[0])  # reflect at the first and the last
            moved = times[-1] - abs(times[-1] - moved)
            found.append(round(moved, 6))
    if not found:
        raise ConfigurationError(f"--scale {factor:g} leaves no call of {len(times):,}")
    return sorted(found)
