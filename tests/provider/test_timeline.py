"""Faults on a timeline."""

import math

import pytest
from table_test import table_test

from stormbreak.provider.chance import mix
from stormbreak.provider.fault_kinds import Kind
from stormbreak.provider.scenario_file import parse
from stormbreak.provider.timeline import forecast


def phase_at(toml, moment):
    return [phase for phase in forecast(parse(toml)) if phase.at <= moment][-1]


RAMP = """
[provider]
slots = 100
[[faults]]
kind = "capacity"
factor = 0.1
at = 10
until = 70
ramp = 30
"""


@table_test(
    ("moment", "slots"),
    [(0, 100), (9.9, 100), (10, 10), (69, 10), (85, 55), (100, 100), (500, 100)],
)
def test_capacity_falls_at_once_and_returns_linearly(moment, slots):
    assert phase_at(RAMP, moment).slots == slots


def test_capacity_is_unlimited_without_slots_and_zero_with_factor_zero():
    zero = '[provider]\nslots = 5\n[[faults]]\nkind = "capacity"\nfactor = 0\nuntil = 3'
    assert phase_at("", 0).slots == math.inf
    assert phase_at(zero, 0).slots == 0
    assert phase_at(zero, 3).slots == 5


def test_faults_occur_at_their_configured_share():
    toml = "".join(
        f'[[faults]]\nkind = "{kind}"\nshare = {share}\n'
        for kind, share in [("429", 0.3), ("reset", 0.01), ("cut_stream", 0.2)]
    )
    phase = phase_at(toml, 0)
    drawn = [phase.draw(mix(place), streamed=True) for place in range(20_000)]
    kinds = [fault.kind for fault in drawn if fault]
    assert kinds.count(Kind.S429) / 20_000 == pytest.approx(0.3, abs=0.01)
    assert kinds.count(Kind.RESET) / 20_000 == pytest.approx(0.01, abs=0.003)
    assert kinds.count(Kind.CUT_STREAM) / 20_000 == pytest.approx(0.2, abs=0.01)


def test_a_plain_answer_has_no_stream_to_cut():
    phase = phase_at('[[faults]]\nkind = "cut_stream"', 0)
    assert phase.draw(mix(1), streamed=False) is None
    assert phase.draw(mix(1), streamed=True).kind is Kind.CUT_STREAM
