"""Drawing tables and the like on standard output; what only says a line does without."""

import re
from pathlib import Path

from rich.console import Console, RenderableType

from stormbreak.cli.say import say


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
