"""Price files: their prices, and errors of one line."""

from datetime import date
from decimal import Decimal

import pytest
from table_test import table_test

from stormbreak.cost.price_file import load, parse
from stormbreak.cost.token_prices import Rate, Service, Step
from stormbreak.errors import ConfigurationError

DEAL = """
source = "a contract"
as_of = 2026-10-01

[[prices]]
provider = "openai"
model = "gpt-4.1"
input = 1.50
cached_input = 0.375
cache_write = 1.875
cache_write_1h = 3
output = 6
long_prompts = [{ above = 200000, input = 3, output = 9 }, { above = 100000, input = 2, cache_write = 2.5 }]
batch = { input = 0.75, output = 3 }
latency = "<1 s"
maker = "openai/gpt-4.1"
note = "until March"
"""
DOTTED = "[[prices]]\nprovider = 'x'\nmodel = 'a.1'\n"
DASHED = "[[prices]]\nprovider = 'X'\nmodel = 'A-1'\n"
ONE = "[[prices]]\nprovider = 'x'\nmodel = 'm'\n"


def test_a_price_file_gives_all_prices_of_a_model(tmp_path):
    path = tmp_path / "deal.toml"
    path.write_text(DEAL)
    (prices,) = load(path).offers()
    assert prices.source.name == "deal"
    assert prices.source.as_of == date(2026, 10, 1)
    assert not prices.source.claim
    steps = (Step(100_000, Decimal(2)), Step(200_000, Decimal(3)))
    assert prices.standard.input == Rate(Decimal("1.50"), steps)
    assert prices.standard.output == Rate(Decimal(6), (Step(200_000, Decimal(9)),))
    assert prices.standard.cached_input == Rate(Decimal("0.375"))
    assert prices.standard.cache_write == Rate(Decimal("1.875"), (Step(100_000, Decimal("2.5")),))
    assert prices.standard.cache_write_1h == Rate(Decimal(3))
    assert prices.batch.cache_write is None
    assert prices.rates(Service.BATCH).output == Rate(Decimal(3))
    assert prices.rates(Service.FLEX) is None
    assert (prices.latency, prices.notes) == ("<1 s", ("until March",))


def test_prices_are_exact_decimals():
    (prices,) = parse(f"{ONE}flat = 0.1", source="x.toml").offers()
    assert prices.standard.input.base == Decimal("0.1")
    assert prices.standard.output.base == Decimal("0.1")


def test_prices_in_another_currency_are_converted():
    long = "long_prompts = [{ above = 9, flat = 4 }]\nbatch = { flat = 1 }"
    (prices,) = parse(f"currency = 'CNY'\nper_usd = 8\n{ONE}flat = 2\n{long}", source="x").offers()
    assert prices.standard.input == Rate(Decimal("0.25"), (Step(9, Decimal("0.5")),))
    assert prices.batch.output == Rate(Decimal("0.125"))


def test_each_service_has_its_own_prices():
    services = "batch = { flat = 1 }\nflex = { flat = 2 }\npriority = { flat = 4 }"
    (prices,) = parse(f"{ONE}flat = 3\n{services}", source="x").offers()
    assert [prices.rates(service).input.base for service in Service] == [3, 1, 2, 4]


