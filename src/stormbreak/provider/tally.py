"""What happened to the requests of one party (the clients, or the crowd), counted."""

_SECONDS_KEPT = 4 * 3600

ARRIVED, OK, REJECTED, FAILED = range(4)
SERIES = ("arrivals", "ok", "rejected", "failed")


class Tally:
    """Counts by outcome, and a series by scenario second.

    Every request ends in exactly one outcome: `ok`, `wasted` (served after its client had gone), `dropped`
    (by the front end), `queue_full`, `limit`, `down`, or the kind of its trouble.
    """

    __slots__ = ("abandoned", "arrivals", "outcomes", "seconds", "wasted_work", "work")

    def __init__(self) -> None:
        self.arrivals = 0
        self.abandoned = 0
        self.outcomes: dict[str, int] = {}
        self.work = 0.0  # seconds of service given
        self.wasted_work = 0.0  # of these, to requests whose client had gone
        self.seconds: list[list[int]] = []

    @property
    def inside(self) -> int:
        """Requests that have no outcome yet."""
        return self.arrivals - sum(self.outcomes.values())

    def arrived(self, now: float) -> None:
        """Count an arrival."""
        self.arrivals += 1
        self._mark(now, ARRIVED)

    def ended(self, now: float, outcome: str) -> None:
        """Count an outcome."""
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
    """Find the most attempts of all parties together within one scenario second."""
    longest = max((len(tally.seconds) for tally in tallies), default=0)
    return max(
        (
            sum(t.seconds[second][ARRIVED] for t in tallies if second < len(t.seconds))
            for second in range(longest)
        ),
        default=0,
    )
