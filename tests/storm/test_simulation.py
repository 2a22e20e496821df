"""Simulations: real engines, one provider, the same calls for every policy, and nothing left behind."""

from dataclasses import replace
from hashlib import sha256

import pytest
from table_test import table_test

from stormbreak.core.backoff import Backoff
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.diagnosis import Diagnosis
from stormbreak.core.presets import INTERACTIVE, OFF, PRESETS
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import ConfigurationError
from stormbreak.events import CallEnded, Returned, Sent
from stormbreak.provider.fault_kinds import Kind
from stormbreak.provider.scenario import (
    BackgroundTraffic,
    Burst,
    Fault,
    Limit,
    LimitKind,
    Load,
    Provider,
    Scenario,
)
from stormbreak.provider.scenario_file import builtin_names, load
from stormbreak.storm import simulate
from stormbreak.storm.policies import BASELINES, NamedPolicy
from stormbreak.types import Verdict

STORM = Scenario(
    name="small",
    duration=60.0,
    provider=Provider(slots=10, service=1.0, queue=30, max_requests_per_second=200.0),
    faults=(
        Fault(kind=Kind.CAPACITY, factor=0.2, at=20.0, until=30.0, ramp=5.0),
        Fault(kind=Kind.S503, share=0.1, at=25.0, until=40.0),
        Fault(kind=Kind.S429, share=0.05, at=10.0, until=50.0, retry_after=2.0),
    ),
    load=Load(
        rate=8.0, processes=4, deadline=10.0, timeout=4.0, trigger_at=20.0, trigger_until=30.0
    ),
)


def events_of(scenario=STORM, policy=INTERACTIVE, **more):
    """All events of a simulation."""
    events = []
    simulate(scenario, policy, listener=events.append, **more)
    return events


def alone(fault=None, *, slots=1, calls=1, timeout=4.0, **more):
    """A herd of calls at a provider that needs exactly a second for each."""
    return Scenario(
        name="alone",
        duration=30.0,
        provider=Provider(slots=slots, service=1.0, variation=0.0, **more),
        faults=() if fault is None else (fault,),
        load=Load(bursts=(Burst(at=1.0, calls=calls),), deadline=10.0, timeout=timeout),
    )


# ------------------------------------------------------------ determinism


def test_the_same_seed_gives_the_same_events():
    assert events_of(seed=7) == events_of(seed=7)
    assert events_of(seed=7) != events_of(seed=8)


FROZEN = replace(
    OFF,
    retry=RetryPolicy(max_attempts=4, backoff=Backoff(kind="constant", initial_delay=0.5)),
    limit=FixedLimit(max_in_flight=3),
)
LEARNING = replace(INTERACTIVE, rate_limit=RateLimitPolicy(learn_from_headers=True))


@pytest.mark.parametrize(
    ("scenario", "policy", "stored"),
    [
        (STORM, FROZEN, "06bb81fb83c61e23"),
        (replace(load("tokens"), duration=210.0), LEARNING, "00ee2aed7bbd7340"),
    ],
    ids=["few mechanisms", "all mechanisms"],
)
def test_the_events_equal_the_stored_ones(scenario, policy, stored):
    """Every supported Python gives these to the last bit. A change of a policy changes them: store new hashes."""
    events = events_of(scenario, policy, seed=7)

    assert sha256("\n".join(map(repr, events)).encode()).hexdigest()[:16] == stored


def test_a_listener_changes_nothing():
    assert simulate(STORM, INTERACTIVE, seed=7) == simulate(
        STORM, INTERACTIVE, seed=7, listener=lambda _: None
    )


def test_policies_meet_the_same_calls_and_the_same_luck():
    """The first attempts leave at the same times, and served attempts take as long."""
    once = [event for event in events_of(policy=OFF) if isinstance(event, Sent)]
    often = [event for event in events_of(policy=BASELINES["naive"]) if isinstance(event, Sent)]

    assert [event.at for event in once] == [event.at for event in often if event.attempt == 1]
    early = [
        [event.took for event in events_of(policy=policy) if isinstance(event, Returned)][:20]
        for policy in (OFF, BASELINES["fixed"])
    ]
    assert early[0] == early[1]


# ------------------------------------------------------------ the provider


