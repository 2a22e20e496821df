"""How many probes without a clear result end a trial."""

from table_test import table_test

from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.gate import NEVER, READY
from stormbreak.core.half_open import Trial
from stormbreak.types import Tally


@table_test("probes", [1, 2, 5])
@table_test(("answered", "times"), [(True, 3), (False, 10)])
def test_probes_without_a_clear_result_end_a_trial(probes, answered, times):
    trial = Trial(BreakerPolicy(probes=probes), 0.0, pace=5.0)
    for _ in range(times * probes):
        assert trial.ready_at(0.0) == READY
        trial.settle(trial.take(0.0), Tally.NOTHING, answered=answered, now=0.0)

    assert trial.spent
    assert trial.ready_at(0.0) == NEVER
    assert trial.ends_at == 0.0


def test_an_ended_trial_waits_for_its_last_probe_in_flight():
    """While one of them may answer, the trial may still be decided."""
    trial = Trial(BreakerPolicy(probes=3, max_concurrent_probes=3, probe_lease=60.0), 0.0, pace=5.0)
    trial.take(1.0), trial.take(5.0)
    for _ in range(9):
        trial.settle(trial.take(5.0), Tally.NOTHING, answered=True, now=5.0)

    assert trial.spent
    assert trial.ends_at == 65.0


@table_test(
    ("lost_after", "leases"),
    [
        (
            2.0,
            [5.0, 10.0, 15.0, 25.0],
        ),  # one place in each open time, twice as long after the first
        (12.0, [12.0, 17.0, 22.0, 32.0]),  # later, where an answer may take longer
        (58.0, [58.0, 60.0, 60.0, 116.0]),  # and no later than the lease
        (None, [60.0, 60.0, 60.0, 120.0]),
    ],
)
def test_hung_probes_free_one_place_per_open_time(lost_after, leases):
    policy = BreakerPolicy(
        probes=3,
        max_concurrent_probes=3,
        probe_lease=60.0,
        open_duration_factor=2.0,
        max_open_duration=60.0,
    )
    trial = Trial(policy, 0.0, pace=5.0)
    probes = [trial.take(0.0, lost_after=lost_after) for _ in range(3)]
    probes.append(trial.take(probes[0].lease_until, lost_after=lost_after))

    assert [probe.lease_until for probe in probes] == leases
