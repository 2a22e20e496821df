"""List prices of a fixed day, from the data in the genai-prices package, without network."""

import socket
from datetime import date
from decimal import Decimal

import pytest
from table_test import table_test

from stormbreak.cost import list_prices as module
from stormbreak.cost.list_prices import ListPrices
from stormbreak.cost.price_lookup import price_of
from stormbreak.cost.token_prices import Rate, Service, Step, Tokens
from stormbreak.errors import ConfigurationError


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture(scope="module")
def market():
    return ListPrices(date(2026, 11, 26))


@pytest.fixture(scope="module")
def listed(market):
    """The prices of all models of all providers."""
    found = (
        market.find(provider, model)
        for provider in market.providers()
        for model in market.models(provider)
    )
    return [prices for prices in found if prices is not None]


def test_a_model_has_prices_for_each_kind_of_token_and_service(market):
    prices = market.find("openai", "gpt-4.1-2025-04-14")
    assert (prices.provider, prices.listed_as) == ("openai", "gpt-4.1")
    standard = prices.standard
    assert (standard.input.base, standard.output.base) == (2, 8)
    assert standard.cached_input.base == Decimal("0.5")
    batch = prices.rates(Service.BATCH)
    assert (batch.input.base, batch.output.base) == (1, 4)
    assert prices.rates(Service.FLEX) is None
    assert prices.source.name == "market"
    assert prices.source.as_of == date(2026, 11, 26)
    assert prices.source.about.startswith("list prices, from genai-prices ")


def test_an_address_is_no_provider_and_loads_no_price_list(market, monkeypatch):
    assert not [name for name in market.providers() if module._ADDRESS.search(name)]
    monkeypatch.setattr(module, "find_spec", None)  # loading the list would call it
    fresh = ListPrices()
    assert fresh.find("127.0.0.1:8000", "gpt-4.1") is None
    assert fresh.models("llm.example.com") == []


def test_a_batch_price_starts_at_its_date():
    assert ListPrices(date(2026, 1, 1)).find("openai", "gpt-4.1").batch is None


def test_prices_of_long_prompts_have_steps(market):
    rates = market.find("anthropic", "claude-sonnet-4-5").standard
    assert rates.input.steps == (Step(200_000, Decimal(6)),)
    assert rates.output.at(200_001) == Decimal("22.5")


def test_a_price_that_depends_on_the_hour_is_the_highest_of_the_day(market):
    prices = market.find("deepseek", "deepseek-chat")
    assert prices.standard.output.base == Decimal("1.1")
    assert "cheaper at some hours of the day" in prices.notes


def test_a_price_per_request_has_a_note(market):
    assert "each request has an extra charge" in market.find("perplexity", "sonar").notes


def test_a_deprecated_model_has_a_note(market):
    assert "deprecated by its provider" in market.find("avian", "deepseek/deepseek-v3.2").notes


def test_provider_names_of_stormbreak_are_recognized(market):
    assert market.find("gemini", "gemini-2.5-flash").listed_as == "gemini-2.5-flash"
    assert market.find("XAI", "grok-4") is not None


@table_test(
    ("provider", "model"),
    [
        ("openai", "gtp-4.1"),
        ("openai", ""),
        ("openai", "gpt-4.1-of-mine"),
        ("my-openai-reseller", "gpt-4.1"),  # a reseller is not the maker
        ("holysheep", "gpt-4.1"),
        ("github-copilot", "gpt-4.1"),  # listed, but not sold by tokens
        ("openai", "whisper-1"),
        ("", "gpt-4.1"),
    ],
)
def test_an_unknown_model_has_no_price(market, provider, model):
    assert market.find(provider, model) is None


def test_an_embedding_has_no_price_for_output(market):
    rates = market.find("openai", "text-embedding-3-small").standard
    assert rates.cost(Tokens(1_000_000, 0)) == Decimal("0.02")
    assert rates.output is None


def test_every_list_price_can_be_read(listed):
    assert len(listed) > 500
    assert all(prices.standard.input.base >= 0 for prices in listed)


def test_sellers_lists_the_maker_of_a_model_first(market):
    assert market.sellers("gpt-4.1-2025-04-14")[0] == "openai"
    assert market.sellers("o3")[:2] == ["openai", "azure"]  # azure has its own list, too
    assert market.sellers("nothing-like-it") == []


def test_price_of_returns_the_current_list_price(monkeypatch):
    assert price_of("openai", "gpt-4.1").standard.output.base > 0
    assert price_of("openai", "gtp-4.1") is None


def test_list_prices_without_the_extra_name_the_package_to_install(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    bare = ListPrices(date(2026, 11, 26))
    assert not bare.installed
    with pytest.raises(ConfigurationError, match=r"pip install 'stormbreak\[cost\]'"):
        bare.find("openai", "gpt-4.1")


def test_cache_writes_have_prices_for_five_minutes_and_an_hour(market):
    prices = market.find("anthropic", "claude-sonnet-4-5")
    assert prices.standard.cache_write == Rate(Decimal("3.75"), (Step(200_000, Decimal("7.5")),))
    assert prices.standard.cache_write_1h == Rate(Decimal(6), (Step(200_000, Decimal(12)),))
    assert prices.batch.cache_write.base == Decimal("1.875")
    assert market.find("openai", "gpt-4.1").standard.cache_write is None
    openai = market.find("openai", "gpt-6-sol").standard
    assert (openai.cache_write.base, openai.cache_write_1h) == (Decimal("2.5"), None)


def test_a_cache_write_price_below_the_input_price_is_ignored(market, listed):
    assert market.find("openrouter", "google/gemini-2.5-flash").standard.cache_write is None
    for prices in listed:
        rates = prices.standard
        written = [each for each in (rates.cache_write, rates.cache_write_1h) if each]
        assert all(each.base >= rates.input.base for each in written)
