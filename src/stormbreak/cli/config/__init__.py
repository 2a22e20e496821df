"""`stormbreak config`: the command group for policies and settings files."""

from collections.abc import Mapping
from types import MappingProxyType

import click

from stormbreak.cli.lazy_group import LazyGroup

_BUILT: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "check": ("stormbreak.cli.config.check", "Say whether a file is right."),
        "show": ("stormbreak.cli.config.show", "Say what a policy does, and print its values."),
    }
)


@click.group(cls=LazyGroup, built=_BUILT)
def command() -> None:
    """Check a policy or settings file, or show what it comes to."""
