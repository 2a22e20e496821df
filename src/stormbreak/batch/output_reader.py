"""What came of rows, read back from OUTPUT and the failed file: lazily, a line at a time, also while a run is at work."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from msgspec import DecodeError, Raw, Struct
from msgspec.json import Decoder, decode

from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.store.record import entries, with_readable_numbers
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of
from stormbreak.llm.completeness import read_any
from stormbreak.types import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A row with its answer. `raw` is the provider's JSON body; it is not in the repr, since it may repeat a prompt.

    `answered_by` says who answered, where it was not the target that was asked first.
    """

    custom_id: str
    status: int
    request_id: str | None
    answered_by: str | None
    raw: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """What the model wrote, in whatever format; of several choices the first. Embeddings have none."""
        return read_any(self.raw).text

    @property
    def usage(self) -> Usage:
        """Tokens, as the provider counted them; all zero where it does not say."""
        return read_any(self.raw).usage

    def json(self) -> Any:
        """The body, decoded. A number that is too large is a string."""
        try:
            return decode(self.raw)
        except DecodeError:
            return decode(with_readable_numbers(self.raw))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A row without an answer. `message` is in our own words, `retry_at` is unix time.

    Of the `attempts` over all runs, so many as `maybe_processed` may have been processed, and billed. `raw` is what the
    provider said last, if it said anything.
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


_LINE = Decoder(_Line)


def read_answers(output: str | PathLike[str]) -> Iterator[Answered]:
    """Read the answers in OUTPUT, in the order in which they stand there; none if there is no such file.

    Raises:
        ConfigurationError: a line is none of a batch; says which.
    """
    for line in _lines(BatchPaths.of(Path(output)).output):
        response = line.response or _Response()
        yield Answered(
            custom_id=line.custom_id,
            status=response.status_code,
            request_id=response.request_id,
            answered_by=line.answered_by,
            raw=bytes(response.body),
        )


def read_failures(output: str | PathLike[str]) -> Iterator[Failed]:
    """Read the failed file beside OUTPUT as the last run left it; none if nothing failed.

    While a run is at work, or after one that was killed, a row may stand there that is answered by now, or twice.

    Raises:
        ConfigurationError: a line is none of a batch; says which.
    """
    for line in _lines(BatchPaths.of(Path(output)).failed):
        error = line.error or _Error()
        yield Failed(
            custom_id=line.custom_id,
            verdict=error.verdict,
            code=error.code,
            message=error.message,
            attempts=error.attempts,
            maybe_processed=error.maybe_processed,
            retry_at=error.retry_at,
            raw=None if line.response is None else bytes(line.response.body),
        )


def _lines(path: Path) -> Iterator[_Line]:
    for entry in entries(path):
        try:
            yield _LINE.decode(entry.raw)
        except DecodeError as error:  # it names a type and a path, no value
            where = f"{path_of(path)}:{entry.number}"
            raise ConfigurationError(f"{where}: not a line of batch output: {error}") from None
