"""`stormbreak storm live`: run a scenario on real sockets, against any program that calls the embedded provider."""

import asyncio
import json
import re
import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import click
from rich.markup import escape
from rich.progress import BarColumn, TextColumn

from stormbreak.cli.command import flag, option, options, subcommand
from stormbreak.cli.options import JSON, REPORT, Integer, seed, speed
from stormbreak.cli.output import draw, say, warn
from stormbreak.cli.storm.options import DURATION, SCALE_ALL, SEEDS, assertion
from stormbreak.cli.storm.output import (
    judge,
    measures_of,
    progress_bar,
    sentence,
    summary_of,
    tables,
)
from stormbreak.errors import ConfigurationError
from stormbreak.escape import plain
from stormbreak.hidden_keys import hidden, quoted
from stormbreak.http.h1.server import new_loop
from stormbreak.provider.scenario import Scenario
from stormbreak.provider.scenario_file import load
from stormbreak.report.destination import ReportFile
from stormbreak.storm.assertions import Assertion, parse_assertion
from stormbreak.storm.live import Played, Program, ProgramError, play
from stormbreak.storm.live.cpu_load import ENOUGH, WINDOW
from stormbreak.storm.live.programs import name_of
from stormbreak.storm.live.run import Moment, Progress
from stormbreak.storm.live.scaling import staged
from stormbreak.storm.measures import average
from stormbreak.storm.result import Result

# ---------------------------------------------------------------- progress and warnings

_LATE = 0.1  # real seconds of delay of a call, from which to warn
_FULL = 0.95  # of the machine


