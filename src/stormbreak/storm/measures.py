"""The measures of a simulation, their spread over seeds, and both as text.

They cover the time from the start of the trigger to the end, or the whole scenario if it has no trigger. A time that
was never reached is None. A share is None if it is undefined: a share of zero possible answers, or of zero calls.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, fsum, inf
from statistics import stdev
from typing import Any, NamedTuple, TypeAlias

from stormbreak.provider.scenario import RECOVERY_WINDOW, Load
from stormbreak.storm.ideal import Amount, within

RECOVERED = 0.95  # share of the calls of `RECOVERY_WINDOW` seconds that must be answered

SHARES = frozenset({"goodput", "trigger_goodput", "success"})
"""Measures that may be undefined shares."""

_KEPT = 6  # decimal places of a measure


class Record(NamedTuple):
    """One call: arrival, end, whether it was answered in time, attempts and wait."""

    arrived: float
    ended: float
    answered: bool
    attempts: int
    queued: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """Shares are in [0, 1], times in seconds; `docs/storms.md` defines each one."""

    goodput: float | None
    trigger_goodput: float | None
    success: float | None
    recovery: float | None
    p50: float | None
    p99: float | None
    added_wait_p50: float
    added_wait_p99: float
    makespan: float | None
    makespan_99: float | None
    amplification: float
    attempts_per_sent_call: float
    peak_attempts: int
    shed: int
    wasted: float
    openings: int
    calls: int

    def plain(self) -> dict[str, float | int | None]:
        """Return the values by name, rounded."""
        return {name: rounded(value) for name, value in asdict(self).items()}


class Observed(NamedTuple):
    """Observations besides the calls."""

    attempts: Sequence[int]  # in each second
    wasted: float  # share of the provider's work
    openings: int


def measure(
    records: Sequence[Record],
    ideal: Sequence[Amount],
    load: Load,
    observed: Observed,
    *,
    duration: float,
) -> Measures:
    """Measure the calls of one simulation, in order of arrival; they may arrive until `duration`."""
    start = load.trigger_at or 0.0
    end = inf if load.trigger_until is None else load.trigger_until
    calls = [record for record in records if record.arrived >= start]
    good = [record for record in calls if record.answered]
    sent = sum(record.attempts > 0 for record in calls)
    attempts = sum(record.attempts for record in calls)
    latencies = sorted(record.ended - record.arrived for record in good)
    waits = sorted(record.queued for record in calls)
    return Measures(
        goodput=_goodput(records, ideal, start, inf),
        trigger_goodput=_goodput(records, ideal, start, end),
        success=_share(len(good), len(calls)),
        recovery=recovery(records, load, duration),
        p50=quantile(latencies, 0.5),
        p99=quantile(latencies, 0.99),
        added_wait_p50=quantile(waits, 0.5) or 0.0,
        added_wait_p99=quantile(waits, 0.99) or 0.0,
        makespan=max(record.ended for record in good) - calls[0].arrived if good else None,
        makespan_99=_makespan_99(calls, good),
        amplification=_share(attempts, len(calls)) or 0.0,
        attempts_per_sent_call=_share(attempts, sent) or 0.0,
        peak_attempts=max(observed.attempts, default=0),
        shed=len(calls) - sent,
        wasted=observed.wasted,
        openings=observed.openings,
        calls=len(calls),
    )


def recovery(records: Sequence[Record], load: Load, duration: float) -> float | None:
    """Return the whole seconds from the trigger's end until calls succeed again; None: never.

    The seconds after the last call count, too, but seconds without a call show no recovery. Without a trigger the
    recovery is 0.
    """
    if load.trigger_until is None:
        return 0.0
    arrived, answered = _by_second(records, load.trigger_until, duration)
    for second in range(len(arrived) - RECOVERY_WINDOW + 1):
        calls = sum(arrived[second : second + RECOVERY_WINDOW])
        good = sum(answered[second : second + RECOVERY_WINDOW])
        if calls and good >= RECOVERED * calls:
            return float(second)
    return None


def rounded(value: float | None) -> float | int | None:
    """Round a number for output."""
    return round(value, _KEPT) if isinstance(value, float) else value


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """Return the smallest value in `ordered` that `share` of the values do not exceed; None if `ordered` is empty."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else None


