"""`stormbreak batch`: the command group for files of prompts."""

from collections.abc import Mapping
from types import MappingProxyType

import click

from stormbreak.cli.lazy_group import LazyGroup

_BUILT: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "run": ("stormbreak.cli.batch.run", "Answer every row of a file; resume where it stopped."),
        "estimate": ("stormbreak.cli.batch.estimate", "Say what a run will cost."),
        "status": ("stormbreak.cli.batch.status", "Show how far a run has come."),
        "retry": ("stormbreak.cli.batch.retry", "Send the rows that failed once more."),
    }
)


@click.group(cls=LazyGroup, built=_BUILT)
def command() -> None:
    """Push a file of prompts through an API; lose nothing."""
