"""Read access logs: times of requests and, where a line has them, latencies and statuses.

The first line decides the form: combined (nginx and Apache), JSON lines, CSV below a header, or one time a line.
Files may be gzipped. Unreadable lines are counted and skipped; too many of them are an error.
"""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from io import BufferedReader, TextIOWrapper
from itertools import pairwise, zip_longest
from math import isfinite
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, TypeAlias

from stormbreak import file_reader
from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import quoted
from stormbreak.provider.chance import mix, uniform
from stormbreak.provider.field_ranges import MAX_SECONDS
from stormbreak.storm.traffic import MAX_CALLS

MAX_UNREADABLE = 0.05  # largest share of lines that may be unreadable
_MAX_LINE = 2**20  # characters
_SHOWN = 3  # unreadable lines that are named
_HOPELESS = 1000  # unreadable lines after which reading may stop early

TimeIs: TypeAlias = Literal["start", "end"]
Unit: TypeAlias = Literal["s", "ms", "us", "ns"]
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}

_TIMES = ("time", "timestamp", "@timestamp", "ts", "at", "msec", "time_iso8601", "time_local")
_LATENCIES = ("latency", "duration", "request_time", "latency_ms", "duration_ms")
_STATUSES = ("status", "status_code")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Names of fields; None: the usual names. `unit` is that of latencies; None: derive it from the name and form."""

    time: str | None = None
    latency: str | None = None
    status: str | None = None
    unit: Unit | None = None


class Entry(NamedTuple):
    """One request. `at` is its arrival, in seconds from the first; status 0: the client got no answer."""

    at: float
    latency: float | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The readable lines, in order of arrival.

    `unreadable` holds the first of the `left_out` lines, each with its number and error. `time_is` says whether a line
    has the start or the end of its request. `whole_seconds`: times within a second are random.
    """

    path: str
    entries: tuple[Entry, ...]
    lines: int
    left_out: int
    unreadable: tuple[tuple[int, str], ...]
    time_is: TimeIs
    whole_seconds: bool

    @property
    def warning(self) -> str | None:
        """Name the lines that were left out, and the error in the first."""
        if not self.left_out:
            return None
        (first, why), *others = self.unreadable
        named = "".join(f", {number}" for number, _ in others)
        more = f" and {self.left_out - _SHOWN:,} more" * (self.left_out > _SHOWN)
        counted = f"{self.left_out:,} of {self.lines:,} lines are left out"
        return f"{self.path}: {counted}: {first} ({why}){named}{more}"


def read_log(
    path: str | Path, fields: Fields | None = None, *, time_is: TimeIs | None = None
) -> Log:
    """Read a log, which may be gzipped.

    Args:
        path: of the file.
        fields: names of fields, in JSON lines, CSV, and `name=value` at the end of combined lines.
        time_is: "end" if a line has the time of the answer, as in nginx; "start" if it has the time of the request, as
            in Apache. By default, the order of the lines decides: servers write a line when a request ends.

    Raises:
        ConfigurationError: too many lines are unreadable, or the file has no lines or too many.
    """
    lines = _Lines(str(path))
    try:
        with file_reader.opened(path) as file, _text(file) as text:
            rows = list(_rows(text, lines, fields or Fields()))
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise ConfigurationError(f"{path}: a damaged gzip file") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    lines.check()
    if not rows:
        raise ConfigurationError(f"{path}: has no arrivals")
    whole = _whole_seconds(rows)
    found = time_is or _order(rows, 1.0 if whole else 0.0)
    rows = _spread(rows) if whole else rows
    return Log(
        path=str(path),
        entries=_entries(rows, found, str(path)),
        lines=lines.count,
        left_out=lines.left_out,
        unreadable=tuple(lines.named),
        time_is=found,
        whole_seconds=whole,
    )


# ---------------------------------------------------------------- lines


@dataclass(slots=True, eq=False)
class _Lines:
    """Counts the lines of a file, and those that cannot be read."""

    path: str
    count: int = 0  # without blank ones
    left_out: int = 0
    named: list[tuple[int, str]] = field(default_factory=list)

    def leave_out(self, number: int, why: str) -> None:
        """Count a line that cannot be read. Raises ConfigurationError if the file is hopeless."""
        self.left_out += 1
        if len(self.named) < _SHOWN:
            self.named.append((number, why))
        if self.left_out == _HOPELESS:
            self.check()

    def check(self) -> None:
        """Raise ConfigurationError if too many lines cannot be read."""
        if self.left_out > MAX_UNREADABLE * self.count:
            counted = f" ({self.left_out:,} of {self.count:,} lines cannot be read)"
            number, why = self.named[0]
            raise ConfigurationError(f"{self.path}:{number}: {why}{counted * (self.count > 1)}")


