"""Read a batch from its files, lazily and even during a run: answers, failures, progress and cost."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from msgspec import DecodeError, Raw, Struct
from msgspec.json import Decoder, decode
from msgspec.structs import asdict

from stormbreak.batch.store.lock import held
from stormbreak.batch.store.output_line import count_lines, entries, with_readable_numbers
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.store.provider_batches import BatchFolder
from stormbreak.batch.store.run_file import read_existing_run
from stormbreak.cost.accounts import Cost
from stormbreak.cost.price_source import PriceOf
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, plain
from stormbreak.llm.completeness import read_any
from stormbreak.types import Usage, html_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A row with its answer. `raw` is the provider's JSON body; the repr omits it, since it may repeat a prompt.

    `answered_by` names the fallback that answered, if one did; `attempts` are those of the run that got the answer.
    `service_tier` is "batch" for an answer of the provider's own batch API.
    """

    custom_id: str
    status: int
    request_id: str | None
    answered_by: str | None
    attempts: int = 1
    service_tier: str | None = None
    raw: bytes = field(repr=False)

    def _repr_html_(self) -> str | None:
        """Return the text for a notebook; None (then it shows the repr) unless `Answer.show_in_notebooks`."""
        return html_of(self.text)

    @property
    def text(self) -> str:
        """The text of the first choice, in any API's format; embeddings have none."""
        return read_any(self.raw).text

    @property
    def usage(self) -> Usage:
        """Tokens as the provider counted them; all zero if it reports none."""
        return read_any(self.raw).usage

    def json(self) -> Any:
        """Decode the body. A number that is too large becomes a string."""
        try:
            return decode(self.raw)
        except DecodeError:
            return decode(with_readable_numbers(self.raw))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A row without an answer. `message` is stormbreak's own, `retry_at` is unix time.

    `attempts` count over all runs; `maybe_processed` of them may have been billed. `raw` is the provider's last
    response, if there was one.
    """

    custom_id: str
    verdict: str
    code: str
    message: str
    attempts: int
    maybe_processed: int
    retry_at: float | None
    raw: bytes | None = field(repr=False)


class _Response(Struct):
    status_code: int = 0
    request_id: str | None = None
    body: Raw = Raw(b"null")


class _Error(Struct):
    verdict: str = "unknown"
    code: str = ""
    message: str = ""
    attempts: int = 0
    maybe_processed: int = 0
    retry_at: float | None = None


class _Line(Struct):
    custom_id: str
    response: _Response | None = None
    error: _Error | None = None
    answered_by: str | None = None
    attempts: int = 1
    service_tier: str | None = None


_LINE = Decoder(_Line)


def read_answers(output: str | PathLike[str]) -> Iterator[Answered]:
    """Read the answers in OUTPUT, in file order; none if there is no such file.

    Raises ConfigurationError if a line is not batch output; names it.
    """
    return map(_answered, _lines(BatchPaths.of(Path(output)).output))


def read_failures(output: str | PathLike[str]) -> Iterator[Failed]:
    """Read the failed file next to OUTPUT; none if nothing failed.

    During a run, or after a killed one, it may hold a row that is already answered, or a row twice. Raises
    ConfigurationError if a line is not batch output; names it.
    """
    return map(_failed, _lines(BatchPaths.of(Path(output)).failed))


def parse_result(raw: bytes) -> Answered | Failed:
    """Parse a line of OUTPUT or of the failed file. Raises ValueError if it is not one."""
    line = _LINE.decode(raw)
    return _answered(line) if line.error is None else _failed(line)


def _answered(line: _Line) -> Answered:
    response = line.response or _Response()
    return Answered(
        custom_id=line.custom_id,
        status=response.status_code,
        request_id=response.request_id,
        answered_by=line.answered_by,
        attempts=line.attempts,
        service_tier=line.service_tier,
        raw=bytes(response.body),
    )


def _failed(line: _Line) -> Failed:
    raw = None if line.response is None else bytes(line.response.body)
    return Failed(custom_id=line.custom_id, raw=raw, **asdict(line.error or _Error()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Counts of rows, `failed` by verdict. `active`: a run is writing now. `started_at` is unix time.

    Of the rows that are left or failed, `submitted` are in batches at the provider (`batch submit`).
    """

    input: str
    output: str
    active: bool
    started_at: float
    total: int
    done: int
    failed: Mapping[str, int]
    left: int
    submitted: int = 0
    cost: Cost


def read_status(output: Path, price_of: PriceOf) -> Status:
    """Read the progress of the batch that writes `output`, and its cost at these prices."""
    files = BatchPaths.of(output)
    run = read_existing_run(files)
    active = held(files)
    done, failed = count_rows(files)
    return Status(
        input=run.source,
        output=str(output),
        active=active,
        started_at=run.started_at,
        total=run.rows,
        done=done,
        failed=failed,
        left=max(0, run.rows - done - sum(failed.values())),
        submitted=sum(len(b.ranges) for b in BatchFolder(files).read() if b.is_open),
        cost=run.account.cost(price_of),
    )


def count_rows(files: BatchPaths) -> tuple[int, Mapping[str, int]]:
    # The failed file first: an answer written meanwhile then overrides it, and no row counts twice.
    failed = {
        entry.custom_id: sys.intern(plain(entry.verdict or "unknown"))
        for entry in entries(files.failed)
    }
    if not failed:
        return count_lines(files.output), {}
    done = 0
    for entry in entries(files.output):
        done += 1
        failed.pop(entry.custom_id, None)
    return done, dict(Counter(failed.values()).most_common())


def _lines(path: Path) -> Iterator[_Line]:
    for entry in entries(path):
        try:
            yield _LINE.decode(entry.raw)
        except DecodeError as error:  # it names a type and a path, never a value
            where = f"{path_of(path)}:{entry.number}"
            raise ConfigurationError(f"{where}: not a line of batch output: {error}") from None
