"""The figures in docs/cost.md equal those of the command."""

import re
from datetime import date
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path

import pytest
from table_test import table_test

from stormbreak.cost.compare import Demand, at_list_price
from stormbreak.cost.list_prices import ListPrices
from stormbreak.cost.price_file import load
from stormbreak.cost.price_lookup import Offer, PriceLookup
from stormbreak.cost.roi import Case
from stormbreak.cost.token_prices import Tokens

PAGE = (Path(__file__).parents[2] / "docs" / "cost.md").read_text()
DAY, VERSION = re.search(r"list prices of (\S+)\s+\(genai-prices ([\d.]+)\)", PAGE).groups()
LOOKUP = PriceLookup([load("article-2025")], market=ListPrices(date.fromisoformat(DAY)))

pytestmark = pytest.mark.skipif(
    version("genai-prices") != VERSION, reason="the page has the prices of another version"
)


def table(head):
    """The cells of the table with this first column."""
    _, _, rest = PAGE.partition(f"| {head} |")
    rows = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in rows]


def number(text):
    return Decimal(text.replace(",", ""))


def mix(total):
    return Demand(tokens=Tokens.split(total, input_share=Decimal("0.7"), cache_rate=Decimal(0)))


@table_test("row", table("model"))
def test_the_prices_on_the_page_are_current(row):
    _, theirs, reseller, maker, *listed = row
    claims = [prices for prices in LOOKUP.file_prices() if prices.maker == maker]
    assert [prices.standard.input.base for prices in claims] == [number(theirs), number(reseller)]
    prices = LOOKUP.find(at_list_price(maker))
    rates = prices.standard
    blended = mix(1_000_000).cost(prices)
    assert list(map(number, listed)) == [rates.input.base, rates.output.base, blended]


@table_test("row", table("GPT-4.1, tokens a month"))
def test_the_volumes_on_the_page_are_current(row):
    volume, ends, saved, listed, more = row
    tokens = int(volume[:-1]) * {"M": 10**6, "B": 10**9}[volume[-1]]
    before, after = map(number, ends.split(" -> "))
    list_price = mix(tokens).cost(LOOKUP.find(Offer.parse("openai@market/gpt-4.1")))
    assert number(saved) == 12 * (before - after)
    assert number(listed) == list_price
    assert number(more) == 12 * (after - list_price)


def test_the_example_on_the_page_is_current():
    rows = {name: values for name, *values in table("50M tokens of GPT-4.1")}
    cases = [
        Case(tokens=1, current=Decimal(now), candidate=Decimal(400), migration=Decimal(2000))
        for now in (3000, 190)
    ]
    assert [number(cell) for cell in rows["saved a month"]] == [case.saving for case in cases]
    shares = [f"{round(case.share * 100, 1)} %" for case in cases]
    assert rows["savings"] == shares
    assert rows["payback"] == [f"{round(cases[0].payback, 1)} months", "never"]
    assert rows["return, 12 months"] == [f"{case.returned * 100:,.0f} %" for case in cases]
