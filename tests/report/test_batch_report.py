"""The content of a batch report."""

import re
from decimal import Decimal
from math import isnan

import pytest
from batches import a_snapshot, chat_rows, scenario, write

from stormbreak.batch.running.failure_reasons import Reason
from stormbreak.batch.running.runner import End
from stormbreak.batch.running.stats import RunStats
from stormbreak.batch.running.summary import Summary
from stormbreak.batch.store.cost import BatchCost, ModelCost
from stormbreak.cli.main import main
from stormbreak.cost.accounts import Cost, Span
from stormbreak.cost.token_prices import Tokens
from stormbreak.events import CallEnded, Returned, Sent
from stormbreak.report.batch_charts import charts_of
from stormbreak.report.batch_report import batch_page, batch_picture
from stormbreak.report.picture import png_of
from stormbreak.types import Target, Verdict

pytestmark = pytest.mark.usefixtures("no_words_about_providers")

TARGET = Target("p", "m")


def a_summary(tmp_path, **more):
    fields = {
        "input": "in.jsonl", "output": str(tmp_path / "out.jsonl"), "base_url": "https://a/v1",
        "end": "finished", "refused_by": None, "connect_error": "", "reason": None, "total": 10, "successful": 10,
        "failed": 0, "left": 0, "retried": 0, "recovered": 0, "answered": 10, "reused": 0, "from_fallback": 0,
        "elapsed": 5.0, "throughput": 2.0, "attempts": 13,
        "retries": 3, "maybe_processed": 1, "verdicts": {}, "circuits_opened": 0, "cooldowns": 0,
        "waited": 0.0, "input_tokens": 100, "output_tokens": 50, "max_cost": None, "spent": None, "cost": Cost(),
    }  # fmt: skip
    return Summary(**fields | more)


def some_stats(seconds=5):
    """Stats with an answer each second; the third call is throttled first."""
    stats = RunStats(began=0.0)
    stats.sample(a_snapshot(0.0, limit=4))
    for number in range(seconds):
        stats.hear(Sent(number, number, TARGET, 1))
        if number == 2:
            stats.hear(Returned(number, number, TARGET, 1, Verdict.THROTTLED, 429, "slow", 0.1))
            stats.hear(Sent(number, number, TARGET, 2))
        stats.hear(Returned(number + 0.4, number, TARGET, 1, Verdict.OK, 200, None, 0.4))
        stats.hear(CallEnded(number + 0.4, number, TARGET, Verdict.OK, 1, 0.0))
        stats.sample(a_snapshot(number + 1.0, done=number + 1, in_flight=1, limit=4))
    return stats


def section(page, title):
    return next((each for each in page.sections if each.title == title), None)


def test_retries_are_shown_by_reason_and_later_rounds_separately(tmp_path):
    page = batch_page(a_summary(tmp_path), some_stats())
    bars = section(page, "Retries, by reason").bars
    assert [(bar.name, bar.figure) for bar in bars] == [
        ("throttled", "1"),
        ("sent again in a later round", "2"),
    ]
    assert [bar.share for bar in bars] == [0.5, 1.0]


def test_a_run_without_failures_has_no_failure_sections(tmp_path):
    page = batch_page(a_summary(tmp_path, retries=0), RunStats(began=0.0))
    for title in ("Retries, by reason", "Responses that were not answers", "Rows that failed"):
        assert section(page, title) is None


def test_an_unknown_cost_is_shown_as_not_known(tmp_path):
    page = batch_page(a_summary(tmp_path), some_stats())
    assert section(page, "Cost").lead.startswith("Unknown: ")


