"""Read a file of real usage: detect its format by its content; read OpenAI's usage pages and CSV exports."""

import csv
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from stormbreak import file_reader
from stormbreak.core.checks import shown
from stormbreak.cost.token_prices import Service, Tokens
from stormbreak.cost.usage_records import Counted, Kind, Traffic, is_line, read_answers, sum_usage
from stormbreak.errors import ConfigurationError, errors_at

# ---------------------------------------------------------------- OpenAI usage: API pages and CSV
# The API separates models only with `group_by=model`, and `batch` and `service_tier` only if `group_by` has them too.
# Days without usage are rows without a model.

_NEEDED = ("model", "input_tokens", "output_tokens")
_COUNTS = (
    "input_tokens", "output_tokens", "input_cached_tokens", "input_cache_write_tokens", "num_model_requests",
)  # fmt: skip
_RESULT = "organization.usage.completions.result"
_SERVICES = {"flex": Service.FLEX, "priority": Service.PRIORITY}
_MAX_TOKENS = 10**15  # tokens in one row
_MODELS = "models are not separated: export with group_by=model"


class _Bucket(msgspec.Struct):
    start_time: int
    end_time: int
    results: list[dict[str, Any]]


class _Page(msgspec.Struct):
    data: list[_Bucket]
    has_more: bool = False


_READ_PAGES = msgspec.json.Decoder(list[_Page] | _Page).decode


def read_pages(raw: bytes) -> Traffic:
    """Read a page of the API, or a list of pages. Raises ConfigurationError."""
    try:
        pages = _READ_PAGES(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ConfigurationError(
            "not the output of a batch, a page of OpenAI's usage API, or its CSV"
        ) from None
    several = pages if isinstance(pages, list) else [pages]
    buckets = [bucket for page in several for bucket in page.data]
    more = bool(several) and several[-1].has_more
    return Traffic(
        uses=sum_usage(_of_buckets(buckets)),
        since=_day(min((bucket.start_time for bucket in buckets), default=None)),
        until=_day(max((bucket.end_time for bucket in buckets), default=None)),
        notes=("This export has more pages (has_more) that are not in the file.",) if more else (),
    )


def read_csv(text: str) -> Traffic:
    """Read the CSV of the dashboard. Raises ConfigurationError."""
    rows = csv.DictReader(StringIO(text, newline=""))
    days: list[int] = []
    try:
        missing = [name for name in _NEEDED if name not in (rows.fieldnames or ())]
        if missing:
            raise ConfigurationError(
                f"no column {', '.join(missing)}: not OpenAI's export of usage"
            )
        uses = sum_usage(_of_rows(rows, days))
    except csv.Error as error:
        raise ConfigurationError(f"line {rows.reader.line_num}: broken CSV: {error}") from None
    return Traffic(
        uses=uses, since=_day(min(days, default=None)), until=_day(max(days, default=None))
    )


def _of_buckets(buckets: list[_Bucket]) -> Iterator[Counted]:
    for place, bucket in enumerate(buckets):
        for number, result in enumerate(bucket.results):
            where = f"data[{place}].results[{number}]"
            if result.get("object", _RESULT) != _RESULT:
                raise ConfigurationError(f"{where}.object must be {_RESULT}")
            yield from _counted(result, where)


def _of_rows(rows: "csv.DictReader[str]", days: list[int]) -> Iterator[Counted]:
    """Read each row; append its times to `days`."""
    for row in rows:
        where = f"line {rows.line_num}"
        if None in row or None in row.values():  # such as a number with a comma
            raise ConfigurationError(f"{where} has more or fewer cells than the header")
        times = ((name, row.get(name)) for name in ("start_time", "end_time"))
        days.extend(_whole(time, f"{where}: {name}") for name, time in times if time)
        yield from _counted(row, where)


def _counted(row: Mapping[str, Any], where: str) -> Iterator[Counted]:
    """Yield the counts of one row; nothing without usage."""
    entry, output, cached, written, requests = (
        _whole(row.get(name), f"{where}: {name}") for name in _COUNTS
    )
    if not entry and not output:
        return
    model = row.get("model")
    if not isinstance(model, str) or not model:
        raise ConfigurationError(f"{where}: {_MODELS}")
    batch = str(row.get("batch")).lower() == "true"
    tier = _SERVICES.get(str(row.get("service_tier")), Service.STANDARD)
    kind = Kind(model, Service.BATCH if batch else tier)
    cached = min(cached, entry)
    tokens = Tokens(entry, output, cached, min(written, entry - cached))
    yield Counted(kind, tokens, requests or 1)


def _whole(value: Any, where: str) -> int:
    """A count, which the CSV writes as 10.0; empty is 0."""
    if value in (None, ""):
        return 0
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        number = Decimal("NaN")
    if not (number.is_finite() and 0 <= number <= _MAX_TOKENS and number == int(number)):
        raise ConfigurationError(f"{where} must be a count, got {shown(value, longest=40)}")
    return int(number)


def _day(at: int | None) -> date | None:
    try:
        return None if at is None else datetime.fromtimestamp(at, UTC).date()
    except (OverflowError, ValueError, OSError):
        return None


LARGEST = 256 * 1024 * 1024  # bytes of an export; OUTPUT may be of any size


def read_traffic(path: Path) -> Traffic:
    """Read OUTPUT of a batch, or an export from OpenAI.

    Raises ConfigurationError if it cannot be read, is neither, or is empty; the message names the file.
    """
    with errors_at(path):
        try:
            traffic = _read(path)
        except OSError as error:
            raise ConfigurationError(f"cannot be read: {error.strerror}") from None
        if not traffic.uses:
            raise ConfigurationError("has no answers and no usage")
    return traffic


def _read(path: Path) -> Traffic:
    """Read the file once, from the start: it may be a pipe."""
    with file_reader.opened(path) as file:
        first = file.readline(LARGEST)
        if is_line(first):
            return Traffic(uses=sum_usage(read_answers(chain([first], file))))
        raw = (first + file.read(LARGEST + 1)).removeprefix(BOM_UTF8)
    if not raw.strip():
        return Traffic(uses=())
    if len(raw) > LARGEST:
        raise ConfigurationError(f"too large for an export of usage: more than {LARGEST:,} bytes")
    if raw.lstrip()[:1] in (b"{", b"["):
        return read_pages(raw)
    try:
        return read_csv(raw.decode())
    except UnicodeDecodeError:
        raise ConfigurationError("not UTF-8 text") from None
