"""The state of every row, on disk and in one byte each: left, answered, failed, or failed and to be retried.

OUTPUT gets each answer once, the failed file gets every failure; both are append-only. A line is written at once and
counts when it is durable: `flush` syncs the lines written before, then counts them. So a crash can cost only the last
line written, which the next run cuts off. A row that is sent again keeps the line of its failure until it is answered
or fails again.
"""

import contextlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from heapq import nsmallest
from itertools import islice
from mmap import mmap
from pathlib import Path
from typing import Final

from stormbreak.batch.input.index import Rows
from stormbreak.batch.input.row import Row
from stormbreak.batch.run_options import FINAL, UNFINISHED_ROWS, Choice
from stormbreak.batch.store.durable_file import AppendFile, OutputError, remove, replacing
from stormbreak.batch.store.output_line import (
    NO_ATTEMPTS,
    Entry,
    Failure,
    Response,
    Tries,
    add_earlier_attempts,
    entries,
    failure_line,
    placed,
    success_line,
)
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.store.shared_answers import DUPLICATE, SharedAnswers
from stormbreak.core.row_schedule import PROBE_ROWS
from stormbreak.drivers.chance import draw
from stormbreak.drivers.locks import new_lock
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, quote, reason
from stormbreak.types import Verdict

_LEFT: Final = 0
_DONE: Final = 1
_FAILED: Final = 2
_RETRY: Final = 3  # failed in an earlier run; this run sends it again


