"""`stormbreak storm survey`: compare a policy with others in random storms."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from textwrap import fill
from typing import Any

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stormbreak.cli.command import option, options, subcommand
from stormbreak.cli.options import JSON, NAMES, Integer, seed
from stormbreak.cli.output import draw, say
from stormbreak.cli.storm.options import COMPARE, FLEET, JOBS, assertion, policy
from stormbreak.cli.storm.output import judge, progress_bar
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, plain, reason
from stormbreak.provider.scenario_file import dump
from stormbreak.report.destination import PAGE, ReportFile
from stormbreak.storm import policies
from stormbreak.storm.assertions import parse_assertion
from stormbreak.storm.policies import NamedPolicy
from stormbreak.storm.random_storms import BATCH
from stormbreak.storm.survey import (
    NEAR,
    WORST,
    Figures,
    Summary,
    Survey,
    loss_text,
    rivals_of,
    survey,
)

_MAX_LINE, _MAX_NAME = 1000, 40  # characters


@subcommand(
    "stormbreak storm survey --policy policy.toml --storms 100 -j 2 -o worst",
    "stormbreak storm survey --assert 'regret_p90 <= 3 and within_5 >= 0.97'",
)
@options(
    "Policies",
    policy("the preset"),
    COMPARE,
    option(
        "--preset",
        click.Choice(["interactive", BATCH]),
        "batch: all rows arrive at once; the measure is the time until 99 % are answered;"
        " failed rows are sent again, as `batch run` does.",
        default="interactive",
    ),
)
@options(
    "Storms",
    option("--storms", Integer(), "Number of random storms.", default=60),
    option("--families", NAMES, "Only storms of these families.", default=()),
    seed(),
    FLEET,
    option("--runs", Integer(), "Simulations per storm and policy; their mean counts.", default=2),
    JOBS,
)
@options(
    "Output",
    option("-o --output", "DIR", "Write the ten worst storms there, for `storm run`."),
    option("--report", "FILE", "Also write a report: FILE.html."),
    JSON,
    assertion("regret_p90 <= 3"),
)
def command(  # noqa: PLR0913 - one parameter for each option
    *,
    policy: str | None,
    compare: tuple[str, ...],
    storms: int,
    seed: int,
    runs: int,
    preset: str,
    families: tuple[str, ...],
    fleet: bool,
    jobs: int,
    output: str | None,
    as_json: bool,
    report: str | None,
    claim: str | None,
) -> int:
    """Simulate random storms, and print how much a policy loses to the best of the baselines.

    Regret: the points of goodput by which the best other policy is better, on the same calls with the same faults.
    """
    destination = None if report is None else ReportFile.of(report, kinds=(PAGE,))
    claimed = None if claim is None else parse_assertion(claim, about=Figures)
    folder = None if output is None else _folder(output)
    tested = policies.find(policy or preset)
    found = _survey(
        policies.in_fleet(tested) if fleet else tested,
        [*rivals_of(preset), *(policies.find(name) for name in compare)],
        draws=storms,
        seed=seed,
        runs=runs,
        preset=preset,
        families=families,
        processes=jobs,
    )
    if as_json:
        say(json.dumps(found.plain()))
    else:
        say(fill(plain(found.sentence, _MAX_LINE), Console().width))
        for part in _tables(found):
            draw(part)
    if folder is not None:
        saved = _save(found, folder)
        if saved and not as_json:
            say(f"Run the worst again: {_again(found, saved[0], runs)}")
    if destination is not None:
        destination.survey(found)
    return 0 if claimed is None else judge(claimed, str(claim), found.figures)


def _folder(name: str) -> Path:
    """Make the folder of `--output`, and check that it is writable, before anything runs."""
    path = Path(name)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"--output {path_of(path)}: {why}") from None
    return path


def _save(found: Survey, folder: Path) -> list[Path]:
    paths = []
    for place, score in enumerate(found.worst(WORST), 1):
        path = folder / f"{place:02d}-{score.draw.family}.toml"
        try:
            path.write_text(dump(score.draw.scenario), encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"--output {path_of(path)}: {reason(error)}") from None
        paths.append(path)
    return paths


def _again(found: Survey, path: Path, runs: int) -> str:
    best = found.worst(1)[0].best
    flags = ["--policy", found.policy, "--compare", best, "--seed", "1", "--seeds", str(runs)]
    return plain(shlex.join(["stormbreak", "storm", "run", str(path), *flags]), _MAX_LINE)


def _survey(policy: NamedPolicy, others: Sequence[NamedPolicy], **options: Any) -> Survey:
    done: dict[int, float] = {}
    with progress_bar() as bar:
        task = bar.add_task("storms", total=None)

        def show(number: int, share: float, runs: int) -> None:
            bar.update(task, advance=share - done.get(number, 0.0), total=runs)
            done[number] = share

        return survey(policy, others, progress=show, **options)


def _tables(found: Survey) -> Iterator[Table]:
    yield _means(found)
    yield _worst(found)
    yield _losses(found, "family", found.families)
    if not found.is_batch:  # such a storm has one process
        yield _losses(found, "calls/s of a process", found.fleets)


def _table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for head in texts:
        table.add_column(head, overflow="fold")
    for head in numbers:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _means(found: Survey) -> Table:
    title = "Seconds to 99 %" if found.is_batch else "Mean goodput in %"
    table = _table(title, ["policy"], ["mean"])
    for name, mean in found.means.items():
        table.add_row(_name(name), loss_text(mean))
    return table


def _losses(found: Survey, by: str, groups: Mapping[str, Summary]) -> Table:
    near = [] if found.is_batch else [f"<= {points:g}" for points in NEAR]
    numbers = ["storms", "mean", "median", "p90", "worst", *near]
    table = _table(f"{_what(found)}, by {by}", [by], numbers)
    for key, each in {**groups, "all": found.summary()}.items():
        table.add_row(key, *each.cells)
    return table


def _worst(found: Survey) -> Table:
    unit = "s" if found.is_batch else "%"
    table = _table(
        f"The worst storms. {_what(found)}",
        ["draw", "family", "best policy"],
        [f"best {unit}", f"ours {unit}", "lost"],
    )
    for score in found.worst(WORST):
        numbers = (score.values[score.best], score.values[found.policy], score.regret)
        names = (f"{score.draw.number}", score.draw.family, _name(score.best))
        table.add_row(*names, *map(loss_text, numbers))
    return table


def _what(found: Survey) -> str:
    return "Multiples of the fastest" if found.is_batch else "Regret in points"


def _name(name: str) -> str:
    return escape(plain(name, _MAX_NAME))