def test_the_cost_is_shown_by_model_with_the_bounds_of_waste(tmp_path):
    of = {"provider": "p", "prices": None, "answers": 1_234}
    known = ModelCost(
        model="m", **of, tokens=Tokens(5_000, 700, 0), useful=Decimal("1.5"),
        wasted=Span(Decimal(0), Decimal("0.25")),
    )  # fmt: skip
    cost = BatchCost(
        output="out", models=(known, ModelCost(model="<b>n", **of)), notes=("as noted.",)
    )
    section_ = section(batch_page(a_summary(tmp_path), some_stats(), cost), "Cost")
    assert section_.lead.endswith(" as noted.")
    assert [list(row) for row in section_.table.rows] == [
        ["m", "1,234", "5,000", "700", "1.50", "0.00 to 0.25", "1.50 to 1.75"],
        ["<b>n", "1,234", "0", "0", "not known", "not known", "not known"],
    ]


@pytest.mark.parametrize(
    ("end", "text"),
    [
        ("finished", "2.0 a second."),
        ("refused", "many consecutive rows failed for a reason unrelated to the rows."),
        ("spent", "the spend limit was reached."),
        ("unreachable", "the provider could not be reached."),
        ("interrupted", "run the same command again to resume it."),
    ],
)
def test_the_verdict_names_the_end_of_the_run(tmp_path, end, text):
    page = batch_page(a_summary(tmp_path, end=end), some_stats())
    assert page.verdict.startswith("10 of 10 rows are answered.")
    assert page.verdict.endswith(text)


def test_page_and_picture_have_the_same_verdict_for_every_end(tmp_path):
    for end in End:
        summary = a_summary(tmp_path, end=end.value)
        assert (
            batch_page(summary, some_stats()).verdict
            == batch_picture(summary, some_stats()).verdict
        )


def test_a_page_names_the_most_frequent_error(tmp_path):
    reason = Reason(
        verdict=Verdict.AUTH, status=401, code="invalid_api_key", message="No such key.", rows=3
    )
    page = batch_page(a_summary(tmp_path, reason=reason), some_stats())
    assert ("failed for", "auth 401 invalid_api_key: No such key.") in page.facts


def lines(stats, title):
    panel = next(chart.panel for chart in charts_of(stats) if chart.title == title)
    return {line.name: list(line.ys) for line in panel.lines}


def test_throughput_is_the_rate_between_samples():
    stats = RunStats(began=0.0)
    for at, answered in ((0.0, 5), (0.4, 5), (2.2, 23), (2.9, 23)):
        stats.sample(a_snapshot(at, done=answered))
    stats.hear(Sent(4.2, 1, TARGET, 1))  # no sample follows
    rates = lines(stats, "Rows")["answered"]
    assert rates[:6] == pytest.approx([0.0, 10.0, 10.0, 10.0, 10.0, 0.0])
    assert all(map(isnan, rates[6:]))


def test_gauges_hold_until_the_next_sample():
    stats = RunStats(began=0.0)
    for at, in_flight in ((0.1, 2), (0.2, 4), (2.2, 9)):
        stats.sample(a_snapshot(at, in_flight=in_flight, limit=10))
    shown = lines(stats, "In flight, against the limit")
    assert shown["in flight"] == [3.0, 3.0, 3.0, 3.0, 9.0]
    assert shown["the limit"] == [10.0] * 5


def test_rare_outcomes_share_one_line():
    stats = RunStats(began=0.0)
    kinds = [Verdict.OK, Verdict.THROTTLED, Verdict.OVERLOADED, Verdict.RESET, Verdict.TIMEOUT]
    kinds += [Verdict.SERVER_ERROR, Verdict.BROKEN]
    for number, verdict in enumerate(kinds):
        for _ in range(10 - number):
            stats.hear(Returned(0.0, number, TARGET, 1, verdict, None, None, 0.1))
    shown = lines(stats, "Outcomes")
    assert list(shown) == ["answers", "throttled", "overloaded", "reset", "timeout", "all others"]
    assert shown["all others"] == [9 / stats.width]


def test_percentiles_have_gaps_without_answers():
    stats = some_stats(seconds=2)
    p50 = lines(stats, "Seconds to an answer")["p50"]
    assert p50[0] == pytest.approx(0.4, rel=0.1)
    assert isnan(p50[1])


# ------------------------------------------------------------ the command


