"""A survey: one policy in many random storms, beside what people use today.

A single storm can be won by a policy that was made for it. A survey asks what a policy loses in storms that nobody
thought of. Every policy meets the same calls with the same luck. The measure of a draw is *regret*: how many points of
goodput the best of the others has more (0 where none has). A batch is measured by its makespan instead: seconds until
99 % of the rows are answered, divided by that of the fastest of the others that answers as many.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from math import fsum, inf
from statistics import median
from typing import Any

from stormbreak.provider.scenario import Scenario
from stormbreak.storm.baselines import BASELINES, Contender
from stormbreak.storm.draws import BATCH, Draw, draw
from stormbreak.storm.ideal import ideal_answers, within
from stormbreak.storm.many import simulate_all
from stormbreak.storm.measures import Measures, quantile, rounded
from stormbreak.storm.simulation import simulate
from stormbreak.storm.traffic import traffic

RIVALS = ("none", "naive", "full_jitter", "openai_sdk", "article", "budget", "aimd")
"""The baselines of a survey."""

BATCH_RIVALS = ("loop_naive", "loop_exponential", "loop_full_jitter")
"""Loops that send a row again until it is answered, ten times at most, with 64 rows in flight."""

NEAR = (1.0, 5.0)
"""Points of regret within which a draw counts as near the best."""

_SPARE = 3
"""Draws looked at for each that is wanted, at most: those in which no call could be answered are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyRun:
    """One policy in one draw with one luck: what a worker does."""

    draw: Draw
    contender: Contender
    seed: int

    def simulate(self, progress: Callable[[float], None]) -> Measures:
        """Play it, and keep the measures only."""
        scenario = self.draw.scenario
        return simulate(scenario, self.contender, seed=self.seed, progress=progress).measures


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One draw: what each policy came to.

    `values` are the means over the lucks: goodput in points (100 is all that was possible), or for a batch seconds
    until 99 % of the rows are answered (inf: never). `lost` is the regret in points, or the ratio of makespans.
    """

    draw: Draw
    values: Mapping[str, float]
    lost: float
    best: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The losses of some draws. In points, or ratios of makespans."""

    draws: int
    mean: float
    median: float
    p90: float
    worst: float
    within: Mapping[float, float] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """The same in plain values; shares of draws by the points within which they are."""
        shares = {f"within_{points:g}": rounded(share) for points, share in self.within.items()}
        numbers = {
            name: rounded(getattr(self, name)) for name in ("mean", "median", "p90", "worst")
        }
        return {"draws": self.draws, **numbers, **shares}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a check can ask for. Regret is in points, or a ratio of makespans; shares are within [0, 1].

    `goodput` is the mean of the policy's; `ahead` how many points (for a batch: seconds) it is better than the mean of
    the best of the others.
    """

    goodput: float
    ahead: float
    regret_mean: float
    regret_median: float
    regret_p90: float
    regret_worst: float
    within_1: float
    within_5: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What came of a survey of `policy` against the `others`."""

    policy: str
    others: tuple[str, ...]
    seed: int
    preset: str
    scores: tuple[Score, ...]

    @property
    def is_batch(self) -> bool:
        """Whether it is about makespans, and not about goodput."""
        return self.preset == BATCH

    def summary(self, scores: Sequence[Score] | None = None) -> Summary:
        """Sum up all draws, or some of them."""
        lost = sorted(score.lost for score in (self.scores if scores is None else scores))
        return Summary(
            draws=len(lost),
            mean=fsum(lost) / len(lost),
            median=median(lost),
            p90=quantile(lost, 0.9) or 0.0,
            worst=lost[-1],
            within={near: sum(each <= near for each in lost) / len(lost) for near in NEAR},
        )

    def groups(self, name: str) -> dict[str, Summary]:
        """Sum up by "family" or by "fleet" (the size of its processes)."""
        found: dict[str, list[Score]] = {}
        for score in self.scores:
            found.setdefault(getattr(score.draw, name), []).append(score)
        return {key: self.summary(several) for key, several in sorted(found.items())}

    def mean_of(self, policy: str) -> float:
        """Mean goodput of a policy in points, or its mean makespan in seconds."""
        return fsum(score.values[policy] for score in self.scores) / len(self.scores)

    def worst(self, count: int) -> list[Score]:
        """The draws that lose most, the worst first."""
        return sorted(self.scores, key=lambda score: (-score.lost, score.draw.number))[:count]

    @property
    def figures(self) -> Figures:
        """What a check can ask for."""
        whole, own = self.summary(), self.mean_of(self.policy)
        others = [self.mean_of(name) for name in self.others]
        ahead = min(others) - own if self.is_batch else own - max(others)
        return Figures(
            goodput=own / 100.0,
            ahead=ahead,
            regret_mean=whole.mean,
            regret_median=whole.median,
            regret_p90=whole.p90,
            regret_worst=whole.worst,
            within_1=whole.within[1.0],
            within_5=whole.within[5.0],
        )

    def plain(self) -> dict[str, Any]:
        """The whole of it in plain values."""
        return {
            "policy": self.policy,
            "others": list(self.others),
            "seed": self.seed,
            "preset": self.preset,
            **self.summary().plain(),
            "means": {name: rounded(self.mean_of(name)) for name in (self.policy, *self.others)},
            "families": {name: each.plain() for name, each in self.groups("family").items()},
            "fleets": {name: each.plain() for name, each in self.groups("fleet").items()},
            "scores": [
                {
                    "draw": score.draw.number,
                    "family": score.draw.family,
                    "lost": rounded(score.lost),
                    "best": score.best,
                    "values": {name: rounded(value) for name, value in score.values.items()},
                }
                for score in self.scores
            ],
        }


