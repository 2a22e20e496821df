"""What rests on a constant: docs/background/sensitivity.md, every variant of `variants` against the storms and the calms.

The first table takes each mechanism out in random storms that no constant was fitted to (`survey`).
Results are kept (`kept`), so that a run can be stopped and gone on with. `--only TEXT` runs the variants that have it
in their name; the page is written of all results there are for this code, and says which are missing. `--survey` makes the
first table alone.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

from kept import CODE, ROOT, CacheEntry
from marked import Block
from storm_tables import BATCHES, CALMS, STORMS
from stormbreak.provider.scenario import Scenario
from stormbreak.provider.scenario_file import load
from stormbreak.storm import simulate
from stormbreak.storm.measures import Measures, average
from stormbreak.storm.policies import find
from stormbreak.storm.random_storms import draw
from variants import UNCHANGED, Variant, applied, every

KEPT = CacheEntry("sensitivity")
SURVEY = Block(
    ROOT / "docs" / "background" / "sensitivity.md",
    "<!-- survey: begin -->",
    "<!-- survey: end -->",
)
TABLES = Block(
    ROOT / "docs" / "background" / "sensitivity.md",
    "<!-- tables: begin -->",
    "<!-- tables: end -->",
)
AFTER = 60.0  # seconds
DRAWS, DRAW_SEED = 30, 11
MOVED = 0.02  # of goodput, in a random storm
POINTS = 0.01  # of goodput
LONGER = 0.05  # of the makespan
SENT = 0.1  # attempts per call
WAITED = 0.01  # seconds of added wait in a calm


class Task(NamedTuple):
    """One simulation: a number of `every`, -1 for the engine as it is."""

    number: int
    scenario: str
    seed: int


def main() -> None:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="variants with this in their name")
    parser.add_argument("--scenarios", default=",".join(STORMS + CALMS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--survey", action="store_true", help="only the table of random storms")
    parser.add_argument("--print", action="store_true", help="do not touch the page")
    options = parser.parse_args()
    scenarios, seeds = options.scenarios.split(","), range(1, options.seeds + 1)
    draws = [Task(number, f"draw-{each}", 1) for number in ABLATED for each in range(DRAWS)]
    variants = [UNCHANGED, *every()]
    wanted = [i - 1 for i, variant in enumerate(variants) if options.only in variant.name or i == 0]
    tasks = [Task(i, scenario, seed) for i in wanted for scenario in scenarios for seed in seeds]
    tasks = draws if options.survey else draws + tasks
    missing = [task for task in tasks if KEPT.get(*key(task)) is None]
    print(f"{len(tasks)} simulations, {len(missing)} to do", file=sys.stderr)
    began = time.perf_counter()
    # A patched process must not be used again: each task has its own, forked from one that is clean.
    with multiprocessing.get_context("fork").Pool(options.jobs, maxtasksperchild=1) as pool:
        for done, took in enumerate(pool.imap_unordered(one, missing), 1):
            left = (time.perf_counter() - began) / done * (len(missing) - done)
            print(f"{done}/{len(missing)} {took:.1f} s, {left / 60:.0f} min left", file=sys.stderr)
    blocks = (
        {SURVEY: survey()} if options.survey else {SURVEY: survey(), TABLES: page(scenarios, seeds)}
    )
    for block, text in blocks.items():
        if options.print:
            print(text)
        else:
            block.write(text)


def one(task: Task) -> float:
    """Simulate, keep the measures, and say how long it took."""
    began = time.perf_counter()
    variant = variant_of(task)
    storm = storm_of(task.scenario)
    found = find(storm.load.preset if storm.load else "interactive")
    with applied(variant):
        changed = replace(found, policy=variant.edit(found.policy))
        measures = simulate(storm, changed, seed=task.seed).measures
    KEPT.put(measures, *key(task))
    return time.perf_counter() - began


def storm_of(name: str) -> Scenario:
    """A scenario by its name, or a random storm by its number."""
    if name.startswith("draw-"):
        return draw(int(name.removeprefix("draw-")), seed=DRAW_SEED).scenario
    return shortened(load(name))


def shortened(storm: Scenario) -> Scenario:
    """The same storm, watched for `AFTER` seconds when its trigger is over: the long quiet end only dilutes."""
    until = storm.load.trigger_until if storm.load else None
    return storm if until is None else replace(storm, duration=min(storm.duration, until + AFTER))


def variant_of(task: Task) -> Variant:
    """What is varied."""
    return UNCHANGED if task.number < 0 else _VARIANTS[task.number]


def key(task: Task) -> tuple[str, str, str, int]:
    """What the result of `task` is kept under."""
    variant = variant_of(task)
    return variant.name, variant.change, task.scenario, task.seed


def known(number: int, scenario: str, seeds: range) -> Measures | None:
    """The mean over the seeds, if all are there."""
    runs = [KEPT.get(*key(Task(number, scenario, seed))) for seed in seeds]
    there = [run for run in runs if run is not None]
    return average(there) if len(there) == len(runs) else None


def moved(scenario: str, before: Measures, after: Measures) -> list[str]:
    """What differs by more than it takes to be told."""
    found = []
    if scenario in CALMS:
        if after.shed != before.shed:
            found.append(f"{after.shed - before.shed:+d} shed")
        if abs(after.added_wait_p99 - before.added_wait_p99) >= WAITED:
            found.append(f"p99 wait {after.added_wait_p99 - before.added_wait_p99:+.2f} s")
    assert before.goodput is not None, "something is possible in each of them"
    assert after.goodput is not None
    if abs(after.goodput - before.goodput) >= POINTS:
        found.append(f"{100 * (after.goodput - before.goodput):+.1f}")
    if scenario in BATCHES and before.makespan and after.makespan:
        longer = after.makespan / before.makespan - 1
        if abs(longer) >= LONGER:
            found.append(f"makespan {100 * longer:+.0f} %")
    if abs(after.amplification - before.amplification) >= SENT:
        found.append(f"{after.amplification - before.amplification:+.2f} sent")
    return found


def survey() -> str:
    """What goodput falls by in random storms without each mechanism, the dearest first."""
    rows = []
    for number in ABLATED[1:]:
        lost = []
        for each in range(DRAWS):
            pair = (
                known(-1, f"draw-{each}", range(1, 2)),
                known(number, f"draw-{each}", range(1, 2)),
            )
            if pair[0] and pair[1]:
                lost.append((pair[0].goodput or 0.0) - (pair[1].goodput or 0.0))
        mean = sum(lost) / len(lost)
        loses = sum(each > MOVED for each in lost)
        gains = sum(each < -MOVED for each in lost)
        name = _VARIANTS[number].name
        rows.append(
            (mean, f"| {name} | {-100 * mean:+.1f} | {-100 * max(lost):+.1f} | {loses} | {gains} |")
        )
    return "\n".join(
        [
            f"{DRAWS} storms of seed {DRAW_SEED} from all families, one run each.",
            "",
            "| without | mean goodput, points | worst storm | storms that lose over 2 | that gain over 2 |",
            "|---|---|---|---|---|",
            *(row for _, row in sorted(rows, reverse=True)),
            "",
        ]
    )


def page(scenarios: Sequence[str], seeds: range) -> str:
    """All that is known for this code."""
    rows: list[tuple[Variant, str]] = []
    missing = 0
    for number, variant in enumerate(_VARIANTS):
        told, complete = [], True
        for scenario in scenarios:
            before, after = known(-1, scenario, seeds), known(number, scenario, seeds)
            if before is None or after is None:
                complete = False
                continue
            moves = moved(scenario, before, after)
            if moves:
                told.append(f"`{scenario}` {', '.join(moves)}")
        missing += not complete
        if complete:
            rows.append((variant, "; ".join(told)))
    ablations = [row for row in rows if row[0].change == "ablation"]
    numbers = [row for row in rows if row[0].change != "ablation"]
    names = list(dict.fromkeys(variant.name for variant, _ in numbers))
    moving = {variant.name for variant, told in numbers if told}
    flat = [f"`{name}`" for name in names if name not in moving]
    left_out = [name for name in (*STORMS, *CALMS) if name not in scenarios]
    slice_ = f" Not in this run: {', '.join(f'`{name}`' for name in left_out)}." if left_out else ""
    gaps = f" {missing} of {len(_VARIANTS)} variants were not run." if missing else ""
    today = datetime.now(UTC).date().isoformat()
    return "\n".join(
        [
            (
                f"Made on {today} by `make sensitivity` with code {CODE[:8]}: {len(rows)} variants, "
                f"{', '.join(f'`{name}`' for name in scenarios)}, seeds 1-{len(seeds)}, each storm "
                f"watched for {AFTER:.0f} s after its trigger.{slice_}{gaps}"
            ),
            "",
            (
                f"Of {len(names)} constants and parameters, {len(moving)} move something when halved or doubled, "
                f"{len(flat)} nothing."
            ),
            "",
            "### Mechanisms, each taken out",
            "",
            "| without | what moves |",
            "|---|---|",
            *(f"| {variant.name} | {told or 'flat'} |" for variant, told in ablations),
            "",
            "### Constants and parameters that move something",
            "",
            "| name | change | what moves |",
            "|---|---|---|",
            *(
                f"| `{variant.name}` | {variant.change} | {told or 'flat'} |"
                for variant, told in numbers
                if variant.name in moving
            ),
            "",
            "### Flat both ways",
            "",
            ", ".join(flat) + "." if flat else "None.",
            "",
        ]
    )


_VARIANTS = every()
ABLATED = [-1, *(i for i, variant in enumerate(_VARIANTS) if variant.change == "ablation")]

if __name__ == "__main__":
    main()
