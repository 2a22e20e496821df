"""What came of a simulation, and the document in which several are told and read again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from stormbreak import tomlfile
from stormbreak.errors import ConfigurationError
from stormbreak.provider.scenario import Scenario
from stormbreak.storm.measures import Measures
from stormbreak.storm.series import Series

LARGEST = 256 * 1024 * 1024
"""Bytes of a result: hours of a storm under several policies."""

_WHAT = "the result of a storm"

NO_SERIES = Series(calls=(), attempts=(), answers=(), ideal=(), failed=(), shed=())
"""Of a run of which only the measures are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a simulation."""

    scenario: str
    policy: str
    seed: int
    measures: Measures
    series: Series

    def plain(self, *, series: bool = False) -> dict[str, Any]:
        """Policy, seed and measures by name; with `series`, each second of it, too."""
        seconds = {"series": self.series.plain()} if series else {}
        return {"policy": self.policy, "seed": self.seed, **self.measures.plain(), **seconds}


def of(policy: str, results: Sequence[Result]) -> list[Result]:
    """Those under one policy."""
    return [result for result in results if result.policy == policy]


def when(scenario: Scenario) -> dict[str, float | None]:
    """When it ends and when its trigger lasts, in seconds, for the head of a document."""
    load = scenario.load
    return {
        "duration": scenario.duration,
        "trigger_at": None if load is None else load.trigger_at,
        "trigger_until": None if load is None else load.trigger_until,
    }


class Document(msgspec.Struct, kw_only=True):
    """What `storm run --json` has printed. Times are seconds."""

    scenario: str
    policy: str
    duration: float
    trigger_at: float | None
    trigger_until: float | None
    runs: list[dict[str, Any]]

    def results(self) -> list[Result]:
        """The runs, in their order; without their series if it was not asked for."""
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
    """Read what `storm run --json` has printed.

    Raises:
        ConfigurationError: the file cannot be read, or holds something else.
    """
    try:
        document = msgspec.json.decode(
            tomlfile.read_bytes(path, what=_WHAT, largest=LARGEST), type=Document
        )
        return document, document.results()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path}: not what `storm run --json` prints: {error}") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None
