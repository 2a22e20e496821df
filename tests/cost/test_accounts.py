"""The account of a batch in its run file: tokens and cost of all runs."""

from dataclasses import fields, replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metering import price_of, prices, usage, usd
from msgspec import ValidationError
from msgspec.json import decode, encode
from stage import OTHER, TARGET
from table_test import table_test

from stormbreak.cost.accounts import Account, Bill, Bills, Cost, ModelUsage, PricedSum, TokenSum
from stormbreak.cost.token_prices import Prices, Rate, Rates, Source, Step
from stormbreak.errors import ConfigurationError
from stormbreak.types import Target


def some(attempts=1, into=100, out=10):
    return PricedSum(attempts=attempts, input_tokens=into, output_tokens=out, usd=usd("7"))


def bills(targets, under_way=None, waste=None):
    return Bills(total=Bill(), targets=targets, under_way=under_way or {}, waste=waste or {})


def test_an_account_adds_runs_and_ignores_the_key():
    first = bills({TARGET: Bill(useful=some(), free=2), OTHER: Bill(wasted_open=some())})
    second = bills({TARGET._replace(key="0a1b2c3d"): Bill(useful=some(2, 50, 5))})
    account = Account().begin().plus(first, at_work=False).begin().plus(second, at_work=False)

    assert account.spent == (
        ModelUsage(
            provider="acme",
            model="large",
            useful=TokenSum(attempts=3, input_tokens=150, output_tokens=15),
            free=2,
        ),
        ModelUsage(
            provider="acme",
            model="small",
            wasted_open=TokenSum(attempts=1, input_tokens=100, output_tokens=10),
        ),
    )
    assert (account.at_work, account.killed) == (False, 0)


def test_token_sums_add_every_field():
    some_ = TokenSum(**{field.name: 2**place for place, field in enumerate(fields(TokenSum))})

    assert some_ + some_ == TokenSum(
        **{field.name: 2 ** (place + 1) for place, field in enumerate(fields(TokenSum))}
    )


def test_adding_a_priced_sum_keeps_every_token_field():
    sum_ = PricedSum(**{field.name: 2**place for place, field in enumerate(fields(TokenSum))})
    kept = TokenSum() + sum_

    assert all(getattr(kept, each.name) == getattr(sum_, each.name) for each in fields(TokenSum))


def test_attempts_in_flight_count_as_wasted():
    account = Account().begin().plus(bills({}, under_way={TARGET: some()}), at_work=True)

    assert account.spent[0].wasted_open.output_tokens == 10
    assert account.begin().killed == 1


def test_a_run_that_is_recorded_again_counts_once():
    account = Account().begin()
    now = account.plus(bills({TARGET: Bill(useful=some())}), at_work=True)
    later = account.plus(bills({TARGET: Bill(useful=some(3))}), at_work=True)

    assert (now.spent[0].useful.attempts, later.spent[0].useful.attempts) == (1, 3)


def test_waste_is_counted_by_reason():
    waste = {"timeout": Bill(wasted_open=some()), "broken": Bill(wasted=some(), wasted_open=some())}
    account = Account().plus(bills({}, waste=waste), at_work=False)

    assert {why: used.attempts for why, used in account.waste.items()} == {
        "broken": 2,
        "timeout": 1,
    }


def test_max_cost_counts_useful_and_wasted_tokens():
    some_ = TokenSum(attempts=2, input_tokens=3_000_000, output_tokens=200_000)
    account = Account(
        spent=(ModelUsage(provider="p", model="large", useful=some_, wasted_open=some_),)
    )

    assert account.max_cost(price_of) == 10


def test_max_cost_assumes_the_most_expensive_prompt_lengths():
    stepped = Prices(
        provider="p",
        model="m",
        listed_as="m",
        standard=Rates(
            input=Rate(usd("1"), (Step(100_000, usd("2")),)),
            cached_input=Rate(usd("0.1"), (Step(100_000, usd("3")),)),
        ),
        source=Source(name="test"),
    )
    long_and_short = TokenSum(attempts=10, input_tokens=200_000, cached_input_tokens=50_000)
    short = TokenSum(attempts=2, input_tokens=100_000, cached_input_tokens=50_000)

    def max_cost(**used):
        return Account(spent=(ModelUsage(provider="p", model="m", **used),)).max_cost(
            lambda *_: stepped
        )

    assert max_cost(useful=long_and_short) == usd("0.45")
    assert max_cost(wasted=short) == usd("0.055")
    assert max_cost(used_uncounted=short) == usd("0.1")
    assert max_cost(wasted_open=long_and_short) == usd("0.6")


