"""Both sides of every published simulation, run often enough to compare means. Sides draw from chances of their own."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from multiprocessing import Pool
from typing import Any, NamedTuple

from published import (
    bare_collapse,
    bare_contention,
    bare_retries,
    collapse,
    contention,
    retries,
)
from published.bare_collapse import Second
from published.means import Mean, mean

RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75)
"""Shares of requests that fail."""
FEW_RATES = (0.02, 0.1, 0.5)
"""Those with 10, 100 and 1,000 clients."""
RUNS = {"contention": 100, "retries": 10, "collapse": 10}
"""Of each side; the first is the published number."""

_APART = 1_000_000  # between the seeds of the two sides


class Pair(NamedTuple):
    """Two measures of one case: what it took or how well it went, and the time or the load."""

    first: Mean
    second: Mean


class Sides(NamedTuple):
    """A case as our engine plays it, and as it was published; None where it was not."""

    ours: Pair
    bare: Pair | None


def means_of(run: Callable[[int], Iterable[float]], runs: int, *, bare: bool) -> Pair:
    """The means of both measures over so many runs."""
    first = 1 + _APART * bare
    both = [tuple(run(seed)) for seed in range(first, first + runs)]
    return Pair(*(mean(values) for values in zip(*both, strict=True)))


def contended(strategy: str, clients: int, runs: int) -> Sides:
    """Calls and milliseconds until everybody is done."""
    published = "decorrelated" if strategy in contention.MORE else strategy
    return Sides(
        means_of(partial(contention.run, strategy, clients), runs, bare=False),
        means_of(partial(bare_contention.run, published, clients), runs, bare=True),
    )


def retried(strategy: str, failing: float, clients: int = 100, *, runs: int) -> Sides:
    """Success and load, in percent."""

    def ours(seed: int) -> tuple[float, float]:
        tally = retries.run(strategy, failing, seed, clients=clients)
        return tally.success, tally.load

    def bare(seed: int) -> tuple[float, float]:
        tally = bare_retries.run(strategy, failing, seed, clients=clients)
        return tally.success, tally.load

    known = strategy in bare_retries.STRATEGIES
    return Sides(
        means_of(ours, runs, bare=False), means_of(bare, runs, bare=True) if known else None
    )


class Courses(NamedTuple):
    """Means of every second, ours and as published; None where it was not."""

    ours: Sequence[Mapping[str, Mean]]
    bare: Sequence[Mapping[str, Mean]] | None


def collapsed(load: str, policy: str, runs: int) -> Courses:
    """What happens in each second."""
    ours = [collapse.run(load, policy, seed) for seed in range(1, runs + 1)]
    if policy not in bare_collapse.BACKOFFS:
        return Courses(_seconds(ours), None)
    seeds = range(1 + _APART, 1 + _APART + runs)
    return Courses(
        _seconds(ours), _seconds([bare_collapse.run(load, policy, seed) for seed in seeds])
    )


def _seconds(runs: Sequence[Sequence[Second]]) -> list[Mapping[str, Mean]]:
    return [
        {name: mean(float(getattr(second, name)) for second in same) for name in Second._fields}
        for same in zip(*runs, strict=True)
    ]


class Study(NamedTuple):
    """All cases."""

    contention: Mapping[tuple[str, int], Sides]
    retries: Mapping[tuple[str, float], Sides]
    clients: Mapping[tuple[str, float, int], Sides]
    collapse: Mapping[tuple[str, str], Courses]


def study(jobs: int) -> Study:
    """Run everything: some minutes."""
    backoffs = (*contention.STRATEGIES, *contention.MORE)
    strategies = (*retries.STRATEGIES, *retries.MORE)
    depending = ("token bucket", "breaker on retries", retries.EMPTY)
    with Pool(jobs) as pool:
        all_of = partial(_all_of, pool)
        return Study(
            all_of(contended, "contention", backoffs, contention.CLIENTS),
            all_of(retried, "retries", strategies, RATES),
            all_of(retried, "retries", depending, FEW_RATES, (10, 100, 1000)),
            all_of(collapsed, "collapse", bare_collapse.LOADS, collapse.POLICIES),
        )


def _all_of(pool: Any, one: Callable[..., Any], part: str, *choices: Iterable[Any]) -> Any:
    """What `one` comes to for each combination, by it."""
    cases = list(product(*choices))
    done = pool.starmap(partial(one, runs=RUNS[part]), cases, chunksize=1)
    print(f"{part}: {len(cases)} cases", file=sys.stderr, flush=True)
    return dict(zip(cases, done, strict=True))
