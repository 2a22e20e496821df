"""Counters of the provider: requests of clients or background traffic, and billed attempts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stormbreak.provider.formats.base import ParsedRequest

_SECONDS_KEPT = 4 * 3600

ARRIVED, OK, REJECTED, FAILED = range(4)
SERIES = ("arrivals", "ok", "rejected", "failed")


@dataclass(slots=True, eq=False)
class Tally:
    """Counts by outcome, and a series by scenario second.

    Every request ends in exactly one outcome: `ok`, `wasted` (served after its client had disconnected), `dropped` (by
    the front end), `queue_full`, `limit`, `down`, or the kind of its fault.
    """

    arrivals: int = 0
    abandoned: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    work: float = 0.0  # seconds of service
    wasted_work: float = 0.0  # of these, for requests whose client had disconnected
    seconds: list[list[int]] = field(default_factory=list)

    @property
    def inside(self) -> int:
        return self.arrivals - sum(self.outcomes.values())

    def arrived(self, now: float) -> None:
        self.arrivals += 1
        self._mark(now, ARRIVED)

    def ended(self, now: float, outcome: str) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if outcome == "ok":
            self._mark(now, OK)
        elif outcome in {"queue_full", "limit", "429"}:
            self._mark(now, REJECTED)
        else:
            self._mark(now, FAILED)

    def _mark(self, now: float, column: int) -> None:
        second = int(now)
        seconds = self.seconds
        if second >= _SECONDS_KEPT:
            return
        while len(seconds) <= second:
            seconds.append([0, 0, 0, 0])
        seconds[second][column] += 1

    def series(self) -> dict[str, list[int]]:
        """Return the counts by scenario second: arrivals, ok, rejected, failed."""
        return {name: [row[column] for row in self.seconds] for column, name in enumerate(SERIES)}


def peak_arrivals(*tallies: Tally) -> int:
    """Return the maximum number of attempts in one scenario second."""
    longest = max((len(tally.seconds) for tally in tallies), default=0)
    return max(
        (
            sum(t.seconds[second][ARRIVED] for t in tallies if second < len(t.seconds))
            for second in range(longest)
        ),
        default=0,
    )


# Every attempt that was processed, even if its answer did not reach a client.


class Billed(NamedTuple):
    """Attempts and their tokens: input includes cache writes, and cache writes include those for an hour."""

    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0

    def plus(self, request: ParsedRequest) -> "Billed":
        short, hour = request.written
        return Billed(
            self.attempts + 1,
            self.input_tokens + request.input_tokens,
            self.output_tokens + request.answer_tokens,
            self.cache_write_tokens + short + hour,
            self.cache_write_1h_tokens + hour,
        )


class Billing:
    """Billed attempts by model and by request, and the requests in progress."""

    def __init__(self) -> None:
        self.by_model: dict[str, Billed] = {}
        self.by_digest: dict[str, Billed] = {}
        self._open: dict[int, ParsedRequest] = {}

    def arrived(self, number: int, request: ParsedRequest) -> None:
        self._open[number] = request

    def ended(self, number: int, *, worked: bool) -> None:
        """End a request, and bill it if it was processed."""
        request = self._open.pop(number, None)
        if request is not None and worked:
            self.add(request)

    def add(self, request: ParsedRequest) -> None:
        for bills, name in ((self.by_model, request.model), (self.by_digest, request.digest)):
            bills[name] = bills.get(name, Billed()).plus(request)

    def summary(self) -> Mapping[str, Any]:
        return {model: billed._asdict() for model, billed in self.by_model.items()}
