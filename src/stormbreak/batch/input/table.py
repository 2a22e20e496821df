"""Read the rows of a table from one or more files: CSV, Parquet or JSON lines, with gzip or zstd.

Rows are dicts by column, in the order of the files, and read one by one. `table_requests` makes their requests.
"""

import glob
import gzip
import os
import re
import shutil
import stat
import sys
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self, TypeVar, cast

from msgspec import DecodeError
from msgspec.json import Decoder

from stormbreak import file_reader
from stormbreak.batch import parquet
from stormbreak.batch.input.csv_reader import numbered_lines, read_csv
from stormbreak.batch.store.paths import COMPRESSED
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, quote, reason

Format = Literal["csv", "jsonl", "parquet"]
Record = dict[str, Any]
T = TypeVar("T")

STDIN = Path("-")
_FORMATS: dict[str, Format] = {
    ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_PARQUET = b"PAR1"
_RECORD = Decoder(Record)


def format_of(path: Path) -> Format:
    """Return the format by the suffix, without that of a compression; JSON lines if it is unknown."""
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return _FORMATS.get(name.suffix.lower(), "jsonl")


@dataclass(frozen=True, slots=True)
class Shard:
    """Every `count`-th row, starting with row `index`; both count from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Parse `3/8`. Raises ConfigurationError."""
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        shard = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if not 1 <= shard.index <= shard.count:
            raise ConfigurationError(f"{where} must be I/N, from 1/N to N/N, got {quote(text)}")
        return shard

    def number(self, row: int) -> int:
        """Return the number in the whole table (from 1) of the shard's row with this index (from 0)."""
        return self.index + row * self.count

    def take(self, rows: Iterator[T]) -> Iterator[T]:
        """Leave out the rows of other shards."""
        return islice(rows, self.index - 1, None, self.count)


WHOLE = Shard(1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Files of one format with the same columns, or a shard of their rows.

    Messages call them `name`; `delimiter` is for CSV.
    """

    name: str
    paths: tuple[Path, ...]
    format: Format
    delimiter: str = ","
    shard: Shard = WHOLE

    @classmethod
    def find(cls, source: Path, *, delimiter: str | None = None, shard: Shard = WHOLE) -> Self:
        """Find the files that `source` names; it may be a pattern such as `rows/*.parquet`.

        Raises ConfigurationError if there are none, or their formats differ.
        """
        paths: tuple[Path, ...] = (source,)
        if glob.has_magic(str(source)) and not os.path.exists(source):  # noqa: PTH110 - Path raises for odd names
            paths = tuple(map(Path, sorted(glob.glob(str(source), recursive=True))))  # noqa: PTH207 - takes absolute ones
            if not paths:
                raise ConfigurationError(f"{path_of(source)}: no such file")
        formats = {format_of(path) for path in paths}
        if len(formats) > 1:
            raise ConfigurationError(f"{path_of(source)}: files of several formats; choose one")
        return cls(
            name="stdin" if source == STDIN else path_of(source),
            paths=paths,
            format=formats.pop(),
            delimiter=delimiter or _delimiter(paths[0]),
            shard=shard,
        )

    @property
    def is_plain(self) -> bool:
        """Whether it is one whole file of uncompressed JSON lines, so that each row can be read by its offset."""
        path = self.paths[0]
        return (
            (self.format, self.shard, len(self.paths)) == ("jsonl", WHOLE, 1)
            and path.suffix.lower() not in COMPRESSED
            and _is_regular(path)
        )

    @property
    def is_stream(self) -> bool:
        """Whether it can be read only once, such as stdin."""
        return len(self.paths) == 1 and not _is_regular(self.paths[0])

    def copy_to(self, file: BinaryIO) -> None:
        """Copy a table that can be read only once."""
        with _opened(self.paths[0]) as source:
            shutil.copyfileobj(source, file, 2**20)

    def columns(self) -> tuple[str, ...] | None:
        """Read the names of the columns; None for JSON lines, where each row has its own."""
        if self.format == "jsonl":
            return None
        return self._columns(self.paths[0])

    def records(self, columns: Sequence[str] | None = None) -> Iterator[Record]:
        """Read the rows in order. From Parquet, read only these `columns`.

        Raises ConfigurationError if a file cannot be read, or a row is invalid; names file and line.
        """
        return self.shard.take(self._records(columns))

    def batches(self) -> Iterator[Any]:
        begin = 0
        for path in self.paths:
            for batch in parquet.read_batches(path, None):
                end = begin + batch.num_rows
                taken = range(begin, end)[
                    (self.shard.index - 1 - begin) % self.shard.count :: self.shard.count
                ]
                yield batch if self.shard == WHOLE else batch.take([each - begin for each in taken])
                begin = end

    def _records(self, columns: Sequence[str] | None) -> Iterator[Record]:
        first = self.columns()
        for path in self.paths:
            if path != self.paths[0] and self.format != "jsonl" and self._columns(path) != first:
                other = path_of(self.paths[0])
                raise ConfigurationError(f"{path_of(path)}: has other columns than {other}")
            yield from self._read(path, columns)

    def fingerprint(self) -> str:
        """Hash the files. Raises ConfigurationError if one cannot be read."""
        digest = blake2b(f"{self.format} {self.delimiter}".encode(), digest_size=16)
        for path in self.paths:
            with _opened(path) as file:
                while block := file.read(2**20):
                    digest.update(block)
        return digest.hexdigest()

    def _columns(self, path: Path) -> tuple[str, ...]:
        if self.format == "parquet":
            return tuple(parquet.read_schema(path).names)
        with decompressed(path) as file:
            _, header = next(self._csv(file, path), (0, None))
        if header is None:
            raise ConfigurationError(f"{path_of(path)}: holds no header")
        columns = tuple(cell or "" for cell in header)
        twice = next((each for each in columns if columns.count(each) > 1), None)
        if twice is not None:
            raise ConfigurationError(f"{path_of(path)}:1: two columns are named {quote(twice)}")
        return columns

    def _csv(self, file: BinaryIO, path: Path) -> Iterator[tuple[int, list[str | None]]]:
        return read_csv(file, path_of(path), self.delimiter)

    def _read(self, path: Path, columns: Sequence[str] | None) -> Iterator[Record]:
        if self.format == "parquet":
            for batch in parquet.read_batches(path, columns):
                yield from batch.to_pylist()
            return
        with decompressed(path) as file:
            if self.format == "jsonl":
                yield from read_json_lines(file, path_of(path))
                return
            rows = self._csv(file, path)
            _, header = next(rows)
            names = tuple(cell or "" for cell in header)
            for number, cells in rows:
                if len(cells) != len(names):
                    what = f"has {len(cells):,} cells, and the header {len(names):,}"
                    raise ConfigurationError(f"{path_of(path)}:{number}: {what}")
                yield dict(zip(names, cells, strict=True))


def read_json_lines(file: BinaryIO, name: str) -> Iterator[Record]:
    """Read a JSON object from each line that is not empty."""
    for number, read in numbered_lines(file, name):
        line = (read.removeprefix(BOM_UTF8) if number == 1 else read).strip()
        if not line:
            continue
        try:
            record = _RECORD.decode(line)
        except (DecodeError, UnicodeDecodeError, RecursionError):
            raise ConfigurationError(f"{name}:{number}: is not a JSON object") from None
        yield record


@contextmanager
def decompressed(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading; decompress gzip or zstd, which its first bytes show.

    Raises ConfigurationError if it cannot be read, now or in the block, or its compression is broken.
    """
    with _opened(path) as file:
        try:
            head = file.peek(4)
            if head.startswith(_GZIP):
                yield cast("BinaryIO", gzip.GzipFile(fileobj=file))
            elif head.startswith(_ZSTD):
                yield parquet.zstd_reader(file)
            else:
                yield file
        except (EOFError, zlib.error, OSError) as error:
            why = "broken or truncated compression"
            if isinstance(error, OSError) and error.errno is not None:  # of the system
                why = reason(error)
            raise ConfigurationError(f"{path_of(path)}: {why}") from None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        if path == STDIN:
            yield sys.stdin.buffer
            return
        with file_reader.opened(path, buffering=2**20) as file:
            yield file
    except OSError as error:
        why = f"cannot read the input: {reason(error)}"
        raise ConfigurationError(f"{path_of(path)}: {why}") from error


def find_format(path: Path) -> Format:
    """Return the compression of a file by its first bytes."""
    with decompressed(path) as file:
        head = file.read(2**16)
    if head.startswith(_PARQUET):
        return "parquet"
    return "jsonl" if head.removeprefix(BOM_UTF8).lstrip().startswith(b"{") else "csv"


def _is_regular(path: Path) -> bool:
    try:
        return path != STDIN and stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116
    except (OSError, ValueError):
        return path != STDIN  # reported where it is opened


def _delimiter(path: Path) -> str:
    return "\t" if ".tsv" in (suffix.lower() for suffix in path.suffixes) else ","
