"""Read CSV (RFC 4180) in UTF-8, row by row: an empty cell is null, an empty cell in quotes is the empty string.

It uses the standard library's reader. That one does not distinguish the two, so rows with both are checked again.
"""

import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import count
from typing import BinaryIO

from stormbreak.batch.input.index import LINE_LIMIT
from stormbreak.drivers.locks import new_lock
from stormbreak.errors import ConfigurationError

Cells = list[str | None]
_LIMIT = new_lock()


def read_csv(file: BinaryIO, name: str, delimiter: str) -> Iterator[tuple[int, Cells]]:
    """Yield each row with the line where it begins; the first one is the header. Skip empty lines.

    Raises ConfigurationError if a row is not CSV or not UTF-8; names `name` and the line.
    """
    lines: list[str] = []  # of the row that is being read

    def kept() -> Iterator[str]:
        for line in _decoded(file, name):
            lines.append(line)
            yield line

    reader = csv.reader(kept(), delimiter=delimiter, strict=True)
    while True:
        number = reader.line_num + 1
        lines.clear()
        try:
            with _long_cells():
                cells = next(reader, None)
        except csv.Error as error:
            raise ConfigurationError(f"{name}:{number}: {_problem(str(error))}") from None
        if cells is None:
            return
        if cells:
            yield number, _with_nulls(cells, lines, delimiter)


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let the reader take long cells. The limit is global: restore it afterwards, and let threads take turns."""
    with _LIMIT:
        before = csv.field_size_limit(LINE_LIMIT)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def numbered_lines(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """Read line by line. Raises ConfigurationError if a line is too long; names `name` and the line."""
    for number in count(1):
        line = file.readline(LINE_LIMIT + 1)
        if not line:
            return
        if len(line) > LINE_LIMIT:
            raise ConfigurationError(f"{name}:{number}: longer than {LINE_LIMIT:,} bytes")
        yield number, line


def _decoded(file: BinaryIO, name: str) -> Iterator[str]:
    for number, line in numbered_lines(file, name):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            what = f"not UTF-8 at byte {error.start} of the line; save the file as UTF-8"
            raise ConfigurationError(f"{name}:{number}: {what}") from None


def _problem(complaint: str) -> str:
    """Explain the reader's error; it names the first line of the row, where the quote is."""
    if "unexpected end" in complaint:
        return "a cell begins with a quote that never ends"
    if "field limit" in complaint:
        return f"a cell is longer than {LINE_LIMIT:,} characters; does its quote never end?"
    if "expected after" in complaint:
        return (
            "a quote ends inside a cell, or never ends; a quote in a quoted cell is written twice"
        )
    if "new-line character" in complaint:
        return "a carriage return without a line feed; save the file with LF or CRLF line ends"
    return f"not a row of CSV: {complaint}"


def _with_nulls(cells: list[str], lines: list[str], delimiter: str) -> Cells:
    """Replace empty cells without quotes by null."""
    if "" not in cells:
        return [*cells]
    raw = "".join(lines)
    if '""' not in raw:
        return [cell or None for cell in cells]
    written = _cell(delimiter).finditer(raw.rstrip("\r\n"))
    return [cell or (cell if each[1] else None) for cell, each in zip(cells, written, strict=False)]


@lru_cache
def _cell(delimiter: str) -> re.Pattern[str]:
    """Match one cell as it is written, with the delimiter before it."""
    mark = re.escape(delimiter)
    return re.compile(rf'(?:^|{mark})("(?:[^"]|"")*+"|[^{mark}]*+)')
