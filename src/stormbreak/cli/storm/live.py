"""`stormbreak storm live`: run a scenario on real sockets, against any program that calls the embedded provider."""

import asyncio
import json
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from stormbreak.cli.numbers import Number
from stormbreak.cli.output import draw, say, warn
from stormbreak.cli.storm.output import judge, measures_of, sentence, tables, told
from stormbreak.errors import ConfigurationError
from stormbreak.escape import plain
from stormbreak.key_patterns import hidden, quoted
from stormbreak.provider.field_ranges import LONGEST, MAX_SPEED, MIN_SPEED
from stormbreak.provider.scenario import Scenario
from stormbreak.provider.scenario_file import load
from stormbreak.provider.server import new_loop
from stormbreak.report.destination import ReportFile
from stormbreak.storm.assertions import Claim, parse_assertion
from stormbreak.storm.live import Played, Program, ProgramError, play
from stormbreak.storm.live.cpu_load import ENOUGH, WINDOW
from stormbreak.storm.live.programs import name_of
from stormbreak.storm.live.run import Moment
from stormbreak.storm.live.run import Progress as Tell
from stormbreak.storm.live.scaling import staged
from stormbreak.storm.measures import average
from stormbreak.storm.result import Result

# ---------------------------------------------------------------- progress and warnings

_LATE = 0.1  # real seconds by which a call may be handed over late without a word
_FULL = 0.95  # of the machine


@contextmanager
def progress_of(scenario: Scenario, name: str) -> Iterator[Tell]:
    """A bar on standard error, where that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counted]}"))
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task(
            f"{escape(scenario.name)}, {escape(name)}",
            total=scenario.duration,
            counted="waiting for its first call",
        )

        def tell(moment: Moment) -> None:
            counted = (
                f"{moment.now:.0f} of {moment.until:.0f} s: {moment.calls:,} calls,"
                f" {moment.attempts:,} attempts, {moment.answers:,} answered"
            )
            bar.update(task, completed=min(moment.now, moment.until), counted=counted)

        yield tell


def warnings_of(played: Played) -> Iterator[str]:
    """Reasons to doubt the figures of a storm, a line each."""
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
        yield f"all cores were busy for {WINDOW:g} s: what waited for them counts, too"
    if played.latest >= _LATE:
        yield f"a call was handed over {played.latest:.1f} s late"
    if played.strangers:
        yield f"{played.strangers:,} requests held no prompt of the storm, and are in no measure but the attempts"


# ---------------------------------------------------------------- command

UNKNOWN = ("openings",)
"""Measures that cannot be seen from outside a program."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NAMED = re.compile(r"([A-Za-z][\w.-]{0,39})=(.*)", re.DOTALL)
_MAX_COPIES = 1000
_MAX_SAID = 300  # characters of what a program said last


class _Show(NamedTuple):
    """What is played, and how."""

    scenario: Scenario
    seeds: range
    copies: int
    speed: float
    own_traffic: bool


