"""`stormbreak telemetry dashboard`: the dashboard that goes with the metrics."""

from stormbreak.cli.command import subcommand
from stormbreak.cli.output import say
from stormbreak.telemetry.event_metrics import dashboard


@subcommand("stormbreak telemetry dashboard > dashboard.json")
def command() -> None:
    """Print the Grafana dashboard as JSON, to be imported there."""
    say(dashboard(), end="")
