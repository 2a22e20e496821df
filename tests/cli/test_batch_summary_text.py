"""The summary text of a run."""

from datetime import datetime

from stormbreak.batch.running.failure_reasons import Reason
from stormbreak.batch.running.runner import End
from stormbreak.batch.running.summary import Summary
from stormbreak.cli.batch.status import summary_text
from stormbreak.cost.accounts import Cost
from stormbreak.types import Verdict

NOTHING = dict.fromkeys(
    (
        "total", "successful", "failed", "left", "retried", "recovered", "answered", "reused", "from_fallback", "attempts",
        "retries", "maybe_processed", "circuits_opened", "cooldowns", "waited", "input_tokens", "output_tokens",
        "elapsed", "throughput",
    ),
    0,
)  # fmt: skip


def summary_lines(*, retry=False, **changes):
    """Return the lines of the summary by name."""
    facts = NOTHING | {
        "input": "in.jsonl", "output": "out.jsonl", "base_url": "http://there/v1", "end": End.FINISHED.value,
        "refused_by": None, "connect_error": "", "reason": None, "verdicts": {}, "max_cost": None, "spent": None, "cost": Cost(),
    }  # fmt: skip
    lines = summary_text(Summary(**facts | changes), retry=retry).splitlines()
    return {line[:10].strip(): line[11:] for line in lines}


def test_the_summary_proposes_a_retry_after_failures():
    assert "stormbreak batch retry out.jsonl" in summary_lines(failed=3)["next"]
    assert "next" not in summary_lines()


def test_the_summary_names_the_end_of_a_wait_that_is_too_long_for_a_row():
    """Found: it asked to fix the cause, but only time helps; and it named a time up to a minute too early."""
    end = datetime(2026, 12, 2, 6, 32, 1).astimezone()
    reason = Reason(
        verdict=Verdict.THROTTLED,
        status=429,
        code=None,
        message="",
        rows=3,
        retry_at=end.timestamp(),
    )
    lines = summary_lines(failed=3, reason=reason)
    assert lines["reason"] == (
        "throttled 429 (3 rows of this run); they must wait until 2026-12-02 06:33, and a row waits for a day at most"
    )
    assert lines["next"] == "after 2026-12-02 06:33: stormbreak batch retry out.jsonl"


def test_the_summary_proposes_no_retry_when_the_same_command_continues():
    for end in (End.REFUSED, End.SPENT, End.INTERRUPTED):
        refused_by = Verdict.AUTH if end is End.REFUSED else None
        lines = summary_lines(failed=3, left=4, end=end.value, refused_by=refused_by)
        assert "next" not in lines
        assert ("fix the cause" if refused_by else "to continue") in lines["stopped"]


def test_the_summary_of_a_retry_refers_unsent_rows_to_batch_run():
    assert summary_lines(left=4)["left"] == "4"
    assert summary_lines(left=4, retry=True)["left"] == "4; batch run continues with them"
    assert "left" not in summary_lines(retry=True)


def test_the_summary_counts_retried_rows_only_of_a_retry():
    assert "retried" not in summary_lines()
    assert summary_lines(retry=True)["retried"].startswith("0 rows that had failed; 0 of them")
    assert summary_lines(retried=1200, recovered=2)["retried"].startswith(
        "1,200 rows that had failed; 2 of"
    )


def test_the_summary_explains_a_run_that_sent_nothing():
    assert summary_lines(total=3, successful=3)["sent"] == "nothing: all rows were answered before"
    assert summary_lines()["sent"] == "nothing: this shard has no rows"
    cached = summary_lines(total=3, successful=3, answered=3, reused=3)
    assert cached["reused"] == "3 of these answers, from the cache or from identical rows"
    assert cached["sent"] == "nothing: no other row was left"
    assert "reused" not in summary_lines(total=3, successful=3, answered=3, attempts=3)