def rivals_of(preset: str) -> list[Contender]:
    """The baselines that a survey compares with."""
    return [BASELINES[name] for name in (BATCH_RIVALS if preset == BATCH else RIVALS)]


def survey(  # noqa: PLR0913 - keyword-only, one for each option
    policy: Contender,
    others: Sequence[Contender],
    *,
    draws: int,
    seed: int = 0,
    families: Sequence[str] = (),
    preset: str = "interactive",
    lucks: int = 2,
    processes: int = 1,
    progress: Callable[[int, float, int], None] | None = None,
) -> Survey:
    """Play a policy and others in random storms.

    Args:
        policy: whose regret it is.
        others: what it is compared with; its own name among them is left out.
        draws: how many storms.
        seed: of the draws. The same seed gives the same storms.
        families: which of `draws.FAMILIES`; none means all.
        preset: "interactive": goodput counts; "batch": the time until 99 % of all rows are answered.
        lucks: runs of each storm and policy, with other calls and other luck; what counts is their mean.
        processes: runs at once; the result is the same.
        progress: gets the number of a run, the share of it that is done, and how many runs there are.

    Raises:
        ConfigurationError: a family has no such name, or a policy cannot be simulated.
    """
    rivals = [each for each in others if each.name != policy.name]
    found = _worth_playing(draws, seed, families, preset)
    contenders = (policy, *rivals)
    runs = [
        SurveyRun(draw=each, contender=contender, seed=luck)
        for each in found
        for contender in contenders
        for luck in range(1, lucks + 1)
    ]
    tell = None if progress is None else partial(_tell, progress, len(runs))
    measured = simulate_all(runs, processes=processes, progress=tell)
    value = _makespan if preset == BATCH else _goodput
    scores = []
    for place, each in enumerate(found):
        values = {}
        for rank, contender in enumerate(contenders):
            first = (place * len(contenders) + rank) * lucks
            values[contender.name] = _mean(map(value, measured[first : first + lucks]))
        scores.append(_score(each, policy.name, values, preset))
    return Survey(
        policy=policy.name,
        others=tuple(each.name for each in rivals),
        seed=seed,
        preset=preset,
        scores=tuple(scores),
    )


def _tell(
    progress: Callable[[int, float, int], None], runs: int, number: int, share: float
) -> None:
    progress(number, share, runs)


def _worth_playing(draws: int, seed: int, families: Sequence[str], preset: str) -> list[Draw]:
    """The first draws of the seed in which a call can be answered at all."""
    numbered = (
        draw(number, seed=seed, families=families, preset=preset)
        for number in range(_SPARE * draws)
    )
    return list(islice((each for each in numbered if _can_be_answered(each.scenario)), draws))


def _can_be_answered(scenario: Scenario) -> bool:
    assert scenario.load is not None
    calls = traffic(scenario.load, scenario.duration, seed=1)
    possible = ideal_answers(scenario, calls.times)
    return within(possible, scenario.load.trigger_at or 0.0) >= 1.0


def _score(of: Draw, policy: str, values: Mapping[str, float], preset: str) -> Score:
    rivals = {name: value for name, value in values.items() if name != policy}
    own = values[policy]
    if preset == BATCH:
        best = min(rivals, key=lambda name: rivals[name], default=policy)
        fastest = values[best]
        lost = 1.0 if own == fastest == inf else own / fastest if fastest < inf else 1.0
    else:
        best = max(rivals, key=lambda name: rivals[name], default=policy)
        lost = max(0.0, values[best] - own)
    return Score(draw=of, values=values, lost=lost, best=best if lost else policy)


def _goodput(measures: Measures) -> float:
    return 100.0 * (measures.goodput or 0.0)


def _makespan(measures: Measures) -> float:
    return inf if measures.makespan_99 is None else measures.makespan_99


def _mean(values: Any) -> float:
    numbers = list(values)
    return fsum(numbers) / len(numbers)
