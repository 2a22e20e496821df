"""`stormbreak storm list` and `storm show`: the built-in scenarios, and one of them as a file."""

import click
from rich.box import SIMPLE
from rich.table import Table

from stormbreak.cli.command import subcommand
from stormbreak.cli.output import draw, say
from stormbreak.provider.scenario_file import builtin_names, load, text_of


@subcommand("stormbreak storm list")
def list_() -> None:
    """List the scenarios that can be simulated."""
    table = Table("name", "N", "D / T", "what happens", box=SIMPLE, pad_edge=False)
    table.columns[0].no_wrap = True
    for scenario in map(load, builtin_names()):
        if (load_ := scenario.load) is not None:
            times = f"{load_.deadline:g} / {load_.timeout:g}"
            table.add_row(scenario.name, f"{load_.processes}", times, scenario.description)
    draw(table)
    say("N: processes. D: deadline of a call. T: timeout of an attempt. Both in seconds.")


@subcommand("stormbreak storm show incident > mine.toml")
@click.argument("scenario", metavar="NAME|FILE")
def show(scenario: str) -> None:
    """Print a scenario as a TOML file, to edit and run."""
    load(scenario)
    say(text_of(scenario), end="")
