import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.core.rate_limit_gate import Bucket

pauses = st.floats(0.0, 20.0)
amounts = st.integers(1, 12)


def test_a_full_bucket_allows_a_burst_then_its_rate():
    bucket = Bucket(rate=2.0, depth=3.0)  # holds six
    for _ in range(6):
        assert bucket.ready_at(1) <= 100.0
        bucket.take(1, 100.0)

    assert bucket.ready_at(1) == pytest.approx(100.5)
    assert bucket.ready_at(4) == pytest.approx(102.0)


def test_a_bucket_holds_at_least_one():
    bucket = Bucket(rate=0.1, depth=0.0)
    bucket.take(1, 50.0)

    assert bucket.ready_at(1) == pytest.approx(60.0)


def test_an_amount_above_the_capacity_waits_for_a_full_bucket_and_leaves_a_debt():
    bucket = Bucket(rate=1.0, depth=5.0)
    bucket.take(1, 100.0)
    assert bucket.ready_at(20) == pytest.approx(101.0)
    bucket.take(20, 101.0)

    assert bucket.ready_at(1) == pytest.approx(117.0)


def test_settling_refunds_and_charges():
    bucket = Bucket(rate=1.0, depth=5.0)
    bucket.take(5, 100.0)
    bucket.settle(3)
    assert bucket.ready_at(3) <= 100.0
    bucket.settle(-4)

    assert bucket.ready_at(1) == pytest.approx(102.0)


def test_a_refund_is_worth_what_it_cost():
    bucket = Bucket(rate=2.0, depth=3.0)
    bucket.take(6, 100.0)
    bucket.settle(2)

    assert bucket.ready_at(2) <= 100.0
    assert bucket.ready_at(3) == pytest.approx(100.5)


def test_a_call_further_back_has_a_later_turn():
    bucket = Bucket(rate=2.0, depth=1.0)  # holds two
    bucket.take(2, 100.0)

    assert [bucket.turn_at(ahead) for ahead in (0, 1, 4)] == pytest.approx([100.5, 101.0, 102.5])


@table_test(
    ("owed", "amount", "left"),
    [
        (200.0, 30.0, 170.0),  # a refund counts whatever is owed
        (200.0, 150.0, 50.0),
        (
            200.0,
            -30.0,
            200.0,
        ),  # a debt does not grow beyond the latest, and is not cut
        (20.0, -30.0, 50.0),
        (20.0, -1000.0, 100.0),
    ],
)
def test_a_debt_is_bounded_and_a_refund_is_not(owed, amount, left):
    bucket = Bucket(rate=1.0, depth=1.0)
    bucket.take(owed, 1000.0)
    bucket.settle(amount, latest=1100.0)

    assert bucket.ready_at(1) == pytest.approx(1000.0 + left)


def test_a_full_bucket_gains_nothing():
    bucket = Bucket(rate=1.0, depth=5.0)
    bucket.take(1, 100.0)
    bucket.settle(1)
    bucket.settle(1000)
    bucket.take(5, 100.0)

    assert bucket.ready_at(1) == pytest.approx(101.0)


def test_a_refund_at_once_undoes_the_take():
    bucket = Bucket(rate=1.0, depth=3.0)
    bucket.refund(3, bucket.take(3, 100.0), 100.0)

    assert bucket.ready_at(3) <= 100.0


def test_time_that_has_passed_is_not_refunded():
    bucket = Bucket(rate=1.0, depth=2.0)
    early = bucket.take(1, 100.0)
    bucket.take(1, 100.0)
    bucket.take(1, 101.5)  # without the first take, half of it would have overflowed
    bucket.refund(1, early, 101.5)

    assert bucket.ready_at(1) == pytest.approx(102.0)


@given(st.floats(0.05, 50.0), st.floats(0.0, 10.0), st.lists(st.tuples(pauses, amounts)))
def test_ready_at_changes_nothing_and_is_exact(rate, depth, steps):
    bucket, now = Bucket(rate, depth), 0.0
    for pause, amount in steps:
        now += pause
        ready_at = bucket.ready_at(amount)
        assert bucket.ready_at(amount) == ready_at
        now = max(now, ready_at)
        assert bucket.ready_at(amount) <= now
        bucket.take(amount, now)


@given(
    rate=st.floats(0.05, 20.0),
    depth=st.floats(0.0, 10.0),
    steps=st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 4), st.booleans()), max_size=60),
)
def test_no_window_exceeds_the_rate_whatever_is_refunded(rate, depth, steps):
    """As many as can leave do; some were never sent, and are refunded later."""
    bucket, now = Bucket(rate, depth), 0.0
    sent, held = [], []
    for pause, refunds, hurry in steps:
        now += pause
        if not hurry:
            now = max(now, bucket.ready_at(1))
        while bucket.ready_at(1) <= now and len(held) < 50:
            held.append((bucket.take(1, now), now))
        for _ in range(min(refunds, len(held))):
            receipt, _ = held.pop(len(held) // 2)
            bucket.refund(1, receipt, now)
        sent += [at for _, at in held[:-5]]
        del held[:-5]
    times = sorted(sent + [at for _, at in held])

    most = max(1.0, rate * depth)
    for first, since in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= most + rate * (times[last] - since) + 1e-6


def test_time_refunded_once_is_not_refunded_again():
    bucket = Bucket(rate=1.0, depth=10.0)
    one, other = bucket.take(5, 0.0), bucket.take(5, 0.0)
    bucket.refund(5, one, 4.0)  # a second of it was still ahead
    bucket.take(5, 8.0)
    bucket.refund(5, other, 8.0)

    assert bucket.ready_at(10) == pytest.approx(13.0)  # as if the first two had never been


def test_a_take_after_a_refund_can_be_refunded():
    bucket = Bucket(rate=1.0, depth=10.0)
    bucket.refund(5, bucket.take(5, 0.0), 0.0)
    bucket.refund(5, bucket.take(5, 0.0), 2.0)  # two seconds of it have gone by

    assert bucket.ready_at(10) == pytest.approx(2.0)
