"""Writing results to standard output, which may be full, or gone."""

import os
import sys

import click
from msgspec.json import Encoder
from msgspec.json import format as indented

from stormbreak.batch.plain import reason
from stormbreak.errors import ConfigurationError

_JSON = Encoder(decimal_format="number")


def say(text: str, *, end: str = "\n") -> None:
    """Write `text` and a line break. A reader who left early misses it; that is no failure of ours.

    Raises:
        ConfigurationError: it cannot be written.
    """
    try:
        click.echo(text + end, nl=False)
    except BrokenPipeError:
        _look_away()
    except OSError as error:
        raise unwritable(error) from error


def in_json(facts: object) -> str:
    """As JSON for programs, indented; decimals are numbers."""
    return indented(_JSON.encode(facts)).decode()


def unwritable(error: OSError) -> ConfigurationError:
    """What to say where standard output cannot be written; what is still buffered is given up."""
    _look_away()
    return ConfigurationError(f"standard output: {reason(error)}")


def _look_away() -> None:
    """Send what is still buffered nowhere, or Python would complain of it at its end."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
