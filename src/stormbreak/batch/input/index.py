"""Index INPUT: an array of rows that stays on disk, and a hash table that finds a custom_id.

One pass reads and checks the whole file and keeps about 35 bytes per row: its offset, its line number, a hash of its id
and one of its line. When a row is sent, it is read again at its offset and compared with the hash of its line. Ten
million rows take 350 MB.

If an earlier run has checked the same bytes, only the ids are read, in a third of the time.
"""

import os
import stat
from array import array
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import BinaryIO, Self

from msgspec import DecodeError, Struct
from msgspec.json import Decoder

from stormbreak import file_reader
from stormbreak.batch.input.row import Row, RowError, parse_row
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, quote, reason, system_errors_at

# ---------------------------------------------------------------- table of ids
# A 64-bit hash per id and an open-addressed table of numbers; the ids themselves stay in their
# file. Two ids with one hash are distinguished by reading the real id. An id that was never added has
# the hash of one of ten million with a probability of 5e-13: `find` does not read the file for that.

_START = 1024  # slots; always a power of two
_BITS = 0xFFFF_FFFF_FFFF_FFFF


class IdTable:
    """Numbers ids in the order they are added: 0, 1, 2, ...

    `id_at(number)` reads the id with that number; only tests replace `hashed`.
    """

    def __init__(self, id_at: Callable[[int], str], *, hashed: Callable[[str], int] = hash) -> None:
        self._id_at = id_at
        self._hashed = hashed
        self._hashes = array("Q")
        self._slots = array("I", bytes(4 * _START))  # number + 1; 0 is a free slot
        self._shared: set[int] = set()  # hashes that several ids share

    def __len__(self) -> int:
        return len(self._hashes)

    @property
    def nbytes(self) -> int:
        return 8 * len(self._hashes) + 4 * len(self._slots)

    def add(self, custom_id: str) -> int | None:
        """Give `custom_id` the next number; if it already has one, change nothing and return it."""
        key = self._hashed(custom_id) & _BITS
        slot = self._seek(custom_id, key, is_sure=False)
        if taken := self._slots[slot]:
            return taken - 1
        self._hashes.append(key)
        self._slots[slot] = len(self._hashes)
        if 4 * len(self._hashes) > 3 * len(self._slots):
            self._grow()
        return None

    def hash_of(self, number: int) -> int:
        """Return the hash of an id; it differs between processes, but not between forks."""
        return self._hashes[number]

    def find(self, custom_id: str) -> int | None:
        """Return the number of `custom_id`, or None. Reads ids only if several share its hash."""
        key = self._hashed(custom_id) & _BITS
        slot = self._seek(custom_id, key, is_sure=key not in self._shared)
        return self._slots[slot] - 1 if self._slots[slot] else None

    def _seek(self, custom_id: str, key: int, *, is_sure: bool) -> int:
        """Return the slot that holds `custom_id`, or the free one where it belongs; `is_sure`: its hash is enough."""
        slots, hashes = self._slots, self._hashes
        mask = len(slots) - 1
        slot = key & mask
        while taken := slots[slot]:
            if hashes[taken - 1] == key:
                if is_sure or self._id_at(taken - 1) == custom_id:
                    break
                self._shared.add(key)
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        slots = array("I", bytes(8 * len(self._slots)))
        mask = len(slots) - 1
        for number, key in enumerate(self._hashes, 1):
            slot = key & mask
            while slots[slot]:
                slot = (slot + 1) & mask
            slots[slot] = number
        self._slots = slots


# ---------------------------------------------------------------- index of rows

LINE_LIMIT = 64 * 2**20  # bytes of one line
REPORT_EVERY = 4096  # lines
MORE_WRONG = 10  # wrong lines named after the first

_HASH_BITS = 0xFFFF_FFFF


class _Id(Struct):
    custom_id: str = ""


_ID = Decoder(_Id)

_IdOf = Callable[[bytes, int, int], str]  # of a line, its index and its number
ReadProgress = Callable[[int], None]  # called from time to time with the number of rows read


