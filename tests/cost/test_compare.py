from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormbreak.cost.compare import Demand, at_list, compare, offers_for
from stormbreak.cost.list_prices import ListPrices
from stormbreak.cost.price_file import load, parse
from stormbreak.cost.price_lookup import Offer, PriceLookup, Seller, UnknownPriceError
from stormbreak.cost.token_prices import Service, Tokens

DAY = date(2026, 11, 26)
MINE = """
[[prices]]
provider = "dear"
model = "m"
input = 4
output = 8
[[prices]]
provider = "cheap"
model = "m"
input = 1
output = 10
batch = { input = 0.5, output = 5 }
[[prices]]
provider = "free"
model = "m"
flat = 0
"""
LOOKUP = PriceLookup([parse(MINE, source="mine.toml")], market=ListPrices(DAY))
OFFERS = [Offer.parse(f"{name}/m") for name in ("dear", "cheap", "free")]


def test_each_offer_is_compared_with_the_first():
    rows = compare(Demand(tokens=Tokens(10**6, 10**6)), OFFERS, LOOKUP)
    assert [row.monthly for row in rows] == [12, 11, 0]
    assert [row.yearly for row in rows] == [144, 132, 0]
    assert [row.saved for row in rows] == [0, 1, 12]
    assert [row.saved_a_year for row in rows] == [0, 12, 144]
    assert rows[1].share == Decimal(1) / 12


def test_a_higher_price_has_negative_savings():
    _, row, _ = compare(Demand(tokens=Tokens(0, 10**6)), OFFERS, LOOKUP)
    assert (row.saved, row.share) == (-2, Decimal("-0.25"))


def test_savings_against_a_free_offer_have_no_share():
    rows = compare(Demand(tokens=Tokens(1, 1)), OFFERS[::-1], LOOKUP)
    assert [row.share for row in rows] == [None, None, None]


def test_an_offer_without_a_price_stays_with_its_reason():
    demand = Demand(tokens=Tokens(10**6, 0), service=Service.BATCH)
    dear, cheap, _ = compare(demand, OFFERS, LOOKUP)
    assert (dear.monthly, dear.saved, dear.share) == (None, None, None)
    assert dear.why == "no batch prices are known for dear/m"
    assert (cheap.monthly, cheap.saved) == (Decimal("0.5"), 0)


def test_a_comparison_without_any_price_raises():
    with pytest.raises(UnknownPriceError, match="no price is known for 'n' at dear"):
        compare(Demand(tokens=Tokens(1, 0)), [Offer.parse("dear/n")], LOOKUP)


@given(
    st.integers(min_value=1, max_value=10**13),
    st.decimals(min_value=0, max_value=1, places=2),
    st.integers(min_value=2, max_value=9),
)
def test_the_cost_is_proportional_to_the_tokens(total, share, times):
    tokens = Tokens.split(total, input_share=share, cache_rate=Decimal(0))
    more = Tokens(*(amount * times for amount in tokens))
    few = compare(Demand(tokens=tokens), OFFERS, LOOKUP)
    many = compare(Demand(tokens=more), OFFERS, LOOKUP)
    for one, other in zip(few, many, strict=True):
        assert other.monthly == one.monthly * times
        assert other.share == one.share
        assert one.monthly + one.saved == one.against


def test_offers_default_to_price_files_and_the_maker_of_the_model():
    article = PriceLookup([load("article-2025")], market=ListPrices(DAY))
    assert list(map(str, offers_for("claude-sonnet-4.5", [], article))) == [
        "openai@article-2025/claude-sonnet-4.5",
        "holysheep@article-2025/claude-sonnet-4.5",
        "anthropic@market/claude-sonnet-4-5",
    ]
    assert offers_for("gpt-4.1", [Seller("acme")], article) == [Offer(Seller("acme"), "gpt-4.1")]
    assert str(offers_for("gpt-5", [], article)[0]) == "openai/gpt-5"
    with pytest.raises(UnknownPriceError, match="no known provider sells 'gtp-5'"):
        offers_for("gtp-5", [], article)


def test_at_list_is_the_list_price_of_the_maker():
    article = PriceLookup([load("article-2025")], market=ListPrices(DAY))
    demand = Demand(tokens=Tokens(35_000_000, 15_000_000))
    claimed = article.find(Offer.parse("holysheep/gpt-4.1"))
    assert at_list(claimed, demand, article) == 190
    assert at_list(article.find(Offer.parse("openai@market/gpt-4.1")), demand, article) is None


def test_price_files_are_compared_without_list_prices(monkeypatch):
    monkeypatch.setattr(ListPrices, "installed", False)
    alone = PriceLookup([load("article-2025")])
    offers = offers_for("gpt-4.1", (), alone)
    assert [str(offer.seller) for offer in offers] == [
        "openai@article-2025",
        "holysheep@article-2025",
    ]
    assert at_list(alone.find(offers[0]), Demand(tokens=Tokens(1, 1)), alone) is None