def average(several: Sequence[Measures]) -> Measures:
    """Return the mean of each measure; None if it is None in any run. Recovery: the worst."""
    spreads = spread(several)
    means = {name: each.mean for name, each in spreads.items()}
    whole = {
        name: round(means[name] or 0) for name in ("peak_attempts", "shed", "openings", "calls")
    }
    worst = {"recovery": spreads["recovery"].worst}
    return Measures(**{**means, **whole, **worst})  # type: ignore[arg-type]


def _makespan_99(calls: Sequence[Record], good: Sequence[Record]) -> float | None:
    """Seconds from the first call until 99 % of all are answered."""
    needed = ceil(0.99 * len(calls))
    if not calls or len(good) < needed:
        return None
    return sorted(record.ended for record in good)[needed - 1] - calls[0].arrived


def _goodput(
    records: Sequence[Record], ideal: Sequence[Amount], start: float, end: float
) -> float | None:
    answers = sum(record.answered and start <= record.ended < end for record in records)
    return _share(answers, within(ideal, start, end))


def _by_second(
    records: Sequence[Record], start: float, duration: float
) -> tuple[list[int], list[int]]:
    seconds = max(0, ceil(duration - start))
    arrived, answered = [0] * seconds, [0] * seconds
    for record in records:
        if record.arrived >= start:
            second = min(int(record.arrived - start), seconds - 1)
            arrived[second] += 1
            answered[second] += record.answered
    return arrived, answered


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


# ---------------------------------------------------------------- spread over seeds

Value: TypeAlias = float | int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One measure over `seeds` runs.

    A time that was not reached in `never` of the runs has no mean, and its worst is None. A share that is undefined in
    `never` runs has no mean, and its worst is the lowest of the other runs. A single run has no deviation.
    """

    mean: float | None
    deviation: float | None
    worst: Value
    never: int
    seeds: int

    def plain(self) -> dict[str, Value]:
        return {name: rounded(value) for name, value in asdict(self).items()}


def spread(several: Sequence[Measures]) -> Mapping[str, Spread]:
    """Compute the spread of each measure over runs that differ only by seed."""
    tables = [asdict(measures) for measures in several]
    return {name: _of(name, [table[name] for table in tables]) for name in tables[0]}


def plain(spreads: Mapping[str, Spread]) -> dict[str, Any]:
    return {name: each.plain() for name, each in spreads.items()}


def _of(name: str, values: Sequence[Value]) -> Spread:
    known = [value for value in values if value is not None]
    never = len(values) - len(known)
    mean = fsum(known) / len(known) if not never else None
    deviation = stdev(known) if mean is not None and len(known) > 1 else None
    if name in SHARES:
        worst: Value = min(known, default=None)
    else:
        worst = max(values, key=lambda value: inf if value is None else value)
    return Spread(mean=mean, deviation=deviation, worst=worst, never=never, seeds=len(values))


# ---------------------------------------------------------------- text, in the order of a table


class _Format(NamedTuple):
    number: Callable[[float], str]
    unit: str = ""


_PERCENT = _Format(lambda value: f"{100 * value:.1f}", " %")
_SECONDS = _Format(lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.2f}", " s")
_COUNT = _Format(lambda value: f"{value:,.0f}")
_RATIO = _Format(lambda value: f"{value:.2f}")

FORMATS: Mapping[str, _Format] = {
    **dict.fromkeys(("goodput", "trigger_goodput", "success"), _PERCENT),
    **dict.fromkeys(("recovery", "p50", "p99", "added_wait_p50", "added_wait_p99"), _SECONDS),
    **dict.fromkeys(("makespan", "makespan_99"), _SECONDS),
    **dict.fromkeys(("amplification", "attempts_per_sent_call"), _RATIO),
    **dict.fromkeys(("peak_attempts", "shed"), _COUNT),
    "wasted": _PERCENT,
    **dict.fromkeys(("openings", "calls"), _COUNT),
}


def value_text(name: str, value: Value) -> str:
    """Write a measure of one run."""
    if value is None:
        return "-" if name in SHARES else "never"
    form = FORMATS[name]
    return form.number(value) + form.unit


def mean_text(name: str, found: Spread) -> str:
    """Write the mean of a measure, with the deviation if it is not zero."""
    if found.mean is None:
        some = "" if found.never == found.seeds else f" in {found.never} of {found.seeds}"
        return value_text(name, None) + some
    form = FORMATS[name]
    deviation = form.number(found.deviation or 0.0)
    around = "" if deviation == form.number(0.0) else f" ±{deviation}"
    return form.number(found.mean) + around + form.unit
