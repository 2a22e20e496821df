"""The capacity model of a provider as a pure state machine: arrivals and time in, replies out.

A request passes, in this order:

1. the front end, which handles `max_requests_per_second` attempts per second and lets up to `backlog` seconds of them wait;
   beyond that a request is dropped silently and its client only sees its own timeout;
2. the active faults: an outage refuses every request, others a share of them;
3. the request limit (it counts the clients' key; background traffic has other keys);
4. the queue, first in, first out; a full one refuses;
5. a slot, held for the service time. The first token of a streamed answer comes after the prefill.

A request stays when its client disconnects: its work continues and counts as wasted. When capacity shrinks, requests in
service finish, and no new one starts until a slot is free. Requests of background traffic take the same path but exist
only as numbers.

All times are scenario seconds and may not go back. The model neither sleeps nor reads a clock: call
`advance(now)` at `next_event_at()` or at any later time; no reply is lost.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from stormbreak.provider.arrivals import Poisson
from stormbreak.provider.chance import Lognormal, mix, uniform
from stormbreak.provider.counters import Tally
from stormbreak.provider.fault_kinds import REFUSALS, Kind, WaitForm
from stormbreak.provider.rate_limit import LimitState, RequestLimit
from stormbreak.provider.scenario import BackgroundTraffic, Fault, Scenario
from stormbreak.provider.timeline import Phase, RequestInfo, forecast

_QUEUE_FULL = Fault(kind=Kind.S429)


class Part(StrEnum):
    """The part of an answer that a reply is."""

    FIRST = "first"  # the first token of a streamed answer
    WHOLE = "whole"  # the whole answer, or the end of a streamed one


_WHOLE = Part.WHOLE


class Reply(NamedTuple):
    """The provider's reply to a request at `at`.

    `fault` is None for a good answer; else it is the refusal, or the fault of the answer. `done_at` is the time of the
    last token.
    """

    at: float
    request: int
    part: Part
    fault: Fault | None
    done_at: float
    retry_after: float | None = None


@dataclass(slots=True, eq=False)
class _Job:
    """One request in the provider; number 0 is background traffic."""

    number: int
    key: int
    arrived: float
    streamed: bool = False
    tokens: int = 0
    attempt: int = 0
    span: float = 0.0  # seconds of service
    text: bytes = b""
    fault: Fault | None = None
    tries: int = 0
    gone: bool = False
    done_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.done_at = self.arrived


class _Refusal(NamedTuple):
    job: _Job
    fault: Fault
    outcome: str
    retry_after: float | None


class ProviderModel:
    """The model of one provider in one scenario."""

    def __init__(
        self, scenario: Scenario, seed: int = 0, ended: Callable[..., None] | None = None
    ) -> None:
        """Create the model; it calls `ended(number, worked=...)` for every request that ends."""
        provider = scenario.provider
        self.scenario = scenario
        self.clients = Tally()
        self.background = Tally()
        self.busy = 0
        self._salt = mix(seed)
        self._ended = ended
        self._service = Lognormal.of(
            mean=provider.service,
            cv=provider.variation,
            minimum=provider.min_service,
            maximum=math.inf if provider.max_service is None else provider.max_service,
        )
        self._queue: deque[_Job] = deque()
        self._room = math.inf if provider.queue is None else provider.queue
        self._limit = None if scenario.limit is None else RequestLimit(scenario.limit)
        form = scenario.limit.retry_after_form if scenario.limit else WaitForm.BARE
        self._over_limit = Fault(kind=Kind.S429, retry_after_form=form)
        self._front_gap = (
            1.0 / provider.max_requests_per_second if provider.max_requests_per_second else 0.0
        )
        self._front_end_free_at = 0.0
        self._backlog = provider.backlog
        self._events: list[tuple[float, int, Callable[..., None], object]] = []
        self._event_count = 0
        self._jobs: dict[int, _Job] = {}
        self._request_count = 0
        self._replies: list[Reply] = []
        phases = forecast(scenario)
        self._phase = phases[0]
        for phase in phases[1:]:
            self._plan(phase.at, self._enter_phase, phase)
        self._start_background_traffic(scenario.background_traffic)

    # ------------------------------------------------------------ interface

    @property
    def queued(self) -> int:
        return len(self._queue)

    def arrive(
        self,
        now: float,
        key: int,
        *,
        streamed: bool = False,
        tokens: int = 0,
        attempt: int = 1,
        text: bytes = b"",
    ) -> int:
        """Accept a request and return its number; `key` alone seeds its random draws.

        `tokens` count against a limit of tokens; `attempt` is 1 for the first with this body; `text`
        is its body, for faults that select requests.
        """
        if self._events and self._events[0][0] <= now:
            self._run_until(now)
        self._request_count = number = self._request_count + 1
        job = _Job(number, mix(self._salt ^ mix(key)), now, streamed=streamed, tokens=tokens)
        job.attempt, job.text = attempt, text
        self._jobs[number] = job
        self._enter(now, job)
        return number

    def has(self, request: int) -> bool:
        return request in self._jobs

    def answers_early(self, now: float, key: int) -> bool:
        """Whether a request is answered at once after its head; then it does not count as an arrival."""
        self._run_until(now)
        return uniform(mix(self._salt ^ mix(key))) < self._phase.early

    def limit_states(self, now: float) -> list[LimitState]:
        """Return the states of the limits of the clients' key."""
        return [] if self._limit is None else self._limit.limit_states(now)

    def advance(self, now: float) -> list[Reply]:
        """Advance the time and return the replies that are due, oldest first."""
        if self._events and self._events[0][0] <= now:
            self._run_until(now)
        replies = self._replies
        if replies:
            self._replies = []
        return replies

    def next_event_at(self) -> float | None:
        """Return the time of the next change; None if there is none."""
        return self._events[0][0] if self._events else None

    def abandon(self, request: int, now: float) -> None:
        """Record that the client of a request has disconnected; ignore unknown or answered requests."""
        self._run_until(now)
        job = self._jobs.get(request)
        if job is not None and not job.gone:
            job.gone = True
            self.clients.abandoned += 1

    # ------------------------------------------------------------ the agenda

    def _plan(self, at: float, action: Callable[..., None], value: object) -> None:
        self._event_count += 1
        heapq.heappush(self._events, (at, self._event_count, action, value))

    def _run_until(self, now: float) -> None:
        agenda = self._events
        while agenda and agenda[0][0] <= now:
            at, _, action, value = heapq.heappop(agenda)
            action(at, value)

    def _enter_phase(self, now: float, phase: Phase) -> None:
        self._phase = phase
        self._fill(now)

    # ------------------------------------------------------------ path of a request

    def _enter(self, now: float, job: _Job) -> None:
        (self.clients if job.number else self.background).arrived(now)
        starts = self._front_end_free_at
        if starts <= now:
            self._front_end_free_at = now + self._front_gap
            self._admit(now, job)
        elif starts - now > self._backlog:
            self._end(now, job, "dropped")
        else:
            self._front_end_free_at = starts + self._front_gap
            self._plan(starts, self._admit, job)

    def _admit(self, now: float, job: _Job) -> None:
        phase = self._phase
        if phase.down is not None:
            self._refuse(now, job, phase.down, "down")
            return
        if phase.faults or phase.selective:
            info = RequestInfo(job.number, job.attempt, job.text) if job.number else None
            fault = phase.draw(job.key, info, streamed=job.streamed)
            if fault is not None and fault.kind in REFUSALS:
                self._refuse(now, job, fault, fault.kind.value)
                return
            job.fault = fault
        if self._limit is not None and self._limited(now, job, self._limit):
            return
        if self.busy < phase.slots:  # then the queue is empty
            self._start(now, job)
        elif len(self._queue) < self._room:
            self._queue.append(job)
        else:
            self._refuse(now, job, _QUEUE_FULL, "queue_full")

    def _limited(self, now: float, job: _Job, limit: RequestLimit) -> bool:
        if job.number == 0:
            return False
        wait = limit.take(now, job.tokens)
        if wait is None:
            return False
        self._refuse(
            now, job, self._over_limit, "limit", max(0.0, wait - self._over_limit.respond_after)
        )
        return True

    def _refuse(
        self, now: float, job: _Job, fault: Fault, outcome: str, wait: float | None = None
    ) -> None:
        if fault.kind is Kind.HANG:
            self._end(now, job, outcome)
            return
        retry_after = fault.retry_after if wait is None else wait
        retry_after = None if fault.retry_after_form is WaitForm.BARE else retry_after
        self._plan(
            now + fault.respond_after, self._refused, _Refusal(job, fault, outcome, retry_after)
        )

    def _refused(self, now: float, refusal: _Refusal) -> None:
        job, fault, outcome, retry_after = refusal
        self._end(now, job, outcome)
        if job.number == 0:
            self._retry_in_background(now, job)
        elif not job.gone:
            self._replies.append(Reply(now, job.number, _WHOLE, fault, now, retry_after))

    def _fill(self, now: float) -> None:
        while self._queue and self.busy < self._phase.slots:
            self._start(now, self._queue.popleft())

    def _start(self, now: float, job: _Job) -> None:
        self.busy += 1
        span = job.span = self._service.draw(mix(job.key)) * self._phase.slowdown
        job.done_at = now + span
        if job.streamed:
            self._plan(now + span * self.scenario.provider.prefill, self._send_first, job)
        self._plan(job.done_at, self._finish, job)

    def _send_first(self, now: float, job: _Job) -> None:
        if not job.gone:
            self._replies.append(Reply(now, job.number, Part.FIRST, job.fault, job.done_at))

    def _finish(self, now: float, job: _Job) -> None:
        self.busy -= 1
        tally = self.clients if job.number else self.background
        tally.work += job.span
        if job.gone if job.number else self._is_late(now, job):
            tally.wasted_work += job.span
            self._end(now, job, "wasted", worked=True)
        else:
            self._end(now, job, job.fault.kind.value if job.fault else "ok", worked=True)
            if job.number:
                # The constructor of a NamedTuple is a Python function, and takes twice as long.
                reply = tuple.__new__(Reply, (now, job.number, _WHOLE, job.fault, now, None))
                self._replies.append(reply)
        if self._queue:
            self._fill(now)

    def _end(self, now: float, job: _Job, outcome: str, *, worked: bool = False) -> None:
        if not job.number:
            self.background.ended(now, outcome)
            return
        self.clients.ended(now, outcome)
        self._jobs.pop(job.number, None)
        if self._ended is not None:
            self._ended(job.number, worked=worked)

    def _is_late(self, now: float, job: _Job) -> bool:
        """Whether an answer comes too late for background traffic."""
        traffic = self.scenario.background_traffic
        return (
            traffic is not None
            and traffic.timeout is not None
            and now - job.arrived > traffic.timeout
        )

    # ------------------------------------------------------------ background traffic

    def _start_background_traffic(self, traffic: BackgroundTraffic | None) -> None:
        if traffic is not None:
            self._flow = Poisson(traffic.rate, traffic.steps, mix(self._salt ^ 0xC40D))
            self._plan_background_request(0.0)

    def _plan_background_request(self, now: float) -> None:
        at = self._flow.next_after(now)
        if at is not None:
            self._plan(at, self._arrive_in_background, None)

    def _arrive_in_background(self, now: float, _: object) -> None:
        key = mix(self._salt + self.background.arrivals + 1)
        self._enter(now, _Job(0, key, now))
        self._plan_background_request(now)

    def _retry_in_background(self, now: float, job: _Job) -> None:
        traffic = self.scenario.background_traffic
        if traffic is None or job.tries >= traffic.retries:
            return
        again = _Job(0, mix(job.key + 1), now)
        again.tries = job.tries + 1
        self._plan(
            now + traffic.retry_delay * (0.5 + uniform(again.key)), self._arrive_again, again
        )

    def _arrive_again(self, now: float, job: _Job) -> None:
        job.arrived = now
        self._enter(now, job)
