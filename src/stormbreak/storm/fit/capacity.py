"""Estimate service time, spread and slots of a target from arrivals and ends of requests. Pure.

The model is that of the simulator: one queue, first in, first out, before `slots` parallel positions with
lognormal service times. Given the slots, the starts follow from the log: a request starts when it arrives, or when
the first of the requests in service ends, whichever is later (the recursion of Kiefer and Wolfowitz, "On the theory of
queues with many servers", 1955). So the service times follow too, and the likelihood of the log is that of the
service times (Sutton and Jordan, "Bayesian inference for queueing networks and modeling of internet services",
2011). The number of slots with the largest likelihood is the estimate. Too few slots give service times that
are too short or negative; too many count waiting as service. Without queueing, the likelihood is the same
for every number above the largest concurrency: such a log bounds the slots from below only.

If a client gave up during service, the service time is censored: it is at least the time served until then. If
the client gave up in the queue, the service time is unknown. Some service times do not fit, because clocks and networks
are not exact and requests differ: a share `_ODD` of them may have any value up to the longest latency.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush
from math import erfc, exp, inf, log, pi, sqrt
from statistics import median
from typing import NamedTuple

_ODD = 0.01
_ROUNDS = 4  # of the EM algorithm; twice as many with clients that gave up
_SETTLED = 1e-3  # stop when a round changes the fit by less
_CONFIDENT = 1.92  # log likelihood below the maximum: half of the 95 % quantile of chi square with one degree
_SQRT_TAU = sqrt(2 * pi)
_SMALLEST = 1e-6  # seconds


class Job(NamedTuple):
    """A request that took or waited for a slot. If not `answered`, its client gave up at `left`."""

    arrived: float
    left: float
    answered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFit:
    """Service times of a number of slots: the mean and the deviation of their logarithms, and the likelihood."""

    slots: int
    mu: float
    sigma: float
    likelihood: float
    waited: int  # requests that found all slots busy
    served: int

    @property
    def mean(self) -> float:
        """Mean service time in seconds."""
        return exp(self.mu + self.sigma**2 / 2)

    @property
    def variation(self) -> float:
        """Coefficient of variation of the service time."""
        return sqrt(exp(self.sigma**2) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The best fit, with 95 % intervals. `most_slots` None: the log does not bound them.

    `gone_work_on`: requests keep their slot after their client gave up.
    """

    best: QueueFit
    fewest_slots: int
    most_slots: int | None
    gone_work_on: bool


def fit_capacity(jobs: Sequence[Job]) -> Capacity:
    """Estimate service time and slots of `jobs`, in order of arrival; one must be answered."""
    search = _Search(jobs, gone_work_on=True)
    answered = [job for job in jobs if job.answered]
    if lost := len(jobs) - len(answered):  # in no slot, but each with the same probability
        other = _Search(answered, gone_work_on=False)
        chance = lost * log(lost / len(jobs)) + len(answered) * log(len(answered) / len(jobs))
        if other.best.likelihood + chance > search.best.likelihood:
            search = other
    fewest, most = search.fewest(), search.most()
    return Capacity(
        best=search.best, fewest_slots=fewest, most_slots=most, gone_work_on=search.gone_work_on
    )


def concurrency(jobs: Sequence[Job]) -> list[int]:
    """Return, for each arrival, how many requests are inside, including itself."""
    found = []
    ends: list[float] = []
    for job in jobs:
        while ends and ends[0] <= job.arrived:
            heappop(ends)
        heappush(ends, job.left)
        found.append(len(ends))
    return found


class _Search:
    """Finds the number of slots with the largest likelihood: first on a coarse grid, then around its best."""

    def __init__(self, jobs: Sequence[Job], *, gone_work_on: bool) -> None:
        self._jobs = jobs
        self.gone_work_on = gone_work_on
        self.top = max(concurrency(jobs))
        self._fits: dict[int, QueueFit] = {}

    def at(self, slots: int) -> QueueFit:
        if slots not in self._fits:
            self._fits[slots] = fit_service(self._jobs, slots, self._guess())
        return self._fits[slots]

    def _guess(self) -> tuple[float, float]:
        if self._fits:
            near = max(self._fits.values(), key=lambda fit: fit.likelihood)
            return near.mu, near.sigma
        logs = [log(max(job.left - job.arrived, _SMALLEST)) for job in self._jobs if job.answered]
        return median(logs), 0.7

    @cached_property
    def best(self) -> QueueFit:
        """The fit with the largest likelihood; of equal ones, that with the most slots."""
        low, high = 1, self.top
        while high > low:
            grid = _grid(low, high)
            place = max(range(len(grid)), key=lambda at: (self.at(grid[at]).likelihood, at))
            new = grid[max(0, place - 1)], grid[min(len(grid) - 1, place + 1)]
            if new == (low, high):
                break
            low, high = new
        fits = self._fits.values() or [self.at(1)]
        return max(fits, key=lambda fit: (fit.likelihood, fit.slots))

    def fewest(self) -> int:
        """Return the smallest number of slots that the log allows."""
        return self._edge(self.best.slots, 0)

    def most(self) -> int | None:
        """Return the largest number of slots that the log allows; None: any."""
        return None if self._allows(self.top) else self._edge(self.best.slots, self.top)

    def _allows(self, slots: int) -> bool:
        return slots > 0 and self.at(slots).likelihood >= self.best.likelihood - _CONFIDENT

    def _edge(self, inside: int, outside: int) -> int:
        while abs(outside - inside) > 1:
            middle = (inside + outside) // 2
            if self._allows(middle):
                inside = middle
            else:
                outside = middle
        return inside


