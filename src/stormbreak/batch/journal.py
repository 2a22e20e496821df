"""What became of every row, on disk and in one byte each: left, answered, failed, or refused for good.

OUTPUT takes each answer once, the failed file takes every failure; both are only ever appended to. A line is
written at once and counts when it is durable: `flush` syncs all that was written before, and then counts it.
A crash can therefore cost the last line written, which the next run cuts off, and nothing else.
"""

import contextlib
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from stormbreak.batch.durable import AppendFile, OutputError, remove, replacing
from stormbreak.batch.files import Files
from stormbreak.batch.lines import (
    Failure,
    Index,
    Response,
    entries,
    failure_line,
    placed,
    success_line,
)
from stormbreak.batch.plain import path_of, quoted, reason
from stormbreak.batch.row import Row
from stormbreak.errors import ConfigurationError
from stormbreak.types import TREATMENTS, Verdict

_LEFT: Final = 0
_DONE: Final = 1
_FAILED: Final = 2  # but may be tried again
_REFUSED: Final = 3  # for good: sent again, it would fail again

_UNSENT = frozenset({Verdict.REJECTED, Verdict.CANCELLED})


class Journal:
    """The rows of one OUTPUT and its failed file. Whoever opens it holds the lock.

    `succeed` and `fail` belong to one thread, where they take some 10 us; `flush` blocks, belongs in another
    (`await asyncio.to_thread(journal.flush)`), and should be called at most 100 ms after a line was written.
    """

    def __init__(self, files: Files, rows: Index) -> None:
        """Read back what earlier runs wrote, and mend a torn last line.

        Raises ConfigurationError, and changes nothing, if a file holds anything else.
        """
        self._files = files
        self._rows = rows
        self._states = bytearray(len(rows))
        # The state before and after each line that is written but not durable yet.
        self._pending: list[tuple[int, int]] = []
        self._flushing = threading.Lock()
        self._output = AppendFile(files.output)
        self._failed = AppendFile(files.failed)
        failed_end = self._replay(files.failed, _FAILED)
        output_end = self._replay(files.output, _DONE)
        self.done = self._states.count(_DONE)
        self.failed = self._states.count(_FAILED) + self._states.count(_REFUSED)
        self._output.mend(output_end)
        if files.failed.exists():
            self._failed.mend(failed_end)

    @property
    def pending(self) -> int:
        """Lines written that are not durable yet."""
        return len(self._pending)

    def left(self) -> Iterator[int]:
        """Yield the rows without an answer, in input order, but for those that failed for good.

        Reads the states as they are when it gets there: one pass per run, or rows still under way come twice.
        """
        for index, state in enumerate(self._states):
            if state in (_LEFT, _FAILED):
                yield index

    def succeed(self, row: Row, response: Response) -> None:
        """Write the answer to `row`. A second answer is a mistake of the caller's (ValueError)."""
        self._require_unanswered(row)
        self._output.append(success_line(row.custom_id, response))
        self._move(row.index, _DONE)

    def fail(self, row: Row, failure: Failure, response: Response | None = None) -> None:
        """Write that `row` failed, and what the provider said, if it did."""
        self._require_unanswered(row)
        self._failed.append(failure_line(row.custom_id, failure, response))
        self._move(row.index, _failed_state(failure.verdict))

    def flush(self) -> int:
        """Make durable and count what was written before the call; return the number of lines."""
        with self._flushing:
            count = len(self._pending)
            self._output.sync()
            self._failed.sync()
            moves = self._pending[:count]
            self.done += sum(after == _DONE for _, after in moves)
            self.failed += sum((after >= _FAILED) - (before >= _FAILED) for before, after in moves)
            del self._pending[:count]
            return count

    def compact_failed(self) -> None:
        """Leave in the failed file the last line of each row that is still unanswered; no line, no file."""
        self.flush()
        self._failed.close()
        path = self._files.failed
        if _FAILED not in self._states and _REFUSED not in self._states:
            self._drop_failed()
            return
        ends = array("Q", bytes(8 * len(self._states)))
        for index, entry in placed(path, self._rows):
            ends[index] = entry.end
        with replacing(path) as file:
            for index, entry in placed(path, self._rows):
                if ends[index] == entry.end and self._states[index] >= _FAILED:
                    file.write(entry.raw)

    def close(self) -> None:
        """Flush, and let go of the files; more than once is fine."""
        with contextlib.ExitStack() as always:
            always.callback(self._failed.close)
            always.callback(self._output.close)
            self.flush()

    def _replay(self, path: Path, state: int) -> int:
        """Take in the lines of `path`; return where the last complete one ends."""
        end = 0
        for index, entry in placed(path, self._rows):
            if state == _DONE:
                self._check_answer(path, entry.number, entry.custom_id, entry.verdict, index)
            self._states[index] = _failed_state(entry.verdict) if state == _FAILED else state
            end = entry.end
        return end

    def _check_answer(
        self, path: Path, number: int, custom_id: str, verdict: str | None, index: int
    ) -> None:
        where = f"{path_of(path)}:{number}"
        if verdict is not None:
            raise ConfigurationError(
                f"{where}: a failure, which belongs in {path_of(self._files.failed)}"
            )
        if self._states[index] == _DONE:
            first = next(entry.number for entry in entries(path) if entry.custom_id == custom_id)
            said = f"custom_id {quoted(custom_id)} is answered on line {first} already"
            raise ConfigurationError(f"{where}: {said}")

    def _require_unanswered(self, row: Row) -> None:
        if self._states[row.index] == _DONE:
            raise ValueError(f"row {row.index} is answered already")

    def _move(self, index: int, state: int) -> None:
        self._pending.append((self._states[index], state))
        self._states[index] = state

    def _drop_failed(self) -> None:
        try:
            remove(self._files.failed)
        except OSError as error:
            raise OutputError(f"{path_of(self._files.failed)}: {reason(error)}") from error


def _failed_state(verdict: str | None) -> int:
    """Tell failures that another run may mend from those that it would only repeat."""
    known = Verdict(verdict) if verdict in set(Verdict) else None
    if known is None or known in _UNSENT:
        return _FAILED
    return _FAILED if TREATMENTS[known].retry else _REFUSED
