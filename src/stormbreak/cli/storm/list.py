"""`stormbreak storm list`: the scenarios that come with it."""

import click
from rich.box import SIMPLE
from rich.table import Table

from stormbreak.cli.output import draw, say
from stormbreak.provider.scenario import Load
from stormbreak.provider.scenario_file import builtin_names, load


@click.command("list")
def command() -> None:
    """List the scenarios that can be simulated."""
    table = Table("name", "N", "D / T", "what happens", box=SIMPLE, pad_edge=False)
    table.columns[0].no_wrap = True
    for scenario in map(load, builtin_names()):
        if scenario.load is not None:
            table.add_row(scenario.name, *_size(scenario.load), scenario.description)
    draw(table)
    say("N processes; D, the deadline, and T, the timeout of an attempt, in seconds.")


def _size(load: Load) -> tuple[str, str]:
    return f"{load.processes}", f"{load.deadline:g} / {load.timeout:g}"
