"""`stormbreak storm survey`: what a policy loses in random storms."""

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path
from tempfile import TemporaryFile
from textwrap import fill
from typing import Any

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from stormbreak.cli.output import draw, say
from stormbreak.cli.storm.output import judge
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, plain, reason
from stormbreak.provider.scenario_file import dump
from stormbreak.report.destination import PAGE, ReportFile
from stormbreak.storm import policies
from stormbreak.storm.assertions import parse_assertion
from stormbreak.storm.policies import NamedPolicy
from stormbreak.storm.random_storms import BATCH
from stormbreak.storm.survey import NEAR, WORST, Figures, Summary, Survey, rivals_of, survey

_LONGEST, _MAX_NAME = 1000, 40  # characters


@click.command("survey")
@click.option(
    "--policy",
    metavar="FILE|PRESET|BASELINE",
    help="The policy that is surveyed; by default the preset.",
)
@click.option("--compare", metavar="A,B,...", default="", help="Others beside the baselines.")
@click.option(
    "--draws",
    metavar="N",
    type=click.IntRange(min=1),
    default=60,
    show_default=True,
    help="Number of storms.",
)
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The same seed draws the same storms.",
)
@click.option(
    "--lucks",
    metavar="N",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Runs of each storm and policy; their mean counts.",
)
@click.option(
    "--preset",
    type=click.Choice(["interactive", BATCH]),
    default="interactive",
    show_default=True,
    help="batch: all rows come at once, and the time until 99 % are answered counts;"
    " failed rows are sent again, as `batch run` does.",
)
@click.option("--families", metavar="A,B,...", default="", help="Default: all of them.")
@click.option(
    "--processes",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Simulations at once; the result is the same.",
)
@click.option("--save", metavar="DIR", help="Write the ten worst storms there, for `storm run`.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--report", metavar="FILE.html", help="Also a report, as a page.")
@click.option(
    "--assert",
    "claim",
    metavar="EXPR",
    help="Exit 1 unless it holds: 'regret_p90 <= 3 and within_5 >= 0.97'.",
)
def command(  # noqa: PLR0913 - one parameter for each option
    *,
    policy: str | None,
    compare: str,
    draws: int,
    seed: int,
    lucks: int,
    preset: str,
    families: str,
    processes: int,
    save: str | None,
    as_json: bool,
    report: str | None,
    claim: str | None,
) -> int:
    """Play random storms against a policy and show what it loses to the best of the baselines.

    Regret: how many points of goodput the best of the others has more, on the same calls with the same luck.

    Example: stormbreak storm survey --policy policy.toml --draws 100 --processes 2 --save worst
    """
    destination = None if report is None else ReportFile.of(report, kinds=(PAGE,))
    claimed = None if claim is None else parse_assertion(claim, about=Figures)
    folder = None if save is None else _folder(save)
    found = _survey(
        policies.find(policy or preset),
        [*rivals_of(preset), *(policies.find(name) for name in _names(compare))],
        draws=draws,
        seed=seed,
        lucks=lucks,
        preset=preset,
        families=_names(families),
        processes=processes,
    )
    if as_json:
        say(json.dumps(found.plain()))
    else:
        say(fill(plain(found.sentence, _LONGEST), Console().width))
        for part in _tables(found):
            draw(part)
    if folder is not None:
        saved = _save(found, folder)
        if saved and not as_json:
            say(f"Run the worst again: {_again(found, saved[0], lucks)}")
    if destination is not None:
        destination.survey(found)
    return 0 if claimed is None else judge(claimed, str(claim), found.figures)


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _folder(name: str) -> Path:
    """Make the folder of `--save`, and find out whether files can be written there, before anything runs."""
    path = Path(name)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"--save {path_of(path)}: {why}") from None
    return path


def _save(found: Survey, folder: Path) -> list[Path]:
    """Write the worst storms of a survey, the worst first."""
    paths = []
    for place, score in enumerate(found.worst(WORST), 1):
        path = folder / f"{place:02d}-{score.draw.family}.toml"
        try:
            path.write_text(dump(score.draw.scenario), encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"--save {path_of(path)}: {reason(error)}") from None
        paths.append(path)
    return paths


def _again(found: Survey, path: Path, lucks: int) -> str:
    best = found.worst(1)[0].best
    flags = ["--policy", found.policy, "--compare", best, "--seed", "1", "--seeds", str(lucks)]
    return plain(shlex.join(["stormbreak", "storm", "run", str(path), *flags]), _LONGEST)


def _survey(policy: NamedPolicy, others: Sequence[NamedPolicy], **options: Any) -> Survey:
    """Run it, with a bar on the terminal."""
    done: dict[int, float] = {}
    with _bar() as bar:
        task = bar.add_task("storms", total=None)

        def tell(number: int, share: float, runs: int) -> None:
            bar.update(task, advance=share - done.get(number, 0.0), total=runs)
            done[number] = share

        return survey(policy, others, progress=tell, **options)


@contextmanager
def _bar() -> Iterator[Progress]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        yield bar


def _tables(found: Survey) -> Iterator[Table]:
    yield _means(found)
    yield _worst(found)
    yield _losses(found, "family", found.families)
    if not found.is_batch:  # which has one process
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
        table.add_row(_name(name), _number(mean))
    return table


def _losses(found: Survey, by: str, groups: Mapping[str, Summary]) -> Table:
    near = [] if found.is_batch else [f"<= {points:g}" for points in NEAR]
    numbers = ["storms", "mean", "median", "p90", "worst", *near]
    table = _table(f"{_what(found)}, by {by}", [by], numbers)
    for key, each in {**groups, "all": found.summary()}.items():
        lost = [_number(value) for value in (each.mean, each.median, each.p90, each.worst)]
        shares = [f"{100 * share:.0f} %" for share in each.within.values()]
        table.add_row(key, f"{each.draws}", *lost, *shares)
    return table


def _worst(found: Survey) -> Table:
    """The worst storms, with what the best of the others did better."""
    unit = "s" if found.is_batch else "%"
    table = _table(
        f"The worst storms. {_what(found)}",
        ["draw", "family", "best policy"],
        [f"best {unit}", f"ours {unit}", "lost"],
    )
    for score in found.worst(WORST):
        numbers = (score.values[score.best], score.values[found.policy], score.lost)
        names = (f"{score.draw.number}", score.draw.family, _name(score.best))
        table.add_row(*names, *map(_number, numbers))
    return table


def _what(found: Survey) -> str:
    return "Multiples of the fastest" if found.is_batch else "Regret in points"


def _name(name: str) -> str:
    return escape(plain(name, _MAX_NAME))


def _number(value: float) -> str:
    return f"{value:,.1f}" if value < inf else "never"
