"""Summarise a storm under a policy in one sentence, with the policy's weakest moment.

The weakest moment is the `WINDOW` seconds with the most missing answers, compared with the ideal. An answer counts for
an ideal answer within the scenario's timeout of it, since real service times are random and the ideal's are not.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from math import fsum
from typing import NamedTuple

from stormbreak.provider.scenario import Load, Scenario
from stormbreak.storm.measures import Spread, spread
from stormbreak.storm.result import Result, Series

WINDOW = 5  # seconds
_NO_WAIT = 0.05  # seconds; not mentioned


class Moment(NamedTuple):
    """The seconds from `start` until before `end`, with `missing` of the `possible` answers."""

    start: int
    end: int
    missing: float
    possible: float
    seed: int


def verdict(scenario: Scenario, results: Sequence[Result]) -> str:
    """Describe the result of one policy, over one or more seeds."""
    load = scenario.load
    spreads = spread([result.measures for result in results])
    subject = f"{scenario.name} under {results[0].policy}"
    if len(results) > 1:
        subject += f" (seeds {results[0].seed}-{results[-1].seed})"
    known = any(result.series.ideal for result in results)
    if known and not any(any(result.series.ideal[_start(load) :]) for result in results):
        return f"{subject}: no answer in time was possible, for any client."
    if load is None or load.trigger_until is None:
        sentence = f"{subject} {_answers(spreads)}, {_last(spreads)}; it {_harm(spreads)}"
    else:
        watched = scenario.duration - load.trigger_until
        during = _during(spreads["trigger_goodput"])
        sentence = (
            f"{subject} {_recovery(spreads['recovery'], watched)} and {_answers(spreads)}, {during}"
        )
    return f"{sentence}; {_weakness(weakest(results, load))}." if known else f"{sentence}."


def _start(load: Load | None) -> int:
    return int(load.trigger_at or 0.0) if load else 0


def weakest(results: Sequence[Result], load: Load | None) -> Moment | None:
    """Return the weakest moment over all seeds; None if less than one answer is missing."""
    load = load or Load(rate=1.0)
    moments = [_weakest(one.series, load, one.seed) for one in results]
    worst = max(moments, key=lambda moment: round(moment.missing))
    return worst if round(worst.missing) else None


def missing(series: Series, near: float) -> list[float]:
    """Count, by second, the ideal's answers without a real answer within `near` seconds.

    A surplus in one second fills gaps before it first, then gaps after it.
    """
    lacks: deque[tuple[int, float]] = deque()  # second, count
    spare: deque[tuple[int, float]] = deque()
    for second, (came, possible) in enumerate(zip(series.answers, series.ideal, strict=True)):
        mine, others = (spare, lacks) if came > possible else (lacks, spare)
        left = _offset(others, abs(came - possible), since=second - near)
        if left:
            mine.append((second, left))
    found = [0.0] * len(series.ideal)
    for second, amount in lacks:
        found[second] = amount
    return found


def unrecovered_answers(series: Series, near: float) -> float:
    """Count the ideal's answers without a real answer near them, in an optimal pairing.

    Pairing in order leaves the fewest unpaired. `missing` also counts an answer that is slightly late and takes the
    place of the one before it.
    """
    answers: deque[tuple[int, float]] = deque()  # surplus: second, count
    ideal: deque[tuple[int, float]] = deque()
    alone: list[float] = []
    for second, (came, possible) in enumerate(zip(series.answers, series.ideal, strict=True)):
        answers.append((second, came))
        ideal.append((second, possible))
        while answers[0][0] < second - near:
            answers.popleft()
        while ideal[0][0] < second - near:
            alone.append(ideal.popleft()[1])
        _pair(answers, ideal)
    return fsum([*alone, *(amount for _, amount in ideal)])


def _pair(one: deque[tuple[int, float]], other: deque[tuple[int, float]]) -> None:
    """Subtract the common amount from both, the oldest first."""
    while one and other:
        (at, mine), (then, theirs) = one.popleft(), other.popleft()
        if mine > theirs:
            one.appendleft((at, mine - theirs))
        elif theirs > mine:
            other.appendleft((then, theirs - mine))


def _offset(others: deque[tuple[int, float]], amount: float, *, since: float) -> float:
    """Subtract `amount` from the latest of the others, from `since` on; return the rest."""
    while amount and others and others[-1][0] >= since:
        second, there = others.pop()
        if there > amount:
            others.append((second, there - amount))
            return 0.0
        amount -= there
    return amount


def _weakest(series: Series, load: Load, seed: int) -> Moment:
    start, length = _start(load), len(series.ideal)
    moments = [Moment(start, start, 0.0, 0.0, seed)]
    if not round(unrecovered_answers(series, load.timeout)):
        return moments[0]
    lacks = missing(series, load.timeout)
    for begin in range(start, max(start + 1, length - WINDOW + 1)):
        end = min(begin + WINDOW, length)
        possible = fsum(series.ideal[begin:end])
        moments.append(Moment(begin, end, fsum(lacks[begin:end]), possible, seed))
    return max(moments, key=lambda moment: round(moment.missing))


def _recovery(found: Spread, watched: float) -> str:
    if found.never == found.seeds:
        return f"does not recover in the {watched:,.0f} s after the trigger"
    if found.never:
        recover = found.seeds - found.never
        return f"recovers from the trigger in only {recover} of {found.seeds} runs"
    worst = f"{found.worst:g} s"
    if found.deviation:
        around = f"{found.mean:.1f} ±{found.deviation:.1f} s"
        return f"recovers {around} (at worst {worst}) after the trigger"
    return f"recovers {worst} after the trigger"


def _answers(spreads: Mapping[str, Spread]) -> str:
    goodput = spreads["goodput"]
    if goodput.mean is None:
        return f"has nothing to answer{_in_some_runs(goodput)}"
    return f"answers {_percent(goodput)} of what was possible"


def _during(found: Spread) -> str:
    if found.mean is None:
        return f"nothing being possible while the trigger lasts{_in_some_runs(found)}"
    return f"{_percent(found)} while the trigger lasts"


def _in_some_runs(found: Spread) -> str:
    return "" if found.never == found.seeds else f" in {found.never} of {found.seeds} runs"


def _last(spreads: Mapping[str, Spread]) -> str:
    makespan = spreads["makespan"]
    if makespan.mean is None:
        every = makespan.never == makespan.seeds
        return "no answer came in time" if every else f"none came in {makespan.never} runs"
    around = f" ±{makespan.deviation:.1f}" if makespan.deviation else ""
    return f"the last after {makespan.mean:,.1f}{around} s"


def _harm(spreads: Mapping[str, Spread]) -> str:
    shed, wait = spreads["shed"].mean or 0.0, spreads["added_wait_p99"].mean or 0.0
    sheds = f"sheds {shed:,.0f} calls" if shed else "sheds nothing"
    return f"{sheds} and adds {f'up to {wait:,.1f} s of wait' if wait > _NO_WAIT else 'no wait'}"


def _weakness(moment: Moment | None) -> str:
    if moment is None:
        return "no moment is weak"
    possible = round(moment.possible)
    came = max(0, round(moment.possible - moment.missing))
    return (
        f"the weakest moment is second {moment.start} to {moment.end}"
        f" ({came:,} of {possible:,} possible answers)"
    )


def _percent(found: Spread) -> str:
    mean, deviation = 100 * (found.mean or 0.0), 100 * (found.deviation or 0.0)
    around = f" ±{deviation:.1f}" if round(deviation, 1) else ""
    return f"{mean:.1f}{around} %"
