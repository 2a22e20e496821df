"""`stormbreak storm run`: simulate one scenario under one policy, and under other policies for comparison."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import TaskID

from stormbreak.cli.command import flag, option, options, subcommand
from stormbreak.cli.options import FILE, JSON, REPORT, seed
from stormbreak.cli.output import draw, say
from stormbreak.cli.storm.options import (
    COMPARE,
    DURATION,
    FLEET,
    JOBS,
    LOG_FIELDS,
    SCALE,
    SEEDS,
    assertion,
    log_of,
    policy,
)
from stormbreak.cli.storm.output import (
    judge,
    measures_of,
    progress_bar,
    sentence,
    summary_of,
    tables,
)
from stormbreak.cli.storm.plot import picture
from stormbreak.provider.scenario import Scenario, shortened
from stormbreak.provider.scenario_file import load
from stormbreak.report.destination import ReportFile
from stormbreak.storm import policies, result
from stormbreak.storm.assertions import parse_assertion
from stormbreak.storm.measures import average
from stormbreak.storm.parallel import Run, simulate_all
from stormbreak.storm.result import Result
from stormbreak.storm.traffic import scaled, with_arrivals, with_batch

_MODEL = "storm-1"  # for rows that name none


def storm_of(
    scenario: str,
    *,
    arrivals: str | None,
    batch_input: Path | None,
    scale: float = 1.0,
    **fields: Any,
) -> Scenario:
    """Load a scenario, add the calls of a log or the rows of a batch, and multiply its calls."""
    if arrivals is not None and batch_input is not None:
        raise click.UsageError("--arrivals and --batch-input: give one of them, not both")
    if batch_input is not None and scale != 1.0:
        raise click.UsageError("--scale and --batch-input: give one of them, not both")
    unused = next((name for name, value in fields.items() if value is not None), None)
    if unused is not None and arrivals is None:
        raise click.UsageError(f"--{unused.replace('_', '-')} needs --arrivals")
    storm = load(scenario)
    if arrivals is not None:
        log = log_of(arrivals, **fields)
        storm = with_arrivals(storm, [entry.at for entry in log.entries])
    if batch_input is not None:
        return with_batch(storm, _tokens(batch_input))
    return storm if scale == 1.0 else scaled(storm, scale)


def _tokens(path: Path) -> list[int]:
    """Estimate the tokens of each row, as `batch run` does."""
    # Imported here: slow, and needed only for a batch.
    from stormbreak.batch.input.index import Rows  # noqa: PLC0415
    from stormbreak.http.request import RequestTemplate  # noqa: PLC0415

    with Rows.read(path, model=_MODEL) as rows:
        found = map(rows.row_at, range(len(rows)))
        return [RequestTemplate(row.endpoint, row.body).estimated_tokens() for row in found]


@subcommand(
    "stormbreak storm run incident --duration 300 --compare naive,article --report incident.html",
    "stormbreak storm run outage --policy policy.toml --assert 'goodput >= 0.97'",
)
@click.argument("scenario", metavar="NAME|FILE")
@options("Policies", policy("the scenario's preset"), COMPARE)
@options(
    "Calls",
    option("--arrivals", "FILE", "An access log: its calls."),
    SCALE,
    option("--batch-input", FILE, "INPUT of a batch: its rows are the calls."),
)
@options("Log", *LOG_FIELDS)
@options(
    "Simulation",
    DURATION,
    seed(),
    SEEDS,
    JOBS,
    FLEET,
    flag("--shared-engine", "All processes share one engine."),
    flag("--stream", "Stream all answers: clients see their first output."),
)
@options(
    "Output",
    flag("--plot", "Plot it, even if stdout is not a terminal."),
    REPORT,
    JSON,
    flag("--series", "With --json: also print each second of each run."),
    assertion("goodput >= 0.97 and recovery <= 60"),
)
def command(  # noqa: PLR0913 - one parameter for each option
    *,
    scenario: str,
    policy: str | None,
    compare: tuple[str, ...],
    arrivals: str | None,
    scale: float,
    batch_input: Path | None,
    duration: float | None,
    seed: int,
    seeds: int,
    jobs: int,
    fleet: bool,
    shared_engine: bool,
    stream: bool,
    plot: bool,
    as_json: bool,
    series: bool,
    claim: str | None,
    report: str | None,
    **fields: Any,
) -> int:
    """Simulate a scenario under a policy, and print the results."""
    if plot and as_json:
        raise click.UsageError("--plot and --json: give one of them, not both")
    if series and not as_json:
        raise click.UsageError("--series needs --json")
    destination = None if report is None else ReportFile.of(report)
    claimed = None if claim is None else parse_assertion(claim)
    storm = storm_of(scenario, arrivals=arrivals, scale=scale, batch_input=batch_input, **fields)
    if duration is not None:
        storm = shortened(storm, duration)
    first = policies.find(policy) if policy else policies.own(storm, source=scenario)
    first = policies.in_fleet(first) if fleet else first
    others = [policies.find(name) for name in compare]
    found = [first, *(other for other in others if other.name != first.name)]
    runs = [
        Run(scenario=storm, contender=each, seed=number, shared=shared_engine, first_output=stream)
        for each in found
        for number in range(seed, seed + seeds)
    ]
    results = _simulate(runs, jobs)
    of = {each.name: [one for one in results if one.policy == each.name] for each in found}
    if as_json:
        head = {"scenario": storm.name, "policy": first.name, "seed": seed, "seeds": seeds}
        modes = {"shared": shared_engine, "fleet": fleet, "first_output": stream}
        say(json.dumps(_document({**head, **modes}, storm, of, series=series)))
    else:
        say(sentence(storm, of[first.name]))
        for part in tables({name: measures_of(several) for name, several in of.items()}):
            draw(part)
        if plot or sys.stdout.isatty():
            console = Console()
            colour = console.is_terminal and not console.no_color
            say(picture(storm, of[first.name], width=console.width, colour=colour))
    if destination is not None:  # last: if it fails, the results are already printed
        destination.storm(storm, results)
    means = average(measures_of(of[first.name]))
    return 0 if claimed is None else judge(claimed, str(claim), means)


def _simulate(runs: Sequence[Run], jobs: int) -> list[Result]:
    """Simulate all runs, with a progress bar on the terminal for each active one."""
    tasks: dict[int, TaskID] = {}
    with progress_bar() as bar:

        def show(number: int, share: float) -> None:
            if number not in tasks and share < 1.0:
                run = runs[number]
                name = f"{run.scenario.name}, {run.contender.name}, seed {run.seed}"
                tasks[number] = bar.add_task(escape(name), total=1.0)
            if number in tasks:
                bar.update(tasks[number], completed=share, visible=share < 1.0)

        return simulate_all(runs, processes=jobs, progress=show)


def _document(
    head: dict[str, Any], storm: Scenario, of: dict[str, list[Result]], *, series: bool
) -> dict[str, Any]:
    """The measures of the policy under test, then those of each policy and of each of its runs."""
    summaries = {name: summary_of(storm, results) for name, results in of.items()}
    return {
        **head,
        **result.when(storm),
        "verdict": summaries[head["policy"]]["verdict"],
        **average(measures_of(of[head["policy"]])).plain(),
        "policies": summaries,
        "runs": [one.plain(series=series) for results in of.values() for one in results],
    }
