from datetime import date

import pytest
from table_test import table_test

from stormbreak.cost.list_prices import ListPrices
from stormbreak.cost.price_file import load, parse
from stormbreak.cost.price_lookup import Offer, PriceLookup, Seller, UnknownPriceError, same
from stormbreak.errors import ConfigurationError

DAY = date(2026, 11, 26)


@pytest.fixture(scope="module")
def lookup():
    deal = "[[prices]]\nprovider = 'acme'\nmodel = 'Acme-1.5'\nflat = 3\n"
    return PriceLookup(
        [load("article-2025"), parse(deal, source="deal.toml")], market=ListPrices(DAY)
    )


def base(lookup, text):
    return lookup.find(Offer.parse(text)).standard.input.base


def test_price_files_override_list_prices_unless_a_source_is_named(lookup):
    assert base(lookup, "openai/gpt-4.1") == 60
    assert base(lookup, "openai@article-2025/gpt-4.1") == 60
    assert base(lookup, "openai@market/gpt-4.1") == 2
    assert base(lookup, "openai/gpt-4.1-mini") < 1  # not in the files


@pytest.mark.parametrize(
    "name", ["acme/acme-1.5", "ACME/ACME-1-5", "acme/acme-1-5-2026-05-04", "acme/ acme-1.5"]
)
def test_a_model_is_found_in_every_spelling(lookup, name):
    assert base(lookup, name) == 3


@table_test(
    ("name", "message"),
    [
        ("opanai/gpt-4.1", "no prices are known for 'opanai'; did you mean openai"),
        ("openai/gtp-4.1", "no price is known for 'gtp-4.1' at openai; did you mean gpt-4.1"),
        ("openai@artcle/gpt-4.1", "no prices come from 'artcle'; did you mean article-2025"),
        ("acme/acme-2", "no price is known for 'acme-2' at acme; did you mean Acme-1.5?"),
        ("acme@market/acme-1.5", "no prices are known for 'acme'"),
        ("openai/claude-sonnet-4-5-x", "no price is known for 'claude-sonnet-4-5-x' at openai"),
        ("openai/sk-proj-c4n4ryAbCdEf1234567890", "no price is known for what looks like a key"),
    ],
)
def test_an_unknown_offer_is_an_error_with_a_suggestion(lookup, name, message):
    with pytest.raises(UnknownPriceError) as caught:
        lookup.find(Offer.parse(name))
    assert str(caught.value).startswith(message)


@table_test("text", ["", "openai", "/gpt", "openai/", "@x/gpt", "openai@/gpt"])
def test_an_offer_is_a_provider_and_a_model(text):
    with pytest.raises(ConfigurationError, match="must be PROVIDER"):
        Offer.parse(text)


def test_a_model_may_hold_slashes():
    offer = Offer.parse("openrouter@market/deepseek/deepseek-v3.2")
    assert offer == Offer(Seller("openrouter", "market"), "deepseek/deepseek-v3.2")
    assert str(offer) == "openrouter@market/deepseek/deepseek-v3.2"


def test_an_unknown_model_has_a_suggestion(lookup):
    assert "did you mean" in str(lookup.unknown_model("gtp-4.1"))


def test_a_price_file_must_not_be_named_market():
    with pytest.raises(
        ConfigurationError, match="x: name must not be the name of the list prices, got 'market'"
    ):
        parse("name = 'market'\n[[prices]]\nprovider = 'x'\nmodel = 'm'\nflat = 1", source="x")


def test_a_dated_model_name_matches_the_model():
    assert same("gpt-4.1", "gpt-4-1-2025-04-14")
    assert not same("gpt-4.1", "gpt-4.1-mini")


def test_a_dated_model_name_with_its_own_price_uses_that():
    dated = "[[prices]]\nprovider = 'x'\nmodel = 'm-2026-05-04'\nflat = 2\n"
    text = f"[[prices]]\nprovider = 'x'\nmodel = 'm'\nflat = 1\n{dated}"
    both = PriceLookup([parse(text, source="deal.toml")])
    assert [base(both, f"x/m{day}") for day in ("", "-2026-05-04", "-2026-05-05")] == [1, 2, 1]


def test_price_files_work_without_list_prices(lookup, monkeypatch):
    monkeypatch.setattr(ListPrices, "installed", False)
    alone = PriceLookup([load("article-2025")])
    assert base(alone, "holysheep/gpt-4.1") == 8
    with pytest.raises(ConfigurationError, match="pip install"):
        base(alone, "holysheep/gpt-5")


def test_two_price_files_of_one_name_are_rejected():
    files = [
        parse(f"[[prices]]\nprovider = 'x'\nmodel = 'm'\nflat = {n}", source="deal.toml")
        for n in (1, 2)
    ]
    with pytest.raises(ConfigurationError, match="two price files have the name 'deal'"):
        PriceLookup(files)
