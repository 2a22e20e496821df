"""Tell from a log which rule refuses requests with a 429: a full queue, a fixed window, a token bucket, or none. Pure.

Each kind of rule predicts for each request whether it is refused; its parameters are those that predict best. A rule
is believed if its wrong predictions are few compared with the refusals. If no rule is, the 429s count as random.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import floor
from statistics import median
from typing import Literal, NamedTuple

BELIEVED = 0.9  # minimum share of refusals that a rule explains
FEWEST = 10  # minimum number of refusals for an estimate
_PERIODS = (1.0, 10.0, 60.0, 3600.0)  # seconds of a window
_PHASES = 12  # beginnings of windows to try
_GRID, _ROUNDS = 9, 4  # rates to try in each round, around the best rate of the round before
_MOST = 20_000  # maximum number of arrivals to examine
_ORDER = ("queue", "window", "bucket")  # preferred among equally good rules
_IDLE = 10.0  # a gap this many times the usual gap between refusals is a pause
_TOLERANCE = 0.02  # of a queue's size, as a share: clocks are not exact
_SPARE = 0.25  # tolerance of a bucket, in requests


class Arrival(NamedTuple):
    """A request that reached the limit; `inside`: requests that were waiting or in service then."""

    at: float
    refused: bool
    inside: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The rule that explains most refusals.

    "queue": `allowed` requests inside at once. "window": `allowed` in each `period`. "bucket": `allowed` per
    second, `burst` at once; refusals cost nothing. `explained` is 1 minus wrong predictions by refusal, `seen`
    counts the windows that had refusals.
    """

    kind: Literal["queue", "window", "bucket"]
    explained: float
    allowed: float
    period: float = 1.0
    burst: float = 0.0
    seen: int = 0


def fit_limits(arrivals: Sequence[Arrival]) -> list[Rule]:
    """Return the rules that explain the refusals, the best of each kind, the best one first."""
    arrivals = _busiest(arrivals)
    refused = sum(arrival.refused for arrival in arrivals)
    if refused < FEWEST:
        return []
    windows = max(_windows(arrivals, refused), key=lambda rule: rule.explained)
    rules = (_queue(arrivals, refused), windows, _best_bucket(arrivals, refused))
    believed = [rule for rule in rules if rule is not None and rule.explained >= BELIEVED]
    return sorted(believed, key=lambda rule: (-round(rule.explained, 1), _ORDER.index(rule.kind)))


def _busiest(arrivals: Sequence[Arrival]) -> Sequence[Arrival]:
    """Return at most `_MOST` arrivals in a row, those with the most refusals."""
    refusals = [0, *accumulate(arrival.refused for arrival in arrivals)]
    starts = range(0, max(1, len(arrivals) - _MOST + 1), 1000)
    start = max(starts, key=lambda at: refusals[min(at + _MOST, len(arrivals))] - refusals[at])
    return arrivals[start : start + _MOST]


# ---------------------------------------------------------------- queue


def _queue(arrivals: Sequence[Arrival], refused: int) -> Rule:
    """A request is refused if `allowed` requests are inside."""
    top = max(arrival.inside for arrival in arrivals)
    good, bad = [0] * (top + 2), [0] * (top + 2)
    for arrival in arrivals:
        (bad if arrival.refused else good)[arrival.inside] += 1
    early = [0, *accumulate(bad)]  # refusals below each number
    late = [0, *accumulate(good)]

    def wrong(allowed: int) -> int:
        spare = round(_TOLERANCE * allowed)
        return early[allowed - spare] + late[-1] - late[min(top + 2, allowed + spare)]

    allowed = min(range(1, top + 2), key=lambda level: (wrong(level), early[level]))
    return Rule(kind="queue", explained=1 - wrong(allowed) / refused, allowed=allowed)


# ---------------------------------------------------------------- window


def _windows(arrivals: Sequence[Arrival], refused: int) -> Iterator[Rule]:
    returns = [
        after.at for before, after in pairwise(arrivals) if before.refused and not after.refused
    ]
    for period in _PERIODS:
        phases = {0.0, *(at % period for at in returns[:: max(1, len(returns) // _PHASES)])}
        yield max(
            (_window(arrivals, refused, period, phase) for phase in sorted(phases)),
            key=lambda rule: rule.explained,
        )


def _window(arrivals: Sequence[Arrival], refused: int, period: float, phase: float) -> Rule:
    """A request is refused if `allowed` others passed in its window."""
    windows: dict[int, list[bool]] = {}
    for arrival in arrivals:
        number = floor((arrival.at - phase) / period + 1e-9)
        windows.setdefault(number, []).append(arrival.refused)
    full = [window for window in windows.values() if any(window)]
    allowed = round(median(window.index(True) for window in full))
    wrong = sum(
        max(0, window.count(False) - allowed) + sum(window[:allowed]) for window in windows.values()
    )
    explained = 1 - wrong / refused
    return Rule(kind="window", explained=explained, allowed=allowed, period=period, seen=len(full))


# ---------------------------------------------------------------- bucket


def _best_bucket(arrivals: Sequence[Arrival], refused: int) -> Rule | None:
    rate = _busy_rate(arrivals)
    if not rate:
        return None
    low, high = 0.8 * rate, 1.2 * rate
    best = _bucket(arrivals, refused, rate)
    for _ in range(_ROUNDS):
        step = (high / low) ** (1 / (_GRID - 1))
        rules = [_bucket(arrivals, refused, low * step**place) for place in range(_GRID)]
        best = max([best, *rules], key=lambda rule: rule.explained)
        low, high = best.allowed / step, best.allowed * step
    return best


def _busy_rate(arrivals: Sequence[Arrival]) -> float:
    """Return the requests per second that pass in busy stretches, where refusals are near; 0: unknown."""
    places = [place for place, arrival in enumerate(arrivals) if arrival.refused]
    gaps = [arrivals[after].at - arrivals[before].at for before, after in pairwise(places)]
    usual = _IDLE * median(gaps) if gaps else 0.0
    passed = seconds = 0.0
    for (before, after), gap in zip(pairwise(places), gaps, strict=True):
        if gap <= max(usual, 1e-3):
            passed += after - before - 1
            seconds += gap
    return passed / seconds if seconds else 0.0


def _bucket(arrivals: Sequence[Arrival], refused: int, rate: float) -> Rule:
    """A request is refused if the bucket has less than one request left.

    Each request also corrects the level of the bucket; otherwise small errors of the rate would add up.
    """
    burst = _burst(arrivals, rate)
    wrong, level, before = 0, 0.0, 0.0
    for at, is_refused, _ in arrivals:  # `level` is missing from a full bucket
        level = max(0.0, level - rate * (at - before))
        before = at
        if is_refused:
            wrong += level == 0.0 or level + 1 < burst - _SPARE
            level = max(level, burst - 1)
        else:
            wrong += level + 1 > burst + _SPARE
            level = min(level + 1, burst)
    return Rule(kind="bucket", explained=1 - wrong / refused, allowed=rate, burst=burst)


def _burst(arrivals: Sequence[Arrival], rate: float) -> float:
    """Estimate the size of a bucket: the median number of requests that a full one let pass until the first refusal."""
    found = []
    level, before, fresh = 0.0, 0.0, True
    for at, is_refused, _ in arrivals:
        level = max(0.0, level - rate * (at - before))
        before = at
        fresh = fresh or level == 0.0
        if not is_refused:
            level += 1
        elif fresh:
            found.append(level)
            fresh = False
    return max(1.0, median(found) + 0.5)