def new_fingerprint() -> blake2b:
    """Start the hash that identifies an INPUT."""
    return blake2b(digest_size=16)


def fingerprint_of(path: Path) -> str:
    """Hash the content of an INPUT. Raises OSError if it cannot be read."""
    with file_reader.opened(path) as file:
        return file_digest(file, new_fingerprint).hexdigest()


class Rows(AbstractContextManager["Rows"]):
    """The rows of one INPUT; made by `Rows.read`, closed by its user.

    `fingerprint` is a hash of every byte of the file; a later run compares it.
    """

    def __init__(
        self, path: Path, *, model: str | None, defaults: Mapping[str, float], table: str | None
    ) -> None:
        self.path = path
        self.name = str(path) if table is None else table
        self._unit = "line" if table is None else "row"
        self.fingerprint = ""
        self._model = model
        self._defaults = defaults
        self._may_be_empty = False
        self._fd = _opened(path)
        self._clear()

    def _clear(self) -> None:
        self._offsets = array("Q")  # of each row, and the end of the last one
        self._numbers = array("I")  # of the line of each row
        self._hashes = array("I")  # of each line, to notice a change; the seed differs by process
        self._ids = IdTable(lambda index: _id_in(self._line_at(index), self._numbers[index]))

    @classmethod
    def read(
        cls,
        path: Path,
        *,
        model: str | None = None,
        defaults: Mapping[str, float] | None = None,
        on_read: ReadProgress = lambda _: None,
        checked: str | None = None,
        table: str | None = None,
        may_be_empty: bool = False,
    ) -> Self:
        """Check and index all of `path`; `model` is for rows that name none, `defaults` for missing fields of a chat.

        `table` is the name of the table that the rows were made from, one per line: errors name its row.

        `on_read` is called from time to time. `checked` is the fingerprint of an INPUT that was valid for the same
        model: if the bytes are the same, only the ids are read. Raises ConfigurationError if a line is not a request
        (names several such lines), if two rows have the same id, or if there are no rows, unless it `may_be_empty`.
        """
        rows = cls(path, model=model, defaults=defaults or {}, table=table)
        rows._may_be_empty = may_be_empty
        try:
            with system_errors_at(path):
                if checked is None or not rows._is_still(checked, on_read):
                    rows._index(on_read, rows._checked_id)
        except BaseException:
            rows.close()
            raise
        return rows

    def __len__(self) -> int:
        return len(self._numbers)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def nbytes(self) -> int:
        return 8 * len(self._offsets) + 8 * len(self._numbers) + self._ids.nbytes

    def row_at(self, index: int) -> Row:
        """Read row `index` (from 0) again. Raises ConfigurationError if the file was changed."""
        number = self._numbers[index]
        try:
            return self._parsed(self._line_at(index), index, number)
        except RowError as error:  # a version of stormbreak that accepted it wrote the run
            raise self._wrong(number, str(error)) from None

    def _line_at(self, index: int) -> bytes:
        begin, end = self._offsets[index], self._offsets[index + 1]
        try:  # for each row, so without a context manager
            line = os.pread(self._fd, end - begin, begin).strip()
        except OSError as error:
            raise ConfigurationError(f"{path_of(self.path)}: {reason(error)}") from error
        if self._hashes[index] != hash(line) & _HASH_BITS:
            what = "was changed during the run; undo the change, or choose another output for the new rows"
            raise self._wrong(self._numbers[index], what)
        return line

    def __iter__(self) -> Iterator[Row]:
        return (self.row_at(index) for index in range(len(self)))

    def ids(self) -> Iterator[str]:
        return (_id_in(self._line_at(index), number) for index, number in enumerate(self._numbers))

    def find(self, custom_id: str) -> int | None:
        return self._ids.find(custom_id)

    def part_of(self, index: int, count: int) -> int:
        """Return which of `count` parts the row belongs to, by a hash of its id: the same in every fork of this process."""
        return self._ids.hash_of(index) % count

    def _is_still(self, checked: str, on_read: ReadProgress) -> bool:
        """Index the file by its ids alone; clear the index and return False if its fingerprint differs."""
        try:
            self._index(on_read, lambda line, _, number: _id_in(line, number))
        except ConfigurationError:  # it is another file: the old one was valid
            self.fingerprint = ""
        if self.fingerprint == checked:
            return True
        self._clear()
        return False

    def _index(self, on_read: ReadProgress, id_of: _IdOf) -> None:
        digest = new_fingerprint()
        offset = number = 0
        os.lseek(self._fd, 0, os.SEEK_SET)
        with os.fdopen(self._fd, "rb", buffering=2**20, closefd=False) as file:
            while line := file.readline(LINE_LIMIT + 1):
                number += 1
                digest.update(line)
                try:
                    self._take(line, number, offset, id_of)
                except RowError as error:
                    more = self._more_wrong(file, number)
                    raise self._wrong(number, f"{error}{more}") from None
                offset += len(line)
                if number % REPORT_EVERY == 0:
                    on_read(len(self))
        if not (len(self) or self._may_be_empty):
            raise ConfigurationError(f"{path_of(self.name)}: the input holds no rows")
        self._offsets.append(offset)
        self.fingerprint = digest.hexdigest()

    def _take(self, line: bytes, number: int, offset: int, id_of: _IdOf) -> None:
        if len(line) > LINE_LIMIT:
            raise self._wrong(number, f"longer than {LINE_LIMIT:,} bytes")
        if number == 1 and line.startswith(BOM_UTF8):
            line, offset = line[len(BOM_UTF8) :], offset + len(BOM_UTF8)
        stripped = line.strip()
        if not stripped:
            return
        custom_id = id_of(line, len(self), number)
        # Before the id is added: comparing ids needs the end of the previous row.
        self._offsets.append(offset)
        twin = self._ids.add(custom_id)
        if twin is not None:
            first = self._numbers[twin]
            hint = "; the column of --id needs another value in each row" * (self._unit == "row")
            raise RowError(f"custom_id {quote(custom_id)} is already on {self._unit} {first}{hint}")
        self._numbers.append(number)
        self._hashes.append(hash(stripped) & _HASH_BITS)

    def _checked_id(self, line: bytes, index: int, number: int) -> str:
        return self._parsed(line, index, number).custom_id

    def _more_wrong(self, file: BinaryIO, number: int) -> str:
        """Name the next wrong lines, so that the user can fix them together."""
        wrong: list[int] = []
        while len(wrong) <= MORE_WRONG and (line := file.readline(LINE_LIMIT)):
            number += 1
            try:
                if line.strip():
                    self._parsed(line, len(self), number)
            except RowError:
                wrong.append(number)
        if not wrong:
            return ""
        named = ", ".join(str(each) for each in wrong[:MORE_WRONG])
        rest = " and others" if len(wrong) > MORE_WRONG else ""
        return f"; also wrong: {self._unit}{'s' if wrong[1:] else ''} {named}{rest}"

    def _parsed(self, line: bytes, index: int, number: int) -> Row:
        return parse_row(
            line, index=index, number=number, model=self._model, defaults=self._defaults
        )

    def _wrong(self, number: int, what: str) -> ConfigurationError:
        row = f":{number}" if self._unit == "line" else f": row {number}"
        return ConfigurationError(f"{path_of(self.name)}{row}: {what}")


def _id_in(line: bytes, number: int) -> str:
    """The id of a row that an earlier run found valid."""
    try:
        return _ID.decode(line).custom_id or f"row-{number}"
    except (DecodeError, UnicodeDecodeError, RecursionError):
        raise RowError("is no request") from None


def _opened(path: Path) -> int:
    if str(path) == "-":
        raise ConfigurationError(
            "INPUT must be a file, not - (stdin): a resumed run reads it again"
        )
    try:
        # O_NONBLOCK: do not hang on a pipe without a writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else "not a path"
        raise ConfigurationError(f"{path_of(path)}: cannot read the input: {why}") from error
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise ConfigurationError(f"{path_of(path)}: cannot read the input: not a regular file")
