"""`stormbreak storm`: the command group for scenarios against a policy or a program."""

from collections.abc import Mapping
from types import MappingProxyType

import click

from stormbreak.cli.lazy_group import LazyGroup

_BUILT: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "list": ("stormbreak.cli.storm.list", "List the scenarios that can be simulated."),
        "live": (
            "stormbreak.cli.storm.live",
            "Play one to programs that ask the provider.",
        ),
        "run": ("stormbreak.cli.storm.run", "Say what a storm does to a policy."),
        "survey": ("stormbreak.cli.storm.survey", "Say what a policy loses in random storms."),
        "show": ("stormbreak.cli.storm.show", "Print a scenario: a file to be changed and run."),
    }
)


@click.group(cls=LazyGroup, built=_BUILT)
def command() -> None:
    """Simulate a storm, real engines against a provider model in virtual time; or play it to any program, live."""
