"""How much depends on each mechanism and constant: docs/background/sensitivity.md.

Each variant of `variants` plays random storms that no constant was fitted to (`survey`). Results are kept (`kept`), so
that a run can be stopped and gone on with. `--only TEXT` runs the variants that have it in their name; the tables are
written of all results there are for this code, and say which are missing.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from statistics import mean
from typing import NamedTuple

from kept import CODE, ROOT, CacheEntry
from marked import Block
from stormbreak.storm import simulate
from stormbreak.storm.policies import find
from stormbreak.storm.random_storms import draw
from variants import UNCHANGED, Variant, applied, every

KEPT = CacheEntry("sensitivity")
PAGE = ROOT / "docs" / "background" / "sensitivity.md"
MECHANISMS = Block(PAGE, "<!-- mechanisms: begin -->", "<!-- mechanisms: end -->")
CONSTANTS = Block(PAGE, "<!-- constants: begin -->", "<!-- constants: end -->")
DRAWS, SEED = 30, 11
MOVED = 2.0  # points of goodput, in a storm
MATTERS = 0.3  # points of goodput, on average


class Task(NamedTuple):
    """One simulation: a number of `every`, -1 for the engine as it is, and that of a random storm."""

    number: int
    storm: int


def main() -> None:
    """Run what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="variants with this in their name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--mechanisms", action="store_true", help="no constants")
    parser.add_argument("--print", action="store_true", help="do not touch the page")
    options = parser.parse_args()
    wanted = [
        number
        for number, variant in enumerate(_VARIANTS)
        if options.only in variant.name and (is_mechanism(variant) or not options.mechanisms)
    ]
    tasks = [Task(number, storm) for number in (-1, *wanted) for storm in range(DRAWS)]
    missing = [task for task in tasks if known(task) is None]
    print(f"{len(tasks)} simulations, {len(missing)} to do", file=sys.stderr)
    began = time.perf_counter()
    # A patched process must not be used again: each task has its own, forked from one that is clean.
    with multiprocessing.get_context("fork").Pool(options.jobs, maxtasksperchild=1) as pool:
        for done, took in enumerate(pool.imap_unordered(one, missing), 1):
            left = (time.perf_counter() - began) / done * (len(missing) - done)
            print(f"{done}/{len(missing)} {took:.1f} s, {left / 60:.0f} min left", file=sys.stderr)
    for block, text in {MECHANISMS: mechanisms(), CONSTANTS: constants()}.items():
        if options.print:
            print(text)
        elif block is MECHANISMS or not options.mechanisms:
            block.write(text)


def one(task: Task) -> float:
    """Simulate, keep the measures, and say how long it took."""
    began = time.perf_counter()
    storm, variant = draw(task.storm, seed=SEED).scenario, variant_of(task)
    found = find(storm.load.preset if storm.load else "interactive")
    with applied(variant):
        changed = replace(found, policy=variant.edit(found.policy))
        measures = simulate(storm, changed, seed=1).measures
    KEPT.put(measures, *key(task))
    return time.perf_counter() - began


def variant_of(task: Task) -> Variant:
    """What is varied."""
    return UNCHANGED if task.number < 0 else _VARIANTS[task.number]


def is_mechanism(variant: Variant) -> bool:
    """Whether a mechanism is taken out; else a number is changed."""
    return variant.change == "ablation"


def key(task: Task) -> tuple[str, str, str, int]:
    """What the result of `task` is kept under."""
    variant = variant_of(task)
    return variant.name, variant.change, f"draw-{task.storm}", 1


def known(task: Task) -> float | None:
    """Goodput in percent, if it was simulated."""
    found = KEPT.get(*key(task))
    return None if found is None else 100 * (found.goodput or 0.0)


class Moves(NamedTuple):
    """What a variant changes: points of goodput in each storm."""

    variant: Variant
    points: Sequence[float]

    @property
    def mean(self) -> float:
        return mean(self.points)

    @property
    def cells(self) -> str:
        """The mean, the worst, and how many storms lose and gain more than `MOVED`."""
        loses = sum(each < -MOVED for each in self.points)
        gains = sum(each > MOVED for each in self.points)
        return f"{self.mean:+.1f} | {min(self.points):+.1f} | {loses} | {gains} |"


def moves(*, of_mechanisms: bool) -> list[Moves]:
    """All variants that were simulated in every storm, the worst first."""
    found = []
    for number, variant in enumerate(_VARIANTS):
        pairs = [(known(Task(-1, each)), known(Task(number, each))) for each in range(DRAWS)]
        points = [
            after - before for before, after in pairs if before is not None and after is not None
        ]
        if is_mechanism(variant) is of_mechanisms and len(points) == DRAWS:
            found.append(Moves(variant, points))
    return sorted(found, key=lambda each: each.mean)


def mechanisms() -> str:
    """What goodput falls by without each mechanism."""
    return "\n".join(
        [
            f"{STORMS}.",
            "",
            f"| without | {HEADS}",
            "|---|---|---|---|---|",
            *(f"| {each.variant.name} | {each.cells}" for each in moves(of_mechanisms=True)),
            "",
        ]
    )


def constants() -> str:
    """What moves when a constant or a number of the default policy is halved or doubled."""
    found = moves(of_mechanisms=False)
    names = list(dict.fromkeys(each.variant.name for each in found))
    matter = {each.variant.name for each in found if abs(each.mean) >= MATTERS}
    move = {each.variant.name for each in found if max(map(abs, each.points)) > MOVED}
    flat = [name for name in names if name not in move]
    total = sum(not is_mechanism(each) for each in _VARIANTS)
    gaps = f" {total - len(found)} of {total} variants were not run." if total > len(found) else ""
    return "\n".join(
        [
            (
                f"{STORMS}. Of {len(names)} numbers, {len(matter)} move the mean by {MATTERS} points or more when "
                f"halved or doubled, {len(move) - len(matter & move)} others move one storm by more than {MOVED:.0f}, "
                f"and {len(flat)} none.{gaps}"
            ),
            "",
            f"| number | change | {HEADS}",
            "|---|---|---|---|---|---|",
            *(
                f"| `{each.variant.name}` | {each.variant.change} | {each.cells}"
                for each in found
                if each.variant.name in matter
            ),
            "",
            f"Move one storm by more than {MOVED:.0f} points: {_listed(sorted(move - matter))}.",
            "",
            f"Move none: {_listed(flat)}.",
            "",
        ]
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


STORMS = (
    f"{DRAWS} storms of seed {SEED} from all families, one run each, {datetime.now(UTC).date().isoformat()}, "
    f"code {CODE[:8]}"
)
HEADS = "mean goodput, points | worst storm | storms that lose over 2 | that gain over 2 |"
_VARIANTS = every()

if __name__ == "__main__":
    main()
