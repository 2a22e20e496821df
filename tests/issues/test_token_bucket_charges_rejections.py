"""A token bucket that also charges rejected requests stayed empty for minutes, and a batch lost rows."""

from stormbreak.core.presets import BATCH, INTERACTIVE
from stormbreak.provider.fault_kinds import WaitForm
from stormbreak.provider.scenario import Burst, Limit, LimitKind, Load, Provider, Scenario, Step
from stormbreak.storm import simulate


def test_a_limit_that_charges_rejections_recovers_under_load():
    """30 calls a second at a capacity of 15.5. With this seed 13 % were answered, also long after the trigger."""
    scenario = Scenario(
        name="bucket",
        duration=190.0,
        provider=Provider(slots=95, service=0.4, variation=0.7, queue=67),
        limit=Limit(
            kind=LimitKind.BUCKET,
            requests=932.0,
            burst=174.0,
            reject_cost=1.0,
            retry_after_form=WaitForm.MS,
        ),
        load=Load(
            rate=13.5,
            steps=(Step(at=40.0, rate=30.0), Step(at=130.0, rate=13.5)),
            deadline=17.0,
            timeout=3.7,
            trigger_at=40.0,
            trigger_until=130.0,
        ),
    )
    measures = simulate(scenario, INTERACTIVE, seed=1).measures
    assert measures.goodput > 0.75
    assert measures.amplification < 1.2


def burst(**load):
    """300 calls at once at a capacity of 8 a second. A 429 names the time of the next free slot."""
    return Scenario(
        name="burst",
        duration=200.0,
        provider=Provider(slots=200, service=0.5),
        limit=Limit(
            kind=LimitKind.BUCKET,
            requests=83.0,
            period=10.0,
            burst=23.0,
            reject_cost=0.2,
            retry_after_form=WaitForm.MS,
        ),
        load=Load(bursts=(Burst(at=0.0, calls=300),), timeout=10.0, **load),
    )


def test_a_batch_loses_no_row_to_short_retry_after_times():
    """Five of six rows used to fail after ten rejections within seconds."""
    measures = simulate(burst(deadline=3000.0, preset="batch"), BATCH).measures
    assert measures.success == 1.0
    assert measures.makespan is not None
    assert measures.makespan < 60.0
    assert measures.amplification < 3.0  # 4.4 without the brake on the send rate


def test_a_first_burst_survives_short_retry_after_times():
    """11 % used to."""
    measures = simulate(burst(deadline=120.0), INTERACTIVE).measures
    assert measures.success > 0.9
