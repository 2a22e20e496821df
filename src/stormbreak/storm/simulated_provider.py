"""The provider of simulated clients: the provider model on a timeline.

The network takes no time. When a client gives up, the provider knows at once, but the work goes on.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from typing import TypeAlias

from stormbreak.core.flow import Send
from stormbreak.drivers.virtual_time import Reply as Answer
from stormbreak.drivers.virtual_time import Timeline, Timer
from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import quoted
from stormbreak.llm.rate_limit_headers import parse_rate_limits
from stormbreak.llm.response_verdict import may_be_processed, verdict_of_status
from stormbreak.provider.capacity_model import Part, ProviderModel, Reply
from stormbreak.provider.fault_kinds import SILENT, SLOW, STATUSES, WELL_FORMED, Kind, WaitForm
from stormbreak.provider.rate_limit import LimitState
from stormbreak.provider.scenario import Dialect, Scenario
from stormbreak.provider.throttle_headers import limit_headers
from stormbreak.types import TREATMENTS, VERDICT_OK, Outcome, RateLimits, Usage, Verdict

# ---------------------------------------------------------------- outcomes
# A reply of the provider model as a client would see it on a socket; `tests/storm/test_outcomes.py` compares each kind
# of fault. Simulated calls have no connections, so faults of idle connections (`unasked`, `quiet_close`, `close_race`)
# do not apply. They have no bodies either, so no fault can match their text.

_EPOCH = 1.7e9  # unix seconds at which a simulation begins, for headers with points in time
ANSWERED = Outcome(Verdict.OK, status=200)
_BROKEN = Outcome(Verdict.BROKEN, status=200, maybe_processed=True)

_SPOILT = (
    Kind.CUT_BODY, Kind.EMPTY_BODY, Kind.INVALID_JSON, Kind.HTML_200, Kind.ENDLESS_BODY, Kind.GZIP_LIE,
    Kind.GZIP_CUT, Kind.GZIP_BOMB, Kind.CUT_STREAM, Kind.STREAM_RESET, Kind.ENDLESS_LINE,
)  # fmt: skip
_WHOLE_AS_STREAMS = frozenset({Kind.ENDLESS_BODY, Kind.LONG_LENGTH})
"""Only the end of the body is missing: a stream ends when its format says so."""

_WITHOUT_OUTPUT = frozenset({Kind.STALL_EARLY, Kind.HEARTBEATS, Kind.ERROR_EARLY})
"""Faults that come before the first output."""


def _refused(status: int) -> Outcome:
    """A refusal as the provider encodes it: an overload is named."""
    verdict = verdict_of_status(status)
    processed = may_be_processed(status, verdict, refusal=True)
    return Outcome(verdict, status=status, maybe_processed=processed)


_OUTCOMES: Mapping[Kind, Outcome] = {
    **{kind: _refused(int(kind)) for kind in STATUSES},
    **dict.fromkeys(WELL_FORMED, ANSWERED),
    **dict.fromkeys(_SPOILT, _BROKEN),
    Kind.DOWN: _refused(503),
    Kind.QUOTA: Outcome(Verdict.BILLING, status=429),
    Kind.BILLING: Outcome(Verdict.BILLING, status=402),
    Kind.SPEND_LIMIT: Outcome(Verdict.BILLING, status=429),
    Kind.BALANCE: Outcome(Verdict.BILLING, status=402),
    Kind.BUDGET: Outcome(Verdict.THROTTLED, status=402),
    Kind.MODEL_NOT_FOUND: Outcome(Verdict.NOT_FOUND, status=404),
    Kind.CONTEXT_LENGTH: Outcome(Verdict.TOO_LONG, status=400),
    Kind.CONTENT_FILTER: Outcome(Verdict.FILTERED, status=400),
    Kind.REDIRECT: Outcome(Verdict.REDIRECTED, status=307),
    Kind.RESET: Outcome(Verdict.RESET, maybe_processed=True),
    Kind.HALF_CLOSE: Outcome(Verdict.RESET, maybe_processed=True),
    Kind.ERROR_IN_200: _BROKEN._replace(verdict=Verdict.SERVER_ERROR),
    Kind.RATE_LIMIT_IN_200: _BROKEN._replace(verdict=Verdict.THROTTLED),
    Kind.EMPTY_CHOICES: _BROKEN,
    Kind.ERROR_EARLY: _BROKEN._replace(verdict=Verdict.SERVER_ERROR),
    Kind.STALE: ANSWERED,  # not detectable
    Kind.SHORT_LENGTH: _BROKEN,
    Kind.LONG_HEADER: _BROKEN._replace(status=None),
    Kind.ENDLESS_HEADERS: _BROKEN._replace(status=None),
}


def outcome_of(reply: Reply, *, streamed: bool = False) -> Outcome:
    if reply.fault is None or (streamed and reply.fault.kind in _WHOLE_AS_STREAMS):
        return ANSWERED
    outcome = _OUTCOMES[reply.fault.kind]
    if reply.retry_after is None or not TREATMENTS[outcome.verdict].retry:
        return outcome
    return outcome._replace(retry_after=_as_sent(reply.retry_after, reply.fault.retry_after_form))


def is_seen(reply: Reply, *, streamed: bool = False) -> bool:
    """Whether the client sees this part of an answer."""
    if reply.fault is None or (streamed and reply.fault.kind in _WHOLE_AS_STREAMS):
        return True
    return reply.fault.kind not in (_WITHOUT_OUTPUT if reply.part is Part.FIRST else SILENT)


def check_playable(scenario: Scenario) -> None:
    """Raise ConfigurationError if a scenario selects calls by their text."""
    for place, fault in enumerate(scenario.faults):
        if fault.match is not None:
            raise ConfigurationError(
                f"{scenario.name}: faults[{place}].match cannot be simulated: simulated calls have no"
                f" text; use requests or first_attempts; got {quoted(fault.match)}"
            )


def rate_limits_of(
    dialect: Dialect, limit_states: Sequence[LimitState], now: float
) -> RateLimits | None:
    """Return the rate limits in the headers of an answer at `now`."""
    headers = limit_headers(dialect, limit_states, _EPOCH + now)
    return parse_rate_limits({name.lower(): value for name, value in headers}, _EPOCH + now)


def delay_of(reply: Reply) -> float:
    """Seconds from the answer's end at the provider to its end at the client."""
    fault = reply.fault
    return fault.added_latency if fault is not None and fault.kind in SLOW else 0.0


