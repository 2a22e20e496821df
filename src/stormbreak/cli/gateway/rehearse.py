"""`stormbreak gateway rehearse`: play a storm to the gateway of a file."""

import asyncio
from dataclasses import asdict
from pathlib import Path

import click
from rich.box import SIMPLE
from rich.progress import BarColumn, TextColumn
from rich.table import Table

from stormbreak.cli.command import option, options, subcommand
from stormbreak.cli.options import FILE, JSON, Number, seed, speed
from stormbreak.cli.output import draw, json_text, say, warn
from stormbreak.cli.storm.options import SCALE_ALL, assertion
from stormbreak.cli.storm.output import judge, progress_bar, table
from stormbreak.gateway.rehearsal import Progress, Rehearsed, rehearse
from stormbreak.http.h1.server import new_loop
from stormbreak.provider.field_ranges import MAX_SECONDS
from stormbreak.provider.scenario import Scenario
from stormbreak.provider.scenario_file import load
from stormbreak.storm.assertions import parse_assertion
from stormbreak.storm.live.scaling import staged

UNKNOWN = ("added_wait_p50", "added_wait_p99", "openings", "peak_attempts")
"""Measures that clients cannot see."""

LATE = 0.2  # real seconds


@subcommand(
    "stormbreak gateway rehearse gateway.toml",
    "stormbreak gateway rehearse gateway.toml --scenario dip --speed 5 --assert 'success >= 0.9'",
)
@click.argument("file", type=FILE, metavar="FILE")
@options(
    "Scenario",
    option(
        "--scenario", "NAME|FILE", "A scenario of docs/storms.md, or a TOML file.", default="outage"
    ),
    SCALE_ALL,
    option(
        "--duration",
        Number(1e-6, MAX_SECONDS, name="SECONDS"),
        "End after SECONDS of the scenario.",
    ),
    speed(1.0, "timers of the gateway keep real time"),
    seed(),
    option("-m --model", "NAME", "Model that clients ask for.", show_default="the first of FILE"),
)
@options("Output", JSON, assertion("success >= 0.9"))
def command(  # noqa: PLR0913 - one parameter for each option
    file: Path,
    *,
    scenario: str,
    scale: float,
    duration: float | None,
    speed: float,
    seed: int,
    model: str | None,
    as_json: bool,
    claim: str | None,
) -> int:
    """Play a storm to the gateway of FILE on local mock providers, and print what its clients saw.

    No provider is called, and no key is needed. The first target of FILE gets the storm, with all targets at its
    address; other addresses stay calm.
    """
    claimed = None if claim is None else parse_assertion(claim)
    storm = staged(load(scenario), scale=scale, until=duration)
    seen = _run(file, storm, seed, speed, model)
    if seen.late >= LATE:
        warn(
            f"calls were sent up to {seen.late:.1f} s late: the machine is too slow; lower --speed or --scale"
        )
    if as_json:
        measures = {
            name: None if name in UNKNOWN else v for name, v in asdict(seen.measures).items()
        }
        say(json_text({"scenario": storm.name, "statuses": seen.statuses, **measures}))
    else:
        draw(table({f"{storm.name}, {seen.model}": [seen.measures]}, without=UNKNOWN))
        draw(_statuses(seen))
        say("Seen by clients that do not retry. docs/storms.md explains each measure.")
    return 0 if claimed is None else judge(claimed, str(claim), seen.measures)


def _run(file: Path, storm: Scenario, seed: int, speed: float, model: str | None) -> Rehearsed:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counted]}"))
    with progress_bar(*columns) as bar, asyncio.Runner(loop_factory=new_loop) as runner:
        task = bar.add_task(storm.name, total=storm.duration, counted="")

        def show(progress: Progress) -> None:
            counted = f"{progress.calls:,} calls, {progress.answered:,} answered"
            bar.update(task, completed=progress.now, counted=counted)

        played = rehearse(file, storm, seed=seed, speed=speed, model=model, progress=show)
        return runner.run(played)


def _statuses(seen: Rehearsed) -> Table:
    shown = Table("status", "calls", box=SIMPLE, pad_edge=False)
    shown.columns[1].justify = "right"
    for status, count in sorted(seen.statuses.items()):
        shown.add_row(status, f"{count:,}")
    return shown
