"""A target hangs for six of 25 seconds, with one process for all calls: 70 % were answered, with full jitter 95 %."""

from stormbreak.core.presets import INTERACTIVE
from stormbreak.provider.fault_kinds import Kind
from stormbreak.provider.scenario import Fault, Load, Provider, Scenario
from stormbreak.storm import simulate


def test_a_target_that_hangs_periodically_is_used_fully_in_between():
    """The limit grew from one after each hang, and the send rate was measured during seconds without capacity."""
    hangs = [(36.0 + 25.5 * turn, 42.3 + 25.5 * turn) for turn in range(3)]
    scenario = Scenario(
        name="hangs in turn",
        duration=142.0,
        provider=Provider(slots=12, service=0.271, variation=0.89, queue=9),
        faults=tuple(Fault(kind=Kind.HANG, share=1.0, at=at, until=until) for at, until in hangs),
        load=Load(rate=37.1, deadline=9.38, timeout=1.21, trigger_at=36.0, trigger_until=112.0),
    )
    for seed in 1, 2:
        assert simulate(scenario, INTERACTIVE, seed=seed).measures.goodput > 0.8
