from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.cost.roi import Case, sensitivity

money = st.decimals(min_value=0, max_value=10**9, places=2)


def case(current, candidate, migration=2000, tokens=10**6):
    return Case(
        tokens=tokens,
        current=Decimal(current),
        candidate=Decimal(candidate),
        migration=Decimal(migration),
    )


@table_test(
    ("of", "payback", "returned", "break_even", "headroom"),
    [
        (case(100, 100), None, -1, None, None),  # nothing saved
        (case(100, 150), None, Decimal("-1.3"), None, None),  # it costs more
        (case(0, 0), None, -1, None, None),
        (case(100, 0), 20, Decimal("-0.4"), Decimal(10**6) * 2000 / 1200, None),
        (case(1100, 100), 2, 5, Decimal(10**6) / 6, Decimal(10_000) / 1200),
        (case(200, 100, 0), 0, None, 0, 1),  # nothing to pay for
        (case(100, 200, 0), None, None, None, None),
        (case(100, 100, 0), 0, None, None, None),
    ],
)
def test_what_cannot_be_paid_back_is_never_and_nothing_is_divided_by_nothing(
    of, payback, returned, break_even, headroom
):
    assert of.payback == payback
    assert of.returned == returned
    assert of.break_even == break_even
    assert of.headroom == headroom


def test_the_share_of_nothing_is_none():
    assert case(0, 10).share is None
    assert case(200, 50).share == Decimal("0.75")


@given(money, money, money)
def test_the_figures_agree_with_each_other(current, candidate, migration):
    one = case(current, candidate, migration)
    assert one.net == 12 * (one.current - one.candidate) - one.migration
    if one.payback is not None and one.migration:
        assert (one.payback <= 12) == (one.returned >= 0)
    if one.break_even:
        there = one.scaled(volume=one.break_even / one.tokens)
        subtracted = 12 * (there.current + there.candidate) + there.migration
        assert abs(there.net) <= subtracted * Decimal("1e-27")  # of 28 digits, two roundings
    if one.headroom is not None:
        assert abs(one.scaled(candidate=1 + one.headroom).net) <= Decimal("1e-10")


def test_sensitivity_moves_one_thing_at_a_time():
    names = dict(sensitivity(case(3000, 400)))
    assert list(names) == [
        "current price +20%", "current price -20%", "candidate price +20%", "candidate price -20%",
        "volume +50%", "volume -50%",
    ]  # fmt: skip
    assert names["current price -20%"].saving == 2000
    assert names["candidate price +20%"].saving == 2520
    assert (names["volume -50%"].saving, names["volume -50%"].tokens) == (1300, 500_000)
    assert {moved.migration for moved in names.values()} == {2000}


@given(money, money)
def test_volume_changes_no_share(current, candidate):
    shares = {
        moved.share for name, moved in sensitivity(case(current, candidate)) if "volume" in name
    }
    assert len({share and round(share, 12) for share in shares}) == 1