@given(
    attempts=st.integers(1, 50),
    into=st.integers(0, 10_000),
    out=st.integers(0, 10_000),
    read=st.floats(0, 1),
    write=st.floats(0, 1),
    keep=st.floats(0, 1),
)
def test_the_cost_of_a_sum_of_tokens_is_exact(attempts, into, out, read, write, keep):
    cached = int(into * read)
    written = int((into - cached) * write)
    kept = int(written * keep)
    some_ = TokenSum(
        attempts=attempts,
        input_tokens=into,
        output_tokens=out,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=kept,
    )
    asked = prices("p", "m", written="1.25", hour="2")
    once = asked.cost_of(usage(into, out, cached, written, kept))
    assert some_.cost(asked) == replace(some_, attempts=1).cost(asked) == once
    assert TokenSum().cost(asked) == 0


def test_max_cost_assumes_that_unknown_input_was_written_to_a_cache():
    asked = prices("p", "m", written="1.25", hour="2")
    open_ = TokenSum(attempts=3, input_tokens=1_000_000)
    hour = replace(open_, cache_write_tokens=400_000, cache_write_1h_tokens=400_000)

    for each, max_cost in ((open_, "1.25"), (hour, "1.55")):
        spent = ModelUsage(provider="p", model="m", wasted_open=each)
        assert spent.cost(asked) == (0, usd(max_cost))
        assert spent.max_cost(lambda *_: asked) == usd(max_cost)


def test_the_mean_prompt_length_selects_the_price():
    def stepped(into):
        rates = prices("p", "m").standard
        steps = (Step(1_000, Decimal(2)),)
        long = replace(rates, input=Rate(Decimal(1), steps))
        some_ = TokenSum(attempts=10, input_tokens=into)
        return some_.cost(replace(prices("p", "m"), standard=long))

    assert stepped(10_000) == usd("0.01")
    assert stepped(20_000) == usd("0.04")


def test_max_cost_needs_a_price_for_billed_attempts():
    used = ModelUsage(provider="p", model="secret", wasted=TokenSum(attempts=1))
    free = ModelUsage(provider="p", model="secret", free=3)

    assert Account(spent=(free,)).max_cost(price_of) == 0
    with pytest.raises(ConfigurationError, match="no price is known for secret at p"):
        Account(spent=(used,)).max_cost(price_of)


PRICED = ModelUsage(
    provider="p",
    model="m",
    useful=TokenSum(attempts=2, input_tokens=200_000, output_tokens=20_000),
    wasted=TokenSum(attempts=1, input_tokens=50_000),
    used_uncounted=TokenSum(attempts=1, input_tokens=10_000),
    wasted_open=TokenSum(attempts=4, input_tokens=400_000),
    unbounded=1,
)
SECRET = ModelUsage(provider="p", model="secret", useful=TokenSum(attempts=7), unbounded=7)


def test_the_cost_has_a_minimum_and_a_maximum():
    free = ModelUsage(provider="p", model="secret", free=3)
    cost = Account(spent=(PRICED, SECRET, free)).cost(price_of)

    assert cost == Cost(min_usd=usd("0.45"), max_usd=usd("0.86"), priced=8, unpriced=7, unbounded=1)
    assert cost.is_known
    assert Account(spent=(PRICED,), lost=usd("0.5")).cost(price_of).max_usd == usd("1.36")
    assert not Account(spent=(SECRET,)).cost(price_of).is_known
    assert not Account().cost(price_of).is_known


def test_a_price_without_output_counts_as_unpriced():
    def half(provider, model):
        whole = prices(provider, model)
        return replace(whole, standard=replace(whole.standard, output=None))

    assert Account(spent=(PRICED,)).cost(half).unpriced == 8


def test_attempts_without_a_price_list_are_unpriced():
    def refuse(*_):
        raise ConfigurationError("no price list")

    assert Account(spent=(PRICED,)).cost(refuse) == Cost(unpriced=8)


def test_an_account_contains_no_key():
    target = Target("acme", "large", "0a1b2c3d")

    assert "0a1b2c3d" not in repr(Account().plus(bills({target: Bill()}), at_work=False))


@table_test("odd", ["-0.01", "NaN", "sNaN", "Infinity", "1e400", "1e999999999"])
@table_test("name", ["ahead", "lost"])
def test_invalid_amounts_in_an_account_are_rejected(name, odd):
    text = encode({name: odd})
    with pytest.raises(ValidationError):
        decode(text, type=Account)
    assert decode(encode({name: "0.01"}), type=Account) == Account(**{name: Decimal("0.01")})
