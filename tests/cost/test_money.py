from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.cost.money import PLACES, USD, Currency, rounded, without_zeros
from stormbreak.errors import ConfigurationError

VND = Currency("VND", Decimal(26_000))


@table_test(
    ("usd", "shown"),
    [
        ("0", "0.00"),
        ("624", "624.00"),
        ("1248000", "1,248,000.00"),
        ("0.005", "0.01"),
        ("2.675", "2.68"),
        ("-2.675", "-2.68"),
        ("0.0049", "<0.01"),
        ("-0.0049", ">-0.01"),
    ],
)
def test_amounts_are_rounded_half_up_to_the_smallest_unit(usd, shown):
    assert USD.shown(Decimal(usd)) == shown


def test_other_currencies_have_other_smallest_units():
    assert VND.shown(Decimal(31200)) == "811,200,000"
    assert VND.shown(Decimal("0.00001")) == "<1"
    assert Currency("KWD", Decimal("0.3")).shown(Decimal(1)) == "0.300"
    assert VND.of(Decimal("0.42")) == 10_920


@table_test(
    ("price", "shown"),
    [("2", "2.00"), ("0.075", "0.075"), ("0.2288", "0.2288"), ("1E+2", "100.00")],
)
def test_a_price_is_shown_with_all_its_digits(price, shown):
    assert USD.exact(Decimal(price)) == shown


@table_test(
    ("code", "rate", "message"),
    [
        ("VDN", "26000", "must be a code of ISO 4217, got 'VDN'; did you mean VND"),
        ("QQQ", "2", "must be a code of ISO 4217, got 'QQQ'; such as"),
        ("", "2", "must be a code of ISO 4217, got ''; such as"),
        ("VND", "0", "rate must be between 0.000001 and 10,000,000, got 0"),
        ("VND", "-1", "got -1"),
        ("VND", "NaN", "got NaN"),
        ("VND", "sNaN", "got sNaN"),
        ("VND", "Infinity", "got Infinity"),
        ("VND", "1E+999999", "got 1E"),
        ("VND", "1E-999999", "got 1E-999999"),
        ("USD", "2", "rate must be 1 for USD, got 2"),
    ],
)
def test_an_invalid_currency_or_rate_is_rejected(code, rate, message):
    with pytest.raises(ConfigurationError) as caught:
        Currency(code, Decimal(rate))
    assert message in str(caught.value)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**15), max_value=10**15))
def test_a_shown_amount_is_within_half_of_the_smallest_unit(usd):
    for code in ("USD", "JPY", "KWD"):
        currency = Currency(code, Decimal(1 if code == "USD" else 3))
        amount = usd * currency.per_usd
        coin = Decimal(1).scaleb(-PLACES[code])
        shown = currency.shown(usd)
        if not shown.startswith((">", "<")):
            assert abs(Decimal(shown.replace(",", "")) - amount) <= coin / 2
        assert abs(currency.of(usd) - amount) <= Decimal("0.0000005")


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20))
def test_a_plain_number_keeps_its_value_and_has_no_exponent(number):
    kept = rounded(number, 6)
    assert without_zeros(kept) == kept
    assert "E" not in str(without_zeros(kept))
