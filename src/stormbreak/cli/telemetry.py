"""`stormbreak telemetry dashboard`: the dashboard that goes with the metrics."""

import click

from stormbreak.cli.command import Command
from stormbreak.cli.output import say
from stormbreak.telemetry.event_metrics import dashboard


@click.command(
    "dashboard", cls=Command, examples=("stormbreak telemetry dashboard > dashboard.json",)
)
def command() -> None:
    """Print the Grafana dashboard as JSON, to be imported there."""
    say(dashboard(), end="")
