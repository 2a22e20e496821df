"""Rows of a batch in a simulation: rescheduled as by `batch run`, except for loops with their own rule."""

from dataclasses import replace

import pytest
from table_test import table_test

from stormbreak.core.backoff import Backoff
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.presets import ARTICLE, BATCH, OFF
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.row_schedule import ATTEMPTS, PROBE_ROWS
from stormbreak.events import CallEnded, Sent
from stormbreak.provider.fault_kinds import Kind
from stormbreak.provider.scenario import Burst, Fault, Load, Provider, Scenario
from stormbreak.storm import simulate
from stormbreak.storm.policies import BASELINES

ONCE_A_ROUND = replace(BATCH, breaker=None, adaptive_rate=False, retry=RetryPolicy(max_attempts=1))


def batch(*faults, rows=100, slots=50, preset="batch", deadline=600.0, timeout=5.0, **load):
    """Rows at one instant, and a provider that needs a second for each."""
    return Scenario(
        name="rows",
        duration=30.0,
        provider=Provider(slots=slots, service=1.0, variation=0.0),
        faults=faults,
        load=Load(
            bursts=(Burst(at=0.0, calls=rows),),
            deadline=deadline,
            timeout=timeout,
            preset=preset,
            **load,
        ),
    )


def unlucky(share):
    return Fault(kind=Kind.S500, share=share)


def played(scenario, policy=ONCE_A_ROUND, **more):
    """The measures, and the events."""
    events = []
    return simulate(scenario, policy, listener=events.append, **more).measures, events


def test_a_failed_row_is_sent_again():
    measures, events = played(batch(unlucky(0.5)))
    calls = sum(isinstance(event, CallEnded) for event in events)
    assert measures.success > 0.99
    assert measures.calls == 100
    assert calls > 150
    assert measures.amplification == sum(isinstance(event, Sent) for event in events) / 100


def test_failed_calls_are_rescheduled_only_in_a_batch():
    measures, _ = played(batch(unlucky(0.5), preset="interactive"))
    assert (measures.amplification, measures.success < 0.7) == (1.0, True)


@table_test("name", ["none", "loop_naive", "loop_full_jitter", "article"])
def test_a_baseline_keeps_its_own_retry_rule(name):
    contender = BASELINES[name]
    scenario = batch(unlucky(1.0))
    measures, events = played(scenario, contender)
    assert sum(isinstance(event, CallEnded) for event in events) == 100
    assert measures.amplification <= contender.policy.retry.max_attempts


def test_a_fail_fast_policy_waits_in_a_batch():
    """As `batch run --policy article` does, unlike the baseline of that name."""
    down = Fault(kind=Kind.DOWN, until=20.0)
    measures, _ = played(batch(down), ARTICLE)
    assert measures.success == 1.0


def test_a_row_is_sent_ten_times_at_most():
    measures, _ = played(batch(unlucky(1.0)))
    assert measures.success == 0.0
    assert measures.amplification == ATTEMPTS


def test_the_off_policy_sends_a_row_once():
    measures, _ = played(batch(unlucky(1.0)), OFF)
    assert measures.amplification == 1.0


def test_a_row_fails_at_its_deadline():
    measures, _ = played(batch(unlucky(1.0), rows=PROBE_ROWS, deadline=3.0))
    assert measures.success == 0.0
    assert 1.0 < measures.amplification < 4.0


def test_rows_without_a_slot_before_their_deadline_are_not_sent():
    narrow = replace(ONCE_A_ROUND, limit=FixedLimit(max_in_flight=7))
    measures, _ = played(batch(rows=70, slots=200, deadline=3.5), narrow)
    assert (measures.calls, measures.success, measures.shed) == (70, 0.3, 42)


def test_the_luck_of_an_attempt_does_not_depend_on_its_round():
    """The third attempt of a row has the same outcome in one round or in three, so policies are comparable."""
    patient = replace(
        OFF,
        retry=RetryPolicy(
            max_attempts=ATTEMPTS, backoff=Backoff(kind="constant", initial_delay=0.5)
        ),
        limit=FixedLimit(max_in_flight=64),
    )
    rounds, _ = played(batch(unlucky(0.6)))
    one_round, _ = played(batch(unlucky(0.6)), patient)
    assert rounds.amplification == one_round.amplification
    assert rounds.success == one_round.success


def test_only_probe_rows_are_sent_until_a_row_is_answered():
    _, events = played(batch(rows=200, slots=200))
    at_once = [event for event in events if isinstance(event, Sent) and event.at < 1.0]
    assert len(at_once) == PROBE_ROWS


def test_rows_in_flight_never_exceed_the_limit_of_the_policy():
    narrow = replace(ONCE_A_ROUND, limit=FixedLimit(max_in_flight=7))
    measures, events = played(batch(rows=70, slots=200), narrow)
    assert measures.makespan == pytest.approx(10.0)
    assert measures.added_wait_p99 == pytest.approx(9.0)
    assert measures.peak_attempts == 7
    assert max(event.waited for event in events if isinstance(event, CallEnded)) == 0.0


def test_each_process_has_its_own_batch():
    measures, events = played(batch(unlucky(0.5), rows=60, processes=3))
    assert measures.success > 0.99
    at_once = [event for event in events if isinstance(event, Sent) and event.at < 0.01]
    assert len(at_once) > PROBE_ROWS


def test_a_batch_stops_if_all_probe_rows_are_refused():
    measures, _ = played(batch(Fault(kind=Kind.S401), rows=100))
    assert (measures.success, measures.shed) == (0.0, 100 - PROBE_ROWS)


def test_rows_may_arrive_later():
    scenario = batch(unlucky(0.5), rows=10)
    assert scenario.load is not None
    load = replace(scenario.load, bursts=(), arrival_times=(0.0, 0.0, 5.0, 20.0, 20.0))
    measures, _ = played(replace(scenario, load=load))
    assert (measures.calls, measures.success) == (5, 1.0)


def test_the_same_seed_gives_the_same_events():
    scenario = batch(unlucky(0.5))
    assert played(scenario, seed=3) == played(scenario, seed=3)
    assert played(scenario, seed=3) != played(scenario, seed=4)


@table_test("processes", [1, 3])
def test_a_burst_that_fills_the_provider_queue_is_held_back(processes):
    scenario = batch(rows=800 * processes, slots=20 * processes, processes=processes, timeout=60.0)
    full = replace(scenario.provider, queue=130 * processes)
    measures, _ = played(replace(scenario, provider=full, duration=90.0), BATCH, seed=1)
    assert measures.success == 1.0
    assert measures.amplification < 1.6
    assert measures.makespan < 1.15 * 40  # 40 s is the optimum of 20 slots
