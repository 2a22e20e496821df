"""The content of a cost report."""

import json
import re
from decimal import Decimal
from html import unescape
from pathlib import Path

import pytest
from batches import chat_rows, scenario, write
from evil import EVIL
from PIL import Image
from table_test import table_test

from stormbreak.cli.main import main
from stormbreak.cost.money import USD, Currency
from stormbreak.cost.roi import Case
from stormbreak.cost.sheet import Column, Kind, Sheet
from stormbreak.report.cost_facts import Cost, CostFacts, Costs
from stormbreak.report.cost_report import cost_page, cost_picture, savings_chart
from stormbreak.report.picture import png_of

ARTICLE = ["--prices", "article-2025", "--tokens", "50M"]
MIGRATION = ["roi", *ARTICLE, "--current", "openai/gpt-4.1", "--candidate", "holysheep/gpt-4.1"]
COMPARE = ["compare", *ARTICLE, "--models", "gpt-4.1", "--providers", "openai,holysheep"]


def a_case(**more):
    fields = {"tokens": 50_000_000, "current": 3_000, "candidate": 400, "migration": 2_000} | more
    return Case(**{name: Decimal(value) for name, value in fields.items()})


def some_facts(**more):
    return CostFacts(**{"kind": "costs", "title": "t", "verdict": "v"} | more)


def costs(count):
    return Costs(title="USD", costs=[Cost(name=f"n{n}", usd=Decimal(n)) for n in range(count)])


def section(page, title):
    return next(each for each in page.sections if each.title == title)


def report_of(tmp_path, *argv):
    """The text of a page that the command writes."""
    path = tmp_path / "report.html"
    assert main([*argv, "--report", str(path)]) == 0
    page = re.sub(r"<style>.*?</style>|<[^>]+>", " ", path.read_text(), flags=re.DOTALL)
    return " ".join(unescape(page).split())


# ------------------------------------------------------------ savings


def test_savings_are_drawn_over_a_year_against_the_migration_cost():
    panel = savings_chart(a_case(), USD).panel
    saved, price = panel.lines
    assert panel.y_label == "thousands of USD"
    assert list(panel.xs) == list(range(13))
    assert (saved.ys[0], saved.ys[12]) == (0.0, 31.2)
    assert set(price.ys) == {2.0}
    assert panel.shaded == pytest.approx((0.0, 0.769), abs=0.001)
    assert panel.shaded_as == "payback: 0.8 months"


@table_test(
    ("more", "text"),
    [
        ({"candidate": 4_000}, "never paid back"),
        ({"candidate": 3_000}, "never paid back"),
        ({"candidate": 2_900}, "paid back after 20.0 months"),
        ({"migration": 0}, "paid back after 0.0 months"),
    ],
)
def test_a_payback_outside_the_year_is_described_and_not_shaded(more, text):
    panel = savings_chart(a_case(**more), USD).panel
    assert panel.shaded is None
    assert panel.about.endswith(f"{text}.")


def test_losses_are_drawn_below_the_axis():
    assert savings_chart(a_case(candidate=4_000), USD).panel.bottom == -12.0
    assert savings_chart(a_case(), USD).panel.bottom == 0.0


@table_test(
    ("current", "unit"),
    [
        (500, "USD"),
        (1_300, "thousands of USD"),
        (10**7, "millions of USD"),
        (10**13, "trillions of USD"),
    ],
)
def test_the_unit_of_the_axis_keeps_ticks_short(current, unit):
    panel = savings_chart(a_case(current=current, candidate=0, migration=1), USD).panel
    assert panel.y_label == unit
    assert panel.top < 10_000


def test_savings_are_in_the_requested_currency():
    panel = savings_chart(a_case(), Currency("VND", Decimal(26_000))).panel
    assert panel.y_label == "millions of VND"
    assert panel.lines[1].ys[0] == 52.0


# ------------------------------------------------------------ bars and tables


def test_bars_are_relative_to_the_longest_and_claims_are_marked():
    bars = Costs(
        title="USD",
        costs=[
            Cost(name="a", usd=Decimal(10), claim=True),
            Cost(name=EVIL, usd=Decimal("2.5")),
            Cost(name="free", usd=Decimal(0)),
        ],
    )
    shown = section(cost_page(some_facts(bars=[bars]), [], {}), "USD").bars
    assert [(bar.share, bar.figure) for bar in shown] == [
        (1.0, "10.00 USD"),
        (0.25, "2.50 USD"),
        (0.0, "0.00 USD"),
    ]
    assert [bar.name for bar in shown] == ["a (a claim)", EVIL.replace("\u202e", "\\u202e"), "free"]


