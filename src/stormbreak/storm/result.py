"""The result of a simulation, each second of it, and the JSON document that holds several results."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from stormbreak import file_reader
from stormbreak.errors import ConfigurationError, errors_at
from stormbreak.provider.scenario import Scenario
from stormbreak.storm.ideal import Amount
from stormbreak.storm.measures import Measures, Record, rounded

# ---------------------------------------------------------------- time series


class Sample(NamedTuple):
    """The state at the end of a second, over all processes."""

    in_flight: int  # attempts
    queued: int  # calls in the clients' queues
    limit: int | None  # in flight, summed; None unless the limit of every process binds
    limited: int  # processes whose limit binds, fixed or found in congestion
    open_circuits: int  # processes whose circuit is not closed
    queued_at_provider: int  # attempts in the provider's queue
    wasted: float  # cumulative seconds of work for clients who had left


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One number for each second, from 0 on: arrivals, attempts, answers in time, and answers of the ideal.

    `failed` counts the calls that ended in that second after an attempt, without an answer in time; `shed` counts those
    that ended without an attempt. The other fields are those of a `Sample`, where `wasted` covers that second alone;
    they are empty for live storms.
    """

    calls: tuple[int, ...]
    attempts: tuple[int, ...]
    answers: tuple[int, ...]
    ideal: tuple[float, ...]
    failed: tuple[int, ...]
    shed: tuple[int, ...]
    in_flight: tuple[int, ...] = ()
    queued: tuple[int, ...] = ()
    limit: tuple[int | None, ...] = ()
    limited: tuple[int, ...] = ()
    open_circuits: tuple[int, ...] = ()
    queued_at_provider: tuple[int, ...] = ()
    wasted: tuple[float, ...] = ()

    def plain(self) -> dict[str, list[float | int | None]]:
        return {
            item.name: [rounded(value) for value in getattr(self, item.name)]
            for item in fields(self)
        }


def series(
    records: Sequence[Record],
    ideal: Sequence[Amount],
    attempts: Sequence[int],
    samples: Sequence[Sample] = (),
) -> Series:
    """Count by second until the last call has ended; `samples` cover that time or are empty."""
    length = 1 + int(max((record.ended for record in records), default=0.0))
    lost = [record for record in records if not record.answered]
    flow = [0.0] * length
    for at, calls in ideal:
        if at < length:
            flow[int(at)] += calls
    columns = zip(*samples[:length], strict=True)
    states: dict[str, tuple[Any, ...]] = dict(zip(Sample._fields, columns, strict=False))
    wasted = states.get("wasted", ())
    return Series(
        calls=_counted((record.arrived for record in records), length),
        attempts=(*attempts, *[0] * (length - len(attempts))),
        answers=_counted((record.ended for record in records if record.answered), length),
        ideal=tuple(flow),
        failed=_counted((record.ended for record in lost if record.attempts), length),
        shed=_counted((record.ended for record in lost if not record.attempts), length),
        **states | {"wasted": tuple(after - before for before, after in pairwise([0.0, *wasted]))},
    )


def _counted(times: Iterable[float], length: int) -> tuple[int, ...]:
    counts = [0] * length
    for at in times:
        counts[int(at)] += 1
    return tuple(counts)


# ---------------------------------------------------------------- result and document

LARGEST = 256 * 1024 * 1024  # maximum bytes of a result: hours of a storm under several policies
_WHAT = "the result of a storm"

NO_SERIES = Series(calls=(), attempts=(), answers=(), ideal=(), failed=(), shed=())
"""The series of a run with measures only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a simulation."""

    scenario: str
    policy: str
    seed: int
    measures: Measures
    series: Series

    def plain(self, *, series: bool = False) -> dict[str, Any]:
        """Return policy, seed and measures by name; with `series`, also each second."""
        seconds = {"series": self.series.plain()} if series else {}
        return {"policy": self.policy, "seed": self.seed, **self.measures.plain(), **seconds}


def of(policy: str, results: Sequence[Result]) -> list[Result]:
    """Return the results of one policy."""
    return [result for result in results if result.policy == policy]


def when(scenario: Scenario) -> dict[str, float | None]:
    """Return duration and trigger times in seconds, for the head of a document."""
    load = scenario.load
    return {
        "duration": scenario.duration,
        "trigger_at": None if load is None else load.trigger_at,
        "trigger_until": None if load is None else load.trigger_until,
    }


class Document(msgspec.Struct, kw_only=True):
    """The output of `storm run --json`. Times are seconds."""

    scenario: str
    policy: str
    duration: float
    trigger_at: float | None
    trigger_until: float | None
    runs: list[dict[str, Any]]

    def results(self) -> list[Result]:
        """The runs in order; without series unless requested."""
        return [
            Result(
                scenario=self.scenario,
                policy=msgspec.convert(run.get("policy"), str),
                seed=msgspec.convert(run.get("seed"), int),
                measures=msgspec.convert(run, Measures),
                series=msgspec.convert(run["series"], Series) if "series" in run else NO_SERIES,
            )
            for run in self.runs
        ]


def read(path: str | Path) -> tuple[Document, list[Result]]:
    """Read the output of `storm run --json`; raise ConfigurationError if the file cannot be read, or has other content."""
    try:
        with errors_at(path):
            text = file_reader.read_bytes(path, what=_WHAT, largest=LARGEST)
            document = msgspec.json.decode(text, type=Document)
            return document, document.results()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path}: not output of `storm run --json`: {error}") from None
