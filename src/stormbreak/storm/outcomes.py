"""Turn a reply of the provider model into the outcome that the client would see on a socket.

Faults of idle connections (`unasked`, `quiet_close`, `close_race`) do not apply: simulated
calls have no connections, and no bodies in which a text could be found.

`tests/storm/test_outcomes.py` compares each kind of fault with the HTTP client's outcome on a real socket.
"""

import math
from collections.abc import Mapping, Sequence

from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import quoted
from stormbreak.llm.rate_limit_headers import parse_rate_limits
from stormbreak.llm.response_verdict import may_be_processed, verdict_of_status
from stormbreak.provider.capacity_model import Part, Reply
from stormbreak.provider.fault_kinds import SILENT, SLOW, STATUSES, WELL_FORMED, Kind, WaitForm
from stormbreak.provider.rate_limit import LimitState
from stormbreak.provider.scenario import Dialect, Scenario
from stormbreak.provider.throttle_headers import limit_headers
from stormbreak.types import TREATMENTS, Outcome, RateLimits, Verdict

_EPOCH = 1.7e9  # unix seconds at which a simulation begins: some headers name points in time
ANSWERED = Outcome(Verdict.OK, status=200)
_BROKEN = Outcome(Verdict.BROKEN, status=200, maybe_processed=True)


_SPOILT = (
    Kind.CUT_BODY, Kind.EMPTY_BODY, Kind.INVALID_JSON, Kind.HTML_200, Kind.ENDLESS_BODY, Kind.GZIP_LIE,
    Kind.GZIP_CUT, Kind.GZIP_BOMB, Kind.CUT_STREAM, Kind.STREAM_RESET, Kind.ENDLESS_LINE,
)  # fmt: skip
_WHOLE_AS_STREAMS = frozenset({Kind.ENDLESS_BODY, Kind.LONG_LENGTH})
"""Only the end of the body is missing: a stream ends when its format says so."""

# before the first output
_WITHOUT_OUTPUT = frozenset({Kind.STALL_EARLY, Kind.HEARTBEATS, Kind.ERROR_EARLY})


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


def sees_retry_after(reply: Reply, *, streamed: bool = False) -> bool:
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
