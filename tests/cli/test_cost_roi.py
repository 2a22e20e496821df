"""`stormbreak cost roi`: a migration, an outage, or both."""

import json
from decimal import Decimal

ARTICLE = ["--prices", "article-2025"]
MOVE = [*ARTICLE, "--current", "openai/gpt-4.1", "--candidate", "holysheep/gpt-4.1"]


def test_roi_reproduces_the_example_of_the_article(document, cost):
    facts = document("roi", *MOVE, "--tokens", "50M")
    given, listed, *moved = facts["cases"]
    assert given == {
        "case": "as given", "current": 3000, "candidate": 400, "saved_a_month": 2600,
        "saved_a_year": 31_200, "savings_share": Decimal("0.866667"),
        "payback_months": Decimal("0.769231"), "return_12_months": Decimal("14.6"),
        "break_even_tokens": Decimal("3205128.205128"),
    }  # fmt: skip
    assert (listed["case"], listed["payback_months"]) == ("current at its list price", None)
    assert len(moved) == 6
    assert facts["migration"] == 2000
    assert facts["price_headroom"] == Decimal("6.083333")
    out = cost("roi", *MOVE, "--tokens", "50M")
    row = next(line for line in out.splitlines() if line.startswith("as given")).split()
    assert row == [
        "as",
        "given",
        "3,000.00",
        "400.00",
        "2,600.00",
        "31,200.00",
        "86.7",
        "%",
        "0.8",
        "1,460.0",
        "%",
    ]


def test_roi_shows_no_list_price_case_for_a_contract(document, tmp_path):
    deal = tmp_path / "deal.toml"
    maker = "maker = 'openai/gpt-4.1'"
    deal.write_text(f"[[prices]]\nprovider = 'openai'\nmodel = 'gpt-4.1'\nflat = 1\n{maker}\n")
    argv = [
        "--prices",
        str(deal),
        "--current",
        "openai/gpt-4.1",
        "--candidate",
        "openai/gpt-4.1-mini",
    ]
    facts = document("roi", *argv, "--tokens", "1M")
    assert [row["case"] for row in facts["cases"]][1] == "current price +20%"
    assert not any("today's list price" in it["said"] for it in facts["when_not_to_switch"])


def test_roi_compares_a_reseller_with_the_list_price_of_the_maker(document, tmp_path):
    deal = tmp_path / "deal.toml"
    entries = (("dear", 100, ""), ("acme", 50, "maker = 'openai/gpt-4.1'\n"))
    deal.write_text(
        "".join(
            f"[[prices]]\nprovider = '{name}'\nmodel = 'm'\nflat = {price}\n{maker}"
            for name, price, maker in entries
        )
    )
    facts = document(
        "roi",
        "--prices",
        str(deal),
        "--current",
        "dear/m",
        "--candidate",
        "acme/m",
        "--tokens",
        "1M",
    )
    assert facts["when_not_to_switch"][0] == {
        "holds": True,
        "said": "openai/gpt-4.1 at the list price is 3.80 USD a month: 46.20 USD less than acme/m.",
    }


def test_roi_warns_when_the_current_list_price_changes_the_result(document):
    facts = document("roi", *MOVE, "--tokens", "50M")
    first = facts["when_not_to_switch"][0]
    assert first["holds"]
    assert first["said"].startswith("At today's list price, openai/gpt-4.1 costs ")


def test_migration_hours_and_hourly_cost_set_the_migration_cost(document):
    facts = document(
        "roi", *MOVE, "--tokens", "1M", "--migration-hours", "10", "--hourly-cost", "80.5"
    )
    assert facts["migration"] == 805
    free = document("roi", *MOVE, "--tokens", "1M", "--migration-hours", "0")
    assert (free["cases"][0]["payback_months"], free["cases"][0]["return_12_months"]) == (0, None)


def test_a_migration_to_a_higher_price_never_pays_back(cost, document):
    back = [*ARTICLE, "--current", "holysheep/gpt-4.1", "--candidate", "openai/gpt-4.1"]
    given = document("roi", *back, "--tokens", "50M")["cases"][0]
    assert (given["saved_a_month"], given["payback_months"]) == (-2600, None)
    out = cost("roi", *back, "--tokens", "50M")
    assert "now: It costs 2,600.00 USD a month more." in out
    assert "never" in out


def test_roi_prices_the_downtime_of_a_storm_per_policy(document, cost, tmp_path):
    runs = [{"policy": "mine", "goodput": 0.95}, {"policy": "none", "goodput": 0.05}]
    storm = {"scenario": "incident", "policy": "mine", "runs": runs}
    path = tmp_path / "storm.json"
    path.write_text(json.dumps(storm))
    mine, none = document("roi", "--storm", str(path))["storm"]
    assert (mine["policy"], mine["lost_share"]) == ("mine", Decimal("0.05"))
    minutes = Decimal(1457 - 30) / 60  # of the incident, from its trigger on
    assert abs(none["cost"] - minutes * Decimal("0.95") * 180_000 / 23) < Decimal("0.01")
    assert abs(mine["saved"] - (none["cost"] - mine["cost"])) < Decimal("0.00001")
    out = cost("roi", "--storm", str(path))
    assert "23 minutes of downtime cost 180,000.00 USD (the article's estimate, scaled)" in out
    own = ["--downtime-minutes", "10", "--downtime-cost", "500"]
    assert "10 minutes of downtime cost 500.00 USD (your figures): 50.00 USD" in cost(
        "roi", "--storm", str(path), *own
    )
    both = document("roi", "--storm", str(path), *MOVE, "--tokens", "50M", *own)
    assert {"cases", "storm"} < set(both)
    assert any("minutes more downtime" in it["said"] for it in both["when_not_to_switch"])


def test_a_storm_with_trigger_times_needs_no_scenario(document, tmp_path):
    storm = {"scenario": "of mine", "policy": "p", "runs": [{"policy": "p", "goodput": 0}]}
    path = tmp_path / "storm.json"
    path.write_text(
        json.dumps({**storm, "duration": 90.0, "trigger_at": 30.0, "trigger_until": 40})
    )
    (loss,) = document("roi", "--storm", str(path), "--downtime-minutes", "1")["storm"]
    assert (loss["downtime_minutes"], loss["cost"]) == (1, 180_000)
    (loss,) = document("roi", "--storm", str(path), "--scenario", "incident")["storm"]
    assert loss["downtime_minutes"] == Decimal("23.783333")  # the requested scenario wins


def test_roi_names_the_better_policy_of_a_storm(cost, tmp_path):
    runs = [{"policy": "mine", "goodput": 0.5}, {"policy": "other", "goodput": 1}]
    path = tmp_path / "storm.json"
    path.write_text(json.dumps({"scenario": "incident", "policy": "mine", "runs": runs}))
    out = cost("roi", "--storm", str(path), "--downtime-minutes", "1", "--downtime-cost", "60")
    assert "incident under mine costs 713.50 USD more than under other." in out
    assert "1 minutes of downtime cost 60.00 USD (your figures): 60.00 USD a minute." in out


def test_missing_downtime_figures_are_those_of_the_article(cost):
    out = cost("roi", *MOVE, "--tokens", "50M", "--downtime-minutes", "10")
    assert "0.14 minutes more downtime a month, at 18,000.00 USD each" in out
    out = cost("roi", *MOVE, "--tokens", "50M", "--downtime-cost", "23000")
    assert "2.60 minutes more downtime a month, at 1,000.00 USD each" in out
    assert "more downtime" not in cost("roi", *MOVE, "--tokens", "50M")
