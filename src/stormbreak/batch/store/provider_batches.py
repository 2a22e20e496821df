"""The batches of one OUTPUT at a provider's own batch API: a file for each in `out.jsonl.batches/`, replaced before and after each step.

    planned -> uploading -> uploaded -> creating -> running -> ended -> done

If a process is killed after it wrote `uploading` or `creating`, its request may have arrived. The next process looks
for it at the provider, by its token, before it sends another. APIs without uploads go from `planned` to `creating`.

The rows of a batch that is not `done` are not sent in any other way. The files hold no prompts and no keys.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from enum import StrEnum
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, Self

from msgspec import DecodeError, Struct
from msgspec.json import Decoder, encode
from msgspec.structs import replace

from stormbreak import file_reader
from stormbreak.batch.store.durable_file import PRIVATE, remove, replacing
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, system_errors_at

VERSION = 1


class Step(StrEnum):
    """The last step that began."""

    PLANNED = "planned"  # nothing was sent
    UPLOADING = "uploading"
    UPLOADED = "uploaded"
    CREATING = "creating"
    RUNNING = "running"  # the provider has it
    ENDED = "ended"  # the provider has stopped working on it
    DONE = "done"  # its results are in the journal


class Counts(Struct, frozen=True, kw_only=True):
    """Rows of a batch by result, as the provider counts them."""

    total: int = 0
    succeeded: int = 0
    failed: int = 0
    unprocessed: int = 0  # expired or cancelled, if it says so

    @property
    def results(self) -> int:
        return self.succeeded + self.failed


class RowRanges:
    """A set of row indices as ascending ranges: start, stop, start, stop, ..."""

    def __init__(self, bounds: Sequence[int]) -> None:
        self.bounds = tuple(bounds)
        self._starts, stops = self.bounds[::2], self.bounds[1::2]
        lengths = (stop - start for start, stop in zip(self._starts, stops, strict=True))
        self._ends = tuple(accumulate(lengths))  # counted rows up to the end of each range

    @classmethod
    def of(cls, indices: Iterable[int]) -> Self:
        bounds: list[int] = []
        for index in indices:
            if bounds and bounds[-1] == index:
                bounds[-1] = index + 1
            else:
                bounds += (index, index + 1)
        return cls(bounds)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[int]:
        pairs = zip(self._starts, self.bounds[1::2], strict=True)
        return chain.from_iterable(range(*pair) for pair in pairs)

    def __contains__(self, index: int) -> bool:
        return bisect_right(self.bounds, index) % 2 == 1

    def at(self, number: int) -> int | None:
        """Return the row on line `number`, from 1; None if there is no such line."""
        if not 1 <= number <= len(self):
            return None
        place = bisect_right(self._ends, number - 1)
        return self.bounds[2 * place + 1] - self._ends[place] + number - 1


class RemoteBatch(Struct, frozen=True, kw_only=True):
    """A batch at a provider. `token` is ours: it is in the ids of its requests, and in other searchable places.

    `rows` are ranges, `size` bytes were planned. It costs at most `max_usd`, if there is a spend limit. `began` is
    the unix time of its last step. `status` and `counts` are the last ones from the provider; `outputs` are the
    endpoints of its results, `errors` are codes if it failed as a whole.
    """

    number: int
    token: str
    base_url: str
    endpoint: str  # without /v1
    model: str
    rows: tuple[int, ...]
    size: int
    step: Step = Step.PLANNED
    began: float = 0.0
    max_usd: Decimal | None = None
    file: str = ""
    id: str = ""
    status: str = ""
    counts: Counts = Counts()
    outputs: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    version: int = VERSION

    @property
    def ranges(self) -> RowRanges:
        return RowRanges(self.rows)

    @property
    def is_open(self) -> bool:
        """Whether its rows must not be sent in any other way."""
        return self.step is not Step.DONE

    @property
    def is_there(self) -> bool:
        """Whether the provider has it and has not reported its end."""
        return self.step is Step.RUNNING


_DECODER = Decoder(RemoteBatch)


class BatchFolder:
    """The folder of the batches of one OUTPUT. Hold the lock of OUTPUT to save."""

    def __init__(self, files: BatchPaths) -> None:
        self._path = files.batches

    def read(self) -> list[RemoteBatch]:
        """Read all, oldest first; none if there is no folder.

        Raises ConfigurationError if a file is not ours, or cannot be read.
        """
        with system_errors_at(self._path):
            paths = sorted(self._path.glob("*.json"))
        return [_read(path) for path in paths]

    def path_of(self, batch: RemoteBatch, suffix: str = ".json") -> Path:
        return self._path / f"{batch.number:04}{suffix}"

    def save(self, batch: RemoteBatch, **changes: Any) -> RemoteBatch:
        """Write a batch with these changes, durably; return it. If they change nothing, write nothing."""
        before, batch = batch, replace(batch, **changes)
        if changes and batch == before:
            return batch
        with system_errors_at(self._path):
            self._path.mkdir(mode=0o700, exist_ok=True)
        if self._path.is_symlink():
            raise ConfigurationError(f"{path_of(self._path)}: is a symbolic link; remove it")
        with replacing(self.path_of(batch)) as file:
            file.write(encode(batch) + b"\n")
        return batch

    def results_file(self, batch: RemoteBatch) -> Path:
        """Make an empty file for the results of a batch, readable for its owner only."""
        path = self.path_of(batch, ".results")
        with replacing(path):
            pass
        assert path.stat().st_mode & 0o777 == PRIVATE
        return path

    def drop_results(self, batch: RemoteBatch) -> None:
        remove(self.path_of(batch, ".results"))


def require_no_batches(files: BatchPaths) -> None:
    """Refuse to send rows while batches of this OUTPUT are open at a provider: the rows would be paid twice.

    Raises ConfigurationError that says what to do.
    """
    unfinished = [batch for batch in BatchFolder(files).read() if batch.is_open]
    if unfinished:
        rows = sum(len(batch.ranges) for batch in unfinished)
        out = path_of(files.table or files.output)
        what = f"{rows:,} of its rows are in {len(unfinished):,} batch(es) at the provider"
        how = f"wait for them and write their results: stormbreak batch fetch --wait {out}"
        raise ConfigurationError(f"{out}: {what}; {how}; or give them up: batch cancel")


def _read(path: Path) -> RemoteBatch:
    try:
        with system_errors_at(path):
            batch = _DECODER.decode(file_reader.read_bytes(path, what="a batch"))
    except (DecodeError, UnicodeDecodeError, RecursionError):
        raise ConfigurationError(f"{path_of(path)}: not a stormbreak batch") from None
    if batch.version != VERSION:
        why = f"written by another version of stormbreak (format {batch.version}, not {VERSION})"
        raise ConfigurationError(f"{path_of(path)}: {why}")
    return batch