@table_test(
    ("fault", "verdict", "took"),
    [
        (None, Verdict.OK, 1.0),
        (Fault(kind=Kind.S503), Verdict.OVERLOADED, 0.05),
        (Fault(kind=Kind.DOWN, respond_after=0.2), Verdict.OVERLOADED, 0.2),
        (Fault(kind=Kind.HANG), Verdict.TIMEOUT, 4.0),
        (Fault(kind=Kind.SLOW_BODY, added_latency=2.5), Verdict.OK, 3.5),
        (Fault(kind=Kind.SLOW_BODY, added_latency=9.0), Verdict.TIMEOUT, 4.0),
        (Fault(kind=Kind.CUT_BODY), Verdict.BROKEN, 1.0),
    ],
)
def test_an_attempt_has_the_outcome_that_the_provider_gives(fault, verdict, took):
    [returned] = [e for e in events_of(alone(fault), OFF) if isinstance(e, Returned)]

    assert returned.verdict is verdict
    assert returned.took == pytest.approx(took)


def test_a_dropped_connection_is_seen_by_its_own_timeout():
    scenario = alone(slots=100, calls=20, max_requests_per_second=2.0, backlog=3.0)
    took = sorted(e.took for e in events_of(scenario, OFF) if isinstance(e, Returned))

    assert took[:7] == pytest.approx([1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0])
    assert took[7:] == pytest.approx([4.0] * 13)


def test_the_provider_works_on_for_clients_that_left():
    """One slot, six calls that wait at most 2.5 s: two are answered, four are served without a client."""
    result = simulate(alone(calls=6, timeout=2.5), OFF)

    assert result.measures.success == pytest.approx(2 / 6)
    assert result.measures.wasted == pytest.approx(4 / 6)


def test_a_full_queue_of_the_provider_answers_429():
    result = events_of(alone(calls=6, queue=2), OFF)

    assert [e.status for e in result if isinstance(e, Returned)].count(429) == 3


def test_an_answer_after_the_deadline_does_not_count():
    """The deadline of 10 s cuts the attempt before its timeout."""
    slow = Fault(kind=Kind.SERVICE, factor=11.0)
    result = simulate(alone(slow, timeout=20.0), OFF)

    assert result.measures.success == 0.0
    assert result.series.failed[11] == 1


def test_a_baseline_may_ignore_retry_after():
    refusal = Fault(kind=Kind.S429, retry_after=3.0, until=2.0)
    policy = replace(
        OFF,
        retry=RetryPolicy(
            max_attempts=9,
            backoff=Backoff(kind="constant", initial_delay=0.5),
            retry_after_jitter=0.0,
        ),
    )
    times = {
        ignores_retry_after: [
            e.at
            for e in events_of(
                alone(refusal),
                NamedPolicy(name="", policy=policy, ignores_retry_after=ignores_retry_after),
            )
            if isinstance(e, Sent)
        ]
        for ignores_retry_after in (False, True)
    }

    assert times[False] == pytest.approx([1.0, 4.05])
    assert times[True] == pytest.approx([1.0, 1.55, 2.1])


# ------------------------------------------------------------ processes


def test_each_process_has_its_own_engine_unless_all_share_one():
    """A limit of one in flight: four processes send four at once, a shared engine one."""
    one = replace(OFF, limit=FixedLimit(max_in_flight=1))
    scenario = replace(STORM, faults=())
    apart, shared = (simulate(scenario, one, shared=shared, seed=2) for shared in (False, True))

    assert max(apart.series.answers) >= 3
    assert max(shared.series.answers) <= 4
    assert sum(apart.series.answers) > 2 * sum(shared.series.answers)
    assert shared.measures.added_wait_p99 > 2.0


def test_with_first_output_the_start_of_each_answer_is_observed():
    firsts = []
    seen = Diagnosis.first_output
    with pytest.MonkeyPatch.context() as patched:

        def first(diagnosis, flight, now):
            firsts.append(now - flight.sent_at)
            seen(diagnosis, flight, now)

        patched.setattr(Diagnosis, "first_output", first)
        plain = simulate(alone(), INTERACTIVE)
        assert firsts == []
        streamed = simulate(alone(), INTERACTIVE, first_output=True)

    assert len(firsts) == streamed.measures.calls == plain.measures.calls
    assert all(took > 0 for took in firsts)


