"""The capacity model of a provider as a pure state machine: arrivals and time in, replies out.

A request passes, in this order:

1. the front end, which handles `max_requests_per_second` attempts per second and lets up to `backlog` seconds of them wait;
   beyond that a request is dropped silently and its client only sees its own timeout;
2. the troubles of the moment: an outage refuses everybody, others strike by share;
3. the request limit (it counts the clients' key; the crowd has keys of its own);
4. the queue, first in, first out; a full one refuses;
5. a slot, held for the service time. The first token of a streamed answer comes after the prefill.

Nothing leaves because its client has: the work goes on, and is counted as wasted. When capacity shrinks, what is
being served is finished and nothing new starts until there is a slot again. The crowd's requests take the same
way but exist only as numbers.

All times are scenario seconds and may not go back. The machine neither sleeps nor reads a clock: call
`advance(now)` at `next_event_at()` or whenever it suits, answers are never lost by coming late.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from stormbreak.provider.arrivals import Poisson
from stormbreak.provider.chance import Lognormal, mix, uniform
from stormbreak.provider.counters import Tally
from stormbreak.provider.fault_kinds import REFUSALS, Kind, WaitForm
from stormbreak.provider.rate_limit import Standing, limit_of
from stormbreak.provider.scenario import BackgroundTraffic, Fault, Scenario
from stormbreak.provider.timeline import Asking, Spell, forecast

_QUEUE_FULL = Fault(kind=Kind.S429)


class Part(StrEnum):
    """Which part of an answer a reply is."""

    FIRST = "first"  # the first token of a streamed answer
    WHOLE = "whole"  # the whole answer, or the end of a streamed one


class Reply(NamedTuple):
    """What the provider says to a request at `at`.

    `trouble` is None for a good answer; else it is a refusal, or how the answer is spoilt. `done_at` is when the
    last token comes.
    """

    at: float
    request: int
    part: Part
    trouble: Fault | None
    done_at: float
    retry_after: float | None = None


class _Job:
    """One request on its way through the provider; number 0 is the crowd's."""

    __slots__ = (
        "arrived",
        "asking",
        "done_at",
        "gone",
        "key",
        "number",
        "streamed",
        "tokens",
        "tries",
        "trouble",
    )

    def __init__(
        self, number: int, key: int, arrived: float, *, streamed: bool = False, tokens: int = 0
    ) -> None:
        self.number = number
        self.key = key
        self.arrived = arrived
        self.streamed = streamed
        self.tokens = tokens
        self.asking: Asking | None = None
        self.trouble: Fault | None = None
        self.tries = 0
        self.done_at = arrived
        self.gone = False


class _Refusal(NamedTuple):
    job: _Job
    trouble: Fault
    outcome: str
    retry_after: float | None


