"""The fluid optimum compared with values computed by hand."""

from dataclasses import replace

import pytest
from table_test import table_test

from stormbreak.provider.fault_kinds import Kind
from stormbreak.provider.scenario import Fault, Limit, LimitKind, Load, Provider, Scenario
from stormbreak.provider.scenario_file import load
from stormbreak.storm.ideal import _Fluid, ideal_throughput, within

P = Provider(slots=100, service=2.0)  # 50 answers a second


def even(rate, start, end):
    """Arrivals at an even rate, in the middle of their gaps."""
    return [start + (number + 0.5) / rate for number in range(round((end - start) * rate))]


def ideal(arrivals, *, deadline=30.0, **scenario):
    scenario = Scenario(name="x", load=Load(rate=1.0, deadline=deadline), **scenario)
    return ideal_throughput(scenario, sorted(arrivals))


def answered(arrivals, **scenario):
    return within(ideal(arrivals, **scenario), 0.0)


def test_with_free_capacity_every_call_is_answered_after_one_service_time():
    answers = ideal(even(40, 0, 100), provider=P)

    assert within(answers, 0.0) == pytest.approx(4_000)
    assert within(answers, 0.0, 2.0) == 0.0
    assert within(answers, 10.0, 20.0) == pytest.approx(400, rel=0.01)


def test_an_overload_is_served_at_capacity_with_a_backlog_up_to_the_deadline():
    """50/s for 100 s, and calls that wait at most 28 s: at the end 28 s of work are in the queue.

    The 100 slots that are free at the start take 100 more.
    """
    served = answered(even(200, 0, 100), provider=P)

    assert served == pytest.approx(50 * (100 + 28) + 100, rel=0.01)


def test_an_idle_provider_serves_a_herd_up_to_its_slots():
    provider = Provider(slots=400, service=10.0)
    answers = ideal([5.0] * 300, provider=provider)

    assert within(answers, 14.9, 15.1) == pytest.approx(300)


def test_a_herd_is_served_as_long_as_it_can_meet_its_deadline():
    """100 in the slots at once, then 50/s for 28 s, the last start in time."""
    assert answered([0.0] * 5_000, provider=P) == pytest.approx(100 + 50 * 28, rel=0.01)
    assert answered([0.0] * 5_000, provider=P, deadline=600.0) == pytest.approx(5_000)


def test_a_herd_of_5000_takes_a_hundred_seconds():
    """The fluid model empties its slots a little slower: 100 start at once, the rest at 50/s."""
    answers = ideal([0.0] * 5_000, provider=P, deadline=600.0)

    assert answers[-1].at == pytest.approx(100.0, abs=1.0)


def test_no_call_is_answered_in_an_outage_and_late_calls_wait_for_its_end():
    """Down from 100 to 160: calls after 132 can wait. The backlog is served beside the load."""
    down = Fault(kind=Kind.DOWN, at=100.0, until=160.0)
    answers = ideal(even(40, 0, 600), provider=P, faults=(down,))

    assert within(answers, 102.1, 161.9) == pytest.approx(0.0, abs=1.0)
    assert within(answers, 0.0) == pytest.approx(40 * (600 - 32), rel=0.003)


@table_test("kind", [Kind.HANG, Kind.S503])
def test_a_refusal_of_every_call_is_an_outage(kind):
    fault = Fault(kind=kind, at=100.0, until=160.0)

    assert answered(even(40, 0, 600), provider=P, faults=(fault,)) == pytest.approx(
        40 * (600 - 32), rel=0.003
    )


def test_random_refusals_cost_nothing_and_broken_answers_cost_slots():
    refused = Fault(kind=Kind.S529, share=0.3)
    spoilt = Fault(kind=Kind.CUT_BODY, share=0.3)
    calls = even(48, 0, 400)

    assert answered(calls, provider=P, faults=(refused,)) == pytest.approx(48 * 400)
    assert answered(calls, provider=P, faults=(spoilt,)) == pytest.approx(35 * (400 + 28), rel=0.01)


def test_a_window_gives_its_quota_at_any_time():
    """45/s against 1,800 in each of five windows; the rest at 300 s waits for the sixth, up to 58 s."""
    limit = Limit(kind=LimitKind.WINDOW, requests=1800, period=60.0)
    served = answered(even(45, 0, 300), provider=P, limit=limit, deadline=60.0)

    assert served == pytest.approx(6 * 1_800, rel=0.01)


def test_a_bucket_gives_its_burst_once_and_then_its_rate():
    limit = Limit(kind=LimitKind.BUCKET, requests=1800, period=60.0, burst=60)
    served = answered(even(45, 0, 300), provider=P, limit=limit, deadline=60.0)

    assert served == pytest.approx(60 + 30 * (300 + 58), rel=0.01)


def test_slow_service_counts_for_the_deadline():
    """12.5/s, and no call may wait longer than 22 s; the last 22 s of work run at full speed."""
    slow = Fault(kind=Kind.SERVICE, factor=4.0)
    served = answered(even(42.5, 0, 400), provider=P, faults=(slow,))

    assert served == pytest.approx(12.5 * (400 + 22) + 100, rel=0.01)


@table_test(("until", "answers"), [(21.0, 150), (28.4, 150), (29.5, 0)])
def test_a_call_too_late_for_slow_service_waits_for_fast_service(until, answers):
    """40 s of service are too long for a call with 30 s; the optimum knows when service takes 2 s again."""
    slow = Fault(kind=Kind.SERVICE, factor=20.0, until=until)
    served = ideal([0.5] * 150, provider=replace(P, slots=150), faults=(slow,))

    assert within(served, until + 1.9, 30.6) == pytest.approx(answers)
    assert within(served, 0.0) == pytest.approx(answers)


def test_the_front_end_bounds_how_many_calls_may_start():
    provider = Provider(max_requests_per_second=10.0, service=1.0)

    assert answered([0.0] * 1_000, provider=provider, deadline=11.0) == pytest.approx(100, rel=0.02)


def test_without_any_bound_every_call_is_answered_at_once():
    answers = ideal([1.0] * 1_000, provider=Provider(service=0.0))

    assert within(answers, 0.9, 1.1) == pytest.approx(1_000)


def test_the_ideal_of_the_incident_matches_a_computation_by_hand():
    """(440 - 120) * 47 = 15,040 calls exceed the capacity; 28 s of that work can wait until after the spike."""
    scenario = load("incident")
    calls = [*even(100, 0, 30), *even(440, 30, 77), *even(100, 77, 1457)]

    served = within(ideal_throughput(scenario, calls), 0.0)
    assert len(calls) - served == pytest.approx(15_040 - 120 * 28, rel=0.02)


def test_without_calls_there_are_no_answers():
    assert ideal([], provider=P) == []


def test_the_simulation_ends_when_no_call_waits(monkeypatch):
    """A deadline of days does not need steps for days."""
    flow, steps = _Fluid.flow, []
    monkeypatch.setattr(_Fluid, "flow", lambda *args: steps.append(1) or flow(*args))

    assert within(ideal([1.0, 2.0], deadline=10_000.0, provider=P), 0.0) == 2.0
    assert len(steps) < 100
