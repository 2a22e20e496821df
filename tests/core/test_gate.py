"""Each gate declares whether it learns from success."""

from copy import deepcopy

from stage import OK, retry_in
from table_test import table_test

from stormbreak.core.breaker import Breaker
from stormbreak.core.concurrency_limit import AimdLimiter, AutomaticLimiter, FixedLimiter
from stormbreak.core.cooldown import Cooldown, Pace
from stormbreak.core.diagnosis import Diagnosis
from stormbreak.core.fleet_lease import LeasedLimiter
from stormbreak.core.rate_limit_gate import RateLimitGate
from stormbreak.core.send_rate import AdaptiveSendRate
from stormbreak.core.shadow import ShadowGate
from stormbreak.cost.spend_gate import SpendGate


def _paced():
    pace = Pace()
    pace.start(0.0, 10.0, 20)
    return pace


def _slowed():
    rate = AdaptiveSendRate(lambda: 0.0)
    for second in range(20):
        token = rate.take(None, float(second))
        rate.settle(token, retry_in(None), second + 0.5, 0.5)
    assert rate.in_force(19.5)
    return rate


def _state(value):
    if not type(value).__module__.startswith("stormbreak"):
        return value
    names = getattr(type(value), "__slots__", None) or vars(value)
    return {name: _state(getattr(value, name)) for name in names if name[:3] != "_on"}


@table_test("make_gate", [_paced, _slowed])
@table_test("outcome", [OK, OK._replace(retry_after=1.0)])
def test_a_gate_without_on_success_is_not_changed_by_a_success(make_gate, outcome):
    gate = make_gate()
    assert gate.on_success is None
    token = gate.take(None, 19.5)
    before = deepcopy(_state(gate))
    gate.settle(token, outcome, 20.0, 0.5)
    assert _state(gate) == before


@table_test(
    "kind",
    [
        AdaptiveSendRate,
        AimdLimiter,
        AutomaticLimiter,
        Breaker,
        Cooldown,
        Diagnosis,
        FixedLimiter,
        LeasedLimiter,
        Pace,
        RateLimitGate,
        ShadowGate,
        SpendGate,
    ],
)
def test_a_gate_with_its_own_settle_has_its_own_on_success(kind):
    assert ("settle" in vars(kind)) == ("on_success" in vars(kind))
