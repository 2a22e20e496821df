"""`stormbreak batch`: the group of what can be done with a file of prompts."""

from collections.abc import Mapping
from types import MappingProxyType

import click

from stormbreak.cli.lazy import LazyGroup

_BUILT: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "run": ("stormbreak.cli.batch_run", "Answer every row of a file; resume where it stopped."),
        "estimate": ("stormbreak.cli.batch_estimate", "Say what a run will cost."),
        "status": ("stormbreak.cli.batch_status", "Show how far a run has come."),
    }
)
_PLANNED: Mapping[str, str] = MappingProxyType({"retry": "Try the failed rows again."})


@click.group(cls=LazyGroup, built=_BUILT, planned=_PLANNED)
def command() -> None:
    """Push a file of prompts through an API; lose nothing."""
