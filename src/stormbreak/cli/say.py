"""Writing results to standard output, which may be full, or gone."""

import os
import sys

from stormbreak.batch.plain import reason
from stormbreak.errors import ConfigurationError


def say(text: str) -> None:
    """Write `text` and a line break. A reader who left early misses it; that is no failure of ours.

    Raises:
        ConfigurationError: it cannot be written.
    """
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _look_away()
    except OSError as error:
        _look_away()
        raise ConfigurationError(f"standard output: {reason(error)}") from error


def _look_away() -> None:
    """Send what is still buffered nowhere, or Python would complain of it at its end."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