def _as_sent(wait: float, form: WaitForm) -> float:
    """Round `wait` up to what its form in the header can express."""
    return math.ceil(wait * 1000) / 1000 if form is WaitForm.MS else float(max(1, math.ceil(wait)))


# ---------------------------------------------------------------- provider

_TRIES = 16  # bits of a chance key that number the attempts of one call

First: TypeAlias = Callable[[Send], None]
_Pending: TypeAlias = tuple[Answer, First, Send, int, RateLimits | None]
"""A pending attempt, with its tokens and the rate limits of its headers."""


class SimulatedProvider:
    """Pass attempts to the model, and replies back to the clients.

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
        """Send an attempt of call number `call`; return a function that cancels it.

        `before`: how often the row was sent before. `tokens`: prompt and answer together. `first` is called at the
        first output. The random draws depend only on the call and the number of the attempt.
        """
        now, second = self._timeline.now, int(self._timeline.now)
        self.attempts.extend([0] * (second + 1 - len(self.attempts)))
        self.attempts[second] += 1
        attempt = before + send.attempt
        key = (call << _TRIES) + attempt
        request = self._model.arrive(
            now, key, streamed=self._streamed, tokens=tokens, attempt=attempt
        )
        limits = None
        if self._dialect is not None:  # an answer reports the limits of its arrival
            limits = rate_limits_of(self._dialect, self._model.limit_states(now), now)
        self._waiting[request] = answer, first, send, tokens, limits
        self._aim()
        return partial(self._give_up, request)

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
        if not is_seen(reply, streamed=self._streamed):
            return
        if self._streamed and reply.part is Part.FIRST:
            if waiting := self._waiting.get(reply.request):
                _, first, send, _, _ = waiting
                first(send)
            return
        waiting = self._waiting.pop(reply.request, None)
        if waiting is None:
            return
        answer, _, _, tokens, rate_limits = waiting
        outcome = outcome_of(reply, streamed=self._streamed)
        if tokens and outcome.verdict is VERDICT_OK:
            outcome = outcome._replace(usage=Usage(input_tokens=tokens))
        if rate_limits is not None:
            outcome = outcome._replace(rate_limits=rate_limits)
        if self._ignores_retry_after and outcome.retry_after is not None:
            outcome = outcome._replace(retry_after=None)
        if later := delay_of(reply):
            self._timeline.at(reply.at + later, partial(answer, outcome))
        else:
            answer(outcome)
