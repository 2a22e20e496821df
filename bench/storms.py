"""The tables of docs/storms.md: every scenario against every policy. `make storms` writes them anew.

One line of progress on stderr for each run; `--json FILE` keeps the figures of every single one.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from multiprocessing import Pool
from pathlib import Path

from marked import Block
from stormbreak.provider.loader import load
from stormbreak.storm import simulate
from stormbreak.storm.contenders import find
from stormbreak.storm.measures import Measures, average

ROOT = Path(__file__).parent.parent
TABLES = Block(ROOT / "docs" / "storms.md", "<!-- tables: begin -->", "<!-- tables: end -->")
STORMS = (
    "incident", "dip", "outage", "blackhole", "rpm-window", "rpm-bucket", "gather", "partial", "serverless",
    "brownout", "herd", "refusals", "refusals-bare", "refusals-batch", "scarce",
)  # fmt: skip
CALMS = ("calm-burst", "sparse", "mixed-lengths")
OURS, OURS_FIRST, OURS_HASTY = "ours", "ours, first output", "ours, fail_fast = true"
ROWS = (OURS, OURS_FIRST, OURS_HASTY, "none", "naive", "full_jitter", "openai_sdk", "article")
"""`ours` is the preset that the scenario names (`batch` for a batch, else `interactive`), nothing changed."""

Cell = Callable[[Measures], str]
Table = dict[str, dict[str, list[Measures]]]


def main() -> None:
    """Run everything and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", default=";".join(ROWS), help="separated by semicolons")
    parser.add_argument("--scenarios", default=",".join(STORMS + CALMS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--print", action="store_true", help="do not touch the page")
    options = parser.parse_args()
    rows, scenarios = options.rows.split(";"), options.scenarios.split(",")
    measured = run(rows, scenarios, range(1, options.seeds + 1), options.jobs)
    if options.json:
        options.json.write_text(json.dumps(plain(measured), indent=1))
    text = page(measured, options.seeds)
    if options.print:
        print(text)
    else:
        TABLES.write(text)


def run(rows: Sequence[str], scenarios: Sequence[str], seeds: range, jobs: int) -> Table:
    """Simulate each scenario for each row with each seed, several at a time."""
    table: Table = {row: {scenario: [] for scenario in scenarios} for row in rows}
    tasks = list(product(scenarios, rows, seeds))
    with Pool(jobs) as pool:
        for (scenario, row, _), measures in zip(tasks, pool.imap(one, tasks), strict=True):
            table[row][scenario].append(measures)
    return table


def one(task: tuple[str, str, int]) -> Measures:
    """Simulate one scenario for one row with one seed."""
    scenario, row, seed = task
    began = time.perf_counter()
    storm = load(scenario)
    found = find(storm.load.preset if storm.load and row.startswith(OURS) else row)
    if row == OURS_HASTY:
        found = replace(found, policy=replace(found.policy, fail_fast=True))
    measures = simulate(storm, found, seed=seed, first_output=row == OURS_FIRST).measures
    took = time.perf_counter() - began
    print(f"{scenario:14}{row:26}{seed:3}{took:7.1f} s", file=sys.stderr, flush=True)
    return measures


def plain(table: Table) -> dict[str, dict[str, list[dict[str, float | int | None]]]]:
    """The figures as JSON has them."""
    return {
        policy: {scenario: [one.plain() for one in runs] for scenario, runs in row.items()}
        for policy, row in table.items()
    }


def page(table: Table, seeds: int) -> str:
    """The tables, and when and where they were made."""
    today = datetime.now(UTC).date().isoformat()
    made = f"Made on {today} with Python {platform.python_version()}, seeds 1-{seeds}, by `make storms`."
    known = next(iter(table.values()))
    storms = [name for name in STORMS if name in known]
    calms = [name for name in CALMS if name in known]
    return "\n".join(
        [
            made,
            "",
            "Storms: goodput % / amplification / worst recovery in seconds (x: never); for `gather` the makespan.",
            "",
            *markdown(table, storms, {"gather": gathered, "refusals-batch": gathered}, stormy),
            "",
            "Inside the spike of `incident`:",
            "",
            *spike(table),
            "",
            "Calms: success % / p99 of added wait in seconds / calls shed.",
            "",
            *markdown(table, calms, {}, calm),
            "",
        ]
    )


def markdown(
    table: Table, columns: Sequence[str], special: dict[str, Cell], usual: Cell
) -> list[str]:
    """One table with a row for each policy."""
    lines = [
        f"| row | {' | '.join(f'`{name}`' for name in columns)} |",
        "|---" * (1 + len(columns)) + "|",
    ]
    for policy, row in table.items():
        cells = [special.get(name, usual)(average(row[name])) for name in columns]
        lines.append(f"| `{policy}` | {' | '.join(cells)} |")
    return lines


def spike(table: Table) -> list[str]:
    """What overall goodput hides."""
    lines = [
        "| row | trigger goodput % | p99 s | attempts per sent call | peak attempts/s | wasted % |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for policy, row in table.items():
        if "incident" in row:
            m = average(row["incident"])
            p99 = "-" if m.p99 is None else f"{m.p99:.1f}"
            lines.append(
                f"| `{policy}` | {100 * m.trigger_goodput:.0f} | {p99} | {m.attempts_per_sent_call:.2f} "
                f"| {m.peak_attempts:,} | {100 * m.wasted:.1f} |"
            )
    return lines


def stormy(m: Measures) -> str:
    """A storm in a cell."""
    recovery = "x" if m.recovery is None else f"{m.recovery:.0f}"
    return f"{100 * m.goodput:.1f} / {m.amplification:.2f} / {recovery}"


def gathered(m: Measures) -> str:
    """A batch in a cell."""
    makespan = "-" if m.makespan is None else f"{m.makespan:.0f}"
    return f"{100 * m.goodput:.1f} / {m.amplification:.2f} / mk {makespan}"


def calm(m: Measures) -> str:
    """A calm in a cell."""
    return f"{100 * m.success:.1f} / {m.added_wait_p99:.2f} / {m.shed}"


if __name__ == "__main__":
    main()
