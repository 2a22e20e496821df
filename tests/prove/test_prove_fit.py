"""`storm fit` recovers service time and slots of random scenarios, from logs of the provider model."""

import pytest
from access_logs import provider_log

from stormbreak.storm.fit.evidence import evidence
from stormbreak.storm.random_storms import draw

pytestmark = pytest.mark.prove

SEED = 20261129  # not used while `storm fit` was made
OVERLOAD = ("spike", "ramp", "herd")  # more calls than the target can serve


def fitted(number, families=()):
    storm = draw(number, seed=SEED, families=families)
    return storm.scenario.provider, evidence(provider_log(storm.scenario, seed=SEED))


@pytest.mark.parametrize("number", range(20))
def test_service_time_and_slots_are_recovered_within_15_percent(number):
    provider, found = fitted(number, OVERLOAD)
    capacity = found.capacity
    assert capacity.best.mean == pytest.approx(provider.service, rel=0.15)
    if capacity.most_slots is None:
        assert capacity.fewest_slots <= provider.slots
    else:
        assert capacity.best.slots == pytest.approx(provider.slots, rel=0.15)


@pytest.mark.parametrize("number", range(38))
def test_a_bound_of_the_slots_holds_in_every_family(number):
    provider, found = fitted(number)
    if found.capacity.most_slots is None:
        assert found.capacity.fewest_slots <= provider.slots
