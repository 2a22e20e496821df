"""`stormbreak storm run`: simulate one scenario with one policy, and with others for comparison."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as Bar
from rich.progress import TaskID

from stormbreak.cli.output import draw, say
from stormbreak.cli.storm.output import judge, measures_of, sentence, tables, told
from stormbreak.cli.storm.plot import picture
from stormbreak.provider.scenario import Scenario
from stormbreak.provider.scenario_file import load
from stormbreak.report.destination import ReportFile
from stormbreak.storm import policies as contenders
from stormbreak.storm import result
from stormbreak.storm.assertions import parse_assertion
from stormbreak.storm.measures import average
from stormbreak.storm.parallel import Run, simulate_all
from stormbreak.storm.result import Result
from stormbreak.storm.user_traffic import read_arrivals, with_arrivals, with_batch

# ---------------------------------------------------------------- scenario with the user's traffic

_MODEL = "storm-1"  # of rows that name none


def storm_of(
    scenario: str, *, arrivals: str | None, column: str | None, rows: str | None
) -> Scenario:
    """Load a scenario, and put the calls of a log or the rows of a batch into it."""
    if arrivals is not None and rows is not None:
        raise click.UsageError("--arrivals and --rows: give one of them, not both")
    if column is not None and arrivals is None:
        raise click.UsageError("--arrivals-field: give --arrivals, too")
    storm = load(scenario)
    if arrivals is not None:
        return with_arrivals(storm, read_arrivals(arrivals, column=column))
    return storm if rows is None else with_batch(storm, _tokens(rows))


def _tokens(path: str) -> list[int]:
    """What each row will use, as `batch run` estimates it."""
    # Only who brings a batch pays for what it imports.
    from stormbreak.batch.input.index import Rows  # noqa: PLC0415
    from stormbreak.http.request import RequestTemplate  # noqa: PLC0415

    with Rows.read(Path(path), model=_MODEL) as rows:
        found = map(rows.row_at, range(len(rows)))
        return [RequestTemplate(row.endpoint, row.body).estimated_tokens() for row in found]


# ---------------------------------------------------------------- command


@click.command("run")
@click.argument("scenario", metavar="NAME|FILE")
@click.option(
    "--policy",
    metavar="FILE|PRESET|BASELINE",
    help="How calls are treated; each scenario names a preset of its own.",
)
@click.option("--compare", metavar="A,B,...", default="", help="Other policies on the same calls.")
@click.option("--arrivals", metavar="FILE", help="A log of times: calls arrive then.")
@click.option(
    "--arrivals-field", "column", metavar="NAME", help="Where they stand in JSON lines, or CSV."
)
@click.option("--rows", metavar="FILE", help="The input of a batch: all its rows are the calls.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The same seed, the same storm.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="So many runs, from --seed on; shown are mean and standard deviation.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="So many runs at once.",
)
@click.option("--shared", is_flag=True, help="All processes share one engine.")
@click.option(
    "--first-output",
    is_flag=True,
    help="Answers are streamed on the wire: clients see when each begins.",
)
@click.option("--plot", is_flag=True, help="Draw it, also where this is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print the measures as JSON.")
@click.option("--series", is_flag=True, help="With --json: and each second of each run.")
@click.option(
    "--assert",
    "claim",
    metavar="EXPR",
    help="Exit 1 unless it holds: 'goodput >= 0.97 and recovery <= 60'; shares are 0 to 1, times seconds.",
)
@click.option("--report", metavar="FILE", help="Also a report: FILE.html, or a picture FILE.png.")
def command(  # noqa: PLR0913 - one parameter for each option
    *,
    scenario: str,
    policy: str | None,
    compare: str,
    arrivals: str | None,
    column: str | None,
    rows: str | None,
    seed: int,
    seeds: int,
    processes: int,
    shared: bool,
    first_output: bool,
    plot: bool,
    as_json: bool,
    series: bool,
    claim: str | None,
    report: str | None,
) -> int:
    """Say what a storm does to a policy."""
    if plot and as_json:
        raise click.UsageError("--plot and --json: give one of them, not both")
    if series and not as_json:
        raise click.UsageError("--series: give --json, too")
    destination = None if report is None else ReportFile.of(report)
    claimed = None if claim is None else parse_assertion(claim)
    storm = storm_of(scenario, arrivals=arrivals, column=column, rows=rows)
    first = contenders.find(policy) if policy else contenders.own(storm, source=scenario)
    others = [contenders.find(name) for name in dict.fromkeys(_names(compare))]
    found = [first, *(other for other in others if other.name != first.name)]
    runs = [
        Run(scenario=storm, contender=each, seed=number, shared=shared, first_output=first_output)
        for each in found
        for number in range(seed, seed + seeds)
    ]
    results = _simulate(runs, processes)
    of = {each.name: [one for one in results if one.policy == each.name] for each in found}
    if as_json:
        head = {"scenario": storm.name, "policy": first.name, "seed": seed, "seeds": seeds}
        modes = {"shared": shared, "first_output": first_output}
        say(json.dumps(_document({**head, **modes}, storm, of, series=series)))
    else:
        say(sentence(storm, of[first.name]))
        for part in tables({name: measures_of(several) for name, several in of.items()}):
            draw(part)
        if plot or sys.stdout.isatty():
            console = Console()
            colour = console.is_terminal and not console.no_color
            say(picture(storm, of[first.name], width=console.width, colour=colour))
    if (
        destination is not None
    ):  # last: whatever becomes of it, what came of the storm has been told
        destination.storm(storm, results)
    mean = average(measures_of(of[first.name]))
    return 0 if claimed is None else judge(claimed, str(claim), mean)


def _names(compare: str) -> list[str]:
    names = [name.strip() for name in compare.split(",") if name.strip()]
    if compare and not names:
        raise click.UsageError(f"--compare names no policy, got {compare!r}")
    return names


def _simulate(runs: Sequence[Run], processes: int) -> list[Result]:
    """Run them all, with a bar on the terminal for each that is under way."""
    tasks: dict[int, TaskID] = {}
    with _bar() as bar:

        def tell(number: int, share: float) -> None:
            if number not in tasks and share < 1.0:
                run = runs[number]
                name = f"{run.scenario.name}, {run.contender.name}, seed {run.seed}"
                tasks[number] = bar.add_task(escape(name), total=1.0)
            if number in tasks:
                bar.update(tasks[number], completed=share, visible=share < 1.0)

        return simulate_all(runs, processes=processes, progress=tell)


@contextmanager
def _bar() -> Iterator[Bar]:
    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        yield bar


def _document(
    head: dict[str, Any], storm: Scenario, of: dict[str, list[Result]], *, series: bool
) -> dict[str, Any]:
    """The measures of the policy asked for, and below them what each policy came to, and each run of it."""
    policies = {name: told(storm, results) for name, results in of.items()}
    return {
        **head,
        **result.when(storm),
        "verdict": policies[head["policy"]]["verdict"],
        **average(measures_of(of[head["policy"]])).plain(),
        "policies": policies,
        "runs": [one.plain(series=series) for results in of.values() for one in results],
    }
