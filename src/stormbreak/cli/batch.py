"""`stormbreak batch`: the group of what can be done with a file of prompts."""

from collections.abc import Mapping
from types import MappingProxyType

import click

from stormbreak.cli.lazy import LazyGroup

_BUILT: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "run": ("stormbreak.cli.batch_run", "Answer every row of a file; resume where it stopped."),
        "status": ("stormbreak.cli.batch_status", "Show how far a run has come."),
    }
)
_PLANNED: Mapping[str, str] = MappingProxyType(
    {"estimate": "Say what a run will cost.", "retry": "Try the failed rows again."}
)


@click.group(cls=LazyGroup, built=_BUILT, planned=_PLANNED)
def command() -> None:
    """Push a file of prompts through an API; lose nothing."""
