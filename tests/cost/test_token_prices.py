from dataclasses import fields, replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.cost.token_prices import Prices, Rate, Rates, Service, Source, Step, Tokens
from stormbreak.errors import ConfigurationError
from stormbreak.types import Usage

amounts = st.decimals(min_value=0, max_value=1000, places=4)
counts = st.integers(min_value=0, max_value=10**12)
shares = st.decimals(min_value=0, max_value=1, places=3)
RATES = Rates(
    input=Rate(Decimal(2), (Step(1000, Decimal(4)), Step(5000, Decimal(6)))),
    output=Rate(Decimal(8)),
    cached_input=Rate(Decimal("0.5")),
)


@table_test(("prompt", "price"), [(0, 2), (1000, 2), (1001, 4), (5000, 4), (5001, 6), (10**9, 6)])
def test_a_long_prompt_has_the_price_of_its_step(prompt, price):
    assert RATES.input.at(prompt) == price


def test_cached_input_is_part_of_the_input():
    assert RATES.cost(Tokens(1_000_000, 0, 400_000)) == Decimal("1.4")
    assert RATES.cost(Tokens(1_000_000, 0, 9_000_000)) == Decimal("0.5")  # more than the input


def test_cached_input_without_a_price_costs_the_input_price():
    rates = Rates(input=Rate(Decimal(2)), output=Rate(Decimal(8)))
    assert rates.cost(Tokens(1_000_000, 0, 400_000)) == 2


WRITTEN = replace(RATES, cache_write=Rate(Decimal("2.5"), (Step(1000, Decimal(5)),)))
HOUR = replace(WRITTEN, cache_write_1h=Rate(Decimal(4)))


@table_test(
    ("rates", "cost"),
    [(RATES, "1.7"), (WRITTEN, "1.85"), (HOUR, "2"), (replace(HOUR, cache_write=None), "1.9")],
)
def test_cache_writes_cost_more_and_those_for_an_hour_most(rates, cost):
    assert rates.cost(Tokens(1_000_000, 0, 200_000, 300_000, 100_000)) == Decimal(cost)


def test_cache_writes_of_a_long_prompt_have_the_price_of_its_step():
    assert WRITTEN.cost(Tokens(1_000_000, 0, 0, 1_000_000), prompt=1001) == 5


@table_test(
    ("tokens", "cost"),
    [
        (Tokens(1_000_000, 0, 0, 9_000_000, 9_000_000), "4"),
        (Tokens(1_000_000, 0, 600_000, 900_000), "1.3"),
        (Tokens(1_000_000, 0, 0, 0, 1_000_000), "2"),
    ],
)
def test_cache_writes_are_capped_at_the_input(tokens, cost):
    assert HOUR.cost(tokens) == Decimal(cost)


def test_output_without_a_price_is_not_free():
    rates = Rates(input=Rate(Decimal(2)))
    assert rates.cost(Tokens(1_000_000, 0)) == 2
    with pytest.raises(ConfigurationError, match="no price for output is known"):
        rates.cost(Tokens(1_000_000, 1))


def test_the_prompt_length_of_a_call_selects_its_price():
    prices = Prices(
        provider="x", model="m", listed_as="m", standard=RATES, source=Source(name="test")
    )
    assert prices.cost_of(Usage(input_tokens=500, output_tokens=100)) == Decimal("0.0018")
    assert prices.cost_of(Usage(input_tokens=2000)) == Decimal("0.008")
    assert prices.rates(Service.BATCH) is None


@table_test(("longest", "price"), [(1000, 3), (1001, 4), (5001, 4), (10**9, 5)])
def test_highest_is_the_highest_price_up_to_a_prompt_length(longest, price):
    steps = (Step(1000, Decimal(4)), Step(5000, Decimal(2)), Step(9000, Decimal(5)))
    assert Rate(Decimal(3), steps).highest(longest) == price


