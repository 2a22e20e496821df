"""Rows with the same request share one answer (`--dedupe`), and answers stay for later runs (`--cache DIR`).

A request is identified by a keyed digest of its address, endpoint and body. The first row of a request is sent; the
others get its answer, or its failure, when it ends. This costs 5 bytes of memory per row, and one more pass over INPUT.
"""

import secrets
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from stormbreak.batch.input.index import IdTable, Rows
from stormbreak.batch.input.row import Row
from stormbreak.batch.store.output_line import Response, placed
from stormbreak.batch.store.reader import Answered, parse_result
from stormbreak.cache.memory import SECRET_BYTES, cache_key
from stormbreak.cache.sqlite import SqliteCache
from stormbreak.core.fallback_policy import CachePolicy
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, reason
from stormbreak.types import CACHE

if TYPE_CHECKING:
    from stormbreak.batch.store.row_journal import RowJournal

DUPLICATE = "duplicate"  # `answered_by` of a row that got the answer of another one
_FOREVER = 100 * 365 * 86_400.0  # seconds that the cache keeps an answer
_MAX_BYTES = 2**40


class SharedAnswers(AbstractContextManager["SharedAnswers"]):
    """The rows with the same request, and the cache, if any; a context that closes it."""

    def __init__(self, rows: Rows, base_url: str, *, dedupe: bool, cache: str | None) -> None:
        """Open the cache, created if missing, and find the duplicates.

        Raises ConfigurationError if the cache cannot be used.
        """
        self._rows = rows
        self._base_url = base_url
        self._cache = None if cache is None else _opened(Path(cache))
        self._secret = self._cache.secret if self._cache else secrets.token_bytes(SECRET_BYTES)
        self._new: list[tuple[bytes, bytes]] = []  # answers on their way to the cache
        self._next = array("I")  # row with the same request + 1; 0: none follows
        self._follows = bytearray()
        self._firsts = self._find_duplicates() if dedupe else array("I")

    def __exit__(self, *_: object) -> None:
        if self._cache is not None:
            self.flush()
            self._cache.close()

    def follows(self, index: int) -> bool:
        """Whether the row gets its answer from another row that is sent."""
        return bool(self._follows) and bool(self._follows[index])

    def twins(self, row: Row, is_sent: Callable[[int], bool]) -> Iterator[Row]:
        """Read the rows that get the answer of `row`."""
        return (self._rows.row_at(index) for index in self._after(row.index) if is_sent(index))

    def keep(self, row: Row, response: Response) -> None:
        """Keep the answer to `row`; the next `flush` writes it to the cache."""
        if self._cache is not None and response.answered_by is None:
            key = self._key(row)
            if key is not None:
                self._new.append((key, response.body))

    def flush(self) -> None:
        """Write new answers to the cache. Blocks on the disk; call it in one thread at a time."""
        if self._cache is not None and self._new:
            count = len(self._new)
            self._cache.put_all(self._new[:count])
            del self._new[:count]

    def answer_known(self, journal: "RowJournal", output: Path) -> None:
        """Write the known answers, of duplicates in `output` and of the cache; then share new ones."""
        wanted = self._answered_before(journal)
        for index, entry in placed(output, self._rows) if wanted else ():
            found = parse_result(entry.raw) if index in wanted else None
            if isinstance(found, Answered):
                response = Response(
                    status_code=found.status,
                    request_id=found.request_id,
                    answered_by=DUPLICATE,
                    attempts=0,
                    body=found.raw,
                )
                for twin in wanted[index]:
                    journal.succeed(self._rows.row_at(twin), response)
        journal.shared = self
        if self._cache is not None:
            for index in journal.left():
                row = self._rows.row_at(index)
                key = self._key(row)
                kept = None if key is None else self._cache.get(key)
                if kept is not None:
                    body = kept.body
                    response = Response(status_code=200, answered_by=CACHE, attempts=0, body=body)
                    journal.succeed(row, response)
        journal.flush()

    def _answered_before(self, journal: "RowJournal") -> dict[int, list[int]]:
        """Choose which row of a request is sent; return the other rows of requests that are already answered."""
        wanted: dict[int, list[int]] = {}
        for first in self._firsts:
            rows = [first, *self._after(first)]
            sent = [index for index in rows if journal.is_sent(index)]
            done = next(filter(journal.is_done, rows), None)
            if done is not None and sent:
                wanted[done] = sent
            for index in sent[1:]:
                self._follows[index] = True
        return wanted

    def _find_duplicates(self) -> "array[int]":
        """Link the rows with the same request; return the first row of each request that has several."""
        rows, firsts, last = self._rows, array("I"), array("I")
        known = IdTable(lambda number: self._text(rows.row_at(firsts[number])))
        self._next = array("I", bytes(4 * len(rows)))
        self._follows = bytearray(len(rows))
        for row in rows:
            number = known.add(self._text(row))
            if number is None:
                firsts.append(row.index)
                last.append(row.index)
            else:
                self._next[last[number]] = row.index + 1
                last[number] = row.index
        return array("I", (first for first in firsts if self._next[first]))

    def _after(self, index: int) -> Iterator[int]:
        if self._next:
            while index := self._next[index]:
                index -= 1
                yield index

    def _key(self, row: Row) -> bytes | None:
        return cache_key(self._secret, self._base_url, row.endpoint, row.body, None)

    def _text(self, row: Row) -> str:
        return (self._key(row) or f"row {row.index}".encode()).hex()


def _opened(folder: Path) -> SqliteCache:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        why = "is no folder" if folder.exists() else reason(error)
        raise ConfigurationError(f"cache: {path_of(folder)}: {why}") from None
    policy = CachePolicy(path=None, max_age=_FOREVER, max_bytes=_MAX_BYTES)
    return SqliteCache(folder / "answers.sqlite", policy)
