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
    ("move", "payback", "returned", "break_even", "headroom"),
    [
        (case(100, 100), None, -1, None, None),  # nothing saved
        (case(100, 150), None, Decimal("-1.3"), None, None),  # it costs more
        (case(0, 0), None, -1, None, None),
        (case(100, 0), 20, Decimal("-0.4"), Decimal(10**6) * 2000 / 1200, None),
        (case(1100, 100), 2, 5, Decimal(10**6) / 6, Decimal(10_000) / 1200),
        (case(200, 100, 0), 0, None, 0, 1),  # no migration cost
        (case(100, 200, 0), None, None, None, None),
        (case(100, 100, 0), 0, None, None, None),
    ],
)
def test_figures_without_a_value_are_none(move, payback, returned, break_even, headroom):
    assert move.payback == payback
    assert move.returned == returned
    assert move.break_even == break_even
    assert move.headroom == headroom


def test_savings_on_a_free_offer_have_no_share():
    assert case(0, 10).share is None
    assert case(200, 50).share == Decimal("0.75")


@given(money, money, money)
def test_payback_break_even_and_headroom_agree(current, candidate, migration):
    one = case(current, candidate, migration)
    assert one.net == 12 * (one.current - one.candidate) - one.migration
    if one.payback is not None and one.migration:
        assert (one.payback <= 12) == (one.returned >= 0)
    if one.break_even:
        at_break_even = one.scaled(volume=one.break_even / one.tokens)
        subtracted = (
            12 * (at_break_even.current + at_break_even.candidate) + at_break_even.migration
        )
        # The numbers have 28 digits, and two roundings occur.
        assert abs(at_break_even.net) <= subtracted * Decimal("1e-27")
    if one.headroom is not None:
        assert abs(one.scaled(candidate=1 + one.headroom).net) <= Decimal("1e-10")


def test_sensitivity_changes_one_figure_at_a_time():
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
def test_volume_does_not_change_the_share_of_savings(current, candidate):
    shares = {
        moved.share for name, moved in sensitivity(case(current, candidate)) if "volume" in name
    }
    assert len({share and round(share, 12) for share in shares}) == 1
