"""What a storm came to, for programs: what is told of each policy, or program, in a document."""

from collections.abc import Sequence
from typing import Any

from stormbreak.provider.scenario import Scenario
from stormbreak.storm import spread
from stormbreak.storm.measures import Measures
from stormbreak.storm.result import Result
from stormbreak.storm.verdict import verdict, weakest


def told(storm: Scenario, results: Sequence[Result]) -> dict[str, Any]:
    """The verdict on one, its weakest moment, and the spread of its measures."""
    moment = weakest(results, storm.load)
    return {
        "verdict": verdict(storm, results),
        "weakest": None if moment is None else moment._asdict(),
        "measures": spread.plain(spread.spread(measures_of(results))),
    }


def measures_of(results: Sequence[Result]) -> list[Measures]:
    """Those of each run."""
    return [one.measures for one in results]
