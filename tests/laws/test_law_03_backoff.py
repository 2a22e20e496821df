"""Law 3. Backoff kinds: constant, linear, exponential, proportional jitter, full jitter, equal jitter,
decorrelated jitter. Jitter is applied after the cap: before it, every delay at the cap is identical and
clients return in lockstep. No overflow at attempt 5,000.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.core.backoff import Backoff

CHANCE = st.floats(0.0, 1.0, exclude_max=True)
JITTERED = [
    Backoff(kind="proportional_jitter"),
    Backoff(),
    Backoff(kind="equal_jitter"),
    Backoff(kind="decorrelated_jitter"),
]
ALL = [Backoff(kind="constant"), Backoff(kind="linear"), Backoff(kind="exponential"), *JITTERED]
WIDTHS = {
    "full_jitter": 60.0,
    "proportional_jitter": 0.6 * 60.0,
    "equal_jitter": 30.0,
    "decorrelated_jitter": 59.0,
}
AT_THE_CAP = 60.0  # the previous delay, on which decorrelated jitter depends


@table_test("rule", ALL)
@given(retry=st.sampled_from([1, 2, 63, 64, 1023, 1024, 1025, 5_000, 10**6]), chance=CHANCE)
def test_every_delay_stays_within_its_bounds(rule, retry, chance):
    assert 0.0 <= rule.delay(retry, chance, AT_THE_CAP) <= 60.0 * 1.3


@table_test("factor", [1.0, 1.5, 2, 2.0, 10.0, 1e300])
def test_no_overflow_at_attempt_5000(factor):
    delay = Backoff(kind="exponential", initial_delay=1.0, factor=factor, max_delay=60.0).delay(
        5_000, 0.5
    )

    assert delay == (1.0 if factor == 1.0 else 60.0)


@pytest.mark.parametrize("rule", JITTERED, ids=lambda rule: rule.kind)
@given(retry=st.integers(7, 5_000), one=CHANCE, other=CHANCE)
def test_jittered_delays_at_the_cap_differ(rule, retry, one, other):
    """With the cap after the jitter, all delays above it would be equal."""
    difference = rule.delay(retry, one, AT_THE_CAP) - rule.delay(retry, other, AT_THE_CAP)

    assert difference == pytest.approx(WIDTHS[rule.kind] * (one - other), abs=1e-6)


@given(retry=st.integers(1, 5_000), chance=CHANCE)
def test_the_jitter_of_the_article_is_thirty_percent_and_never_below_a_tenth(retry, chance):
    rule = Backoff(kind="proportional_jitter", initial_delay=0.05)
    plain = min(60.0, 0.05 * 2.0 ** min(retry - 1, 60))

    assert rule.delay(retry, chance) == pytest.approx(
        max(0.1, plain * (1 + 0.3 * (2 * chance - 1)))
    )
