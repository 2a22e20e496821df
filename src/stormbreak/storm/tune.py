"""Search the few numbers of a policy that a user may set: concurrency limit, patience, deadline and hedge.

The search is successive halving (Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter
optimization", 2016): all candidates play a few storms, the best third plays three times as many, and so on. The
winner of a search is partly lucky. So it is judged on storms that no candidate has seen, and compared with the present
policy on the same calls and random draws.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import sqrt
from statistics import fmean, stdev
from typing import Any, NamedTuple

from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.policy import Policy
from stormbreak.provider.chance import mix
from stormbreak.provider.scenario import Scenario
from stormbreak.storm.measures import Measures
from stormbreak.storm.parallel import Run, simulate_all
from stormbreak.storm.policies import NamedPolicy
from stormbreak.storm.random_storms import draw

SURVEY = "random storms"  # the name of the random storms among the groups of storms
VALUES: Mapping[str, tuple[Any, ...]] = {
    "limit": (AutomaticLimit(), *(FixedLimit(max_in_flight=size) for size in (8, 32, 128))),
    "patience": (1.0, 3.0, 10.0, 30.0),
    "deadline": (10.0, 30.0, 120.0),
    "hedge": (None, HedgePolicy(percentile=0.9), HedgePolicy(percentile=0.95)),
}
"""The values to try, by key of the policy."""

_KEPT = 3  # one in three candidates stays after a round, and plays three times as many storms
_FIRST = 3  # storms of each group in the first round
_Z = 1.96  # standard errors of a 95 % interval of a normal mean

Progress = Callable[[float, float], None]
"""Called with the number of finished simulations, fractions included, and the number known so far."""


class Storm(NamedTuple):
    """One storm: its group, its scenario, and the seed of its run."""

    group: str
    scenario: Scenario
    seed: int


def _run(policy: Policy, storm: Storm) -> Run:
    named = NamedPolicy(name="candidate", policy=policy, own_times=True)
    return Run(scenario=storm.scenario, contender=named, seed=storm.seed, measures_only=True)


class Difference(NamedTuple):
    """The means of a measure before and after, and of the paired difference, with half its 95 % interval."""

    before: float
    after: float
    change: float
    spread: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The result: the changes by key, and measures on storms that the search did not see.

    `goodput` is in points, by group. `costs` are means over all of these storms: attempts per call, the 99th percentile
    of the answers in time in seconds, and calls shed in percent. `alone` is the change of goodput, over all groups, if
    only that key is set back.
    """

    policy: Policy
    changes: Mapping[str, Any]
    candidates: int
    searched: int  # storms of each group
    judged: int
    goodput: Mapping[str, Difference]
    costs: Mapping[str, Difference]
    alone: Mapping[str, Difference]

    @property
    def gains(self) -> bool:
        """Whether the goodput over all groups rises by more than chance explains."""
        total = _over([*self.goodput.values()])
        return bool(self.changes) and total.change > total.spread

    @property
    def loses(self) -> bool:
        """Whether the goodput over all groups falls by more than chance explains."""
        total = _over([*self.goodput.values()])
        return bool(self.changes) and total.change < -total.spread


