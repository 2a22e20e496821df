"""The tables and the example of the article, computed from the price file with its claims."""

from decimal import Decimal

import pytest

from stormbreak.cost.compare import Demand, compare
from stormbreak.cost.money import USD
from stormbreak.cost.price_file import builtin_names, load
from stormbreak.cost.price_lookup import Offer, PriceLookup
from stormbreak.cost.roi import Case
from stormbreak.cost.sheet import percent
from stormbreak.cost.token_prices import Tokens

MODELS = [
    ("gpt-4.1", "60", "8", "86.7 %", "<50 ms"),
    ("claude-sonnet-4.5", "90", "15", "83.3 %", "<50 ms"),
    ("gemini-2.5-flash", "15", "2.50", "83.3 %", "<30 ms"),
    ("deepseek-v3.2", "2.80", "0.42", "85.0 %", "<40 ms"),
]
VOLUMES = [
    (10**6, "60", "8", "624"),
    (50 * 10**6, "3000", "400", "31200"),
    (500 * 10**6, "30000", "4000", "312000"),
    (2 * 10**9, "120000", "16000", "1248000"),
]


@pytest.fixture(scope="module")
def lookup():
    return PriceLookup([load("article-2025")])


def rows(lookup, model, tokens):
    demand = Demand(tokens=tokens)
    offers = [Offer.parse(f"{name}/{model}") for name in ("openai", "holysheep")]
    return compare(demand, offers, lookup)


@pytest.mark.parametrize(("model", "theirs", "ours", "savings", "latency"), MODELS)
def test_the_price_file_reproduces_the_price_table(lookup, model, theirs, ours, savings, latency):
    openai, holysheep = rows(lookup, model, Tokens(700_000, 300_000, 100_000))
    assert (openai.monthly, holysheep.monthly) == (Decimal(theirs), Decimal(ours))
    assert percent(holysheep.share) == savings
    assert holysheep.prices.latency == latency


@pytest.mark.parametrize(("volume", "theirs", "ours", "saved"), VOLUMES)
def test_the_price_file_reproduces_the_volume_table(lookup, volume, theirs, ours, saved):
    openai, holysheep = rows(lookup, "gpt-4.1", Tokens(volume, 0))
    assert (openai.monthly, holysheep.monthly) == (Decimal(theirs), Decimal(ours))
    assert holysheep.saved_a_year == Decimal(saved)
    assert percent(holysheep.share) == "86.7 %"


def test_the_migration_example_is_reproduced():
    case = Case(
        tokens=50_000_000, current=Decimal(3000), candidate=Decimal(400), migration=Decimal(2000)
    )
    assert (case.saving, case.saving_a_year) == (2600, 31_200)
    assert USD.shown(case.saving) == "2,600.00"
    assert round(case.payback, 1) == Decimal("0.8")
    assert case.returned == Decimal("14.6")
    assert percent(case.returned) == "1,460.0 %"
    assert percent(case.share) == "86.7 %"  # which the article calls ROI


def test_the_price_file_names_its_source_date_and_claim(lookup):
    assert builtin_names() == ["article-2025"]
    file = load("article-2025")
    assert file.claim
    assert str(file.as_of) == "2025-11-11"
    assert "claims to hold OpenAI's prices for all four" in file.note
    assert all(prices.source.claim for prices in lookup.file_prices())
    assert {prices.maker for prices in lookup.file_prices()} == {
        "openai/gpt-4.1",
        "anthropic/claude-sonnet-4-5",
        "google/gemini-2.5-flash",
        "deepseek/deepseek-v3.2",
    }
