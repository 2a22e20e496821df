"""Write to the standard streams, which may be full, closed, or missing from the start; draw tables and pictures."""

import os
import re
import sys
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from msgspec.json import Encoder
from msgspec.json import format as indented

from stormbreak.errors import ConfigurationError
from stormbreak.escape import reason

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_JSON = Encoder(decimal_format="number")


def say(text: str, *, end: str = "\n") -> None:
    """Write `text` and a line break; a closed pipe is not an error. Raises ConfigurationError if writing fails."""
    try:
        click.echo(text + end, nl=False)
    except BrokenPipeError:
        _drop_stdout()
    except OSError as error:
        raise unwritable(error) from error


def warn(line: str) -> None:
    """Write a line to standard error, if there is one."""
    try:
        click.echo(f"stormbreak: {line}", err=True)
    except OSError:
        drop_stderr()


def drop_stderr() -> None:
    """Drop unwritten output of standard error; otherwise Python exits with code 120."""
    try:
        sys.stderr.flush()
    except OSError:
        with suppress(OSError, ValueError):
            _redirect_to_null(sys.stderr.fileno())


def open_closed_streams() -> None:
    """Open standard streams that were closed at the start (`2>&-`) on /dev/null.

    Otherwise the next opened file gets the descriptor, and output of the stream goes into that file.
    """
    for name, mode in ("stdin", "r"), ("stdout", "w"), ("stderr", "w"):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor
            os.set_inheritable(null, True)
            setattr(sys, name, open(null, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def json_text(facts: object) -> str:
    """Encode as indented JSON; decimals are numbers, and bytes in file names that are not UTF-8 are escaped."""
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
    """Return the error for an unwritable standard output, and drop its buffer."""
    _drop_stdout()
    return ConfigurationError(f"standard output: {reason(error)}")


def _drop_stdout() -> None:
    """Drop the buffer; otherwise Python reports an error at exit."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    _redirect_to_null(descriptor)


def _redirect_to_null(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def draw(picture: "RenderableType", *, min_width: int = 0) -> None:
    """Write a table or a similar object as `say` does, in colours on a terminal.

    It is as wide as the terminal, but at least `min_width`: then the terminal wraps the lines.
    """
    from rich.console import Console  # noqa: PLC0415 - many commands draw nothing

    console = Console()
    if console.width < min_width:
        console = wide(min_width)
    with console.capture() as captured:
        console.print(picture)
    say(captured.get(), end="")


def wide(width: int) -> "Console":
    """Return a console of this width, even on a dumb terminal."""
    from rich.console import Console  # noqa: PLC0415

    return Console(width=width, height=1)  # rich ignores the width without a height


def save_picture(console: "Console", path: Path, *, title: str) -> None:
    """Save the output of `console` as SVG, with common fonts."""
    svg = console.export_svg(title=title)
    own_fonts = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    own_fonts = own_fonts.replace("Fira Code", "DejaVu Sans Mono, Menlo, Consolas")
    indented = own_fonts.replace("<text ", '<text xml:space="preserve" ')
    path.write_text(indented, encoding="utf-8")
