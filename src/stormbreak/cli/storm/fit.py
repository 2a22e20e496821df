"""`stormbreak storm fit`: estimate a scenario from a log of requests."""

import shlex
from pathlib import Path
from typing import Any

import click

from stormbreak.cli.command import option, options, subcommand
from stormbreak.cli.options import FILE
from stormbreak.cli.output import say
from stormbreak.cli.storm.options import LOG_FIELDS, log_of
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, plain, reason
from stormbreak.storm.fit.scenario import fit

_MAX_LINE = 1000  # characters


@subcommand(
    "stormbreak storm fit access.log -o shop.toml",
    "stormbreak storm fit calls.jsonl --time-field t --latency-field took_ms > shop.toml",
)
@click.argument("log", metavar="LOG")
@options("Log", *LOG_FIELDS, option("--status-field", "NAME", "Field of the statuses."))
@options(
    "Output", option("-o --output", FILE, "Write the scenario to FILE, and print the findings.")
)
def command(*, log: str, status_field: str | None, output: Path | None, **fields: Any) -> None:
    """Estimate service time, slots, limits and failures of a target from an access log, and print a scenario.

    The log must have all requests to the target, and their latencies: $request_time in nginx, %D in Apache. Comments in
    the scenario give the uncertainty, and the facts that the log cannot show.
    """
    read = log_of(log, status_field=status_field, **fields)
    found = fit(read, name=None if output is None else output.stem)
    if output is None:
        say(found.toml(), end="")
        return
    try:
        output.write_text(found.toml(), encoding="utf-8")
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"--output {path_of(output)}: {why}") from None
    again = ["stormbreak", "storm", "run", str(output), "--arrivals", log, "--scale", "3.4"]
    say(f"{found.text()}\n\nMore of the same calls: {plain(shlex.join(again), _MAX_LINE)}")
