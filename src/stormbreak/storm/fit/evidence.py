"""All estimates from one log, as values: capacity, limits, outages and failures. Pure."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from math import log, sqrt
from statistics import median
from typing import NamedTuple

from stormbreak.errors import ConfigurationError
from stormbreak.storm.access_log import Entry
from stormbreak.storm.fit.capacity import (
    Capacity,
    Job,
    Service,
    concurrency,
    fit_capacity,
    reconstruct,
)
from stormbreak.storm.fit.limits import Arrival, Rule, fit_limits

FEWEST = 30  # smallest number of answered requests
MOST = 20_000
"""Maximum number of requests used to estimate the capacity: those around the busiest moment."""

_THROTTLED = 429
_PARTS = 10  # parts of a log whose service times are compared
_DRIFT = 1.5  # ratio of medians of service times that counts as a change
_NARROW = 0.05  # relative width of the middle 80 % of times that counts as one timeout


# ---------------------------------------------------------------- outages

_SHARE = 0.9  # minimum share of failures in an outage
_FEWEST = 10  # minimum failures of an outage, beyond those that the share needs
_MOST = 5  # maximum number of outages

GAVE_UP = frozenset({0, 408, 499, 504})
"""Statuses of requests not answered in time: no status, a server's, nginx's for a client that left, a gateway's."""
_WRONG = {*range(400, 500)} - {_THROTTLED, *GAVE_UP}


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

    Each is the stretch with the largest sum. A failure counts 1; another request has the negative weight that makes
    the sum 0 at a share of nine in ten (Bentley, "Programming pearls: algorithm design techniques", 1984; several
    stretches as in Ruzzo and Tompa, "A linear time algorithm for finding all maximal scoring subsequences", 1999).
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


# ---------------------------------------------------------------- evidence


class Drift(NamedTuple):
    """The service times in two parts of a log: each with its median, and its begin and end in seconds."""

    fast: tuple[float, float, float]
    slow: tuple[float, float, float]


class Busy(NamedTuple):
    """When requests waited for a slot: the first and last moment, and how many seconds in between had a queue."""

    begins: float
    ends: float
    seconds: float
    waiting: int  # at once, maximum
    longest: float  # wait, in seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Estimates from a log. `shares` are failures by status, as shares of the requests, both outside outages."""

    requests: int
    answered: int
    gone: int
    throttled: int
    others: int  # invalid requests: other statuses from 400 on
    used: int  # requests used to estimate the capacity
    capacity: Capacity
    concurrency: int
    busy: Busy | None
    drift: Drift | None
    rules: tuple[Rule, ...]
    outages: tuple[Outage, ...]
    shares: dict[int, float]
    timeout: float | None
    longest: float  # answer, in seconds
    busiest_minute: int  # requests that were not refused


def evidence(entries: Sequence[Entry], *, resolution: float = 0.0) -> Evidence:
    """Estimate everything from `entries`, in order of arrival. Without statuses, all count as answered.

    `resolution` is that of the times, in seconds: a wait of up to twice as long may be a rounding error, so it does not
    bound the slots. Raises ConfigurationError with too few answered requests.
    """
    # among requests of one instant, those that were served came first
    entries = sorted(entries, key=lambda entry: (entry.at, entry.status == _THROTTLED))
    jobs = [job for entry in entries if (job := _job(entry)) is not None]
    answered = [job for job in jobs if job.answered]
    if len(answered) < FEWEST:
        raise ConfigurationError(
            f"only {len(answered)} requests have an answer and a latency, at least {FEWEST} are needed"
        )
    if not any(job.left > job.arrived for job in answered):
        raise ConfigurationError("all latencies are 0: log seconds with a fraction")
    used = _busiest(jobs)
    capacity = fit_capacity(used)
    services = _services(jobs, capacity)
    busy = _busy(jobs, services)
    if busy is not None and busy.longest <= 2 * resolution:
        capacity = replace(capacity, most_slots=None)
    lost = set() if capacity.gone_work_on else GAVE_UP
    stretches = outages(entries, lambda entry: is_failure(entry) or entry.status in lost)
    statuses = Counter(entry.status for entry in entries)
    return Evidence(
        requests=len(entries),
        answered=len(answered),
        gone=len(jobs) - len(answered),
        throttled=statuses[_THROTTLED],
        others=sum(count for status, count in statuses.items() if status in _WRONG),
        used=len(used),
        capacity=capacity,
        concurrency=max(concurrency(used)),
        busy=busy,
        drift=_drift(jobs, services, capacity.best.sigma),
        rules=tuple(fit_limits(_arrivals(entries, services))),
        outages=tuple(stretches),
        shares=_shares(entries, stretches),
        timeout=_timeout(jobs),
        longest=max(job.left - job.arrived for job in answered),
        busiest_minute=_busiest_minute([job.arrived for job in jobs]),
    )


