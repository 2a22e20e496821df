from stage import OTHER, TARGET

from stormbreak.core.explain import MAX_LINES, history_lines, notes_of
from stormbreak.events import (
    CallEnded,
    CallRejected,
    FallbackRefused,
    FellBack,
    Hedged,
    Overtaken,
    Queued,
    RetryPlanned,
    RetryRefused,
    Returned,
    Sent,
)
from stormbreak.types import CANCELLED, CallResult, Verdict


def returned(attempt, *, status=503, code=None, detail=None):
    return Returned(
        3.0, 1, TARGET, attempt, Verdict.OVERLOADED, status, code, took=1.25, detail=detail
    )


def ended(*history, **values):
    return CallResult(CANCELLED, history=history, **values)


def test_an_attempt_and_its_retry_share_a_line():
    history = [
        Queued(0.0, 1, TARGET, "limit"),
        Sent(1.0, 1, TARGET, 1),
        returned(1),
        RetryPlanned(3.0, 1, TARGET, 1, until=5.5, free=True),
        Sent(5.5, 1, TARGET, 2),
        returned(2, status=None, code="busy", detail="cut after 812 bytes"),
        RetryRefused(7.0, 1, TARGET, 2, "budget"),
        CallEnded(7.0, 1, TARGET, Verdict.OVERLOADED, 2, 2.5),
    ]

    assert list(history_lines(history)) == [
        "attempt 1 at acme/large: overloaded, status 503 after 1.2 s; again after 2.5 s",
        "attempt 2 at acme/large: overloaded, busy, cut after 812 bytes after 1.2 s",
    ]


def test_fallbacks_and_rejections_have_lines():
    history = [
        RetryPlanned(3.0, 1, TARGET, 1, until=5.5, free=True),  # of an attempt that was forgotten
        FellBack(1.0, 1, TARGET, str(OTHER), Verdict.OVERLOADED),
        FallbackRefused(1.0, 1, TARGET, "cache", "nothing found"),
        CallRejected(1.0, 1, TARGET, "shed", "could not be served in time", None),
    ]

    assert list(history_lines(history)) == [
        "fell back from acme/large to acme/small: overloaded",
        "no fallback from acme/large to cache: nothing found",
        "rejected by shed at acme/large: could not be served in time",
    ]


def test_the_first_line_is_a_summary():
    assert notes_of(ended(returned(1), attempts=1, waited=2.0)) == [
        "tried: 1 attempt(s), 2.0 s unserved",
        "attempt 1 at acme/large: overloaded, status 503 after 1.2 s",
    ]
    assert notes_of(ended(attempts=3, maybe_processed=2)) == [
        "tried: 3 attempt(s), 0.0 s unserved, 2 may have been processed and billed"
    ]


def test_the_last_lines_are_kept():
    exactly, *_ = notes_of(ended(*map(returned, range(MAX_LINES)), attempts=MAX_LINES))
    first, *lines = notes_of(ended(*map(returned, range(MAX_LINES + 3)), attempts=MAX_LINES + 3))

    assert exactly == f"tried: {MAX_LINES} attempt(s), 0.0 s unserved"
    assert first == "tried: 15 attempt(s), 0.0 s unserved; the last 12 lines of 15"
    assert [line.split()[1] for line in lines] == [str(attempt) for attempt in range(3, 15)]


def test_hedges_have_lines():
    history = [
        Hedged(2.0, 1, TARGET, 2, 1.5),
        Queued(2.0, 1, TARGET, "limit"),
        Overtaken(4.0, 1, TARGET, 1, 3.5),
    ]

    assert list(history_lines(history)) == [
        "attempt 2 at acme/large: beside the one before, unanswered after 1.5 s",
        "attempt 1 at acme/large: overtaken after 3.5 s",
    ]
