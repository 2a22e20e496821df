"""The provider as the simulated clients meet it: the provider model on a timeline.

The network takes no time. A client that gives up is gone for the provider at that instant, but the work goes on.
"""

from functools import partial
from math import inf

from stormbreak.core.flow import Send
from stormbreak.drivers.virtual import Reply as Answer
from stormbreak.drivers.virtual import Timeline, Timer
from stormbreak.provider.model import ProviderModel, Reply
from stormbreak.storm.replies import delay_of, outcome_of

_TRIES = 16  # bits of a chance key that number the attempts of one call


class World:
    """Carries attempts to the model and replies back. With `deaf`, clients do not hear when to come back."""

    def __init__(self, model: ProviderModel, timeline: Timeline, *, deaf: bool = False) -> None:
        self._model = model
        self._timeline = timeline
        self._deaf = deaf
        self._waiting: dict[int, Answer] = {}
        self._timer: Timer | None = None
        self._rings_at = inf
        self.attempts: list[int] = []  # in each second

    def send(self, call: int, send: Send, answer: Answer) -> partial[None]:
        """Send an attempt of call number `call`; returns how to give it up.

        Its chances depend on the call and on how often it was sent, on nothing else.
        """
        now = self._timeline.now
        self._count(now)
        request = self._model.arrive(now, (call << _TRIES) + send.attempt)
        self._waiting[request] = answer
        self._aim()
        return partial(self._give_up, request)

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
        answer = self._waiting.pop(reply.request, None)
        if answer is None:
            return
        outcome = outcome_of(reply)
        if self._deaf and outcome.retry_after is not None:
            outcome = outcome._replace(retry_after=None)
        if later := delay_of(reply):
            self._timeline.at(reply.at + later, partial(answer, outcome))
        else:
            answer(outcome)