@table_test(
    ("toml", "message"),
    [
        (f"{ONE}inptu = 2.5", "unknown key prices[0].inptu = 2.5; did you mean input?"),
        (
            f"{ONE}input = 1\ncache_wrote = 1.25",
            "unknown key prices[0].cache_wrote = 1.25; did you mean cache_write?",
        ),
        (f"{ONE}flat = 1\ncache_write = 'x'", "prices[0].cache_write must be a number, got 'x'"),
        (f"{ONE}flat = 1\ncache_write_1h = -2", "prices[0].cache_write_1h must be 0 or at least"),
        (
            f"{ONE}flat = 1\nbatch = {{ flat = 1, cache_write_1h = 1e6 }}",
            "prices[0].batch.cache_write_1h must be at most 100,000 USD per million tokens",
        ),
        (f"{ONE}flat = 1\n{ONE}flat = '2'", "prices[1].flat must be a number, got '2'"),
        (f"{ONE}flat = true", "prices[0].flat must be a number, got true"),
        (f"{ONE}flat = -1", "prices[0].flat must be 0 or at least 0.000001, got -1"),
        (f"{ONE}flat = nan", "prices[0].flat must be 0 or at least 0.000001, got NaN"),
        (f"{ONE}flat = inf", "prices[0].flat must be 0 or at least 0.000001, got Infinity"),
        (f"{ONE}flat = 1e-999999", "prices[0].flat must be 0 or at least 0.000001, got 1E-999999"),
        (
            f"{ONE}flat = 1e999999",
            "prices[0].flat must be at most 100,000 USD per million tokens, got 1E+",
        ),
        (
            f"{ONE}flat = 1\n{DOTTED}input = 1\noutput = 100001",
            "prices[1].output must be at most 100,000 USD per million tokens, got 100001",
        ),
        (
            f"{ONE}input = 1\nlong_prompts = [{{ above = 9, input = 2, cached_input = 1e6 }}]",
            "prices[0].long_prompts[0].cached_input must be at most 100,000 USD per million",
        ),
        *(
            (
                f"{ONE}input = 1\n{service} = {{ input = 1, output = 100000.1 }}",
                f"prices[0].{service}.output must be at most 100,000 USD per million tokens",
            )
            for service in ("batch", "flex", "priority")
        ),
        (
            f"currency = 'CNY'\nper_usd = 7.1\n{ONE}flat = 710001",
            "prices[0].flat must be at most 710,000 CNY per million tokens, got 710001",
        ),
        (
            f"{DOTTED}flat = 1\n{DASHED}flat = 2",
            "prices[1] repeats the price of 'X/A-1'",
        ),
        (
            f"{ONE}input = 1\nlong_prompts = [{{ above = 9, input = 2 }}, {{ above = 9, input = 3 }}]",
            "prices[0].long_prompts[1].above must be unique, got 9",
        ),
        (ONE, "prices[0].input, or flat instead, must be given, got none"),
        (
            f"{ONE}output = 2",
            "prices[0].input, or flat instead, must be given, got output = 2",
        ),
        (f"{ONE}flat = 1\ninput = 2", "prices[0].input cannot be combined with flat, got 2"),
        (f"{ONE}flat = 1\noutput = 2", "prices[0].output cannot be combined with flat, got 2"),
        (f"{ONE}flat = 1\nbatch = {{ output = 1 }}", "prices[0].batch.input, or flat instead"),
        (f"{ONE}flat = 1\nbatch = 3", "prices[0].batch must be a table, got 3"),
        (
            f"{ONE}flat = 1\nlong_prompts = [{{ above = 0, flat = 1 }}]",
            "prices[0].long_prompts[0].above must be a number of tokens, got 0",
        ),
        (
            f"{ONE}flat = 1\nlong_prompts = [{{ above = 1000000001, flat = 1 }}]",
            "prices[0].long_prompts[0].above must be a number of tokens, got 1000000001",
        ),
        ("[[prices]]\nprovider = 'x'\nflat = 1", "prices[0] lacks model, got a table"),
        (
            "[[prices]]\nprovider = 'a/b'\nmodel = 'm'\nflat = 1",
            "prices[0].provider must hold no /",
        ),
        ("[[prices]]\nprovider = ''\nmodel = 'm'\nflat = 1", "prices[0].provider must be a name"),
        ("[[prices]]\nprovider = 'x'\nmodel = \"a\\u001b\"\nflat = 1", "prices[0].model must be a"),
        (
            f"{ONE}flat = 1\nmaker = 'openai'",
            "prices[0].maker must be provider/model, got 'openai'",
        ),
        (f"{ONE}flat = 1\nmaker = 'openai/'", "prices[0].maker must be provider/model, got 'open"),
        (f"{ONE}flat = 1\nmaker = '/m'", "prices[0].maker must be provider/model, got '/m'"),
        ("[[prices]]\nprovider = ' x'\nmodel = 'm'\nflat = 1", "prices[0].provider must be a name"),
        ("prices = []", "prices must have at least one price, got none"),
        (f"name = ''\n{ONE}flat = 1", "name must be a name, got ''"),
        (
            f"name = 'market'\n{ONE}flat = 1",
            "name must not be the name of the list prices, got 'market'",
        ),
        (f"{ONE}flat = 1\n{ONE}flat = 2", "prices[1] repeats the price of 'x/m'"),
        (f"as_of = 'May'\n{ONE}flat = 1", "as_of must be a date such as 2025-11-11, got 'May'"),
        (f"as_of = 2025-11-11T10:00:00\n{ONE}flat = 1", "as_of must be a date such as"),
        (f"claim = 'yes'\n{ONE}flat = 1", "claim must be true or false, got 'yes'"),
        (f"currency = 'CNY'\n{ONE}flat = 1", "per_usd must be the amount of CNY per dollar"),
        (
            f"currency = 'CNZ'\nper_usd = 7\n{ONE}flat = 1",
            "currency must be a code of ISO 4217, got",
        ),
        (f"per_usd = 0\n{ONE}flat = 1", "per_usd must be between 0.000001 and 10,000,000, got 0"),
        ("name = 'x'", "lacks prices, got a table"),
        ("prices = [", "invalid TOML: "),
        ("api_key = 'hunter2'", "unknown key api_key = (not shown)"),
        ("# sk-proj-c4n4ryAbCdEf1234567890", "line 1 looks like it contains an API key"),
    ],
)
def test_an_invalid_price_file_is_one_line_with_path_key_and_value(toml, message, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(toml)
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    error = str(caught.value)
    assert error.startswith(f"{path}: {message}")
    assert "\n" not in error
    assert len(error) < 400


@table_test("name", ["articel-2025", "/nowhere.toml", "a\0b", "."])
def test_a_missing_price_file_is_named(name):
    with pytest.raises(ConfigurationError, match=r"no price file is named .*: article-2025"):
        load(name)
