"""`stormbreak cost`: the command group for prices, comparisons, migrations and the cost of a batch."""

from collections.abc import Mapping
from types import MappingProxyType

import click

from stormbreak.cli.lazy_group import LazyGroup

_BUILT: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "prices": ("stormbreak.cli.cost.prices", "What is asked for a model, and by whom."),
        "compare": ("stormbreak.cli.cost.compare", "The same traffic at several providers."),
        "roi": ("stormbreak.cli.cost.roi", "What a move brings, and when it does not."),
        "report": ("stormbreak.cli.cost.report", "What a batch has cost."),
    }
)


@click.group(cls=LazyGroup, built=_BUILT)
def command() -> None:
    """Say what providers cost, and what switching saves."""
