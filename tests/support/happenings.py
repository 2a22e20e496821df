"""One event of each kind."""

from decimal import Decimal

from stage import OTHER, TARGET

from stormbreak.events import (
    CallCancelled,
    CallEnded,
    CallRejected,
    CircuitChanged,
    Committed,
    CooldownStarted,
    FallbackRefused,
    FellBack,
    Hedged,
    HedgeRefused,
    Labelled,
    Overtaken,
    Queued,
    RetryPlanned,
    RetryRefused,
    Returned,
    Sent,
    SpendReached,
    WouldHave,
)
from stormbreak.types import Usage, Verdict


def one_of_each(target=TARGET, other=str(OTHER)):
    """One event of each kind, at second 3, that concerns `target`, or leads from there to `other`."""
    verdict = Verdict.OVERLOADED
    used = Usage(input_tokens=12, output_tokens=7, cached_input_tokens=5, cache_write_tokens=4)
    return [
        Labelled(3.0, 1, target, (("team", "blue"),)),
        Queued(3.0, 1, target, "limit"),
        Sent(3.0, 1, target, 1),
        Returned(3.0, 1, target, 1, verdict, 503, "busy", 1.25, "cut after 812 bytes", used),
        Committed(3.0, 1, target, 1, 0.5),
        Hedged(3.0, 1, target, 2, 1.5),
        HedgeRefused(3.0, 1, target, 1, "load"),
        Overtaken(3.0, 1, target, 1, 1.5),
        RetryPlanned(3.0, 1, target, 1, 5.5, False, True, verdict),
        RetryRefused(3.0, 1, target, 1, "budget", verdict),
        FellBack(3.0, 1, target, other, verdict),
        FallbackRefused(3.0, 1, target, "cache", "nothing found"),
        CallRejected(3.0, 1, target, "breaker", "the circuit is open", 7.0),
        CallEnded(3.0, 1, target, verdict, 2, 2.5, 1),
        CallCancelled(3.0, 1, target, True),
        CircuitChanged(3.0, target, "closed", "open", 8.0),
        CooldownStarted(3.0, target, 15.0),
        SpendReached(3.0, target, 80, Decimal("41.5"), Decimal(50), 63.0),
        WouldHave(3.0, target, "breaker", "open", 8.0),
    ]
