import pytest

from stormbreak.batch.run_counters import Counts
from stormbreak.events import CallEnded, Queued, RetryPlanned, Returned, Sent
from stormbreak.types import Outcome, Target, Usage, Verdict

TARGET = Target("p", "m")


def returned(verdict, status=None, call=1):
    return Returned(0.0, call, TARGET, 1, verdict, status, None, 0.1)


def test_attempts_retries_verdicts_and_waits():
    counts = Counts()
    for event in (
        Sent(0.0, 1, TARGET, 1),
        returned(Verdict.THROTTLED, 429),
        Sent(1.0, 1, TARGET, 2),
        returned(Verdict.OK, 200),
        CallEnded(2.0, 1, TARGET, Verdict.OK, 2, 0.75),
    ):
        counts.hear(event)
    counts.add(Usage(input_tokens=3, output_tokens=4))
    assert (counts.attempts, counts.retries, counts.waited) == (2, 1, 0.75)
    assert counts.verdicts == {"throttled": 1, "ok": 1}
    assert (counts.input_tokens, counts.output_tokens) == (3, 4)


@pytest.mark.parametrize(
    "then",
    [
        Sent(1.0, 1, TARGET, 2),
        Queued(1.0, 1, TARGET, "slots"),
        CallEnded(1.0, 1, TARGET, Verdict.RESET, 1, 0.0),
    ],
)
def test_a_call_backs_off_until_it_is_back(then):
    counts = Counts()
    counts.hear(RetryPlanned(0.0, 1, TARGET, 1, 5.0, free=True))
    counts.hear(RetryPlanned(0.0, 2, TARGET, 1, 5.0, free=True))
    assert counts.backing_off == 2
    counts.hear(then)
    assert counts.backing_off == 1


@pytest.mark.parametrize("verdict", [Verdict.CONNECT_FAILED, Verdict.RESET, Verdict.BROKEN])
def test_what_finds_no_http_server_is_unreachable(verdict):
    counts = Counts()
    assert not counts.unreachable
    counts.hear(returned(verdict))
    assert counts.unreachable
    assert counts.trouble == verdict.value.replace("_", " ")
    counts.explain(Outcome(verdict, detail="host not found"))
    assert counts.trouble == "host not found"


@pytest.mark.parametrize(
    ("verdict", "status"), [(Verdict.SERVER_ERROR, 502), (Verdict.TIMEOUT, None)]
)
def test_whoever_answers_or_keeps_silent_is_there(verdict, status):
    counts = Counts()
    counts.hear(returned(Verdict.RESET))
    counts.hear(returned(verdict, status))
    assert not counts.unreachable


def test_a_cancelled_attempt_says_nothing_about_the_server():
    counts = Counts()
    counts.hear(returned(Verdict.CANCELLED))
    assert not counts.unreachable
