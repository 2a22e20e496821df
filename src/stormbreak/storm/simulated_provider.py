"""The provider of simulated clients: the provider model on a timeline.

The network takes no time. When a client gives up, the provider knows at once, but the work goes on.
"""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import TypeAlias

from stormbreak.core.flow import Send
from stormbreak.drivers.virtual_time import Reply as Answer
from stormbreak.drivers.virtual_time import Timeline, Timer
from stormbreak.provider.capacity_model import Part, ProviderModel, Reply
from stormbreak.provider.scenario import Dialect
from stormbreak.storm.outcomes import (
    ANSWERED,
    delay_of,
    outcome_of,
    rate_limits_of,
    sees_retry_after,
)
from stormbreak.types import VERDICT_OK, RateLimits, Usage

_TRIES = 16  # bits of a chance key that number the attempts of one call


First: TypeAlias = Callable[[Send], None]


_Pending: TypeAlias = tuple[Answer, First, Send, int, RateLimits | None]
"""A pending attempt, with its tokens and the rate limits of its headers."""


class SimulatedProvider:
    """Pass attempts to the model and replies back.

    With `ignores_retry_after`, clients do not see Retry-After; with `streamed`, they see the first output of an answer.
    """

    def __init__(
        self,
        model: ProviderModel,
        timeline: Timeline,
        *,
        ignores_retry_after: bool = False,
        streamed: bool = False,
    ) -> None:
        self._model = model
        self._timeline = timeline
        self._ignores_retry_after = ignores_retry_after
        self._streamed = streamed
        limit = model.scenario.limit
        self._dialect = None if limit is None else limit.headers
        self._waiting: dict[int, _Pending] = {}
        self._timer: Timer | None = None
        self._rings_at = inf
        self.attempts: list[int] = []  # in each second

    def send(
        self, call: int, tokens: int, before: int, first: First, send: Send, answer: Answer
    ) -> partial[None]:
        """Send an attempt of call number `call`, `before` times sent as a row; return a function that cancels it.

        `tokens` are those of prompt and answer together; `first` is called at its first output. Its random draws depend
        only on the call and the number of the attempt.
        """
        now, attempts = self._timeline.now, self.attempts
        second = int(now)
        while len(attempts) <= second:
            attempts.append(0)
        attempts[second] += 1
        attempt = before + send.attempt
        key = (call << _TRIES) + attempt
        request = self._model.arrive(
            now, key, streamed=self._streamed, tokens=tokens, attempt=attempt
        )
        limits = None if self._dialect is None else self._rate_limits(self._dialect, now)
        self._waiting[request] = answer, first, send, tokens, limits
        self._aim()
        return partial(self._give_up, request)

    def _rate_limits(self, dialect: Dialect, now: float) -> RateLimits | None:
        """Return the rate limits when a request arrives, which its answer reports, as on the embedded provider."""
        return rate_limits_of(dialect, self._model.limit_states(now), now)

    def _give_up(self, request: int) -> None:
        if self._waiting.pop(request, None) is not None:
            self._model.abandon(request, self._timeline.now)
            self._aim()

    def _aim(self) -> None:
        """Schedule the model's next change on the timeline."""
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
        fault, outcome = reply.fault, ANSWERED
        if fault is not None:
            if not sees_retry_after(reply, streamed=self._streamed):
                return
            outcome = outcome_of(reply, streamed=self._streamed)
        if self._streamed and reply.part is Part.FIRST:
            if waiting := self._waiting.get(reply.request):
                _, first, send, _, _ = waiting
                first(send)
            return
        waiting = self._waiting.pop(reply.request, None)
        if waiting is None:
            return
        answer, _, _, tokens, rate_limits = waiting
        if tokens and outcome.verdict is VERDICT_OK:
            outcome = outcome._replace(usage=Usage(input_tokens=tokens))
        if rate_limits is not None:
            outcome = outcome._replace(rate_limits=rate_limits)
        if self._ignores_retry_after and outcome.retry_after is not None:
            outcome = outcome._replace(retry_after=None)
        if fault is not None and (later := delay_of(reply)):
            self._timeline.at(reply.at + later, partial(answer, outcome))
        else:
            answer(outcome)
