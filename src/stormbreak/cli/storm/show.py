"""`stormbreak storm show`: a scenario as its file."""

import click

from stormbreak.cli.output import say
from stormbreak.provider.scenario_file import load, text_of


@click.command("show")
@click.argument("scenario", metavar="NAME|FILE")
def command(scenario: str) -> None:
    """Print a scenario: a file that may be changed and run."""
    load(scenario)
    say(text_of(scenario), end="")
