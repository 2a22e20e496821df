"""The tables of docs/storms.md: every scenario against every policy. `make storms` writes them anew.

Results are kept (`kept`), so that a run can be stopped and gone on with. One line of progress on stderr for each.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from multiprocessing import Pool
from typing import NamedTuple

import storm_tables
from kept import ROOT, CacheEntry
from marked import Block
from storm_tables import CALMS, OURS, OURS_FIRST, OURS_HASTY, STORMS, Row, Runs
from stormbreak.provider.scenario_file import load
from stormbreak.storm import simulate
from stormbreak.storm.policies import BASELINES, find

KEPT = CacheEntry("storms")
TABLES = Block(ROOT / "docs" / "storms.md", "<!-- tables: begin -->", "<!-- tables: end -->")
ROWS = (OURS, OURS_FIRST, OURS_HASTY, *BASELINES)
"""`ours` is the preset that the scenario names (`batch` for a batch, else `interactive`), nothing changed."""


class Task(NamedTuple):
    """One simulation."""

    row: Row
    scenario: str
    seed: int


def main() -> None:
    """Run what is missing and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", default=";".join(ROWS), help="separated by semicolons")
    parser.add_argument("--scenarios", default=",".join(STORMS + CALMS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--print", action="store_true", help="do not touch the page")
    options = parser.parse_args()
    rows, scenarios = options.rows.split(";"), options.scenarios.split(",")
    seeds = range(1, options.seeds + 1)
    tasks = [Task(row, name, seed) for name in scenarios for seed in seeds for row in rows]
    run(tasks, options.jobs)
    text = storm_tables.page(
        {row: {name: _runs(row, name, seeds) for name in scenarios} for row in rows}
    )
    if options.print:
        print(text)
    else:
        TABLES.write(text)


def run(tasks: Iterable[Task], jobs: int) -> None:
    """Simulate what is not known yet, several at a time."""
    missing = [task for task in tasks if KEPT.get(*task) is None]
    with Pool(jobs) as pool:
        for done, (task, took) in enumerate(pool.imap_unordered(one, missing), 1):
            row, scenario, seed = task
            place = f"{done}/{len(missing)}"
            print(
                f"{place:9}{scenario:15}{row:20}{seed:2}{took:7.1f} s", file=sys.stderr, flush=True
            )


def one(task: Task) -> tuple[Task, float]:
    """Simulate, keep the measures, and say how long it took."""
    row, scenario, seed = task
    began = time.perf_counter()
    storm = load(scenario)
    found = find(storm.load.preset if storm.load and row.startswith(OURS) else row)
    if row == OURS_HASTY:
        found = replace(found, policy=replace(found.policy, fail_fast=True))
    measures = simulate(storm, found, seed=seed, first_output=row == OURS_FIRST).measures
    KEPT.put(measures, *task)
    return task, time.perf_counter() - began


def _runs(row: Row, scenario: str, seeds: range) -> Runs:
    return [measures for seed in seeds if (measures := KEPT.get(row, scenario, seed)) is not None]


if __name__ == "__main__":
    main()