@contextmanager
def progress_of(scenario: Scenario, name: str) -> Iterator[Progress]:
    """Show the progress of a storm on standard error, if that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counted]}"))
    with progress_bar(*columns) as bar:
        task = bar.add_task(
            f"{escape(scenario.name)}, {escape(name)}",
            total=scenario.duration,
            counted="waiting for its first call",
        )

        def show(moment: Moment) -> None:
            counted = (
                f"{moment.now:.0f} of {moment.until:.0f} s: {moment.calls:,} calls,"
                f" {moment.attempts:,} attempts, {moment.answers:,} answered"
            )
            bar.update(task, completed=min(moment.now, moment.until), counted=counted)

        yield show


def warnings_of(played: Played) -> Iterator[str]:
    busiest = played.busiest
    if busiest.program is not None and busiest.program >= ENOUGH:
        yield (
            f"a copy used {busiest.program:.0%} of a core for {WINDOW:g} s: it may have been the bottleneck;"
            " more --copies, or a smaller --scale"
        )
    if busiest.provider is not None and busiest.provider >= ENOUGH:
        yield (
            f"the provider used {busiest.provider:.0%} of a core for {WINDOW:g} s: it may have been the"
            " bottleneck; a smaller --scale"
        )
    if busiest.machine is not None and busiest.machine >= _FULL:
        yield f"all cores were busy for {WINDOW:g} s: results include waits for a core"
    if played.latest >= _LATE:
        yield f"a call was started {played.latest:.1f} s late"
    if played.unmatched_requests:
        yield f"{played.unmatched_requests:,} requests did not have a prompt of the storm; they count only as attempts"


UNKNOWN = ("openings",)  # measures that are not visible from outside a program
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NAMED = re.compile(r"([A-Za-z][\w.-]{0,39})=(.*)", re.DOTALL)
_MAX_COPIES = 1000
_MAX_LAST_LINE = 300  # characters of the last line of a program


class _Show(NamedTuple):
    """The storm to play, and its options."""

    scenario: Scenario
    seeds: range
    copies: int
    speed: float
    own_traffic: bool


@subcommand(
    "stormbreak storm live dip --scale 0.2 --duration 130 --cmd 'python app.py'",
    "stormbreak storm live outage --cmd old='python old.py' --cmd new='python new.py'",
)
@click.argument("scenario", metavar="NAME|FILE")
@options(
    "Programs",
    option(
        "--cmd commands",
        "[NAME=]'PROGRAM ...'",
        "Program to start; several are tested one after another.",
        multiple=True,
        required=True,
    ),
    option("--copies", Integer(1, _MAX_COPIES), "Copies of each program.", default=1),
    flag("--own-traffic", "The program makes its own calls."),
)
@options(
    "Scenario",
    SCALE_ALL,
    DURATION,
    speed(1.0, "timers of the program keep real time"),
    seed(),
    SEEDS,
)
@options("Output", REPORT, JSON, assertion("recovery <= 60 and amplification < 1.5"))
def command(  # noqa: PLR0913 - one parameter for each option
    *,
    scenario: str,
    commands: tuple[str, ...],
    copies: int,
    own_traffic: bool,
    scale: float,
    duration: float | None,
    speed: float,
    seed: int,
    seeds: int,
    as_json: bool,
    claim: str | None,
    report: str | None,
) -> int:
    """Play a scenario to programs that call the provider at OPENAI_BASE_URL, and print the results.

    --assert checks the first program.
    """
    destination = None if report is None else ReportFile.of(report)
    claimed = None if claim is None else _claim(claim)
    programs = _programs(commands)
    storm = staged(
        load(scenario), scale=scale, until=duration, copies=copies, own_traffic=own_traffic
    )
    show = _Show(storm, range(seed, seed + seeds), copies, speed, own_traffic)
    played, failed = _play(show, programs)
    if as_json:
        say(json.dumps(_document(show, scale, played, failed)))
    elif played:
        of = _by_program(played)
        say(sentence(storm, next(iter(of.values()))))
        measures = {name: measures_of(results) for name, results in of.items()}
        for part in tables(measures, without=UNKNOWN):
            draw(part)
        say(f"Measured at the provider, at scale {scale:g} and speed {speed:g}; copies: {copies}.")
        say("Added wait is the time until the first request of a call.")
    if destination is not None and played:  # last: if it fails, the results are already printed
        destination.storm(storm, [one.result for one in played], live=True)
    if failed:
        return 1
    first = next(iter(_by_program(played).values()))
    return 0 if claimed is None else judge(claimed, str(claim), average(measures_of(first)))


def _claim(text: str) -> Assertion:
    claim = parse_assertion(text)
    for name in claim.names():
        if name in UNKNOWN:
            raise ConfigurationError(f"--assert: {name} is not visible from outside a program")
    return claim


def _programs(commands: Sequence[str]) -> list[Program]:
    """Parse the programs, and check that each exists before any of them runs."""
    programs = [_program(text) for text in commands]
    names = [program.name for program in programs]
    for name in names:
        if names.count(name) > 1:
            raise click.UsageError(f"two programs are named {quoted(name)}: write --cmd NAME='...'")
    for program in programs:
        program.check()
    return programs


def _program(text: str) -> Program:
    named = _NAMED.fullmatch(text)
    name, line = named.groups() if named else ("", text)
    try:
        words = tuple(shlex.split(line))
    except ValueError as error:
        raise click.UsageError(f"--cmd cannot be read: {str(error).lower()}") from None
    return Program(plain(hidden(name or name_of(words), tokens=True)), words)


def _play(show: _Show, programs: Sequence[Program]) -> tuple[list[Played], dict[str, str]]:
    """Play every seed to each program; return the results, and the reasons of failed programs.

    All programs play a seed before the next seed starts, so that a busy machine affects all of them. A program that
    failed plays no further seed.
    """
    played: list[Played] = []
    failed: dict[str, str] = {}
    for number, program in product(show.seeds, programs):
        if program.name in failed:
            continue
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                one = runner.run(_played(show, program, number))
        except asyncio.CancelledError:
            raise click.Abort from None
        except ProgramError as error:
            failed[program.name] = str(error)
            warn(f"{_in_a_line(error)}{_which(show, number)}")
            continue
        played.append(one)
        for warning in warnings_of(one):
            warn(f"{program.name}{_which(show, number)}: {warning}")
    return played, failed


def _which(show: _Show, seed: int) -> str:
    return f" (seed {seed})" if len(show.seeds) > 1 else ""


async def _played(show: _Show, program: Program, seed: int) -> Played:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    with suppress(ValueError, RuntimeError):  # not on the main thread
        for number in _SIGNALS:
            loop.add_signal_handler(number, partial(task.cancel))
    with progress_of(show.scenario, f"{program.name}{_which(show, seed)}") as progress:
        return await play(
            show.scenario,
            program,
            seed=seed,
            copies=show.copies,
            speed=show.speed,
            own_traffic=show.own_traffic,
            progress=progress,
        )


def _in_a_line(error: ProgramError) -> str:
    """Write why a program failed, with the last line that it printed."""
    lines = [line.strip() for line in error.stderr.splitlines() if line.strip()]
    if not lines:
        return f"{error}, and printed nothing"
    return f"{error}; its last line: {plain(hidden(lines[-1], tokens=True), _MAX_LAST_LINE)}"


def _document(
    show: _Show, scale: float, played: Sequence[Played], failed: dict[str, str]
) -> dict[str, Any]:
    """The measures of the first program over its seeds, then those of each program and of each run."""
    runs = [
        {
            "program": one.result.policy,
            "seed": one.result.seed,
            **_known(one.result.measures.plain()),
            "unmatched_requests": one.unmatched_requests,
            "exits": one.exits,
            "latest": round(one.latest, 3),
            "busiest": asdict(one.busiest),
        }
        for one in played
    ]
    of = _by_program(played)
    programs = {name: summary_of(show.scenario, results) for name, results in of.items()}
    for each in programs.values():
        each["measures"] = _known(each["measures"])
    first: dict[str, Any] = {}
    if played:
        name, results = next(iter(of.items()))
        first = {"program": name, **_known(average(measures_of(results)).plain())}
    return {
        "scenario": show.scenario.name,
        "seed": show.seeds[0],
        "seeds": len(show.seeds),
        "scale": scale,
        "until": show.scenario.duration,
        "copies": show.copies,
        "speed": show.speed,
        "own_traffic": show.own_traffic,
        **first,
        "programs": programs,
        "runs": runs,
        "failed": failed,
    }


def _known(measures: dict[str, Any]) -> dict[str, Any]:
    return {**measures, **dict.fromkeys(UNKNOWN)}


def _by_program(played: Sequence[Played]) -> dict[str, list[Result]]:
    """Return the results of each program, seed by seed, in the given order of the programs."""
    of: dict[str, list[Result]] = {}
    for one in played:
        of.setdefault(one.result.policy, []).append(one.result)
    return of