def _grid(low: int, high: int) -> list[int]:
    steps = 8
    return sorted({round(low * (high / low) ** (step / steps)) for step in range(steps + 1)})


def fit_service(jobs: Sequence[Job], slots: int, guess: tuple[float, float]) -> QueueFit:
    """Fit the service times that the log has with this number of slots, by the EM algorithm.

    If a client gave up, the end of the service depends on the fit, so each round computes it again.
    """
    mu, sigma = guess
    noise = _ODD / max(job.left - job.arrived for job in jobs)
    gone = not all(job.answered for job in jobs)
    times = _Times([], [], 0)
    likelihood = -inf
    for turn in range(_ROUNDS * (1 + gone)):
        if gone or not turn:
            times = _times(jobs, slots, mu, sigma)
        before = mu, sigma
        likelihood, mu, sigma = _step(times, noise, mu, sigma)
        if abs(mu - before[0]) + abs(sigma - before[1]) < _SETTLED:
            break
    served = len(jobs) - len(times.censored)
    return QueueFit(
        slots=slots, mu=mu, sigma=sigma, likelihood=likelihood, waited=times.waited, served=served
    )


class _Times(NamedTuple):
    """Logarithms of service times and of times until clients gave up; the number of requests that waited."""

    logs: list[float]  # -inf: no time is left for the service
    censored: list[float]
    waited: int


def _times(jobs: Sequence[Job], slots: int, mu: float, sigma: float) -> _Times:
    logs: list[float] = []
    censored: list[float] = []
    waited = 0
    for job, service in zip(jobs, reconstruct(jobs, slots, mu, sigma), strict=True):
        time = job.left - service.starts
        waited += service.waited
        if job.answered:
            logs.append(log(time) if time > _SMALLEST else -inf)
        elif time > _SMALLEST:
            censored.append(log(time))
    return _Times(logs, censored, waited)


def _step(times: _Times, noise: float, mu: float, sigma: float) -> tuple[float, float, float]:
    """Return the likelihood of `mu` and `sigma`, and better ones. `noise` is the density of odd times."""
    likelihood = weights = total = squares = 0.0
    scale = (1 - _ODD) / (sigma * _SQRT_TAU)
    for value in times.logs:
        if value == -inf:
            likelihood += log(noise)
            continue
        z = (value - mu) / sigma
        usual = scale * exp(-z * z / 2 - value)
        likelihood += log(usual + noise)
        weight = usual / (usual + noise)
        weights += weight
        total += weight * value
        squares += weight * value * value
    for value in times.censored:
        tail, first, second = _beyond(value, mu, sigma)
        likelihood += log((1 - _ODD) * tail + _ODD)
        weights += 1
        total += first
        squares += second
    if not weights:
        return likelihood, mu, sigma
    mu = total / weights
    return likelihood, mu, sqrt(max(squares / weights - mu * mu, 1e-6))


class Service(NamedTuple):
    """When a request got its slot, and when it left it."""

    starts: float
    ends: float
    waited: bool


def reconstruct(jobs: Sequence[Job], slots: int, mu: float, sigma: float) -> Iterator[Service]:
    """Find when each request was served; those whose clients gave up take an expected time."""
    ends: list[float] = []
    for job in jobs:
        start = job.arrived
        while ends and ends[0] <= start:
            heappop(ends)
        waited = len(ends) >= slots
        if waited:
            start = heappop(ends)
        end = job.left
        if not job.answered:
            end = start + _expected_beyond(max(job.left - start, 0.0), mu, sigma)
        heappush(ends, end)
        yield Service(start, end, waited)


def _tail(z: float) -> float:
    return max(erfc(z / sqrt(2)) / 2, 1e-300)


def _expected_beyond(served: float, mu: float, sigma: float) -> float:
    """Return the expected service time of a request that was served that long."""
    mean = exp(mu + sigma * sigma / 2)
    if served <= _SMALLEST:
        return mean
    z = (log(served) - mu) / sigma
    return max(served, mean * _tail(z - sigma) / _tail(z))


def _beyond(value: float, mu: float, sigma: float) -> tuple[float, float, float]:
    """Return the probability that a normal number exceeds `value`; then the conditional means of it and its square."""
    z = (value - mu) / sigma
    tail = _tail(z)
    hazard = min(exp(-z * z / 2) / (_SQRT_TAU * tail), max(z, 0.0) + 1.0)
    first = mu + sigma * hazard
    return tail, first, mu * mu + sigma * sigma + sigma * hazard * (value + mu)
