"""How many probes may come to nothing before a trial is spent."""

import pytest

from stormbreak.core.circuit import BreakerPolicy
from stormbreak.core.gate import OPEN, UNTIL_EVENT
from stormbreak.core.trial import Trial
from stormbreak.types import Tally


@pytest.mark.parametrize("probes", [1, 2, 5])
@pytest.mark.parametrize(("answered", "times"), [(True, 3), (False, 10)])
def test_a_trial_is_spent_by_probes_that_told_nothing(probes, answered, times):
    trial = Trial(BreakerPolicy(probes=probes), 0.0)
    for _ in range(times * probes):
        assert trial.ready_at(0.0) == OPEN
        trial.settle(trial.take(0.0), Tally.NOTHING, answered=answered, now=0.0)

    assert trial.spent
    assert trial.ready_at(0.0) == UNTIL_EVENT
    assert trial.ends_at == 0.0