def test_exact_prices_are_not_rounded():
    price = Costs(title="USD", costs=[Cost(name="m", usd=Decimal("0.075"))], exact=True)
    assert section(cost_page(some_facts(bars=[price]), [], {}), "USD").bars[0].figure == "0.075 USD"


def test_more_bars_than_fit_have_a_note():
    facts = some_facts(bars=[costs(25)])
    shown = section(cost_page(facts, [], {}), "USD")
    assert len(shown.bars) == 20
    assert shown.lead == "The first 20 of 25; all are in the table."
    picture = cost_picture(facts)
    assert len(picture.bars[0].bars) == 12
    assert picture.note
    assert not cost_picture(some_facts(bars=[costs(12)])).note


def test_hidden_columns_and_empty_tables_are_omitted():
    columns = (Column("a", "name"), Column("b", "{}", Kind.MONEY), Column("c", ""))
    full = Sheet(columns=columns, rows=[["<b>", Decimal("1.5"), "hidden"]])
    page = cost_page(some_facts(), [], {"rows": full, "waste": Sheet(columns=columns, rows=[])})
    (offers,) = page.sections
    assert (offers.title, list(offers.table.heads)) == ("Offers", ["name", "USD"])
    assert [list(row) for row in offers.table.rows] == [["<b>", "1.50"]]


def test_sentences_are_grouped_under_their_headings():
    text = ["one", "", "When not to switch:", "- now: two", "- three"]
    first, second = cost_page(some_facts(), text, {}).sections
    assert list(first.sentences) == ["one"]
    assert (second.title, list(second.sentences)) == ("When not to switch", ["now: two", "three"])


# ------------------------------------------------------------ the commands


def test_the_roi_report_shows_the_example_of_the_article(tmp_path):
    text = report_of(tmp_path, "cost", *MIGRATION)
    assert "saves 2,600.00 USD a month, 86.7 % of the current cost, and is paid back after" in text
    assert (
        "by a claim. Against today's list price of openai/gpt-4.1 it costs 210.00 USD a month more."
        in text
    )
    for part in ("1,460.0 %", "volume -50%", "When not to switch", "months since the move"):
        assert part in text
    assert "openai/gpt-4.1, by article-2025, a claim" in text


def test_the_compare_report_shows_the_comparison_of_the_article(tmp_path):
    text = report_of(tmp_path, "cost", *COMPARE)
    assert "USD a month for 50M tokens" in text
    assert "gpt-4.1, openai, by article-2025 (a claim) 3,000.00 USD" in text
    assert "gpt-4.1, holysheep, by article-2025 (a claim) 400.00 USD" in text
    assert "50M tokens cost 400.00 USD a month (prices by article-2025, a claim)," in text
    assert "86.7 % less than the first offer's 3,000.00, a claim." in text


def test_each_volume_has_its_own_bars(tmp_path):
    text = report_of(tmp_path, "cost", *COMPARE, "--tokens", "1M,2M")
    first = text.index("USD a month for 1M tokens")
    second = text.index("USD a month for 2M tokens")
    assert "(a claim) 60.00 USD" in text[first:second]
    assert "(a claim) 120.00 USD" not in text[first:second]


def test_losses_in_a_storm_are_shown_as_bars_by_policy(tmp_path):
    runs = [{"policy": "mine", "goodput": 1}, {"policy": "none", "goodput": 0}]
    storm = {"scenario": "of mine", "policy": "mine", "runs": runs, "duration": 90.0}
    path = tmp_path / "storm.json"
    path.write_text(json.dumps({**storm, "trigger_at": 30.0, "trigger_until": 40.0}))
    text = report_of(tmp_path, "cost", "roi", "--storm", str(path))
    assert "USD lost in of mine mine 0.00 USD none 7,826.09 USD" in text
    assert "of mine under mine costs 7,826.09 USD less than under none." in text


