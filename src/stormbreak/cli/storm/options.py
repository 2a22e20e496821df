"""The options that the subcommands of `stormbreak storm` share."""

from collections.abc import Callable
from typing import Any

import click

from stormbreak.cli.command import flag, option
from stormbreak.cli.options import NAMES, Integer, Number
from stormbreak.cli.output import warn
from stormbreak.provider.field_ranges import MAX_SECONDS
from stormbreak.storm.access_log import UNITS, Fields, Log, read_log

POLICY_METAVAR = "FILE|PRESET|BASELINE"
COMPARE = option("--compare", NAMES, "Other policies, on the same calls.", default=())
SEEDS = option(
    "--seeds",
    Integer(),
    "Number of runs, with seeds from --seed on; prints mean and deviation.",
    default=1,
)
DURATION = option(
    "--duration", Number(1e-6, MAX_SECONDS, name="SECONDS"), "End after SECONDS of the scenario."
)
SCALE = option("--scale", Number(1e-3, 1000), "Multiply the calls by N.", default=1.0)
SCALE_ALL = option(
    "--scale", Number(1e-6, 1_000_000), "Multiply traffic, capacity and limits by N.", default=1.0
)
LOG_FIELDS = (
    option("--time-field", "NAME", "Field of the times, in JSON or CSV."),
    option("--latency-field", "NAME", "Field of the latencies."),
    option(
        "--latency-unit",
        click.Choice([*UNITS]),
        "Unit of the latencies.",
        show_default="by its name and format",
    ),
    option(
        "--time-is",
        click.Choice(["start", "end"]),
        "Whether times are starts or ends of requests.",
        show_default="by the order of the lines",
    ),
)
"""How to read a log: parameters of `log_of`."""
FLEET = flag("--fleet", "Processes of the tested policy share a store, as with [fleet].")
JOBS = option("-j --jobs", Integer(), "Simulations in parallel.", default=1)


def policy(default: str) -> Callable[..., Any]:
    return option("-p --policy", POLICY_METAVAR, "The policy to test.", show_default=default)


def assertion(example: str) -> Callable[..., Any]:
    return option("--assert claim", "EXPR", f"Exit with code 1 unless it holds: {example!r}.")


def log_of(path: str, *, status_field: str | None = None, **options: Any) -> Log:
    """Read a log with the options of `LOG_FIELDS`, and warn of skipped lines."""
    fields = Fields(
        time=options["time_field"],
        latency=options["latency_field"],
        status=status_field,
        unit=options["latency_unit"],
    )
    log = read_log(path, fields, time_is=options["time_is"])
    if log.warning is not None:
        warn(log.warning)
    return log
