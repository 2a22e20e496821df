from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormbreak.cost.prices import Prices, Rate, Rates, Service, Source, Step, Tokens
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


@pytest.mark.parametrize(
    ("prompt", "price"), [(0, 2), (1000, 2), (1001, 4), (5000, 4), (5001, 6), (10**9, 6)]
)
def test_a_long_prompt_has_the_price_of_its_step(prompt, price):
    assert RATES.input.at(prompt) == price


def test_cached_input_is_part_of_the_input():
    assert RATES.cost(Tokens(1_000_000, 0, 400_000)) == Decimal("1.4")
    assert RATES.cost(Tokens(1_000_000, 0, 9_000_000)) == Decimal("0.5")  # more than there is


def test_without_a_price_of_its_own_cached_input_costs_as_other_input():
    rates = Rates(input=Rate(Decimal(2)), output=Rate(Decimal(8)))
    assert rates.cost(Tokens(1_000_000, 0, 400_000)) == 2


def test_output_without_a_price_is_not_free():
    rates = Rates(input=Rate(Decimal(2)))
    assert rates.cost(Tokens(1_000_000, 0)) == 2
    with pytest.raises(ConfigurationError, match="no price for output is known"):
        rates.cost(Tokens(1_000_000, 1))


def test_a_call_costs_what_its_prompt_is_long():
    prices = Prices(
        provider="x", model="m", listed_as="m", standard=RATES, source=Source(name="test")
    )
    assert prices.cost_of(Usage(input_tokens=500, output_tokens=100)) == Decimal("0.0018")
    assert prices.cost_of(Usage(input_tokens=2000)) == Decimal("0.008")
    assert prices.rates(Service.BATCH) is None


@pytest.mark.parametrize(("longest", "price"), [(1000, 3), (1001, 4), (5001, 4), (10**9, 5)])
def test_the_dearest_price_that_a_prompt_can_reach(longest, price):
    steps = (Step(1000, Decimal(4)), Step(5000, Decimal(2)), Step(9000, Decimal(5)))
    assert Rate(Decimal(3), steps).dearest(longest) == price


steps_ = st.lists(st.tuples(st.integers(0, 2000), amounts), max_size=3).map(
    lambda pairs: tuple(Step(*pair) for pair in sorted(pairs))
)
rates_ = st.builds(Rate, amounts, steps_)
calls_ = st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 1500), shares), min_size=1)


@given(rates_, rates_, st.none() | rates_, calls_)
def test_the_most_of_several_calls_is_no_less_than_what_they_cost(entry, output, cached, calls):
    rates = Rates(input=entry, output=output, cached_input=cached)
    several = [Tokens(entry, output, entry * rate) for entry, output, rate in calls]
    together = Tokens(*(sum(each) for each in zip(*several, strict=True)))

    assert sum(rates.cost(each, prompt=each.input) for each in several) <= rates.most(together)


@given(amounts, amounts, amounts, counts, counts, shares)
def test_cost_is_exact_and_lies_between_all_cached_and_none(
    entry, cached, output, inputs, outputs, rate
):
    rates = Rates(input=Rate(entry), output=Rate(output), cached_input=Rate(cached))
    cost = rates.cost(Tokens(inputs, outputs, inputs * rate))
    exact = inputs * (entry * (1 - rate) + cached * rate) + outputs * output
    assert cost * 1_000_000 == exact
    ends = [rates.cost(Tokens(inputs, outputs, all_)) for all_ in (0, inputs)]
    assert min(ends) <= cost <= max(ends)


@given(counts, counts, counts, counts)
def test_two_lots_cost_what_both_cost(first, second, third, fourth):
    both = RATES.cost(Tokens(first + second, third + fourth))
    assert both == RATES.cost(Tokens(first, third)) + RATES.cost(Tokens(second, fourth))


@given(counts, shares, shares)
def test_a_total_is_split_without_loss(total, entry, cached):
    tokens = Tokens.split(total, input_share=entry, cache_rate=cached)
    assert tokens.total == total
    assert 0 <= tokens.cached_input <= tokens.input <= total