def tune(
    policy: Policy,
    *,
    scenarios: Sequence[Scenario] = (),
    storms: int = 18,
    candidates: int = 48,
    seed: int = 0,
    processes: int = 1,
    progress: Progress | None = None,
) -> Tuned:
    """Search better numbers for `policy`.

    Each of the `scenarios` counts as much as all random storms together. Each group has `storms` storms in the last
    round, and the same number of other storms for the judgement. `progress` gets the number of finished simulations and
    the minimum number of all. Raises ConfigurationError if a scenario cannot be simulated.
    """
    arena = _Arena(scenarios, storms, seed, processes, progress)
    settings = _candidates(policy, candidates, seed)
    count, left = min(_FIRST, storms), settings
    while len(left) > 1:
        scores = arena.scores([replace(policy, **each) for each in left], range(count))
        order = sorted(range(len(left)), key=lambda place: -scores[place])
        if count == storms:
            left = [left[order[0]]]
            break
        left = [left[place] for place in order[: max(2, len(left) // _KEPT)]]
        count = min(storms, count * _KEPT)
    return _judge(policy, left[0], arena, len(settings))


def _candidates(policy: Policy, count: int, seed: int) -> list[dict[str, Any]]:
    """The policy as it is, each number alone, then random combinations."""
    options = {
        key: [value for value in values if value != getattr(policy, key)]
        for key, values in VALUES.items()
    }
    single = [{key: value} for key, values in options.items() for value in values]
    every = [
        {key: value for key, value in zip(options, values, strict=True) if value != ()}
        for values in product(*([(), *values] for values in options.values()))
    ]
    several = [each for each in every if len(each) > 1]
    order = sorted(range(len(several)), key=lambda place: mix(mix(seed) + place))
    return [{}, *single, *(several[place] for place in order)][:count]


# ---------------------------------------------------------------- storms


@dataclass(slots=True, eq=False)
class _Arena:
    """Plays policies in storms by number: of the survey and of the user's scenarios."""

    scenarios: Sequence[Scenario]
    storms: int
    seed: int
    processes: int
    progress: Progress | None
    done: float = 0.0
    measured: dict[Run, Measures] = field(default_factory=dict)

    def _storms(self, number: int) -> list[Storm]:
        """The storms with this number, one of each group."""
        first = Storm(SURVEY, draw(number, seed=self.seed).scenario, 1)
        own = [Storm(each.name, each, self.seed + number) for each in self.scenarios]
        return [first, *own]

    def play(self, policies: Sequence[Policy], numbers: range) -> list[dict[str, list[Measures]]]:
        """Return the measures of each policy, by group, in order of the numbers."""
        storms = [storm for number in numbers for storm in self._storms(number)]
        runs = [_run(policy, storm) for policy in policies for storm in storms]
        new = [run for run in runs if run not in self.measured]
        results = simulate_all(new, processes=self.processes, progress=self._report(len(new)))
        self.measured |= {run: one.measures for run, one in zip(new, results, strict=True)}
        self.done += len(new)
        found = []
        for policy in policies:
            groups: dict[str, list[Measures]] = {}
            for storm in storms:
                groups.setdefault(storm.group, []).append(self.measured[_run(policy, storm)])
            found.append(groups)
        return found

    def scores(self, policies: Sequence[Policy], numbers: range) -> list[float]:
        """Return the goodput of each policy: the mean over the groups."""
        return [
            fmean(fmean(map(_goodput, runs)) for runs in groups.values())
            for groups in self.play(policies, numbers)
        ]

    def _report(self, count: int) -> Callable[[int, float], None]:
        shares: dict[int, float] = {}

        def report(number: int, share: float) -> None:
            shares[number] = share
            if self.progress is not None:
                self.progress(self.done + sum(shares.values()), self.done + count)

        return report


# ---------------------------------------------------------------- judgement


def _judge(policy: Policy, changes: Mapping[str, Any], arena: _Arena, candidates: int) -> Tuned:
    """Compare the winner with the present policy, on storms that the search did not play."""
    tuned = replace(policy, **changes)
    keys = changes if len(changes) > 1 else ()
    without = [replace(tuned, **{key: getattr(policy, key)}) for key in keys]
    before, after, *others = arena.play(
        [policy, tuned, *without], range(arena.storms, 2 * arena.storms)
    )
    return Tuned(
        policy=tuned,
        changes=changes,
        candidates=candidates,
        searched=arena.storms,
        judged=arena.storms,
        goodput={group: _compare(before[group], after[group], _goodput) for group in before},
        costs={name: _over_groups(before, after, of) for name, of in _COSTS.items()},
        alone={
            key: _over_groups(after, other, _goodput)
            for key, other in zip(keys, others, strict=True)
        },
    )


def _goodput(measures: Measures) -> float:
    return 100.0 * (measures.goodput or 0.0)


_COSTS: Mapping[str, Callable[[Measures], float]] = {
    "attempts per call": lambda measures: measures.amplification,
    "p99 of answers in s": lambda measures: measures.p99 or 0.0,
    "calls shed in %": lambda measures: 100.0 * measures.shed / measures.calls,
}


def _compare(
    before: Sequence[Measures], after: Sequence[Measures], of: Callable[[Measures], float]
) -> Difference:
    pairs = [(of(first), of(second)) for first, second in zip(before, after, strict=True)]
    changes = [second - first for first, second in pairs]
    error = stdev(changes) / sqrt(len(changes))
    return Difference(
        fmean(first for first, _ in pairs),
        fmean(second for _, second in pairs),
        fmean(changes),
        _student(len(changes) - 1) * error,
    )


def _over_groups(
    before: Mapping[str, Sequence[Measures]],
    after: Mapping[str, Sequence[Measures]],
    of: Callable[[Measures], float],
) -> Difference:
    return _over([_compare(before[group], after[group], of) for group in before])


def _over(parts: Sequence[Difference]) -> Difference:
    """The mean over groups; their errors are independent."""
    count = len(parts)
    return Difference(
        fmean(part.before for part in parts),
        fmean(part.after for part in parts),
        fmean(part.change for part in parts),
        sqrt(sum(part.spread**2 for part in parts)) / count,
    )


def _student(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t (Abramowitz and Stegun, formula 26.7.5)."""
    cubic, fifth = _Z**3 + _Z, 5 * _Z**5 + 16 * _Z**3 + 3 * _Z
    return _Z + cubic / (4 * freedom) + fifth / (96 * freedom**2)
