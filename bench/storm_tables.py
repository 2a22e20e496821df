"""What the storms came to, as tables: a line for each scenario, a column for each policy.

A mean is followed by the standard deviation over the seeds, where that is not nothing.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from statistics import fmean, stdev
from typing import TypeAlias

from stormbreak.storm.measures import Measures, average

STORMS = (
    "incident", "dip", "outage", "blackhole", "rpm-window", "rpm-bucket", "gather", "partial", "serverless",
    "brownout", "herd", "refusals", "refusals-bare", "refusals-batch", "scarce", "tokens",
)  # fmt: skip
BATCHES = ("gather", "refusals-batch")  # judged by their makespan, too
CALMS = ("calm-burst", "sparse", "mixed-lengths")
SPIKE = "incident"
STUDY = {  # goodput % (gather: makespan) of the prototype behind the rule: total time known, first output known
    "incident": (98.2, 98.2), "dip": (99.1, 99.9), "outage": (93.2, 93.6), "blackhole": (91.4, 92.6),
    "rpm-window": (95.4, 95.1), "rpm-bucket": (93.5, 93.5), "gather": (106, 105), "partial": (100, 100),
    "serverless": (76.5, 76.4), "brownout": (88.9, 87.4), "herd": (99.1, 99.9),
}  # fmt: skip
OURS, OURS_FIRST, OURS_HASTY = "ours", "ours, first output", "ours, fail fast"

Row: TypeAlias = str
Runs: TypeAlias = Sequence[Measures]  # of one row in one scenario, one for each seed
Table: TypeAlias = Mapping[Row, Mapping[str, Runs]]
Cell: TypeAlias = Callable[[Runs], str]


def page(table: Table) -> str:
    """All tables, and when and how they were made."""
    runs = next(iter(next(iter(table.values())).values()))
    made = f"Made on {datetime.now(UTC).date().isoformat()} with Python {platform.python_version()}"
    parts = [
        [f"{made}, seeds 1-{len(runs)}, by `make storms`. After a mean stands the standard deviation over the seeds."],
        ["### Goodput in the storms", "", "Percent of what is possible.", "", *lines(table, STORMS, goodput)],
        [
            "### What it took", "", "Attempts per call / the worst recovery in seconds (x: never).", "",
            *lines(table, STORMS, effort),
        ],
        ["### Makespan of the batches", "", "Seconds.", "", *lines(table, BATCHES, makespan)],
        [
            "### Beside the study", "", "Goodput %, of `gather` the makespan in seconds.", "",
            *beside_the_study(table),
        ],
        ["### Inside the spike of `incident`", "", *spike(table)],
        [
            "### The calms", "", "Success % / p99 of added wait in seconds / calls shed.", "",
            *lines(table, CALMS, calm),
        ],
    ]  # fmt: skip
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def lines(table: Table, scenarios: Sequence[str], cell: Cell) -> Iterator[str]:
    """A table with a line for each of the scenarios that were run."""
    yield f"| | {' | '.join(table)} |"
    yield "|---" * (1 + len(table)) + "|"
    for name in scenarios:
        columns = [row[name] for row in table.values() if name in row]
        if columns:
            yield f"| `{name}` | {' | '.join(cell(runs) for runs in columns)} |"


def spike(table: Table) -> Iterator[str]:
    """What goodput over all of the incident hides."""
    yield "| policy | goodput of the spike % | p99 s | attempts per sent call | peak attempts/s | wasted % |"
    yield "|---" * 6 + "|"
    for row, scenarios in table.items():
        if SPIKE not in scenarios:
            continue
        runs = scenarios[SPIKE]
        m = average(runs)
        p99 = "-" if m.p99 is None else f"{m.p99:.1f}"
        goodput_ = _shares(run.trigger_goodput for run in runs)
        yield (
            f"| {row} | {goodput_} | {p99} | {m.attempts_per_sent_call:.2f} | {m.peak_attempts:,} "
            f"| {100 * m.wasted:.1f} |"
        )


def beside_the_study(table: Table) -> Iterator[str]:
    """What the rule came to here, and in the prototype that it was found with."""
    yield "| | ours | study | ours, first output | study, first output |"
    yield "|---" * 5 + "|"
    for name, (total, first) in STUDY.items():
        cell = makespan if name in BATCHES else goodput
        here = [
            cell(table[row][name]) if name in table.get(row, {}) else "-"
            for row in (OURS, OURS_FIRST)
        ]
        yield f"| `{name}` | {here[0]} | {total} | {here[1]} | {first} |"


def goodput(runs: Runs) -> str:
    """How much of what is possible was answered."""
    return _shares(run.goodput for run in runs)


def _shares(shares: Iterable[float | None]) -> str:
    """In percent; a scenario of which nothing is possible in its trigger has none."""
    known = [100 * share for share in shares if share is not None]
    return spread(known) if known else "-"


def effort(runs: Runs) -> str:
    """What was sent for it, and how soon it was over."""
    m = average(runs)
    recovery = "x" if m.recovery is None else f"{m.recovery:.0f}"
    return f"{m.amplification:.2f} / {recovery}"


def makespan(runs: Runs) -> str:
    """How long a batch took."""
    times = [run.makespan for run in runs if run.makespan is not None]
    return spread(times) if len(times) == len(runs) else "-"


def calm(runs: Runs) -> str:
    """What was spoilt."""
    m = average(runs)
    return f"{_shares([m.success])} / {m.added_wait_p99:.2f} / {m.shed}"


def spread(values: Sequence[float]) -> str:
    """The mean, and the standard deviation where there is any."""
    mean = f"{fmean(values):.1f}"
    if len(values) == 1 or stdev(values) < 0.05:
        return mean
    return f"{mean} ±{stdev(values):.1f}"
