"""The effect of hedges: a short tail if slowness is random, and little harm if it is load."""

from dataclasses import replace
from functools import cache

from table_test import table_test

from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.presets import INTERACTIVE
from stormbreak.events import CallEnded, Hedged, Overtaken, Sent
from stormbreak.provider.fault_kinds import Kind
from stormbreak.provider.scenario import Fault, Load, Provider, Scenario
from stormbreak.storm import simulate
from stormbreak.storm.measures import average

SEEDS = range(5)
HEDGED = replace(INTERACTIVE, hedge=HedgePolicy())

LOST = Scenario(
    name="lost",
    description="one request in fifty is never answered, and nothing else is wrong",
    duration=60.0,
    provider=Provider(slots=100, service=1.0, variation=0.3, queue=100),
    faults=(Fault(kind=Kind.HANG, share=0.02),),
    load=Load(rate=40.0, processes=2, deadline=30.0, timeout=10.0),
)

CROWDED = Scenario(
    name="crowded",
    description="for half a minute a fifth of the capacity is left, behind a queue that rejects few",
    duration=60.0,
    provider=Provider(slots=20, service=1.0, queue=200),
    faults=(Fault(kind=Kind.CAPACITY, factor=0.2, at=15.0, until=35.0),),
    load=Load(rate=12.0, processes=4, deadline=20.0, timeout=10.0),
)


@cache
def simulated(scenario, policy, *, first_output=False, seed=1):
    """The measures and events of a simulation, cached for tests that only read them."""
    events = []
    result = simulate(
        scenario, policy, seed=seed, first_output=first_output, listener=events.append
    )
    return result.measures, events


def measured(policy, seed, *, first_output):
    """The measures of the crowded provider, without a listener."""
    return simulate(CROWDED, policy, seed=seed, first_output=first_output).measures


def count(events, kind):
    return sum(isinstance(event, kind) for event in events)


@table_test("first_output", [False, True])
def test_hedges_shorten_the_tail_of_random_slowness_at_little_cost(first_output):
    plain, _ = simulated(LOST, INTERACTIVE, first_output=first_output)
    hedged, _ = simulated(LOST, HEDGED, first_output=first_output)

    assert plain.p99 > 10.0  # a lost request costs its timeout
    assert hedged.p99 < plain.p99 / 3
    assert hedged.success >= plain.success
    assert hedged.attempts_per_sent_call < 1.11  # calls earn a tenth


@table_test("first_output", [False, True])
def test_hedges_soon_stop_if_slowness_is_load(first_output):
    """Hedges of the first second are wasted while capacity is scarce.

    This holds on average: a single run may lose 7 points, or win some.
    """
    plain, hedged = (
        average([measured(policy, seed, first_output=first_output) for seed in SEEDS])
        for policy in (INTERACTIVE, HEDGED)
    )

    assert hedged.goodput > plain.goodput - 0.04
    assert hedged.attempts_per_sent_call < plain.attempts_per_sent_call + 0.04


def test_every_hedge_is_sent_and_every_attempt_ends_once():
    _, events = simulated(LOST, HEDGED)
    sent, ended = count(events, Sent), sum(e.attempts for e in events if isinstance(e, CallEnded))

    assert count(events, Hedged) > 30
    assert sent == ended
    assert 0 < count(events, Overtaken) <= count(events, Hedged)


def test_a_simulation_with_hedges_is_deterministic():
    first = simulated(CROWDED, HEDGED, seed=2)
    simulated.cache_clear()

    assert simulated(CROWDED, HEDGED, seed=2) == first
