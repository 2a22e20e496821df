"""`stormbreak storm`: scenarios, and what they do to a policy."""

import click
from rich.box import SIMPLE
from rich.table import Table

from stormbreak.cli.say import draw, say
from stormbreak.cli.storm_live import command as live
from stormbreak.cli.storm_run import command as run
from stormbreak.provider.loader import builtin_names, load, text_of
from stormbreak.provider.scenario import Load


@click.group()
def command() -> None:
    """Simulate a storm, real engines against a provider model in virtual time; or play it to any program, live."""


command.add_command(run)
command.add_command(live)


@command.command("list")
def list_() -> None:
    """List the scenarios that can be simulated."""
    table = Table("name", "N", "D / T", "what happens", box=SIMPLE, pad_edge=False)
    table.columns[0].no_wrap = True
    for scenario in map(load, builtin_names()):
        if scenario.load is not None:
            table.add_row(scenario.name, *_size(scenario.load), scenario.about)
    draw(table)
    say("N processes; D, the deadline, and T, the timeout of an attempt, in seconds.")


@command.command()
@click.argument("scenario", metavar="NAME|FILE")
def show(scenario: str) -> None:
    """Print a scenario: a file that may be changed and run."""
    load(scenario)
    say(text_of(scenario), end="")


def _size(load: Load) -> tuple[str, str]:
    return f"{load.processes}", f"{load.deadline:g} / {load.timeout:g}"
