"""`stormbreak storm survey`: what a policy loses in random storms."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from stormbreak.cli.draw import draw
from stormbreak.cli.say import say
from stormbreak.errors import ConfigurationError
from stormbreak.keylike import quoted
from stormbreak.provider.loader import dump
from stormbreak.report.write import Destination
from stormbreak.storm import contenders
from stormbreak.storm.claims import parse_claim, values
from stormbreak.storm.draws import BATCH, FAMILIES
from stormbreak.storm.survey import Figures, Score, Summary, Survey, rivals_of, survey

_WORST = 10


@click.command("survey")
@click.option("--policy", metavar="FILE|PRESET|BASELINE", help="Default: --preset.")
@click.option("--compare", metavar="A,B,...", default="", help="Others beside the baselines.")
@click.option("--draws", metavar="N", type=click.IntRange(min=1), default=60, show_default=True)
@click.option("--seed", metavar="N", type=click.IntRange(min=0), default=0, show_default=True)
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
    help="batch: all rows come at once, and the time until 99 % are answered counts.",
)
@click.option("--families", metavar="A,B,...", default="", help="Default: all of them.")
@click.option(
    "--processes",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Simulations at once.",
)
@click.option("--save", metavar="DIR", help="Write the ten worst storms there, for `storm run`.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--report", metavar="FILE.html", help="Also a report.")
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

    Regret is how many points of goodput the best of the others has more, on the same calls with the same luck.

    Example: stormbreak storm survey --policy policy.toml --draws 100 --processes 2 --save worst
    """
    destination = None if report is None else Destination.of(report)
    claimed = None if claim is None else parse_claim(claim, about=Figures)
    folder = None if save is None else _folder(save)
    found = _survey(
        contenders.find(policy or preset),
        [*rivals_of(preset), *(contenders.find(name) for name in _names(compare))],
        draws=draws,
        seed=seed,
        lucks=lucks,
        preset=preset,
        families=_families(families),
        processes=processes,
    )
    if as_json:
        say(json.dumps(found.plain()))
    else:
        for part in _tables(found):
            draw(part)
    if folder is not None:
        _save(found.worst(_WORST), folder)
    if destination is not None:
        destination.survey(found)
    if claimed is None or claimed.holds(found.figures):
        return 0
    click.echo(
        f"stormbreak: --assert does not hold: {claim}; {values(claimed, found.figures)}", err=True
    )
    return 1


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _families(text: str) -> list[str]:
    names = _names(text)
    for name in names:
        if name not in FAMILIES:
            raise ConfigurationError(
                f"--families: no family is called {quoted(name)}; there are: {', '.join(FAMILIES)}"
            )
    return names


def _folder(name: str) -> Path:
    """Make the folder of `--save`, before anything runs."""
    path = Path(name)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--save {quoted(name)}: {error.strerror}") from None
    return path


def _save(scores: Sequence[Score], folder: Path) -> None:
    """Write these storms, the worst first."""
    for place, score in enumerate(scores, 1):
        path = folder / f"{place:02d}-{score.draw.family}.toml"
        try:
            path.write_text(f"# {score.draw.scenario.about}\n{dump(score.draw.scenario)}")
        except OSError as error:
            raise ConfigurationError(f"--save {quoted(str(path))}: {error.strerror}") from None


def _survey(*contestants: object, **options: object) -> Survey:
    """Run it, with a bar on the terminal."""
    done: dict[int, float] = {}
    with _bar() as bar:
        task = bar.add_task("storms", total=None)

        def tell(number: int, share: float, of: int) -> None:
            done[number] = share
            bar.update(task, completed=sum(done.values()), total=of)

        return survey(*contestants, progress=tell, **options)  # type: ignore[arg-type]


@contextmanager
def _bar() -> Iterator[Progress]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        yield bar


def _tables(found: Survey) -> Iterator[Table]:
    yield _means(found)
    yield _losses(found, "of all storms", {"": found.summary()})
    yield _worst(found)
    yield _losses(found, "by family", found.groups("family"))
    yield _losses(found, "by size of processes", found.groups("fleet"))


def _means(found: Survey) -> Table:
    unit = "mean time to 99 % of the rows" if found.is_batch else "mean goodput"
    table = Table("policy", unit, box=SIMPLE, pad_edge=False)
    table.columns[1].justify = "right"
    for name in (found.policy, *found.others):
        mean = found.mean_of(name)
        table.add_row(escape(name), f"{mean:,.1f} s" if found.is_batch else f"{mean:.1f} %")
    return table


def _losses(found: Survey, name: str, groups: Mapping[str, Summary]) -> Table:
    what = "times the best makespan" if found.is_batch else "regret in points"
    heads = [f"{what}, {name}", "storms", "mean", "median", "p90", "worst"]
    if not found.is_batch:
        heads += ["within 1", "within 5"]
    table = Table(*heads, box=SIMPLE, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for key, each in groups.items():
        numbers = [f"{value:.2f}" for value in (each.mean, each.median, each.p90, each.worst)]
        near = [] if found.is_batch else [f"{100 * share:.0f} %" for share in each.within.values()]
        table.add_row(key, f"{each.draws}", *numbers, *near)
    return table


def _worst(found: Survey) -> Table:
    """The worst storms, with what the best of the others did better."""
    table = Table("worst", "family", "lost", found.policy, "best", "", box=SIMPLE, pad_edge=False)
    unit = " s" if found.is_batch else " %"
    for score in found.worst(_WORST):
        if score.lost:
            best = score.values[score.best]
            table.add_row(
                f"{score.draw.number}",
                score.draw.family,
                f"{score.lost:.1f}",
                f"{score.values[found.policy]:.1f}{unit}",
                f"{best:.1f}{unit}",
                escape(score.best),
            )
    return table