class ProviderModel:
    """One provider living through one scenario."""

    def __init__(
        self, scenario: Scenario, seed: int = 0, ended: Callable[..., None] | None = None
    ) -> None:
        """`ended(number, worked=...)` is told of every request that is through, and whether it was worked for."""
        provider = scenario.provider
        self.scenario = scenario
        self.clients = Tally()
        self.crowd = Tally()
        self.busy = 0
        self._salt = mix(seed)
        self._ended = ended
        self._service = Lognormal.of(
            mean=provider.service,
            cv=provider.variation,
            least=provider.min_service,
            most=math.inf if provider.max_service is None else provider.max_service,
        )
        self._queue: deque[_Job] = deque()
        self._room = math.inf if provider.queue is None else provider.queue
        self._limit = limit_of(scenario.limit)
        form = scenario.limit.retry_after_form if scenario.limit else WaitForm.BARE
        self._over_limit = Fault(kind=Kind.S429, retry_after_form=form)
        self._front_gap = (
            1.0 / provider.max_requests_per_second if provider.max_requests_per_second else 0.0
        )
        self._front_free_at = 0.0
        self._agenda: list[tuple[float, int, Callable[..., None], object]] = []
        self._entries = 0
        self._inside: dict[int, _Job] = {}
        self._numbers = 0
        self._replies: list[Reply] = []
        spells = forecast(scenario)
        self._phase = spells[0]
        for spell in spells[1:]:
            self._plan(spell.at, self._turn, spell)
        self._invite(scenario.background_traffic)

    # ------------------------------------------------------------ what the world calls

    @property
    def queued(self) -> int:
        """Requests that wait for a slot."""
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
        """Take in a request and return its number; `key` alone decides its chances.

        `tokens` are what it counts in a limit of tokens; `attempt` says how often it was sent by now, and `text`
        is its body, for troubles that choose.
        """
        self._run_until(now)
        self._numbers += 1
        job = _Job(self._numbers, mix(self._salt ^ mix(key)), now, streamed=streamed, tokens=tokens)
        job.asking = Asking(self._numbers, attempt, text)
        self._inside[job.number] = job
        self._enter(now, job)
        return job.number

    def has(self, request: int) -> bool:
        """Whether it is not through with a request."""
        return request in self._inside

    def answers_early(self, now: float, key: int) -> bool:
        """Whether a request that has only begun to come is answered at once; it is no arrival."""
        self._run_until(now)
        return uniform(mix(self._salt ^ mix(key))) < self._phase.early

    def standings(self, now: float) -> list[Standing]:
        """Tell how the limits of the clients' key stand."""
        return [] if self._limit is None else self._limit.standings(now)

    def advance(self, now: float) -> list[Reply]:
        """Let time pass and return the replies that have become due, oldest first."""
        self._run_until(now)
        replies, self._replies = self._replies, []
        return replies

    def next_event_at(self) -> float | None:
        """Tell when something will change; None if nothing is under way."""
        return self._agenda[0][0] if self._agenda else None

    def abandon(self, request: int, now: float) -> None:
        """Note that the client of a request has gone; unknown or answered requests are ignored."""
        self._run_until(now)
        job = self._inside.get(request)
        if job is not None and not job.gone:
            job.gone = True
            self.clients.abandoned += 1

    # ------------------------------------------------------------ the agenda

    def _plan(self, at: float, act: Callable[..., None], what: object) -> None:
        self._entries += 1
        heapq.heappush(self._agenda, (at, self._entries, act, what))

    def _run_until(self, now: float) -> None:
        agenda = self._agenda
        while agenda and agenda[0][0] <= now:
            at, _, act, what = heapq.heappop(agenda)
            act(at, what)

    def _turn(self, now: float, spell: Spell) -> None:
        self._phase = spell
        self._fill(now)

    # ------------------------------------------------------------ the way of a request

    def _counters(self, job: _Job) -> Tally:
        return self.clients if job.number else self.crowd

    def _enter(self, now: float, job: _Job) -> None:
        self._counters(job).arrived(now)
        starts = max(now, self._front_free_at)
        if starts - now > self.scenario.provider.backlog:
            self._end(now, job, "dropped")
            return
        self._front_free_at = starts + self._front_gap
        if starts > now:
            self._plan(starts, self._admit, job)
        else:
            self._admit(now, job)

    def _admit(self, now: float, job: _Job) -> None:
        spell = self._phase
        if spell.down is not None:
            self._refuse(now, job, spell.down, "down")
            return
        if spell.faults or spell.picky:
            trouble = spell.draw(job.key, job.asking, streamed=job.streamed)
            if trouble is not None and trouble.kind in REFUSALS:
                self._refuse(now, job, trouble, trouble.kind.value)
                return
            job.trouble = trouble
        if self._limited(now, job):
            return
        if self.busy < spell.slots:  # then nobody is queueing either
            self._start(now, job)
        elif len(self._queue) < self._room:
            self._queue.append(job)
        else:
            self._refuse(now, job, _QUEUE_FULL, "queue_full")

    def _limited(self, now: float, job: _Job) -> bool:
        if self._limit is None or job.number == 0:
            return False
        wait = self._limit.take(now, job.tokens)
        if wait is None:
            return False
        self._refuse(
            now, job, self._over_limit, "limit", max(0.0, wait - self._over_limit.respond_after)
        )
        return True

    def _refuse(
        self, now: float, job: _Job, trouble: Fault, outcome: str, wait: float | None = None
    ) -> None:
        if trouble.kind is Kind.HANG:
            self._end(now, job, outcome)
            return
        told = trouble.retry_after if wait is None else wait
        told = None if trouble.retry_after_form is WaitForm.BARE else told
        self._plan(
            now + trouble.respond_after, self._refused, _Refusal(job, trouble, outcome, told)
        )

    def _refused(self, now: float, refusal: _Refusal) -> None:
        job, trouble, outcome, told = refusal
        self._end(now, job, outcome)
        if job.number == 0:
            self._return(now, job)
        elif not job.gone:
            self._replies.append(Reply(now, job.number, Part.WHOLE, trouble, now, told))

    def _fill(self, now: float) -> None:
        while self._queue and self.busy < self._phase.slots:
            self._start(now, self._queue.popleft())

    def _start(self, now: float, job: _Job) -> None:
        self.busy += 1
        span = self._service.draw(mix(job.key)) * self._phase.slowdown
        job.done_at = now + span
        if job.streamed:
            self._plan(now + span * self.scenario.provider.prefill, self._speak, job)
        self._plan(job.done_at, self._finish, (job, span))

    def _speak(self, now: float, job: _Job) -> None:
        if not job.gone:
            self._replies.append(Reply(now, job.number, Part.FIRST, job.trouble, job.done_at))

    def _finish(self, now: float, done: tuple[_Job, float]) -> None:
        job, span = done
        self.busy -= 1
        tally = self._counters(job)
        tally.work += span
        if self._late(now, job):
            tally.wasted_work += span
            self._end(now, job, "wasted", worked=True)
        else:
            self._end(now, job, job.trouble.kind.value if job.trouble else "ok", worked=True)
            if job.number:
                self._replies.append(Reply(now, job.number, Part.WHOLE, job.trouble, now))
        self._fill(now)

    def _end(self, now: float, job: _Job, outcome: str, *, worked: bool = False) -> None:
        self._counters(job).ended(now, outcome)
        self._inside.pop(job.number, None)
        if self._ended is not None and job.number:
            self._ended(job.number, worked=worked)

    def _late(self, now: float, job: _Job) -> bool:
        if job.number:
            return job.gone
        crowd = self.scenario.background_traffic
        return crowd is not None and crowd.timeout is not None and now - job.arrived > crowd.timeout

    # ------------------------------------------------------------ the crowd

    def _invite(self, crowd: BackgroundTraffic | None) -> None:
        if crowd is not None:
            self._flow = Poisson(crowd.rate, crowd.steps, mix(self._salt ^ 0xC40D))
            self._expect(0.0)

    def _expect(self, now: float) -> None:
        at = self._flow.next_after(now)
        if at is not None:
            self._plan(at, self._join, None)

    def _join(self, now: float, _: object) -> None:
        key = mix(self._salt + self.crowd.arrivals + 1)
        self._enter(now, _Job(0, key, now))
        self._expect(now)

    def _return(self, now: float, job: _Job) -> None:
        crowd = self.scenario.background_traffic
        if crowd is None or job.tries >= crowd.retries:
            return
        again = _Job(0, mix(job.key + 1), now)
        again.tries = job.tries + 1
        self._plan(now + crowd.retry_delay * (0.5 + uniform(again.key)), self._come_back, again)

    def _come_back(self, now: float, job: _Job) -> None:
        job.arrived = now
        self._enter(now, job)
