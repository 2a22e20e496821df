"""What a reply of the provider model means to a client: the outcome that the wire would have brought.

What befalls a connection after its answer (`unasked`, `quiet_close`, `close_race`) has no meaning here: simulated
calls have no connections. Nor have they bodies in which a text could be found.

`tests/storm/test_outcomes.py` compares each kind of trouble with what the HTTP client makes of it on a real socket.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from stormbreak.errors import ConfigurationError
from stormbreak.key_patterns import quoted
from stormbreak.llm.classify import may_be_processed, verdict_of_status
from stormbreak.llm.rate_limit_headers import parse_rate_limits
from stormbreak.provider.fault_kinds import SILENT, SLOW, STATUSES, WELL_FORMED, Kind, WaitForm
from stormbreak.provider.model import Part, Reply
from stormbreak.provider.rate_limit import Standing
from stormbreak.provider.rate_limit_headers import limit_headers
from stormbreak.provider.scenario import Dialect, Scenario
from stormbreak.types import TREATMENTS, Outcome, RateLimits, Verdict

_EPOCH = 1.7e9  # unix seconds at which a simulation begins: some headers name points in time
_OK = Outcome(Verdict.OK, status=200)
_BROKEN = Outcome(Verdict.BROKEN, status=200, maybe_processed=True)


_SPOILT = (
    Kind.CUT_BODY,
    Kind.EMPTY_BODY,
    Kind.INVALID_JSON,
    Kind.HTML_200,
    Kind.ENDLESS_BODY,
    Kind.GZIP_LIE,
    Kind.GZIP_CUT,
    Kind.GZIP_BOMB,
    Kind.CUT_STREAM,
    Kind.STREAM_RESET,
    Kind.ENDLESS_LINE,
)
_WHOLE_AS_STREAMS = frozenset({Kind.ENDLESS_BODY, Kind.LONG_LENGTH})
"""Only the end of the body is missing: a stream is over when its format says so."""

_WORDLESS = frozenset(
    {Kind.STALL_EARLY, Kind.HEARTBEATS, Kind.ERROR_EARLY}
)  # before the first output


def _refused(status: int) -> Outcome:
    """A refusal as the provider writes it: an overload is named."""
    verdict = verdict_of_status(status)
    processed = may_be_processed(status, verdict, refusal=True)
    return Outcome(verdict, status=status, maybe_processed=processed)


_OUTCOMES: Mapping[Kind, Outcome] = MappingProxyType(
    {
        **{kind: _refused(int(kind)) for kind in STATUSES},
        **dict.fromkeys(WELL_FORMED, _OK),
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
        Kind.ERROR_EARLY: _BROKEN._replace(verdict=Verdict.SERVER_ERROR),
        Kind.STALE: _OK,  # nobody can tell
        Kind.SHORT_LENGTH: _BROKEN._replace(status=None),
        Kind.LONG_HEADER: _BROKEN._replace(status=None),
        Kind.ENDLESS_HEADERS: _BROKEN._replace(status=None),
    }
)


def outcome_of(reply: Reply, *, streamed: bool = False) -> Outcome:
    """Tell what a client makes of `reply`."""
    if reply.trouble is None or (streamed and reply.trouble.kind in _WHOLE_AS_STREAMS):
        return _OK
    outcome = _OUTCOMES[reply.trouble.kind]
    if reply.retry_after is None or not TREATMENTS[outcome.verdict].retry:
        return outcome
    return outcome._replace(retry_after=_as_told(reply.retry_after, reply.trouble.retry_after_form))


def sees_retry_after(reply: Reply, *, streamed: bool = False) -> bool:
    """Whether the client sees this part of an answer at all."""
    if reply.trouble is None or (streamed and reply.trouble.kind in _WHOLE_AS_STREAMS):
        return True
    return reply.trouble.kind not in (_WORDLESS if reply.part is Part.FIRST else SILENT)


def check_playable(scenario: Scenario) -> None:
    """Raise ConfigurationError where a scenario chooses calls by their text."""
    for place, trouble in enumerate(scenario.faults):
        if trouble.match is not None:
            raise ConfigurationError(
                f"{scenario.name}: faults[{place}].match cannot be simulated, for simulated calls have no"
                f" text (requests and first_attempts can), got {quoted(trouble.match)}"
            )


def told_of(dialect: Dialect, standings: Sequence[Standing], now: float) -> RateLimits | None:
    """What a client reads in the headers of an answer at `now`."""
    headers = limit_headers(dialect, standings, _EPOCH + now)
    return parse_rate_limits({name.lower(): value for name, value in headers}, _EPOCH + now)


def delay_of(reply: Reply) -> float:
    """Seconds by which the client has the whole answer later than the provider had it ready."""
    trouble = reply.trouble
    return trouble.added_latency if trouble is not None and trouble.kind in SLOW else 0.0


def _as_told(wait: float, form: WaitForm) -> float:
    """`wait` as it is written on the wire: rounded up to what the form can say."""
    return math.ceil(wait * 1000) / 1000 if form is WaitForm.MS else float(max(1, math.ceil(wait)))
