"""The provider as the simulated clients meet it: the provider model on a timeline.

The network takes no time. A client that gives up is gone for the provider at that instant, but the work goes on.
"""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import NamedTuple, TypeAlias

from stormbreak.core.flow import Send
from stormbreak.drivers.virtual_time import Reply as Answer
from stormbreak.drivers.virtual_time import Timeline, Timer
from stormbreak.provider.model import Part, ProviderModel, Reply
from stormbreak.storm.outcomes import delay_of, outcome_of, sees_retry_after, told_of
from stormbreak.types import RateLimits, Usage, Verdict

_TRIES = 16  # bits of a chance key that number the attempts of one call


class Sent(NamedTuple):
    """A call whose attempts are sent here, or a row with so many sends `before` this call."""

    number: int
    tokens: int  # that each of them uses; here, prompt and answer are one number
    before: int = 0


First: TypeAlias = Callable[[Send], None]


class _Asked(NamedTuple):
    """An attempt that is not answered yet, and what its headers will say of limits."""

    answer: Answer
    first: First
    send: Send
    tokens: int
    told: RateLimits | None


class SimulatedProvider:
    """Carries attempts to the model and replies back.

    With `deaf`, clients do not hear when to come back; with `streamed`, they see the first output of an answer.
    """

    def __init__(
        self,
        model: ProviderModel,
        timeline: Timeline,
        *,
        deaf: bool = False,
        streamed: bool = False,
    ) -> None:
        self._model = model
        self._timeline = timeline
        self._ignores_retry_after = deaf
        self._streamed = streamed
        limit = model.scenario.limit
        self._dialect = None if limit is None else limit.headers
        self._waiting: dict[int, _Asked] = {}
        self._timer: Timer | None = None
        self._rings_at = inf
        self.attempts: list[int] = []  # in each second

    def send(self, call: Sent, first: First, send: Send, answer: Answer) -> partial[None]:
        """Send an attempt of `call`; returns how to give it up. `first` hears of its first output.

        Its chances depend on the call and on how often it was sent, on nothing else.
        """
        now = self._timeline.now
        self._count(now)
        attempt = call.before + send.attempt
        key = (call.number << _TRIES) + attempt
        request = self._model.arrive(
            now, key, streamed=self._streamed, tokens=call.tokens, attempt=attempt
        )
        self._waiting[request] = _Asked(answer, first, send, call.tokens, self._told(now))
        self._aim()
        return partial(self._give_up, request)

    def _told(self, now: float) -> RateLimits | None:
        """What is counted when a request comes in is what its answer says, as on the embedded provider."""
        if self._dialect is None:
            return None
        return told_of(self._dialect, self._model.standings(now), now)

    def _give_up(self, request: int) -> None:
        if self._waiting.pop(request, None) is not None:
            self._model.abandon(request, self._timeline.now)
            self._aim()

    def _count(self, now: float) -> None:
        second = int(now)
        missing = second + 1 - len(self.attempts)
        if missing > 0:
            self.attempts.extend([0] * missing)
        self.attempts[second] += 1

    def _aim(self) -> None:
        """See to it that the model is woken when something changes in it."""
        at = self._model.next_event_at()
        if at is None or at >= self._rings_at:
            return
        if self._timer is not None:
            self._timeline.cancel(self._timer)
        self._rings_at = at
        self._timer = self._timeline.at(at, self._ring)

    def _ring(self) -> None:
        self._timer, self._rings_at = None, inf
        while replies := self._model.advance(self._timeline.now):
            for reply in replies:
                self._deliver(reply)
        self._aim()

    def _deliver(self, reply: Reply) -> None:
        if not sees_retry_after(reply, streamed=self._streamed):
            return
        if reply.part is Part.FIRST:
            if waiting := self._waiting.get(reply.request):
                waiting.first(waiting.send)
            return
        waiting = self._waiting.pop(reply.request, None)
        if waiting is None:
            return
        outcome = outcome_of(reply, streamed=self._streamed)
        if waiting.tokens and outcome.verdict is Verdict.OK:
            outcome = outcome._replace(usage=Usage(input_tokens=waiting.tokens))
        if waiting.told is not None:
            outcome = outcome._replace(rate_limits=waiting.told)
        if self._ignores_retry_after and outcome.retry_after is not None:
            outcome = outcome._replace(retry_after=None)
        if later := delay_of(reply):
            self._timeline.at(reply.at + later, partial(waiting.answer, outcome))
        else:
            waiting.answer(outcome)
