"""Replace the calls of a scenario by the user's: from a log of arrivals, or a batch at once; or multiply them."""

from collections.abc import Sequence
from dataclasses import replace
from math import floor, inf
from statistics import fmean, pstdev

from stormbreak.errors import ConfigurationError
from stormbreak.provider.chance import mix, uniform
from stormbreak.provider.scenario import Load, Scenario

BATCH_DEADLINE = 3600.0  # seconds of each call, unless the scenario is a batch
BATCH_TIMEOUT = 60.0
_NEIGHBOURS = 20  # arrivals on each side that bound a copy
_COPIES, _PLACES = 0xE5, 0xF6  # keys of the random streams


def with_arrivals(scenario: Scenario, times: Sequence[float]) -> Scenario:
    """Return the scenario with calls at these times, in order; it lasts until the last arrival."""
    given = tuple(times)
    if scenario.load is None:
        load = Load(arrival_times=given)
    else:
        load = replace(
            scenario.load, rate=0.0, steps=(), bursts=(), arrival_times=given, arrival_tokens=()
        )
    return replace(scenario, load=load, duration=max(scenario.duration, floor(times[-1]) + 1.0))


def with_batch(scenario: Scenario, tokens: Sequence[int]) -> Scenario:
    """Return the scenario with a batch of calls with these `tokens`: one process, all at second 0.

    All of it is measured, not only the time after the trigger.
    """
    mine = scenario.load is not None and scenario.load.preset == "batch"
    load = Load(
        arrival_times=(0.0,) * len(tokens),
        arrival_tokens=tuple(tokens),
        tokens=fmean(tokens),
        preset="batch",
        deadline=scenario.load.deadline if mine and scenario.load else BATCH_DEADLINE,
        timeout=scenario.load.timeout if mine and scenario.load else BATCH_TIMEOUT,
    )
    return replace(scenario, load=load)


def scaled(scenario: Scenario, factor: float) -> Scenario:
    """Return the scenario with `factor` times its calls; the provider stays.

    Raises:
        ConfigurationError: it has no load, or no calls are left.
    """
    if scenario.load is None:
        raise ConfigurationError(f"{scenario.name}: --scale needs a [load] or --arrivals")
    return replace(scenario, load=scaled_load(scenario.load, factor))


def scaled_load(load: Load, factor: float) -> Load:
    """Return the load with `factor` times its calls; raise ConfigurationError if none is left."""
    if load.arrival_times and factor != 1:
        times = scaled_arrivals(load.arrival_times, factor)
        tokens, variation = _typical_tokens(load)
        load = replace(
            load,
            arrival_times=tuple(times),
            arrival_tokens=(),
            tokens=tokens,
            tokens_variation=variation,
        )
    return replace(
        load,
        rate=load.rate * factor,
        steps=tuple(replace(step, rate=step.rate * factor) for step in load.steps),
        bursts=tuple(replace(each, calls=scaled_count(each.calls, factor)) for each in load.bursts),
    )


def _typical_tokens(load: Load) -> tuple[float, float]:
    """The mean of the tokens, and how they vary: other calls have no place in a list."""
    if not load.arrival_tokens:
        return load.tokens, load.tokens_variation
    mean = fmean(load.arrival_tokens)
    return mean, pstdev(load.arrival_tokens, mean) / (mean or 1.0)


def scaled_count(count: int, factor: float) -> int:
    """Multiply a count, of which one stays at least."""
    return max(1, round(count * factor))


def scaled_arrivals(times: Sequence[float], factor: float) -> list[float]:
    """Multiply arrivals, given in order, by `factor`, on average; the same arguments give the same times.

    Below 1, each arrival is kept with that probability: thinning multiplies the rate of a point process and leaves a
    Poisson process one (Lewis and Shedler, "Simulation of nonhomogeneous Poisson processes by thinning", 1979). Above
    1, each arrival stays and gets copies, which are resampled from the smoothed log (Cowling, Hall and Phillips,
    "Bootstrap confidence regions for the intensity of a Poisson process", 1996): a copy is at most as far away as the
    nearer of the twentieth arrival before and the twentieth after. So peaks keep their place and shape, a herd in one
    instant stays one, and copies do not come in pairs, as duplicates would. Over many arrivals, the scaled log varies
    as much, in relation, as the log.
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
            moved = times[0] + abs(moved - times[0])  # reflected at the first and the last
            moved = times[-1] - abs(times[-1] - moved)
            found.append(round(moved, 6))
    if not found:
        raise ConfigurationError(f"--scale {factor:g} leaves no call of {len(times):,}")
    return sorted(found)