def _text(file: BufferedReader) -> TextIOWrapper:
    zipped = file.peek(2)[:2] == b"\x1f\x8b"
    raw = BufferedReader(gzip.GzipFile(fileobj=file)) if zipped else file
    return TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="")


_Values: TypeAlias = tuple[str, float | None, int | None]
_Parse: TypeAlias = Callable[[str], _Values]  # the time as it is written, latency, status


def _rows(file: IO[str], lines: _Lines, fields: Fields) -> Iterator[Entry]:
    """Yield the readable lines; their times are seconds of some clock."""
    parse: _Parse | None = None
    clock = _Clock()
    for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE + 1), ""), 1):
        if not line.strip():
            continue
        lines.count += 1
        try:
            if parse is None:
                header, parse = _form(_bounded(line), fields, f"{lines.path}:{number}")
                if header:
                    lines.count -= 1
                    continue
            time, latency, status = parse(_bounded(line))
            row = Entry(clock.seconds(time), latency, status)
        except _UnreadableError as error:
            lines.leave_out(number, str(error))
        else:
            yield row
            if lines.count - lines.left_out > MAX_CALLS:
                raise ConfigurationError(
                    f"{lines.path}: must have at most {MAX_CALLS:,} arrivals, has more"
                )


class _UnreadableError(ValueError):
    """Why a line cannot be read."""


def _bounded(line: str) -> str:
    if len(line) > _MAX_LINE:
        raise _UnreadableError(f"longer than {_MAX_LINE:,} characters")
    return line.strip()


def _form(line: str, fields: Fields, where: str) -> tuple[bool, _Parse]:
    """Choose the parser by the first line, which may be a header; ConfigurationError if a given name is missing."""
    if line.startswith("{"):
        return False, lambda line: _values(fields, _json_object(line))
    if _COMBINED.match(line):
        return False, partial(_combined_row, fields)
    names = _cells(line)
    if fields.time is None and not any(name in names for name in _TIMES):
        return False, lambda line: (line, None, None)
    for given in (fields.time, fields.latency, fields.status):
        if given is not None and given not in names:
            known = ", ".join(map(quoted, names))
            message = f"{where}: no column is named {quoted(given)}; columns: {known}"
            raise ConfigurationError(message)
    return True, lambda line: _values(fields, _csv_row(names, line))


# ---------------------------------------------------------------- JSON lines and CSV


def _values(fields: Fields, row: Mapping[str, Any]) -> _Values:
    time = _named(row, fields.time, _TIMES)
    if time is None:
        raise _UnreadableError(f"has no field {quoted(fields.time or _TIMES[0])}")
    latency = _named(row, fields.latency, _LATENCIES)
    status = _named(row, fields.status, _STATUSES)
    return (
        str(row[time]),
        None if latency is None else _latency(row[latency], latency, fields.unit),
        None if status is None else _status(row[status]),
    )


def _named(names: Iterable[str], given: str | None, usual: Sequence[str]) -> str | None:
    wanted = usual if given is None else (given,)
    return next((name for name in wanted if name in names), None)


def _json_object(line: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise _UnreadableError("invalid JSON") from None
    if not isinstance(found, dict):
        raise _UnreadableError("must be a JSON object")
    return found


def _csv_row(names: Sequence[str], line: str) -> Mapping[str, str]:
    """Return the cells by column. A missing cell is empty; if two columns have the same name, the first counts."""
    cells = zip_longest(names, _cells(line)[: len(names)], fillvalue="")
    return dict(reversed([*cells]))


def _cells(line: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line.rstrip("\r\n")]))]
    except csv.Error:
        raise _UnreadableError("not valid CSV") from None


# ---------------------------------------------------------------- combined
# host - user [29/Nov/2026:06:48:32 +0000] "POST / HTTP/1.1" 200 512 "-" "agent" 0.123 rt=0.123

_TEXT = r'"(?:[^"\\]|\\.)*"'
_COMBINED = re.compile(rf"\S+ \S+ .*?\[([^\]]+)\] {_TEXT} (\d{{3}}|-) \S+(?: {_TEXT} {_TEXT})?(.*)")
_EXTRA = re.compile(r'(?:([\w.]+)[=:])?"?([0-9]+(?:\.[0-9]+)?)"?(?![\w.])')


def _combined_row(fields: Fields, line: str) -> _Values:
    found = _COMBINED.match(line)
    if found is None:
        raise _UnreadableError("not a line in the combined form of nginx and Apache")
    time, status, rest = found.groups()
    return time, _extra_latency(fields, rest), _status(status)


