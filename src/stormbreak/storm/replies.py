"""What a reply of the provider model means to a client: the outcome that the wire would have brought.

`tests/storm/test_replies.py` compares each kind of trouble with what the HTTP client makes of it on a real socket.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from stormbreak.llm.classify import verdict_of_status
from stormbreak.llm.limits import limits_of
from stormbreak.llm.tables import BILLED_ANYWAY
from stormbreak.provider.kinds import SLOW, Form, Kind
from stormbreak.provider.limit import Standing
from stormbreak.provider.model import Reply
from stormbreak.provider.scenario import Dialect
from stormbreak.provider.told import limit_headers
from stormbreak.types import TREATMENTS, Allowances, Outcome, Verdict

_EPOCH = 1.7e9  # unix seconds at which a simulation begins: some headers name points in time
_OK = Outcome(Verdict.OK, status=200)
_BROKEN = Outcome(Verdict.BROKEN, status=200, maybe_processed=True)


def _refused(status: int) -> Outcome:
    return Outcome(
        verdict_of_status(status), status=status, maybe_processed=status in BILLED_ANYWAY
    )


_OUTCOMES: Mapping[Kind, Outcome] = MappingProxyType(
    {
        **{kind: _refused(int(kind)) for kind in Kind if kind.isdigit()},
        **dict.fromkeys(SLOW, _OK),
        Kind.DOWN: _refused(503),
        Kind.QUOTA: Outcome(Verdict.BILLING, status=429),
        Kind.RESET: Outcome(Verdict.RESET, maybe_processed=True),
        Kind.CUT_BODY: _BROKEN,
        Kind.EMPTY_BODY: _BROKEN,
        Kind.INVALID_JSON: _BROKEN,
        Kind.ERROR_IN_200: _BROKEN._replace(verdict=Verdict.SERVER_ERROR),
        Kind.CUT_STREAM: _BROKEN,
        Kind.STREAM_RESET: _BROKEN,
    }
)


def outcome_of(reply: Reply) -> Outcome:
    """Tell what a client makes of `reply`."""
    if reply.trouble is None:
        return _OK
    outcome = _OUTCOMES[reply.trouble.kind]
    if reply.retry_after is None or not TREATMENTS[outcome.verdict].retry:
        return outcome
    return outcome._replace(retry_after=_as_told(reply.retry_after, reply.trouble.form))


def told_of(dialect: Dialect, standings: Sequence[Standing], now: float) -> Allowances | None:
    """What a client reads in the headers of an answer at `now`."""
    headers = limit_headers(dialect, standings, _EPOCH + now)
    return limits_of({name.lower(): value for name, value in headers}, _EPOCH + now)


def delay_of(reply: Reply) -> float:
    """Seconds by which the client has the whole answer later than the provider had it ready."""
    trouble = reply.trouble
    return trouble.seconds if trouble is not None and trouble.kind in SLOW else 0.0


def _as_told(wait: float, form: Form) -> float:
    """`wait` as it is written on the wire: rounded up to what the form can say."""
    return math.ceil(wait * 1000) / 1000 if form is Form.MS else float(max(1, math.ceil(wait)))
