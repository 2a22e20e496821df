"""Replace the calls of a scenario by the user's: from a log of arrivals, or a batch at once."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from io import TextIOWrapper
from math import floor, isfinite
from pathlib import Path
from statistics import fmean
from typing import IO

from stormbreak import toml_file
from stormbreak.errors import ConfigurationError
from stormbreak.key_patterns import quoted
from stormbreak.provider.field_ranges import MAX_SECONDS
from stormbreak.provider.scenario import Load, Scenario
from stormbreak.storm.traffic import MAX_CALLS

BATCH_DEADLINE = 3600.0  # seconds of each call, unless the scenario is a batch
BATCH_TIMEOUT = 60.0
_MAX_LINE = 2**20  # characters


def with_arrivals(scenario: Scenario, times: Sequence[float]) -> Scenario:
    """Return the scenario with calls at these times, in order; it lasts until the last arrival."""
    given = tuple(times)
    if scenario.load is None:
        load = Load(arrival_times=given)
    else:
        load = replace(
            scenario.load, rate=0.0, steps=(), bursts=(), arrival_times=given, arrival_tokens=()
        )
    return replace(scenario, load=load, duration=max(scenario.duration, floor(times[-1]) + 1.0))


def with_batch(scenario: Scenario, tokens: Sequence[int]) -> Scenario:
    """Return the scenario with a batch of calls with these `tokens`: one process, all at second 0.

    All of it is measured, not only the time after the trigger.
    """
    mine = scenario.load is not None and scenario.load.preset == "batch"
    load = Load(
        arrival_times=(0.0,) * len(tokens),
        arrival_tokens=tuple(tokens),
        tokens=fmean(tokens),
        preset="batch",
        deadline=scenario.load.deadline if mine and scenario.load else BATCH_DEADLINE,
        timeout=scenario.load.timeout if mine and scenario.load else BATCH_TIMEOUT,
    )
    return replace(scenario, load=load)


def read_arrivals(path: str | Path, *, column: str | None = None) -> list[float]:
    """Read a log of arrivals: seconds from the first, in order.

    Each line is a time: seconds (of any clock) or ISO 8601. With `column`, lines are JSON
    objects, or CSV below a header line, and the time is the field of this name.

    Raises:
        ConfigurationError: a line is not a time, there is none, or there are too many.
    """
    try:
        with TextIOWrapper(toml_file.opened(path), encoding="utf-8-sig", newline="") as file:
            times = _times(file, str(path), column)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: not UTF-8 text") from None
    if not times:
        raise ConfigurationError(f"{path}: has no arrivals")
    times.sort()
    first, last = times[0], times[-1]
    if last - first >= MAX_SECONDS:
        raise ConfigurationError(
            f"{path}: the arrivals must be within {MAX_SECONDS:,} s, got {last - first:,.0f} s"
            " (milliseconds are not seconds)"
        )
    return [round(at - first, 6) for at in times]


def _times(file: IO[str], path: str, column: str | None) -> list[float]:
    times: list[float] = []
    read: Callable[[str], float] | None = None
    for number, text in _time_texts(file, path, column):
        try:
            if read is None:
                read = _seconds if _is_number(text) else _parse_time
            times.append(read(text))
        except ValueError:
            kind = "a number of seconds" if read is _seconds else "a time in ISO 8601, or seconds"
            raise ConfigurationError(
                f"{path}:{number}: must be {kind}, got {quoted(text)}"
            ) from None
        if len(times) > MAX_CALLS:
            raise ConfigurationError(f"{path}: must have at most {MAX_CALLS:,} arrivals, has more")
    return times


def _time_texts(file: IO[str], path: str, column: str | None) -> Iterator[tuple[int, str]]:
    """Return the time text of each line, with the number of the line; blank lines are left out."""
    place: int | None = None  # of the column
    for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE + 1), ""), 1):
        where = f"{path}:{number}"
        if len(line) > _MAX_LINE:
            raise ConfigurationError(f"{where}: longer than {_MAX_LINE:,} characters")
        if not line.strip():
            continue
        if column is None:
            yield number, line.strip()
        elif line.lstrip().startswith("{"):
            yield number, _field(line, column, where)
        elif place is None:
            place = _place(_cells(line, where), column, where)
        else:
            cells = _cells(line, where)
            yield number, cells[place] if place < len(cells) else ""


def _place(names: list[str], column: str, where: str) -> int:
    if column in names:
        return names.index(column)
    known = ", ".join(map(quoted, names))
    raise ConfigurationError(f"{where}: no column is named {quoted(column)}; columns: {known}")


def _cells(line: str, where: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line.rstrip("\r\n")]))]
    except csv.Error:
        raise ConfigurationError(f"{where}: not valid CSV") from None


def _field(line: str, column: str, where: str) -> str:
    try:
        return str(json.loads(line)[column])
    except KeyError:
        raise ConfigurationError(f"{where}: has no field {quoted(column)}") from None
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{where}: invalid JSON") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _seconds(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError
    return number


def _parse_time(text: str) -> float:
    """Return seconds since 1970. Times without a zone are taken to share one."""
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
