"""The first rows of a failed file, with what is said of them in our own words."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct
from msgspec.json import Decoder

from stormbreak.batch.lines import entries


class Failed(NamedTuple):
    """A row without an answer."""

    custom_id: str
    verdict: str
    message: str
    attempts: int


class _Error(Struct):
    verdict: str = "unknown"
    message: str = ""
    attempts: int = 0


class _Line(Struct):
    custom_id: str
    error: _Error


_LINE = Decoder(_Line)


def first_failures(path: Path, most: int) -> list[Failed]:
    """Read at most so many; none if there is no such file. Raises ConfigurationError for a broken one."""
    return list(islice(_failures(path), most))


def _failures(path: Path) -> Iterator[Failed]:
    for entry in entries(path):
        if entry.verdict is not None:
            line = _LINE.decode(entry.raw)
            error = line.error
            yield Failed(line.custom_id, error.verdict, error.message, error.attempts)
