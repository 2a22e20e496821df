"""The block of a page that a command writes, between two marks; all around it is written by hand."""

from pathlib import Path
from typing import NamedTuple


class Block(NamedTuple):
    """What stands in `page` after the line `begin` and before the line `end`. Each stands there once."""

    page: Path
    begin: str
    end: str

    def read(self) -> str:
        """The text of the block."""
        return self._parts()[1]

    def write(self, text: str) -> None:
        """Put `text`, which ends with a newline, in its place."""
        before, _, after = self._parts()
        self.page.write_text(f"{before}{self.begin}\n{text}{self.end}\n{after}")

    def _parts(self) -> tuple[str, str, str]:
        before, rest = self.page.read_text().split(f"{self.begin}\n")
        text, after = rest.split(f"{self.end}\n")
        return before, text, after
