"""Random numbers never change between versions and follow their distributions."""

from statistics import fmean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.provider.chance import Lognormal, exponential, mix, normal, uniform

BITS = st.integers(0, 2**64 - 1)


def test_mix_is_splitmix64():
    # the first outputs of the reference generator for the seed 1234567
    state, seen = 1234567, []
    for _ in range(3):
        seen.append(mix(state))
        state = (state + 0x9E3779B97F4A7C15) % 2**64
    assert seen == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(BITS)
def test_every_draw_is_finite_and_in_range(bits):
    assert 0 <= uniform(bits) < 1
    assert 0 <= exponential(bits) < 40
    assert abs(normal(bits)) < 10
    assert 1 <= Lognormal.of(mean=20, cv=2, minimum=1, maximum=120).draw(bits) <= 120


@table_test(("mean", "cv"), [(2.0, 0.5), (20.0, 2.0), (0.02, 0.1)])
def test_lognormal_keeps_its_mean_and_variation(mean, cv):
    service = Lognormal.of(mean=mean, cv=cv)
    drawn = [service.draw(mix(place)) for place in range(40_000)]
    assert fmean(drawn) == pytest.approx(mean, rel=0.05)
    assert pstdev(drawn) / fmean(drawn) == pytest.approx(cv, rel=0.1)


def test_a_lognormal_without_variation_or_mean_is_constant():
    assert Lognormal.of(mean=0.02, cv=0).draw(mix(1)) == pytest.approx(0.02)
    assert Lognormal.of(mean=0, cv=0.5).draw(mix(1)) == 0
