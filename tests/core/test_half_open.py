"""How many probes may come to nothing before a trial is spent."""

from table_test import table_test

from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.gate import NEVER, READY
from stormbreak.core.half_open import Trial
from stormbreak.types import Tally


@table_test("probes", [1, 2, 5])
@table_test(("answered", "times"), [(True, 3), (False, 10)])
def test_probes_without_a_clear_result_spend_a_trial(probes, answered, times):
    trial = Trial(BreakerPolicy(probes=probes), 0.0, pace=5.0)
    for _ in range(times * probes):
        assert trial.ready_at(0.0) == READY
        trial.settle(trial.take(0.0), Tally.NOTHING, answered=answered, now=0.0)

    assert trial.spent
    assert trial.ready_at(0.0) == NEVER
    assert trial.ends_at == 0.0


def test_a_spent_trial_waits_for_the_last_of_those_still_under_way():
    """While one of them may answer, it may still be decided."""
    trial = Trial(BreakerPolicy(probes=3, max_concurrent_probes=3, probe_lease=60.0), 0.0, pace=5.0)
    trial.take(1.0), trial.take(5.0)
    for _ in range(9):
        trial.settle(trial.take(5.0), Tally.NOTHING, answered=True, now=5.0)

    assert trial.spent
    assert trial.ends_at == 65.0
