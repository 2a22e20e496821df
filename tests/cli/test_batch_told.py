"""What came of a run, in words."""

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


def said(*, retry=False, **changes):
    """The lines by their names."""
    facts = NOTHING | {
        "input": "in.jsonl", "output": "out.jsonl", "base_url": "http://there/v1", "end": End.FINISHED.value,
        "refused_by": None, "connect_error": "", "reason": None, "verdicts": {}, "max_cost": None, "spent": None, "cost": Cost(),
    }  # fmt: skip
    lines = summary_text(Summary(**facts | changes), retry=retry).splitlines()
    return {line[:10].strip(): line[11:] for line in lines}


def test_a_retry_is_proposed_where_the_run_has_had_its_say():
    assert "stormbreak batch retry out.jsonl" in said(failed=3)["next"]
    assert "next" not in said()


def test_and_not_where_the_same_command_goes_on():
    for end in (End.REFUSED, End.SPENT, End.INTERRUPTED):
        refused_by = Verdict.AUTH if end is End.REFUSED else None
        lines = said(failed=3, left=4, end=end.value, refused_by=refused_by)
        assert "next" not in lines
        assert ("fix the cause" if refused_by else "to continue") in lines["stopped"]


def test_what_a_retry_leaves_is_for_batch_run():
    assert said(left=4)["left"] == "4"
    assert said(left=4, retry=True)["left"] == "4; batch run continues with them"
    assert "left" not in said(retry=True)


def test_rows_that_had_failed_are_told_where_there_were_any():
    assert "retried" not in said()
    assert said(retry=True)["retried"].startswith("0 rows that had failed; 0 of them")
    assert said(retried=1200, recovered=2)["retried"].startswith("1,200 rows that had failed; 2 of")


def test_what_was_not_sent_is_explained():
    assert said(total=3, successful=3)["sent"] == "nothing: all rows were answered before"
    assert said()["sent"] == "nothing: this shard has no rows"
    cached = said(total=3, successful=3, answered=3, reused=3)
    assert cached["reused"] == "3 of these answers, from the cache or from identical rows"
    assert cached["sent"] == "nothing: no other row was left"
    assert "reused" not in said(total=3, successful=3, answered=3, attempts=3)
