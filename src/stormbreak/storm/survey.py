"""A survey: one policy in many random storms, compared with today's common practice (docs/storms.md).

Every policy gets the same calls and random draws. The measure of a draw is *regret*: the lead of the best other policy,
in points of goodput (0 if no other is better). The measure of a batch is its makespan, divided by the makespan of the
fastest other policy that answers as many rows. Failed rows of the policy are sent again later, as `batch run` does;
those of the baselines are not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from statistics import median
from typing import Any

from stormbreak.storm.measures import Measures, quantile, rounded
from stormbreak.storm.parallel import Run, simulate_all
from stormbreak.storm.policies import BASELINES, NamedPolicy
from stormbreak.storm.random_storms import BATCH, FLEETS, RandomStorm, draw

RIVALS = ("none", "naive", "full_jitter", "openai_sdk", "article", "budget", "aimd")
"""The baselines of a survey."""

BATCH_RIVALS = ("loop_naive", "loop_exponential", "loop_full_jitter")
"""The baselines of a batch: loops that send a row until it is answered, at most ten times, with 64 rows in flight."""

NEAR = (1.0, 5.0)  # points of regret within which a draw counts as near the best
WORST = 10  # maximum number of storms that are shown and saved
_LOSSES = ("mean", "median", "p90", "worst")  # of a `Summary`


def loss_text(value: float) -> str:
    return f"{value:,.1f}" if value < inf else "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One draw: the value of each policy, a mean over its runs.

    The value is goodput in points, or for a batch the seconds until 99 % of the rows are answered (inf: never). The
    `regret` of a batch is the ratio of makespans: below 1 if the policy is faster than all others, 1 if no policy
    answers 99 %.
    """

    draw: RandomStorm
    values: Mapping[str, float]
    regret: float
    best: str

    @property
    def about(self) -> str:
        return self.draw.scenario.description


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The losses of some draws, in points or ratios of makespans."""

    draws: int
    mean: float
    median: float
    p90: float
    worst: float
    within: Mapping[float, float] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return plain values; `within` maps points of regret to the share of draws within them."""
        shares = {f"within_{points:g}": rounded(share) for points, share in self.within.items()}
        numbers = {name: _plain(getattr(self, name)) for name in _LOSSES}
        return {"draws": self.draws, **numbers, **shares}

    @property
    def cells(self) -> list[str]:
        """Its values as text, for a row of a table."""
        lost = map(loss_text, (self.mean, self.median, self.p90, self.worst))
        return [f"{self.draws}", *lost, *(f"{100 * each:.0f} %" for each in self.within.values())]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The measures for checks. Regret is in points, or a ratio of makespans; shares are in [0, 1].

    `goodput` is the policy's mean; `ahead` is the lead in points (for a batch: seconds) over the best mean of
    the others. A batch has no goodput, and no shares within points: None.
    """

    goodput: float | None
    ahead: float
    regret_mean: float
    regret_median: float
    regret_p90: float
    regret_worst: float
    within_1: float | None
    within_5: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The result of a survey of `policy` against the `others`."""

    policy: str
    others: tuple[str, ...]
    seed: int
    preset: str
    scores: tuple[Score, ...]

    @property
    def is_batch(self) -> bool:
        """Whether it measures makespans instead of goodput."""
        return self.preset == BATCH

    def summary(self, scores: Sequence[Score] | None = None) -> Summary:
        regrets = sorted(score.regret for score in (self.scores if scores is None else scores))
        near = () if self.is_batch else NEAR
        return Summary(
            draws=len(regrets),
            mean=sum(regrets) / len(regrets),
            median=median(regrets),
            p90=quantile(regrets, 0.9) or 0.0,
            worst=regrets[-1],
            within={
                points: sum(each <= points for each in regrets) / len(regrets) for points in near
            },
        )

    @property
    def families(self) -> dict[str, Summary]:
        names = sorted({score.draw.family for score in self.scores})
        return self._grouped(lambda draw: draw.family, names)

    @property
    def fleets(self) -> dict[str, Summary]:
        """The losses by size of process."""
        return self._grouped(lambda draw: draw.fleet, FLEETS)

    def _grouped(
        self, of: Callable[[RandomStorm], str], names: Sequence[str]
    ) -> dict[str, Summary]:
        found = {name: [score for score in self.scores if of(score.draw) == name] for name in names}
        return {name: self.summary(scores) for name, scores in found.items() if scores}

    @property
    def means(self) -> dict[str, float]:
        """Mean goodput in points, or mean makespan in seconds, by policy; the surveyed one first."""
        count = len(self.scores)
        return {
            name: sum(score.values[name] for score in self.scores) / count
            for name in (self.policy, *self.others)
        }

    def worst(self, count: int) -> list[Score]:
        """The draws that another policy wins, the largest loss first."""
        behind = [score for score in self.scores if score.best != self.policy]
        return sorted(behind, key=lambda score: (-score.regret, score.draw.number))[:count]

    @property
    def figures(self) -> Figures:
        total = self.summary()
        own, *others = self.means.values()
        best = (min if self.is_batch else max)(others, default=own)
        behind = 0.0 if own == best else own - best  # both may be infinite
        return Figures(
            goodput=None if self.is_batch else own / 100.0,
            ahead=-behind if self.is_batch else behind,
            **{f"regret_{name}": getattr(total, name) for name in _LOSSES},
            within_1=total.within.get(1.0),
            within_5=total.within.get(5.0),
        )

    @property
    def sentence(self) -> str:
        total, means = self.summary(), self.means
        values = ((name, getattr(total, name)) for name in _LOSSES)
        numbers = ", ".join(
            f"{name} {value:.1f}" if value < inf else f"{name} never" for name, value in values
        )
        head = f"{self.policy} in {total.draws} random {'batches' if self.is_batch else 'storms'}"
        if self.is_batch:
            return f"{head} (seed {self.seed}) takes, as a multiple of the fastest baseline's time: {numbers}."
        return (
            f"{head} (seed {self.seed}) has a mean goodput of {means[self.policy]:.1f} % and loses to the best of the others,"
            f" in points: {numbers}; {100 * total.within[5.0]:.0f} % of the storms are within 5 points."
        )

    def plain(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "others": list(self.others),
            "seed": self.seed,
            "preset": self.preset,
            **self.summary().plain(),
            "means": {name: _plain(mean) for name, mean in self.means.items()},
            "families": {name: each.plain() for name, each in self.families.items()},
            "fleets": {name: each.plain() for name, each in self.fleets.items()},
            "scores": [
                {
                    "draw": score.draw.number,
                    "family": score.draw.family,
                    "about": score.about,
                    "regret": _plain(score.regret),
                    "best": score.best,
                    "values": {name: _plain(value) for name, value in score.values.items()},
                }
                for score in self.scores
            ],
        }