def _job(entry: Entry) -> Job | None:
    """The request, if it took a slot or waited for one."""
    if entry.latency is None:
        return None
    if entry.status is None or 200 <= entry.status < 400:
        return Job(entry.at, entry.at + entry.latency, True)
    return Job(entry.at, entry.at + entry.latency, False) if entry.status in GAVE_UP else None


def _busiest(jobs: Sequence[Job]) -> Sequence[Job]:
    """Return at most `MOST` consecutive requests, with the longest latencies. They begin when few others are inside."""
    if len(jobs) <= MOST:
        return jobs
    step = MOST // 10
    parts = [jobs[at : at + step] for at in range(0, len(jobs), step)]
    sums = [sum(job.left - job.arrived for job in part) for part in parts]
    first = max(range(max(1, len(sums) - 9)), key=lambda start: sum(sums[start : start + 10]))
    begin = max(0, first - 1) * step
    inside = concurrency(jobs[: begin + step])[begin:]
    begin += min(range(len(inside)), key=inside.__getitem__)
    return jobs[begin : begin + MOST]


# ---------------------------------------------------------------- service


def _services(jobs: Sequence[Job], capacity: Capacity) -> list[Service | None]:
    """When each request was served; None: it was in no slot."""
    in_slots = [job for job in jobs if job.answered or capacity.gone_work_on]
    best = capacity.best
    found = reconstruct(in_slots, best.slots, best.mu, best.sigma)
    return [next(found) if job.answered or capacity.gone_work_on else None for job in jobs]


def _busy(jobs: Sequence[Job], services: Sequence[Service | None]) -> Busy | None:
    waits = [
        Job(job.arrived, service.starts, True)
        for job, service in zip(jobs, services, strict=True)
        if service is not None and service.waited
    ]
    if not waits:
        return None
    seconds, until = 0.0, waits[0].arrived
    for arrived, start, _ in waits:
        seconds += max(0.0, start - max(arrived, until))
        until = max(until, start)
    longest = max(start - arrived for arrived, start, _ in waits)
    return Busy(waits[0].arrived, until, seconds, max(concurrency(waits)), longest)


def _drift(jobs: Sequence[Job], services: Sequence[Service | None], sigma: float) -> Drift | None:
    """Compare the service times of parts of the log; None: chance explains the differences."""
    times = [
        (job.arrived, job.left - service.starts)
        for job, service in zip(jobs, services, strict=True)
        if service is not None and job.answered
    ]
    size = max(FEWEST, len(times) // _PARTS)
    parts = [times[at : at + size] for at in range(0, len(times) - size + 1, size)]
    found = sorted(
        (max(median(time for _, time in part), 1e-6), part[0][0], part[-1][0]) for part in parts
    )
    if len(found) < 2:
        return None
    fast, slow = found[0], found[-1]
    # the standard error of a median is 1.25 times that of a mean; 4 standard errors, since these are extremes
    chance = 4 * 1.25 * sigma * sqrt(2 / size)
    return Drift(fast, slow) if log(slow[0] / fast[0]) > max(log(_DRIFT), chance) else None


# ---------------------------------------------------------------- limits and failures


def _arrivals(entries: Sequence[Entry], services: Sequence[Service | None]) -> list[Arrival]:
    """Return the requests that reached a limit, each with the number of requests inside the target."""
    found: list[Arrival] = []
    ends: list[float] = []
    of_jobs = iter(services)
    for entry in entries:
        while ends and ends[0] <= entry.at:
            heappop(ends)
        if entry.status == _THROTTLED:
            found.append(Arrival(entry.at, True, len(ends)))
        elif _job(entry) is not None:
            found.append(Arrival(entry.at, False, len(ends)))
            service = next(of_jobs)
            if service is not None:
                heappush(ends, service.ends)
    return found


def _shares(entries: Sequence[Entry], stretches: Sequence[Outage]) -> dict[int, float]:
    outside = [
        entry
        for entry in entries
        if not any(each.begins <= entry.at <= each.ends for each in stretches)
    ]
    failed = Counter(entry.status for entry in outside if is_failure(entry))
    return {status or 0: count / len(outside) for status, count in sorted(failed.items())}


def _timeout(jobs: Sequence[Job]) -> float | None:
    """Return the time after which clients gave up; None: no client did, or the times differ."""
    times = sorted(job.left - job.arrived for job in jobs if not job.answered)
    if len(times) < 5:
        return None
    low, middle, high = (times[int(share * len(times))] for share in (0.1, 0.5, 0.9))
    return middle if high - low <= _NARROW * middle else None


def _busiest_minute(times: Sequence[float]) -> int:
    most = first = 0
    for place, at in enumerate(times):
        while times[first] <= at - 60.0:
            first += 1
        most = max(most, place - first + 1)
    return most