def _extra_latency(fields: Fields, rest: str) -> float | None:
    """Find the latency behind the combined form: the field of that name, or the first number.

    Seconds have a fraction in nginx ($request_time); a whole number is Apache's %D, microseconds.
    """
    for name, text in _EXTRA.findall(rest):
        if fields.latency is None or name == fields.latency:
            unit = fields.unit or ("s" if "." in text else "us")
            return float(text) * UNITS[unit]
    return None


# ---------------------------------------------------------------- values

_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_CLF_TIME = re.compile(r"(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d:\d\d:\d\d) ([+-]\d{4})")


class _Clock:
    """Reads times: the times of one log are all numbers of seconds, or all dates."""

    def __init__(self) -> None:
        self._dates: bool | None = None

    def seconds(self, text: str) -> float:
        """Return seconds of some clock, or since 1970. Times without a zone are taken to share one."""
        try:
            number = None if self._dates else float(text)
        except ValueError:
            number = None
        if number is None and self._dates is not False:
            number, self._dates = _date(text), True
        elif number is None or not isfinite(number):
            raise _UnreadableError(f"must be a number of seconds, got {quoted(text)}")
        else:
            self._dates = False
        return number


@lru_cache(maxsize=64)  # neighbouring lines share a second
def _date(text: str) -> float:
    found = _CLF_TIME.fullmatch(text)
    try:
        if found is not None:
            day, month, year, clock, zone = found.groups()
            text = f"{year}-{_MONTHS.index(month) + 1:02}-{day}T{clock}{zone}"
        time = datetime.fromisoformat(text)
    except ValueError:
        raise _UnreadableError(
            f"must be a time in ISO 8601, or seconds, got {quoted(text)}"
        ) from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _latency(value: object, name: str, unit: Unit | None) -> float | None:
    """Return seconds; None for an empty value or `-`."""
    text = str(value).strip()
    if text in {"", "-", "None"}:
        return None
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise _UnreadableError(f"{quoted(name)} must be a latency, got {quoted(text)}")
    suffix = name.rpartition("_")[2]
    return number * UNITS[unit or (suffix if suffix in UNITS else "s")]


def _status(value: object) -> int:
    """Return an HTTP status; 0 if there was no answer."""
    text = str(value).strip()
    if text in {"", "-", "None"}:
        return 0
    if not (text.isdecimal() and len(text) <= 3):
        raise _UnreadableError(f"must be an HTTP status, got {quoted(text)}")
    return int(text)


# ---------------------------------------------------------------- arrivals

_SINCE_1970 = 1e8  # seconds; a smaller number is not a date, so it is exact
_SALT = 0x5EC0


def _whole_seconds(rows: Sequence[Entry]) -> bool:
    """Whether the log has dates without a fraction, some of them several times."""
    times = {row.at for row in rows}
    dates = all(time >= _SINCE_1970 and time.is_integer() for time in times)
    return dates and len(times) < len(rows)


def _spread(rows: Sequence[Entry]) -> list[Entry]:
    """Spread the lines of each second over it at random, in their order.

    Given their number, the arrivals of a Poisson process are independent and uniform (Kingman, "Poisson Processes",
    1993, section 2.4). Without spreading, the calls of a second would arrive as a herd that did not exist.
    """
    seconds: dict[float, list[int]] = {}
    for place, row in enumerate(rows):
        seconds.setdefault(row.at, []).append(place)
    spread = list(rows)
    for second, places in seconds.items():
        draws = sorted(uniform(mix(_SALT + mix(place))) for place in places)
        for place, draw in zip(places, draws, strict=True):
            spread[place] = rows[place]._replace(at=second + draw)
    return spread


def _order(rows: Sequence[Entry], resolution: float) -> TimeIs:
    """Tell whether the times are starts or ends. A line is written when a request ends, so ends are in order.

    With whole seconds, the sum of a start and a latency may be a second too low.
    """
    times = [row.at for row in rows]
    ends = [row.at + (row.latency or 0.0) for row in rows]
    return "start" if _disorder(ends, resolution) < _disorder(times, 0.0) else "end"


def _disorder(times: Sequence[float], tolerance: float) -> int:
    return sum(after < before - tolerance - 1e-3 for before, after in pairwise(times))


def _entries(rows: Sequence[Entry], time_is: TimeIs, path: str) -> tuple[Entry, ...]:
    arrivals = [row.at - (row.latency or 0.0) if time_is == "end" else row.at for row in rows]
    first, last = min(arrivals), max(arrivals)
    if last - first >= MAX_SECONDS:
        raise ConfigurationError(
            f"{path}: the arrivals must be within {MAX_SECONDS:,} s, got {last - first:,.0f} s"
            " (milliseconds are not seconds)"
        )
    found = [
        Entry(round(at - first, 6), row.latency, row.status)
        for at, row in zip(arrivals, rows, strict=True)
    ]
    return tuple(sorted(found, key=lambda entry: entry.at))