steps_ = st.lists(st.tuples(st.integers(0, 2000), amounts), max_size=3).map(
    lambda pairs: tuple(Step(*pair) for pair in sorted(pairs))
)
rates_ = st.builds(Rate, amounts, steps_)


any_rates = st.builds(
    Rates,
    input=rates_,
    output=rates_,
    cached_input=st.none() | rates_,
    cache_write=st.none() | rates_,
    cache_write_1h=st.none() | rates_,
)


@st.composite
def usages(draw):
    """The usage of one call, with or without a cache for an hour."""
    entry, hour = draw(st.integers(0, 1500)), draw(st.booleans())
    read = draw(st.integers(0, entry))
    written = draw(st.integers(0, entry - read))
    return Usage(
        input_tokens=entry,
        output_tokens=draw(st.integers(0, 1500)),
        cached_input_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=draw(st.integers(0, written)) if hour else 0,
    )


def bound_of(used):
    """The bound of a call with this maximum usage."""
    hour = used.input_tokens if used.cache_write_1h_tokens else 0
    return replace(used, cached_input_tokens=0, cache_write_tokens=hour, cache_write_1h_tokens=hour)


def together(several):
    names = [field.name for field in fields(Usage)]
    return Usage(**{name: sum(getattr(each, name) for each in several) for name in names})


def asked(rates):
    return Prices(
        provider="x", model="m", listed_as="m", standard=rates, source=Source(name="test")
    )


@given(any_rates, st.lists(usages(), min_size=1, max_size=4))
def test_the_maximum_cost_of_calls_is_at_least_their_cost(rates, calls):
    prices = asked(rates)
    cost = sum(map(prices.cost_of, calls))

    assert cost <= prices.max_cost_of(together(calls))
    assert cost <= sum(prices.max_cost_within(bound_of(used)) for used in calls)
    assert cost <= prices.max_cost_within(together([bound_of(used) for used in calls]))


@given(any_rates, usages())
def test_the_cost_of_a_bound_is_that_of_the_most_expensive_case(rates, used):
    prices, bound = asked(rates), bound_of(used)
    entry, hour = bound.input_tokens, bound.cache_write_1h_tokens
    ways = [
        replace(bound, **all_)
        for all_ in (
            {"cache_write_tokens": 0, "cache_write_1h_tokens": 0},
            {"cache_write_tokens": 0, "cache_write_1h_tokens": 0, "cached_input_tokens": entry},
            {"cache_write_tokens": entry, "cache_write_1h_tokens": 0},
            {"cache_write_tokens": entry, "cache_write_1h_tokens": hour},
        )
    ]

    assert prices.max_cost_within(bound) == max(map(prices.max_cost_of, ways))


@given(amounts, amounts, amounts, counts, counts, shares)
def test_cost_is_exact_and_between_all_cached_and_none_cached(
    entry, cached, output, inputs, outputs, rate
):
    rates = Rates(input=Rate(entry), output=Rate(output), cached_input=Rate(cached))
    cost = rates.cost(Tokens(inputs, outputs, inputs * rate))
    exact = inputs * (entry * (1 - rate) + cached * rate) + outputs * output
    assert cost * 1_000_000 == exact
    ends = [rates.cost(Tokens(inputs, outputs, all_)) for all_ in (0, inputs)]
    assert min(ends) <= cost <= max(ends)


@given(counts, counts, counts, counts)
def test_the_cost_of_tokens_is_additive(first, second, third, fourth):
    both = RATES.cost(Tokens(first + second, third + fourth))
    assert both == RATES.cost(Tokens(first, third)) + RATES.cost(Tokens(second, fourth))


@given(counts, shares, shares)
def test_a_total_is_split_without_loss(total, entry, cached):
    tokens = Tokens.split(total, input_share=entry, cache_rate=cached)
    assert tokens.total == total
    assert 0 <= tokens.cached_input <= tokens.input <= total
