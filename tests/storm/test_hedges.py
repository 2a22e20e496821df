"""What hedges are worth: a short tail where slowness is chance, and no harm where it is load."""

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
    description="for half a minute a fifth of the capacity is left, behind a queue that says no to few",
    duration=60.0,
    provider=Provider(slots=20, service=1.0, queue=200),
    faults=(Fault(kind=Kind.CAPACITY, factor=0.2, at=15.0, until=35.0),),
    load=Load(rate=12.0, processes=4, deadline=20.0, timeout=10.0),
)


@cache
def told(scenario, policy, *, first_output=False, seed=1):
    """What a simulation comes to, and its events, for tests that only look at them."""
    events = []
    result = simulate(
        scenario, policy, seed=seed, first_output=first_output, listener=events.append
    )
    return result.measures, events


def measured(policy, seed, *, first_output):
    """What the crowded provider comes to: without a listener, no event is made."""
    return simulate(CROWDED, policy, seed=seed, first_output=first_output).measures


def count(events, kind):
    return sum(isinstance(event, kind) for event in events)


@table_test("first_output", [False, True])
def test_where_slowness_is_chance_the_tail_is_short_and_little_is_sent_for_it(first_output):
    plain, _ = told(LOST, INTERACTIVE, first_output=first_output)
    hedged, _ = told(LOST, HEDGED, first_output=first_output)

    assert plain.p99 > 10.0  # a lost request costs its timeout
    assert hedged.p99 < plain.p99 / 3
    assert hedged.success >= plain.success
    assert hedged.attempts_per_sent_call < 1.11  # a tenth is what calls earn


@table_test("first_output", [False, True])
def test_where_slowness_is_load_they_soon_stop(first_output):
    """Those of the first second are sent in vain: the price, where capacity is scarce for everybody.

    On average: a single run may lose 7 points, or win some.
    """
    plain, hedged = (
        average([measured(policy, seed, first_output=first_output) for seed in SEEDS])
        for policy in (INTERACTIVE, HEDGED)
    )

    assert hedged.goodput > plain.goodput - 0.04
    assert hedged.attempts_per_sent_call < plain.attempts_per_sent_call + 0.04


def test_every_hedge_is_sent_and_every_attempt_ends_once():
    _, events = told(LOST, HEDGED)
    sent, ended = count(events, Sent), sum(e.attempts for e in events if isinstance(e, CallEnded))

    assert count(events, Hedged) > 30
    assert sent == ended
    assert 0 < count(events, Overtaken) <= count(events, Hedged)


def test_deterministic():
    first = told(CROWDED, HEDGED, seed=2)
    told.cache_clear()

    assert told(CROWDED, HEDGED, seed=2) == first