def test_the_scenario_sets_deadline_patience_and_timeout():
    """A policy with shorter times waits as long as the callers of the scenario."""
    impatient = replace(INTERACTIVE, deadline=1.0, patience=0.1, attempt_timeout=0.5)

    assert simulate(alone(), impatient).measures.success == 1.0


def test_background_traffic_is_replaced_by_default():
    storm = replace(STORM, background_traffic=BackgroundTraffic(rate=6.0))

    assert simulate(storm, OFF, seed=1) == simulate(STORM, OFF, seed=1)


def test_clients_share_the_capacity_with_background_traffic():
    load = Load(rate=3.0, deadline=10.0, timeout=4.0)
    storm = Scenario(
        name="crowded",
        duration=30.0,
        provider=Provider(slots=5, service=1.0),
        background_traffic=BackgroundTraffic(rate=6.0),
        load=load,
    )
    beside = replace(storm, load=replace(load, keep_background_traffic=True))

    alone, crowded = (simulate(each, OFF, seed=1).measures for each in (storm, beside))
    assert crowded.calls == alone.calls
    assert crowded.goodput < 0.9 * alone.goodput


def test_a_scenario_without_load_cannot_be_simulated():
    with pytest.raises(ConfigurationError, match=r"calm: a simulation needs a \[load\], got none"):
        simulate(Scenario(name="calm"), OFF)


def test_progress_is_reported_to_the_end():
    shares = []
    simulate(STORM, OFF, progress=shares.append)

    assert shares == sorted(shares)
    assert shares[-1] == 1.0


# ------------------------------------------------------------ every policy, every scenario


@table_test("name", [*PRESETS, *BASELINES])
def test_every_call_ends_and_nothing_is_held(name):
    """`simulate` itself raises if a permit or a ticket is left."""
    contender = BASELINES.get(name) or NamedPolicy(name=name, policy=PRESETS[name])
    ended = []
    result = simulate(
        STORM,
        contender,
        seed=5,
        listener=lambda e: ended.append(e) if isinstance(e, CallEnded) else None,
    )
    totals = result.series

    assert sum(totals.calls) == len(ended)
    assert sum(totals.answers) + sum(totals.failed) + sum(totals.shed) == len(ended)
    assert sum(totals.attempts) == sum(event.attempts for event in ended)
    assert 0.0 <= result.measures.goodput <= 1.05


@table_test("limit", list(LimitKind))
def test_a_request_limit_counts_all_processes_together(limit):
    scenario = replace(
        STORM, faults=(), provider=Provider(), limit=Limit(kind=limit, requests=60, period=20.0)
    )
    result = simulate(scenario, OFF, seed=1)

    assert sum(result.series.answers) == pytest.approx(60 * (3 + (limit == "bucket")), abs=2)


STORMS = {
    "incident", "dip", "outage", "blackhole", "rpm-window", "rpm-bucket", "gather", "partial", "serverless",
    "brownout", "herd", "calm-burst", "sparse", "mixed-lengths",
}  # fmt: skip


def test_the_fourteen_built_in_storms_exist():
    assert set(builtin_names()) >= STORMS
    for name in STORMS:
        storm = load(name)
        assert storm.load is not None
        assert storm.load.preset == ("batch" if name == "gather" else "interactive")
        assert (storm.load.trigger_at is None) == (storm.load.trigger_until is None)


@table_test("name", ["sparse", "mixed-lengths"])  # the third calm has its own test below
def test_no_policy_harms_a_calm(name):
    measures = simulate(load(name), INTERACTIVE, seed=1).measures

    assert measures.shed == 0
    assert measures.added_wait_p99 <= 0.05
    assert measures.success >= 0.98


def test_a_calm_burst_is_not_held_back_streamed_or_not():
    """The longest answers of a burst come last: they are no congestion."""
    for first_output in (False, True):
        measures = simulate(
            load("calm-burst"), INTERACTIVE, seed=1, first_output=first_output
        ).measures
        assert measures.shed == 0
        assert measures.success > 0.99
        assert measures.added_wait_p99 <= 0.05