class RowJournal:
    """The rows of one OUTPUT and its failed file; the caller holds the lock.

    Call `succeed` and `fail` in one thread (about 10 us each), and `flush`, which blocks, in another, at most 100 ms
    after a line was written.

    `on_line` gets each line that is written. With `shared`, rows with the same request share one answer. `done` and
    `failed` count rows over all runs. Of the failed rows, this run sends `retried`: `again` are still to be sent,
    `recovered` are now answered. `reused` rows got an answer without their own request in this run.
    """

    def __init__(
        self,
        files: BatchPaths,
        rows: Rows,
        choice: Choice = UNFINISHED_ROWS,
        *,
        check_first: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Read the files of earlier runs, and repair a torn last line. `choice` says which rows this run sends.

        `check_first` gets the first of these before anything is changed, and may raise. Raises ConfigurationError if a
        file has other content; then nothing was changed.
        """
        self.on_line: Callable[[bytes], object] = lambda _: None
        self.shared: SharedAnswers | None = None
        self._files = files
        self._rows = rows
        self._choice = choice
        self._states = mmap(-1, max(1, len(rows)))  # forks share it
        self._tries = None if choice.fresh else _EarlierTries(len(rows))
        self.own: Callable[[int], bool] | None = None  # of several processes: which rows it sends
        # The state before and after each line that is written but not durable yet.
        self._pending: list[tuple[int, int]] = []
        self._flushing = new_lock()
        self._output = AppendFile(files.output)
        self._failed = AppendFile(files.failed)
        self._failed_end = failed_end = self._replay(files.failed, _FAILED)
        output_end = self._replay(files.output, _DONE)
        self.recount()
        self.retried = self.again
        self.recovered = self.reused = 0
        for first in islice(self._sent(), 1):
            check_first(first)
        self._output.repair(output_end)
        if files.failed.exists():
            self._failed.repair(failed_end)

    def recount(self) -> None:
        """Count the rows by state, whichever process wrote them."""
        states = self._states[:]
        self.done = states.count(_DONE)
        self.again = states.count(_RETRY)
        self.failed = states.count(_FAILED) + self.again

    def share(self) -> None:
        """Let forks of this process write too; call it before the fork."""
        self._failed.repair(self._failed_end)  # it must be open in all of them
        for file in (self._output, self._failed):
            file.share()

    @property
    def pending(self) -> int:
        """Lines written that are not durable yet."""
        return len(self._pending)

    @property
    def is_writable(self) -> bool:
        """Whether OUTPUT accepts more answers, as far as is known."""
        return self._output.is_writable

    def left(self) -> Iterator[int]:
        """Yield the rows that this run sends, in input order; a retry starts with a random sample.

        The first rows decide whether the run continues, so they must represent all rows. In a retry, rows that can
        never be answered collect at the front.

        States are read lazily: make one pass per run, or rows in progress come twice.
        """
        drawn: tuple[int, ...] = ()
        if not self._choice.fresh:
            drawn = tuple(nsmallest(PROBE_ROWS, self._sent(), key=lambda _: draw()))
        yield from drawn
        seen = frozenset(drawn)
        yield from (index for index in self._sent() if index not in seen)

    def _sent(self) -> Iterator[int]:
        shared, own = self.shared, self.own
        return (
            index
            for index in range(len(self._rows))
            if self.is_sent(index)
            and not (shared and shared.follows(index))
            and (own is None or own(index))
        )

    def is_sent(self, index: int) -> bool:
        state = self._states[index]
        return state == _RETRY or (state == _LEFT and self._choice.fresh)

    def is_done(self, index: int) -> bool:
        return self._states[index] == _DONE

    def tries_of_refused(self, index: int) -> int:
        """Return the attempts of earlier runs at a row that failed permanently and is sent again; 0 for other rows.

        Its next request is a new one, so the number goes into its Idempotency-Key (ADR 40).
        """
        return 0 if self._tries is None else self._tries.of_refused(index)

    def succeed(self, row: Row, response: Response) -> None:
        """Write the answer to `row`. Raises ValueError for a second answer."""
        self._answer(row, response)
        if self.shared is not None:
            self.shared.keep(row, response)
            copy = replace(response, attempts=0, answered_by=DUPLICATE)
            for twin in self.shared.twins(row, self.is_sent):
                self._answer(twin, copy)

    def _answer(self, row: Row, response: Response) -> None:
        self._require_unanswered(row)
        line = success_line(row.custom_id, response)
        self._output.append(line)
        self._move(row.index, _DONE)
        self.reused += not response.attempts
        self.on_line(line)

    def fail(self, row: Row, failure: Failure, response: Response | None = None) -> None:
        """Write the failure of `row`, and the provider's response, if there was one."""
        self._fail(row, failure, response)
        if self.shared is not None:
            copy = replace(failure, attempts=0, maybe_processed=0)
            for twin in self.shared.twins(row, self.is_sent):
                self._fail(twin, copy, response)

    def _fail(self, row: Row, failure: Failure, response: Response | None) -> None:
        self._require_unanswered(row)
        line = failure_line(row.custom_id, failure, response)
        self._failed.append(line)
        self._move(row.index, _FAILED)
        self.on_line(line)

    def flush(self) -> int:
        """Sync and count the lines written before the call; return their number."""
        with self._flushing:
            count = len(self._pending)
            try:
                self._output.sync()
            finally:
                self._failed.sync()
            if self.shared is not None:
                self.shared.flush()
            moves = self._pending[:count]
            self.done += sum(after == _DONE for _, after in moves)
            self.failed += sum((after >= _FAILED) - (before >= _FAILED) for before, after in moves)
            again = [after for before, after in moves if before == _RETRY]
            self.again -= len(again)
            self.recovered += again.count(_DONE)
            del self._pending[:count]
            return count

    def compact_failed(self) -> None:
        """Keep only the last line of each unanswered row in the failed file; remove the file if no line is left.

        Each run wrote its own line for a row; the remaining one gets the attempts of all.
        """
        self.flush()
        self._failed.close()
        path = self._files.failed
        states = self._states[:]
        if _FAILED not in states and _RETRY not in states:
            try:
                remove(path)
            except OSError as error:
                raise OutputError(f"{path_of(path)}: {reason(error)}") from error
            return
        ends = array("Q", bytes(8 * len(self._rows)))
        for index, entry in placed(path, self._rows):
            ends[index] = entry.end
        # Attempts on the lines so far, of rows whose last line is still ahead.
        earlier: dict[int, Tries] = {}
        with replacing(path) as file:
            for index, entry in placed(path, self._rows):
                if self._states[index] < _FAILED:
                    continue
                tries = earlier.pop(index, NO_ATTEMPTS)
                if entry.end < ends[index]:
                    earlier[index] = tries.plus(entry.tries)
                else:
                    file.write(add_earlier_attempts(entry, tries))

    def close(self) -> None:
        """Flush and close the files. May be called twice."""
        with contextlib.ExitStack() as always:
            always.callback(self._failed.close)
            always.callback(self._output.close)
            self.flush()

    def _replay(self, path: Path, state: int) -> int:
        """Read the lines of `path`; return where the last complete one ends."""
        end = 0
        for index, entry in placed(path, self._rows):
            self._check(path, entry, index, answers=state == _DONE)
            again = state == _FAILED and self._choice.takes(entry.verdict)
            self._states[index] = _RETRY if again else state
            if again and self._tries is not None:
                self._tries.add(index, entry)
            end = entry.end
        return end

    def _check(self, path: Path, entry: Entry, index: int, *, answers: bool) -> None:
        """Raise ConfigurationError for a line that does not belong in `path`, which holds answers or failures."""
        if answers != (entry.verdict is None):
            where = f"{path_of(path)}:{entry.number}"
            files = self._files
            what, there = ("a failure", files.failed) if answers else ("an answer", files.output)
            raise ConfigurationError(f"{where}: {what}, which belongs in {path_of(there)}")
        if answers and self._states[index] == _DONE:
            where = f"{path_of(path)}:{entry.number}"
            name = entry.custom_id
            first = next(each.number for each in entries(path) if each.custom_id == name)
            why = f"custom_id {quote(name)} is already answered on line {first}"
            raise ConfigurationError(f"{where}: {why}")

    def _require_unanswered(self, row: Row) -> None:
        if self._states[row.index] == _DONE:
            raise ValueError(f"row {row.index} is already answered")

    def _move(self, index: int, state: int) -> None:
        self._pending.append((self._states[index], state))
        self._states[index] = state


class _EarlierTries:
    """The attempts of earlier runs at rows that failed, in six bytes a row."""

    def __init__(self, rows: int) -> None:
        self._attempts = array("I", bytes(4 * rows))
        # An attempt may have been processed, and its answer stored under the old key.
        self._doubtful = bytearray(rows)
        self._refused = bytearray(rows)  # the last attempt was processed

    def add(self, index: int, entry: Entry) -> None:
        """Add a line of the failed file; the last one of a row says how it failed."""
        self._attempts[index] += entry.tries.attempts
        self._doubtful[index] |= entry.tries.maybe_processed > 0
        answered = entry.verdict == Verdict.SCHEMA_MISMATCH  # the stored answer is useless
        self._refused[index] = answered or (entry.verdict in FINAL and not self._doubtful[index])

    def of_refused(self, index: int) -> int:
        return self._attempts[index] if self._refused[index] else 0
