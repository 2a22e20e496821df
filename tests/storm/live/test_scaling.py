"""A live storm plays a smaller and shorter scenario without background traffic."""

import pytest

from stormbreak.errors import ConfigurationError
from stormbreak.provider.scenario_file import builtin_names, load, parse
from stormbreak.storm.live.scaling import rehearsal, staged


def test_scale_applies_to_counts_and_not_to_times():
    incident = load("incident")
    small = staged(incident, scale=0.1, copies=3)

    assert (small.provider.slots, small.provider.queue, small.provider.max_requests_per_second) == (
        24,
        200,
        300,
    )
    assert [step.rate for step in small.load.steps] == [44, 10]
    assert (small.load.rate, small.load.processes, small.background_traffic) == (10, 3, None)
    assert (small.load.deadline, small.load.timeout) == (30, 10)
    assert (small.duration, small.provider.service) == (1457, 2.0)


def test_scale_applies_to_limits_and_herds():
    bucket = staged(load("rpm-bucket"), scale=0.1)
    assert bucket.limit.requests == pytest.approx(load("rpm-bucket").limit.requests / 10)
    assert bucket.limit.reject_cost == load("rpm-bucket").limit.reject_cost
    assert staged(load("tokens"), scale=0.1).limit.tokens == load("tokens").limit.tokens / 10
    assert staged(load("herd"), scale=0.1).load.bursts[0].calls == 120
    assert staged(load("herd"), scale=0.0001).load.bursts[0].calls == 1


def test_scale_applies_to_listed_arrivals():
    listed = parse(
        "[provider]\nslots = 10\n[load]\narrival_times = ["
        + ", ".join(str(number / 10) for number in range(100))
        + "]\narrival_tokens = ["
        + ", ".join(["7"] * 100)
        + "]\n"
    )
    assert staged(listed).load.arrival_tokens == (7,) * 100
    half = staged(listed, scale=0.5).load
    assert 35 <= len(half.arrival_times) <= 65
    assert set(half.arrival_times) < set(listed.load.arrival_times)


def test_an_unbounded_value_stays_unbounded():
    dip = staged(load("dip"), scale=0.1)
    assert (dip.provider.queue, dip.limit) == (None, None)


def test_every_scenario_with_a_load_can_be_scaled():
    storms = [storm for storm in map(load, builtin_names()) if storm.load is not None]
    assert len(storms) > 15
    for storm in storms:
        assert staged(storm, scale=0.1).background_traffic is None


def test_a_storm_may_end_early_but_not_too_early():
    assert staged(load("incident"), until=107).duration == 107
    with pytest.raises(
        ConfigurationError, match="--duration must be at least 107, 30 s after the t"
    ):
        staged(load("incident"), until=106)
    with pytest.raises(ConfigurationError, match="at most the duration of incident, 1457, got 20"):
        staged(load("incident"), until=2e5)


def test_a_limit_scaled_to_zero_is_rejected():
    scarce = load("scarce")
    with pytest.raises(ConfigurationError, match="scarce, --scale 1e-06: limit"):
        staged(scarce, scale=1e-6)


def test_a_scenario_without_a_load_needs_own_traffic():
    bare = load("bench")
    with pytest.raises(ConfigurationError, match=r"bench: a live storm needs a \[load\]"):
        staged(bare)
    assert staged(bare, own_traffic=True).load.deadline == 30


def test_the_rehearsal_has_no_faults_or_limits():
    calm = rehearsal(staged(load("outage"), scale=0.1))
    assert (calm.faults, calm.limit, calm.provider.slots) == ((), None, None)
    assert calm.provider.service == load("outage").provider.service

    slow = parse(
        "[provider]\nservice = 60\nmin_service = 30\nrequire_key = true\n[load]\nrate = 1\n"
    )
    assert rehearsal(slow).provider.service == 5.0
    assert rehearsal(slow).provider.require_key
