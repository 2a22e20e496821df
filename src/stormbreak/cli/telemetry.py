"""`stormbreak telemetry dashboard`: the dashboard for the metrics."""

from stormbreak.cli.command import subcommand
from stormbreak.cli.output import say
from stormbreak.telemetry.event_metrics import dashboard


@subcommand("stormbreak telemetry dashboard > dashboard.json")
def command() -> None:
    """Print the Grafana dashboard as JSON, to import into Grafana."""
    say(dashboard(), end="")
