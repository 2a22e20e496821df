"""The first calls of a process are a burst above the capacity of the provider, in virtual time."""

from dataclasses import replace

from table_test import table_test

from stormbreak.core.concurrency_limit import AimdLimit, FixedLimit
from stormbreak.core.presets import INTERACTIVE
from stormbreak.provider.fault_kinds import Kind
from stormbreak.provider.scenario import Fault, Load, Provider, Scenario
from stormbreak.storm import simulate
from stormbreak.storm.policies import find


def goodput(policy, calls, *, queue, until=4.0):
    """Goodput of `calls` at once in percent; until `until`, the provider needs 1 s for each instead of 0.25 s."""
    faults = (Fault(kind=Kind.SERVICE, at=0.0, until=until, factor=4.0),)
    times = tuple(0.5 + number / 5_000 for number in range(calls))
    storm = Scenario(
        name="first burst",
        duration=90.0,
        provider=Provider(slots=4, service=0.25, variation=0.0, queue=queue),
        faults=faults,
        load=Load(arrival_times=times, timeout=2.0, deadline=20.0),
    )
    return 100 * simulate(storm, find(policy), seed=1).measures.goodput


@table_test(("calls", "until"), [(14, 4.0), (20, 4.0), (20, 8.0), (40, 4.0), (80, 8.0)])
def test_nearly_all_calls_are_answered_although_most_time_out_at_first(calls, until):
    assert goodput("interactive", calls, queue=100, until=until) >= 95.0


@table_test("calls", [30, 100])
def test_nearly_all_calls_are_answered_although_most_are_refused_at_first(calls):
    assert goodput("interactive", calls, queue=8) >= 90.0


@table_test("limit", [FixedLimit(), AimdLimit()])
def test_without_an_automatic_limit_failed_calls_do_not_return_all_at_once(limit):
    storm = Scenario(
        name="hangs at first",
        duration=90.0,
        provider=Provider(slots=40, service=1.0, variation=0.3),
        faults=(Fault(kind=Kind.HANG, at=0.0, until=20.0),),
        load=Load(rate=30.0, timeout=5.0, deadline=30.0),
    )
    policy = replace(INTERACTIVE, limit=limit, breaker=None)

    assert simulate(storm, policy, seed=1).measures.success >= 0.75


def test_a_loop_with_full_jitter_loses_most_of_a_large_burst():
    assert goodput("full_jitter", 80, queue=100) < 50.0
