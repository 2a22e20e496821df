"""The dashboard for Grafana that comes with the package; a test holds its queries against the real metrics."""

from importlib.resources import files


def dashboard() -> str:
    """The dashboard as JSON, to be imported into Grafana."""
    return (files("stormbreak.telemetry") / "grafana.json").read_text("utf-8")
