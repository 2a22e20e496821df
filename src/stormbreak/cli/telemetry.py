"""`stormbreak telemetry`: what goes with logs and metrics."""

import click

from stormbreak.cli.output import say
from stormbreak.telemetry.event_metrics import dashboard


@click.group()
def command() -> None:
    """What goes with logs, metrics and traces, which are switched on in Python (stormbreak.telemetry)."""


@command.command(name="dashboard")
def show_dashboard() -> None:
    """Print the dashboard for Grafana as JSON, to be imported there."""
    say(dashboard(), end="")
