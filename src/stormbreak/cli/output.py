"""Write to the standard streams, which may be full, gone, or closed from the start; draw tables and pictures."""

import os
import re
import sys
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec.json import Encoder
from msgspec.json import format as indented
from rich.console import Console, RenderableType

from stormbreak.errors import ConfigurationError
from stormbreak.escape import reason

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


def warn(line: str) -> None:
    """Write a line to standard error. Where that cannot be written, the exit code still says what happened."""
    try:
        click.echo(f"stormbreak: {line}", err=True)
    except OSError:
        drop_stderr()


def drop_stderr() -> None:
    """Drop what standard error could not take, such as progress, or Python would fail at its end with code 120."""
    try:
        sys.stderr.flush()
    except OSError:
        with suppress(OSError, ValueError):
            _send_nowhere(sys.stderr.fileno())


def open_closed_streams() -> None:
    """Open nowhere what was closed when the process began (`2>&-`).

    Else the first file that is opened takes its number, and whoever writes to the stream writes into that file.
    """
    for name, mode in ("stdin", "r"), ("stdout", "w"), ("stderr", "w"):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            os.set_inheritable(nowhere, True)
            setattr(sys, name, open(nowhere, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def json_text(facts: object) -> str:
    """As JSON for programs, indented; decimals are numbers. What is no UTF-8 in the name of a file is escaped."""
    try:
        encoded = _JSON.encode(facts)
    except UnicodeEncodeError:
        encoded = _JSON.encode(_escaped(msgspec.to_builtins(facts, builtin_types=(Decimal,))))
    return indented(encoded).decode()


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_escaped(key): _escaped(each) for key, each in value.items()}
    return [_escaped(each) for each in value] if isinstance(value, list) else value


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
    _send_nowhere(descriptor)


def _send_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


# ---------------------------------------------------------------- tables and pictures


def draw(picture: RenderableType, *, least: int = 0) -> None:
    """Write a table or the like, in colours where that is a terminal; as `say` does.

    It is as wide as the terminal, but `least` wide at least: then the terminal breaks the lines, and nothing is cut off.
    """
    console = Console()
    if console.width < least:
        console = wide(least)
    with console.capture() as captured:
        console.print(picture)
    say(captured.get(), end="")


def wide(width: int) -> Console:
    """A console that is so wide, also where the terminal says of itself only that it is dumb."""
    return Console(width=width, height=1)  # rich takes the width for given only with the height


def save_picture(console: Console, path: Path, *, title: str) -> None:
    """Save what `console` has printed as SVG, in fonts that every machine has."""
    svg = console.export_svg(title=title)
    own_fonts = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    own_fonts = own_fonts.replace("Fira Code", "DejaVu Sans Mono, Menlo, Consolas")
    indented = own_fonts.replace("<text ", '<text xml:space="preserve" ')
    path.write_text(indented, encoding="utf-8")