@click.command("live")
@click.argument("scenario", metavar="NAME|FILE")
@click.option(
    "--cmd",
    "commands",
    metavar="[NAME=]'PROGRAM ...'",
    multiple=True,
    required=True,
    help="What to start; several are played one after another.",
)
@click.option(
    "--copies",
    type=click.IntRange(1, _MAX_COPIES),
    default=1,
    show_default=True,
    help="How often each is started.",
)
@click.option("--own-traffic", is_flag=True, help="The program brings its own calls.")
@click.option(
    "--scale",
    type=Number(1e-6, 1e6),
    default=1.0,
    show_default=True,
    help="Capacity, limits and traffic, multiplied.",
)
@click.option("--until", type=Number(1e-6, LONGEST), help="Scenario seconds after which it ends.")
@click.option(
    "--speed",
    type=Number(MIN_SPEED, MAX_SPEED),
    default=1.0,
    show_default=True,
    help="Scenario seconds in one real second; the program's own timers stay as they are.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="So many storms, from --seed on, one after another; shown are mean and standard deviation.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the measures as JSON.")
@click.option("--assert", "claim", metavar="EXPR", help="Exit 1 unless it holds of the first.")
@click.option("--report", metavar="FILE", help="Also a report: FILE.html, or a picture FILE.png.")
def command(  # noqa: PLR0913 - one parameter for each option
    *,
    scenario: str,
    commands: tuple[str, ...],
    copies: int,
    own_traffic: bool,
    scale: float,
    until: float | None,
    speed: float,
    seed: int,
    seeds: int,
    as_json: bool,
    claim: str | None,
    report: str | None,
) -> int:
    """Say what a storm does to programs that ask the provider at OPENAI_BASE_URL."""
    destination = None if report is None else ReportFile.of(report)
    claimed = None if claim is None else _claim(claim)
    programs = _programs(commands)
    storm = staged(load(scenario), scale=scale, until=until, copies=copies, own_traffic=own_traffic)
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
        say(f"As the provider saw it, at scale {scale:g} and speed {speed:g}; copies: {copies}.")
        say("Added wait is the time until a call was first asked for.")
    if destination is not None and played:  # last: whatever becomes of it, the rest has been told
        destination.storm(storm, [one.result for one in played], live=True)
    if failed:
        return 1
    first = next(iter(_by_program(played).values()))
    return 0 if claimed is None else judge(claimed, str(claim), average(measures_of(first)))


def _claim(text: str) -> Claim:
    claim = parse_assertion(text)
    for name in claim.names():
        if name in UNKNOWN:
            raise ConfigurationError(f"--assert: {name} cannot be seen from outside a program")
    return claim


def _programs(commands: Sequence[str]) -> list[Program]:
    """Read what to start, and see that it is there: nothing is worse than to hear of it after ten minutes."""
    programs = [_program(text) for text in commands]
    names = [program.name for program in programs]
    for name in names:
        if names.count(name) > 1:
            raise click.UsageError(
                f"two programs are called {quoted(name)}: write --cmd NAME='...'"
            )
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
    """Play every seed to each program; what came of it, and which did not play its part, and why.

    All programs meet a seed before the next begins, so that an hour in which the machine is busy is an hour of all. One that
    failed meets no further seed.
    """
    played: list[Played] = []
    failed: dict[str, str] = {}
    for seed, program in product(show.seeds, programs):
        if program.name in failed:
            continue
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                one = runner.run(_played(show, program, seed))
        except asyncio.CancelledError:
            raise click.Abort from None
        except ProgramError as error:
            failed[program.name] = str(error)
            warn(f"{_in_a_line(error)}{_which(show, seed)}")
            continue
        played.append(one)
        for warning in warnings_of(one):
            warn(f"{program.name}{_which(show, seed)}: {warning}")
    return played, failed


def _which(show: _Show, seed: int) -> str:
    return f" (seed {seed})" if len(show.seeds) > 1 else ""


async def _played(show: _Show, program: Program, seed: int) -> Played:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    with suppress(ValueError, RuntimeError):  # not on the main thread
        for number in _SIGNALS:
            loop.add_signal_handler(number, partial(task.cancel))
    with progress_of(show.scenario, f"{program.name}{_which(show, seed)}") as tell:
        return await play(
            show.scenario,
            program,
            seed=seed,
            copies=show.copies,
            speed=show.speed,
            own_traffic=show.own_traffic,
            progress=tell,
        )


def _in_a_line(error: ProgramError) -> str:
    """What a program did not do, and the last that it said of it."""
    lines = [line.strip() for line in error.said.splitlines() if line.strip()]
    if not lines:
        return f"{error}, and said nothing of it"
    return f"{error}; the last it said: {plain(hidden(lines[-1], tokens=True), _MAX_SAID)}"


def _document(
    show: _Show, scale: float, played: Sequence[Played], failed: dict[str, str]
) -> dict[str, Any]:
    """The measures of the first program, over its seeds, and below them each program's, and each run's."""
    runs = [
        {
            "program": one.result.policy,
            "seed": one.result.seed,
            **_known(one.result.measures.plain()),
            "strangers": one.strangers,
            "exits": one.exits,
            "latest": round(one.latest, 3),
            "busiest": asdict(one.busiest),
        }
        for one in played
    ]
    of = _by_program(played)
    programs = {name: told(show.scenario, results) for name, results in of.items()}
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
    """What came of each, seed by seed, in the order in which the programs were given."""
    of: dict[str, list[Result]] = {}
    for one in played:
        of.setdefault(one.result.policy, []).append(one.result)
    return of
