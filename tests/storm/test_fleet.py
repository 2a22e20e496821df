"""Processes without a fleet, at a target that counts all of them: the effect of `process_share`."""

from dataclasses import replace

from table_test import table_test

from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.presets import INTERACTIVE
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.events import Returned, Sent
from stormbreak.provider.scenario import Limit, LimitKind, Load, Provider, Scenario
from stormbreak.storm import simulate
from stormbreak.types import Verdict

RPM = 600.0
WORKERS = 4


def counted(**load):
    """Four workers at a target that serves ten requests a second in all."""
    return Scenario(
        name="counted",
        duration=60.0,
        provider=Provider(slots=1000, service=0.5),
        limit=Limit(kind=LimitKind.BUCKET, requests=RPM, burst=10.0),
        load=Load(processes=WORKERS, deadline=30.0, timeout=10.0, **load),
    )


def refused(policy, scenario):
    """The share of attempts that got a 429."""
    events = []
    simulate(scenario, policy, seed=1, listener=events.append)
    returned = [event for event in events if isinstance(event, Returned)]
    throttled = sum(event.verdict is Verdict.THROTTLED for event in returned)
    return throttled / sum(isinstance(event, Sent) for event in events)


@table_test("rate", [8.0, 14.0])
def test_workers_with_shares_of_a_limit_are_not_refused(rate):
    scenario = counted(rate=rate)
    quota = RateLimitPolicy(rpm=0.95 * RPM, burst_seconds=1.0)
    shared = replace(INTERACTIVE, rate_limit=quota, process_share=1 / WORKERS)

    assert refused(shared, scenario) < 0.01


def test_workers_with_the_whole_limit_each_are_refused():
    quota = RateLimitPolicy(rpm=0.95 * RPM, burst_seconds=1.0)
    whole = replace(INTERACTIVE, rate_limit=quota, adaptive_rate=False)

    assert refused(whole, counted(rate=14.0)) > 0.1


def test_shares_of_a_fixed_limit_add_up_to_the_limit():
    events = []
    policy = replace(INTERACTIVE, limit=FixedLimit(max_in_flight=12), process_share=1 / WORKERS)
    simulate(counted(rate=8.0), policy, seed=1, listener=events.append)
    in_flight = most = 0
    for event in events:
        in_flight += isinstance(event, Sent) - isinstance(event, Returned)
        most = max(most, in_flight)

    assert most <= 12