def rivals_of(preset: str) -> list[NamedPolicy]:
    return [BASELINES[name] for name in (BATCH_RIVALS if preset == BATCH else RIVALS)]


def survey(  # noqa: PLR0913 - keyword-only, one for each option
    policy: NamedPolicy,
    others: Sequence[NamedPolicy],
    *,
    draws: int,
    seed: int = 0,
    families: Sequence[str] = (),
    preset: str = "interactive",
    runs: int = 2,
    processes: int = 1,
    progress: Callable[[int, float, int], None] | None = None,
) -> Survey:
    """Play a policy and others in random storms, as `stormbreak.testing.survey` does.

    `progress` gets the number of a run, its finished share, and the number of runs. Raises ConfigurationError.
    """
    rivals = {each.name: each for each in others if each.name != policy.name}
    found = [draw(number, seed=seed, families=families, preset=preset) for number in range(draws)]
    contenders = (policy, *rivals.values())
    jobs = [
        Run(scenario=each.scenario, contender=contender, seed=seed, measures_only=True)
        for each in found
        for contender in contenders
        for seed in range(1, runs + 1)
    ]
    report = None if progress is None else lambda at, share: progress(at, share, len(jobs))
    results = iter(simulate_all(jobs, processes=processes, progress=report))
    scores = []
    for each in found:
        values = {
            contender.name: _value([result.measures for result in islice(results, runs)], preset)
            for contender in contenders
        }
        scores.append(score(each, policy.name, values, preset))
    return Survey(
        policy=policy.name,
        others=tuple(rivals),
        seed=seed,
        preset=preset,
        scores=tuple(scores),
    )


def _value(several: Sequence[Measures], preset: str) -> float:
    if preset == BATCH:
        times = [each.makespan_99 for each in several]
        return sum(inf if time is None else time for time in times) / len(times)
    return 100.0 * sum(each.goodput or 0.0 for each in several) / len(several)


def score(of: RandomStorm, policy: str, values: Mapping[str, float], preset: str) -> Score:
    """Compare the policy with the best of the others."""
    rivals = [name for name in values if name != policy]
    own = values[policy]
    if preset == BATCH:
        best = min(rivals, key=values.__getitem__, default=policy)
        regret, loses = own / values[best] if values[best] < inf else 1.0, values[best] < own
    else:
        best = max(rivals, key=values.__getitem__, default=policy)
        regret = max(0.0, values[best] - own)
        loses = regret > 0
    return Score(draw=of, values=values, regret=regret, best=best if loses else policy)


def _plain(value: float) -> float | int | None:
    """Round a number for output; None if 99 % of the rows are never answered."""
    return rounded(value) if value < inf else None
