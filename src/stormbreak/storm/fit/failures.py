"""Find outages in a log, and the share of failures outside of them. Pure."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from stormbreak.storm.access_log import Entry

_SHARE = 0.9  # of the requests of an outage that fail, at least
_FEWEST = 10  # failures of an outage, beyond those that the share needs
_MOST = 5  # outages

GAVE_UP = frozenset({0, 408, 499, 504})
"""Statuses of requests that were not answered in time: none, by the server, of nginx for a client that left, of a gateway."""


class Outage(NamedTuple):
    """From the arrival of its first failure to that of its last, in seconds."""

    begins: float
    ends: float
    status: int  # of most of its failures
    failed: int
    passed: int


def is_failure(entry: Entry) -> bool:
    """Whether the server failed at once; an answer that came too late counts as waiting."""
    return entry.status is not None and entry.status >= 500 and entry.status not in GAVE_UP


def outages(entries: Sequence[Entry], failed: Callable[[Entry], bool]) -> list[Outage]:
    """Return the stretches in which at least nine of ten requests fail, in order of time.

    Each is the stretch with the largest sum, where a failure counts 1 and another request as much below 0 as
    makes the share even (Bentley, "Programming pearls: algorithm design techniques", 1984; several stretches as
    in Ruzzo and Tompa, "A linear time algorithm for finding all maximal scoring subsequences", 1999).
    """
    rest = [(entry, failed(entry)) for entry in entries]
    found: list[Outage] = []
    while len(found) < _MOST:
        begin, end, total = _heaviest([fails for _, fails in rest])
        if total < _FEWEST:
            break
        part = rest[begin:end]
        statuses = Counter(entry.status or 0 for entry, fails in part if fails)
        (status, _), *_others = statuses.most_common(1)
        bad = statuses.total()
        found.append(Outage(part[0][0].at, part[-1][0].at, status, bad, len(part) - bad))
        rest[begin:end] = [(entry, False) for entry, _ in part]
    return sorted(found)


def _heaviest(fails: Sequence[bool]) -> tuple[int, int, float]:
    """Return the slice with the largest sum, and the sum."""
    penalty = _SHARE / (1 - _SHARE)
    best, begin, total = (0, 0, 0.0), 0, 0.0
    for place, failed in enumerate(fails):
        if total <= 0:
            begin, total = place, 0.0
        total += 1.0 if failed else -penalty
        if total > best[2]:
            best = begin, place + 1, total
    return best
