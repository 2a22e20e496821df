"""`stormbreak batch set`: change an active run, through its socket."""

from pathlib import Path

import click

from stormbreak.cli.batch.options import CONCURRENCY
from stormbreak.cli.command import option, options, subcommand
from stormbreak.cli.options import FILE
from stormbreak.cli.output import say
from stormbreak.cli.top import find
from stormbreak.errors import ConfigurationError
from stormbreak.telemetry.status_client import (
    SET_CONCURRENCY,
    NoResponseError,
    NoServerError,
    NotStormbreakError,
    send_order,
)

PATIENCE = 5.0  # seconds


@subcommand("stormbreak batch set answers.jsonl --concurrency 50")
@click.argument("output", type=FILE)
@options(
    "Options",
    option(
        "-c --concurrency", CONCURRENCY, "Maximum concurrent requests from now on.", required=True
    ),
)
def command(output: Path, *, concurrency: int | str) -> None:
    """Change the active run on OUTPUT, until it ends. A resumed run uses its own options."""
    server = find(str(output))
    try:
        say(send_order(server, SET_CONCURRENCY, str(concurrency), PATIENCE))
    except (NoServerError, NotStormbreakError) as error:
        raise ConfigurationError(f"{server}: {error}") from None
    except NoResponseError:
        raise ConfigurationError(f"{server}: no response within {PATIENCE:g} s") from None
