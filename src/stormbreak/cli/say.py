"""Writing results to standard output, which may be full, or gone."""

import os
import sys

import click
from rich.console import Console, RenderableType

from stormbreak.batch.plain import reason
from stormbreak.errors import ConfigurationError


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


def draw(picture: RenderableType, *, least: int = 0) -> None:
    """Write a table or the like, in colours where that is a terminal; as `say` does.

    It is as wide as the terminal, but `least` wide at least: then the terminal breaks the lines, and nothing is cut off.
    """
    console = Console()
    if console.width < least:
        console = Console(width=least)
    with console.capture() as captured:
        console.print(picture)
    say(captured.get(), end="")


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
