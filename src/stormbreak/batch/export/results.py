"""The result of each row as columns, read from the journal by offset, in any order, during a run or later."""

from array import array
from contextlib import AbstractContextManager, ExitStack
from decimal import Decimal
from functools import cache
from typing import BinaryIO, NamedTuple

from msgspec import DecodeError, Raw, Struct
from msgspec.json import Decoder, encode

from stormbreak import file_reader
from stormbreak.batch.input.index import Rows
from stormbreak.batch.store.output_line import placed
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.store.reader import Answered, Failed, parse_result
from stormbreak.cost.price_source import PriceOf, known_cost
from stormbreak.cost.token_prices import Service, at_service
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of
from stormbreak.llm.completeness import read_any
from stormbreak.llm.parsed_response import NO_USAGE
from stormbreak.types import Usage


class Result(NamedTuple):
    """The columns of one row; all null without a result. Cost in US dollars, null if the price is unknown."""

    answer: str | None = None
    error: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None
    attempts: int | None = None


class RowCounts(NamedTuple):
    """The rows of a table: all, those that failed, and those without a result yet."""

    rows: int
    failed: int
    left: int


RESULT_COLUMNS = Result._fields
_NOTHING_YET = Result()


class _Body(Struct):
    model: str | None = None


class _Item(Struct):
    embedding: Raw


class _Embeddings(Struct):
    data: list[_Item]


_BODY = Decoder(_Body)
_EMBEDDINGS = Decoder(_Embeddings)


class Results(AbstractContextManager["Results"]):
    """The results of the rows of one OUTPUT; 16 bytes of memory a row. A context that closes its files."""

    def __init__(self, files: BatchPaths, rows: Rows, *, provider: str, price_of: PriceOf) -> None:
        """Find the line of each row. `provider` is that of answers that did not come from a fallback.

        Raises ConfigurationError if a line is not batch output, or does not belong to a row.
        """
        self._files = files
        self._provider = provider
        self._price_of = cache(price_of)  # a lookup takes a millisecond
        # offset + 1 in OUTPUT; negative: in the failed file
        self._begins = array("q", bytes(8 * len(rows)))
        for path, sign in ((files.failed, -1), (files.output, 1)):  # an answer replaces a failure
            for index, entry in placed(path, rows):
                self._begins[index] = sign * (entry.offset + 1)
        self._open = ExitStack()
        self._sources: dict[bool, BinaryIO] = {}

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def __len__(self) -> int:
        return len(self._begins)

    def counts(self) -> RowCounts:
        """Count the rows by result."""
        failed = sum(begin < 0 for begin in self._begins)
        return RowCounts(len(self), failed, self._begins.count(0))

    def at(self, index: int) -> Result:
        begin = self._begins[index]
        if not begin:
            return _NOTHING_YET
        source = self._source(is_answer=begin > 0)
        source.seek(abs(begin) - 1)
        try:
            found = parse_result(source.readline())
        except DecodeError:
            raise ConfigurationError(
                f"{path_of(self._files.output)}: was changed meanwhile; export it again"
            ) from None
        if isinstance(found, Failed):
            return Result(error=_explained(found), attempts=found.attempts)
        return self._answered(found)

    def _source(self, *, is_answer: bool) -> BinaryIO:
        if is_answer not in self._sources:
            path = self._files.output if is_answer else self._files.failed
            self._sources[is_answer] = self._open.enter_context(file_reader.opened(path))
        return self._sources[is_answer]

    def _answered(self, answered: Answered) -> Result:
        parsed = read_any(answered.raw)
        model = _model(answered.raw)
        usage = parsed.usage if answered.attempts else NO_USAGE  # of another row, or of a cache
        return Result(
            answer=parsed.text or _embeddings(answered.raw) or "",
            model=model,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cost=self._cost(answered, usage, model),
            attempts=answered.attempts,
        )

    def _cost(self, answered: Answered, usage: Usage, model: str | None) -> float | None:
        if not usage.total:
            return 0.0 if not answered.attempts else None
        provider, _, of_fallback = (answered.answered_by or "").partition("/")
        if of_fallback:
            model = of_fallback
        else:
            provider = self._provider
        prices = self._price_of(provider, model or "")
        if answered.service_tier == Service.BATCH.value:
            prices = at_service(prices, Service.BATCH)
        usd: Decimal | None = known_cost(prices, usage)
        return None if usd is None else float(usd)


def _explained(failed: Failed) -> str:
    if failed.message in ("", failed.verdict):
        return failed.verdict
    return f"{failed.verdict}: {failed.message}"


def _model(raw: bytes) -> str | None:
    try:
        return _BODY.decode(raw).model
    except DecodeError:
        return None


def _embeddings(raw: bytes) -> str:
    """Return the numbers as JSON: one list, or a list for each input."""
    try:
        items = [item.embedding for item in _EMBEDDINGS.decode(raw).data]
    except DecodeError:
        return ""
    return encode(items[0] if len(items) == 1 else items).decode()