def test_a_migration_and_an_outage_have_separate_sections(tmp_path):
    path = tmp_path / "storm.json"
    storm = {"scenario": "incident", "policy": "p", "runs": [{"policy": "p", "goodput": 1}]}
    path.write_text(json.dumps(storm))
    text = report_of(tmp_path, "cost", *MIGRATION, "--storm", str(path))
    assert "The outage 23 minutes of downtime cost 180,000.00 USD" in text
    assert "The move saves 2,600.00 USD a month" in text


def test_prices_and_estimates_can_be_written_as_reports(tmp_path):
    text = report_of(tmp_path, "cost", "prices", "gpt-4.1", "--prices", "article-2025")
    assert "Output, USD per million tokens" in text
    assert "gpt-4.1, holysheep, by article-2025 (a claim) 8.00 USD" in text
    text = report_of(tmp_path, "cost", "prices", "claude-sonnet-4-5", "--providers", "anthropic")
    # Not the price of long prompts.
    assert "claude-sonnet-4-5, anthropic, by market 3.00 USD" in text
    source = write(tmp_path / "in.jsonl", chat_rows(3, model="gpt-4.1"))
    text = report_of(tmp_path, "batch", "estimate", str(source), "--provider", "openai")
    assert re.search(r"3 rows: [<.\d]+ USD are expected\.", text)


def test_an_estimate_report_mentions_rows_without_a_price(tmp_path):
    rows = [
        {**chat_rows(1, model=model, max_tokens=10**6)[0], "custom_id": model}
        for model in ("gpt-4.1", "nobodys")
    ]
    source = write(tmp_path / "in.jsonl", rows)
    flags = ["--provider", "openai", "--output-tokens", "1000000"]
    text = report_of(tmp_path, "batch", "estimate", str(source), *flags)
    assert "2 rows: 8.00 USD are expected, without parts that have no price." in text
    assert "USD expected gpt-4.1 8.00 USD" in text


def test_a_free_model_has_an_empty_bar():
    free = Costs(title="USD", costs=[Cost(name="m", usd=Decimal(0))])
    assert section(cost_page(some_facts(bars=[free]), [], {}), "USD").bars[0].share == 0


def test_cost_report_writes_a_page_for_a_batch(tmp_path, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.01))
    source, output = write(tmp_path / "in.jsonl", chat_rows(3)), str(tmp_path / "out.jsonl")
    run = ["batch", "run", str(source), "--output", output, "--quiet"]
    assert main([*run, "--base-url", provider.base_url]) == 0
    text = report_of(tmp_path, "cost", "report", output)
    assert "The cost of the batch is unknown: nothing in it has a price." in text
    assert "answers 3" in text


@pytest.mark.parametrize("argv", [MIGRATION, COMPARE], ids=["roi", "compare"])
def test_a_picture_report_and_json_output_can_be_combined(tmp_path, capsys, argv):
    path = tmp_path / "report.PNG"
    assert main(["cost", *argv, "--json", "--report", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["currency"] == "USD"
    with Image.open(path) as picture:
        assert picture.format == "PNG"


def test_cards_show_figures_by_claim_and_at_the_list_price():
    facts = some_facts(move=a_case(), listed=a_case(current=500))
    page, picture = cost_page(facts, [], {}), cost_picture(facts)
    figures = [[card.figure for card in each.cards] for each in page.sections if each.cards]
    assert [each[:2] for each in figures] == [
        ["2,600.00 USD", "86.7 %"],
        ["100.00 USD", "20.0 %"],
    ]
    names = [card.name for card in picture.cards]
    assert names[::3] == ["Saved a month, by a claim", "Saved a month, list price"]
    assert len(names) == 6


def test_a_picture_with_losses_and_many_bars_can_be_drawn():
    facts = some_facts(move=a_case(candidate=4_000), bars=[costs(25)] * 6)
    assert png_of(cost_picture(facts)).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("argv", "taken"),
    [
        (["roi", "--storm", "storm.html"], "./storm.html"),
        (["prices", "--prices", "storm.html"], "storm.html"),
        (["report", "out.html"], "out.failed.html"),
    ],
)
def test_a_report_may_not_replace_an_input_file(tmp_path, monkeypatch, capsys, argv, taken):
    monkeypatch.chdir(tmp_path)
    (tmp_path / taken).write_text("before")
    assert main(["cost", *argv, "--report", taken]) == 2
    assert f"--report {Path(taken)}: is an input of" in capsys.readouterr().err
    assert (tmp_path / taken).read_text() == "before"