def report_of(tmp_path, *more):
    """Run the batch; return its exit code and the text of the report."""
    report, source = tmp_path / "report.html", tmp_path / "in.jsonl"
    if not source.exists():
        write(source, chat_rows(20))
    args = ["--output", str(tmp_path / "out.jsonl"), "--quiet", "--report", str(report)]
    code = main(["batch", "run", str(source), *args, *more])
    return code, re.sub(r"<style>.*?</style>|<[^>]+>", " ", report.read_text(), flags=re.DOTALL)


def test_the_report_agrees_with_the_summary(tmp_path, capsys, stormbreak_provider):
    provider = stormbreak_provider(scenario({"kind": "503", "share": 0.3}, service=0.02))
    code, text = report_of(tmp_path, "--base-url", provider.base_url)
    summary = capsys.readouterr().out

    assert code == 0
    attempts = re.search(r"sent +(\d+) attempts, (\d+) of them", summary)
    assert f"of {attempts[1]} attempts" in text
    assert "20 of 20 rows are answered." in text
    assert re.search(r"overloaded\s+503\s+server_is_overloaded\s+\d+", text)
    assert provider.base_url in text

    code, text = report_of(tmp_path, "--base-url", provider.base_url)  # no row is left
    assert code == 0
    assert "20 of 20 rows are answered. This run sent nothing." in text


def test_an_unreachable_run_writes_a_report_and_exits_with_2(tmp_path, free_port):
    url = f"http://127.0.0.1:{free_port}/v1"
    code, text = report_of(tmp_path, "--base-url", url, "--connect-grace", "0.3")
    assert code == 2
    assert "0 of 20 rows are answered, 20 are left." in text
    assert "the provider could not be reached." in text


def test_a_batch_report_can_be_a_picture(tmp_path, stormbreak_provider):
    source, report = write(tmp_path / "in.jsonl", chat_rows(5)), tmp_path / "report.PNG"
    provider = stormbreak_provider(scenario())
    args = ["--output", str(tmp_path / "out.jsonl"), "--base-url", provider.base_url, "--quiet"]
    assert main(["batch", "run", str(source), *args, "--report", str(report)]) == 0
    assert report.read_bytes().startswith(b"\x89PNG")


def test_a_run_that_sent_nothing_has_no_charts(tmp_path):
    """For example, a resume without rows left."""
    nothing = dict.fromkeys(("answered", "attempts", "retries", "input_tokens", "output_tokens"), 0)
    summary, stats = a_summary(tmp_path, **nothing, elapsed=0.0, throughput=0.0), some_stats(0)

    page = batch_page(summary, stats)
    assert page.verdict == "10 of 10 rows are answered. This run sent nothing."
    assert [each.title for each in page.sections] == ["In figures", "Cost"]
    assert not batch_picture(summary, stats).charts
    assert png_of(batch_picture(summary, stats))


def test_outcomes_are_shown_per_second():
    """A slice begins with half a second and becomes wider."""
    stats = RunStats(began=0.0)
    for number in range(3):
        stats.hear(Returned(0.1, number, TARGET, 1, Verdict.OK, 200, None, 0.1))
    chart = next(each for each in charts_of(stats) if each.title == "Outcomes")
    assert (chart.panel.y_label, chart.panel.lines[0].ys) == ("attempts per second", [6.0])
    assert chart.panel.xs == [0.25]


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.2, r"\d{3} ms"), (3.0, r"[23]\.\d s"), (600.0, r"\d+ minutes")]
)
def test_times_are_shown_in_a_readable_unit(tmp_path, seconds, expected):
    stats = RunStats(began=0.0)
    stats.hear(Returned(seconds, 1, TARGET, 1, Verdict.OK, 200, None, seconds))
    cards = batch_page(a_summary(tmp_path), stats).sections[0].cards
    figure = next(card.figure for card in cards if card.name == "Time to an answer")
    assert re.fullmatch(expected, figure)


def test_a_picture_shows_only_the_first_four_figures(tmp_path):
    names = [card.name for card in batch_picture(a_summary(tmp_path), some_stats()).cards]
    assert names == ["Answered", "Throughput", "Time to an answer", "Retries"]
