"""The capacity model in virtual time."""

from itertools import pairwise
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stormbreak.provider.capacity_model import Part, ProviderModel
from stormbreak.provider.counters import peak_arrivals
from stormbreak.provider.fault_kinds import Kind
from stormbreak.provider.scenario import (
    BackgroundTraffic,
    Fault,
    Limit,
    LimitKind,
    Provider,
    Scenario,
    Step,
)
from stormbreak.provider.scenario_file import load, parse

FOREVER = 1e7


def model_of(seed=0, **kwargs):
    return ProviderModel(Scenario(name="test", **kwargs), seed)


def provider(**kwargs):
    return Provider(**{"service": 2.0, "variation": 0.0, **kwargs})


# ---------------------------------------------------------------- one mechanism at a time


def test_a_slot_serves_its_queue_first_in_first_out():
    model = model_of(provider=provider(slots=1, queue=10))
    numbers = [model.arrive(0.0, key) for key in range(4)]
    replies = model.advance(100)
    assert [reply.request for reply in replies] == numbers
    assert [reply.at for reply in replies] == [2, 4, 6, 8]


def test_a_full_queue_rejects_with_a_bare_429_after_50_ms():
    model = model_of(provider=provider(slots=1, queue=1))
    *_, rejected = [model.arrive(0.0, key) for key in range(3)]
    [reply] = model.advance(1)
    assert (reply.request, reply.at, reply.retry_after) == (rejected, 0.05, None)
    assert reply.fault.kind is Kind.S429
    assert model.clients.outcomes == {"queue_full": 1}
    assert model.clients.series() == {
        "arrivals": [3],
        "ok": [0],
        "rejected": [1],
        "failed": [0],
    }


def test_the_front_end_holds_a_backlog_of_five_seconds_and_drops_the_rest():
    model = model_of(provider=provider(max_requests_per_second=10))
    for key in range(100):
        model.arrive(0.0, key)
    replies = model.advance(100)
    assert model.clients.outcomes["dropped"] == pytest.approx(49, abs=1)
    assert len(replies) == model.clients.outcomes["ok"]
    assert replies[-1].at == pytest.approx(7.0, abs=0.11)  # 5 s in the backlog, 2 s of service


def test_the_provider_works_on_for_clients_that_have_left():
    model = model_of(provider=provider(slots=1))
    first, second = model.arrive(0.0, 1), model.arrive(0.0, 2)
    model.abandon(first, 0.5)
    model.abandon(first, 0.6)
    [reply] = model.advance(10)
    assert (reply.request, reply.at) == (second, 4.0)
    assert model.clients.outcomes == {"wasted": 1, "ok": 1}
    assert (model.clients.abandoned, model.clients.wasted_work, model.clients.work) == (1, 2, 4)


def test_an_answered_request_cannot_be_abandoned():
    model = model_of(provider=provider())
    number = model.arrive(0.0, 1)
    model.advance(2.0)
    model.abandon(number, 3.0)
    model.abandon(99, 3.0)
    assert model.clients.abandoned == 0


def test_the_first_token_comes_after_the_prefill():
    model = model_of(provider=provider(prefill=0.25))
    model.arrive(1.0, 1, streamed=True)
    first, last = model.advance(10)
    assert (first.part, first.at, first.done_at) == (Part.FIRST, 1.5, 3.0)
    assert (last.part, last.at) == (Part.WHOLE, 3.0)


def test_an_outage_rejects_fast_and_a_queue_waits_for_capacity():
    faults = (
        Fault(kind=Kind.DOWN, at=10, until=20),
        Fault(kind=Kind.CAPACITY, factor=0.0, at=0, until=30),
    )
    model = model_of(provider=provider(slots=2), faults=faults)
    model.arrive(5.0, 1)
    model.arrive(12.0, 2)
    down, served = model.advance(100)
    assert (down.at, down.fault.kind) == (12.05, Kind.DOWN)
    assert served.at == 32.0


def test_a_brownout_slows_requests_that_begin_in_it():
    slow = Fault(kind=Kind.SERVICE, factor=4, at=10, until=20)
    model = model_of(provider=provider(), faults=(slow,))
    for at in (9.0, 12.0, 20.0):
        model.arrive(at, 1)
    assert sorted(reply.at for reply in model.advance(100)) == [11.0, 20.0, 22.0]


def test_a_hang_is_never_answered_and_takes_no_slot():
    hang = Fault(kind=Kind.HANG, until=5)
    model = model_of(provider=provider(slots=1, queue=0), faults=(hang,))
    model.arrive(0.0, 1)
    model.arrive(5.0, 2)
    assert [reply.at for reply in model.advance(FOREVER)] == [7.0]
    assert model.clients.outcomes == {"hang": 1, "ok": 1}


def test_a_limit_names_the_wait_and_does_not_count_background_traffic():
    limit = Limit(kind=LimitKind.WINDOW, requests=1, period=60)
    model = model_of(
        provider=provider(), limit=limit, background_traffic=BackgroundTraffic(rate=10)
    )
    model.arrive(10.0, 1)
    model.arrive(20.0, 2)
    replies = model.advance(30)
    limited = next(reply for reply in replies if reply.fault)
    assert limited.at + limited.retry_after == pytest.approx(60)
    assert set(model.background.outcomes) == {"ok"}


def test_a_broken_answer_takes_its_full_service_time():
    cut = Fault(kind=Kind.CUT_BODY)
    model = model_of(provider=provider(), faults=(cut,))
    model.arrive(0.0, 1)
    [reply] = model.advance(10)
    assert (reply.at, reply.fault.kind) == (2.0, Kind.CUT_BODY)
    assert model.clients.work == 2


# ---------------------------------------------------------------- the crowd


def test_background_traffic_arrives_at_its_rate_and_takes_slots():
    crowd = BackgroundTraffic(rate=10, steps=(Step(at=100, rate=100), Step(at=200, rate=0)))
    model = model_of(provider=provider(slots=250), background_traffic=crowd)
    model.advance(500)
    seconds = model.background.series()["arrivals"]
    assert fmean(seconds[:100]) == pytest.approx(10, rel=0.15)
    assert fmean(seconds[100:200]) == pytest.approx(100, rel=0.05)
    assert sum(seconds[200:]) == 0
    assert model.next_event_at() is None


def test_rejected_background_traffic_retries_as_often_as_configured():
    crowd = BackgroundTraffic(rate=10, steps=(Step(at=10, rate=0),), retries=3, retry_delay=1.0)
    down = Fault(kind=Kind.DOWN)
    model = model_of(provider=provider(), background_traffic=crowd, faults=(down,))
    model.advance(100)
    assert model.background.arrivals % 4 == 0
    assert model.background.outcomes == {"down": model.background.arrivals}


def test_the_incident_collapses_and_recovers():
    model = ProviderModel(load("incident"), seed=1)
    model.advance(40)
    assert model.queued >= 1900
    assert model.busy == 240
    model.advance(300)
    assert model.queued == 0
    assert model.background.outcomes["queue_full"] > 15_000
    assert 3 * 440 < peak_arrivals(model.background, model.clients) < 3000


# ---------------------------------------------------------------- properties

KINDS = st.sampled_from(
    [Kind.S429, Kind.S503, Kind.RESET, Kind.HANG, Kind.CUT_BODY, Kind.CUT_STREAM, Kind.SLOW_BODY]
)


@st.composite
def scenarios(draw):
    spans = st.just(0.0) | st.floats(0.001, 20)
    faults = [
        Fault(kind=draw(KINDS), share=draw(st.just(0.0) | st.floats(0.001, 0.3)), at=draw(spans))
        for _ in range(draw(st.integers(0, 3)))
    ]
    if draw(st.booleans()):
        at = draw(spans)
        dip = Fault(
            kind=Kind.CAPACITY,
            factor=draw(st.just(0.0) | st.floats(0.001, 2)),
            at=at,
            until=at + 3,
            ramp=2,
        )
        faults.append(dip)
    limit = Limit(kind=draw(st.sampled_from(LimitKind)), requests=5, period=3, reject_cost=0.1)
    return Scenario(
        name="drawn",
        provider=Provider(
            slots=draw(st.none() | st.integers(1, 4)),
            queue=draw(st.none() | st.integers(0, 4)),
            max_requests_per_second=draw(st.none() | st.floats(0.5, 20)),
            variation=draw(st.sampled_from([0.0, 0.5, 2.0])),
            service=draw(st.sampled_from([0.0, 1.0])),
        ),
        limit=draw(st.sampled_from([None, limit])),
        faults=tuple(faults),
        background_traffic=draw(
            st.sampled_from(
                [None, BackgroundTraffic(rate=3, steps=(Step(at=20, rate=0),), retries=1)]
            )
        ),
    )


CALLS = st.lists(
    st.tuples(st.floats(0, 3), st.booleans(), st.none() | st.floats(0, 3)), max_size=40
)


def play(scenario, calls, *, seed=0, steps=1, watch=None):
    """Let calls arrive; some are abandoned after a time. Returns the model and all replies."""
    model, replies, agenda, now = ProviderModel(scenario, seed), [], [], 0.0
    for key, (gap, streamed, patience) in enumerate(calls):
        now += gap
        agenda.append((now, 0, key, streamed))
        if patience is not None:
            agenda.append((now + patience, 1, key, streamed))
    numbers = {}
    before = 0.0
    for at, leaves, key, streamed in sorted(agenda):
        for step in range(1, steps):
            replies += model.advance(before + (at - before) * step / steps)
        before = at
        if leaves:
            model.abandon(numbers[key], at)
        else:
            numbers[key] = model.arrive(at, key, streamed=streamed)
        if watch:
            watch(model)
    return model, replies + model.advance(FOREVER)


@given(scenarios(), CALLS)
@settings(deadline=None)
def test_every_request_has_one_outcome_and_at_most_one_end(scenario, calls):
    def conserved(model):
        for counters in (model.clients, model.background):
            assert counters.arrivals == sum(counters.outcomes.values()) + counters.inside
            assert counters.inside >= 0
        assert model.busy + model.queued <= model.clients.inside + model.background.inside

    model, replies = play(scenario, calls, watch=conserved)
    assert model.clients.arrivals == sum(model.clients.outcomes.values()) == len(calls)
    assert (model.busy, model.queued, model.background.inside) == (0, 0, 0)
    ends = [reply.request for reply in replies if reply.part is Part.WHOLE]
    assert len(ends) == len(set(ends))
    silent = sum(model.clients.outcomes.get(name, 0) for name in ("wasted", "dropped", "hang"))
    assert len(calls) - silent - model.clients.abandoned <= len(ends) <= len(calls) - silent


@given(scenarios(), CALLS)
@settings(deadline=None)
def test_slots_and_queue_are_never_exceeded(scenario, calls):
    max_factor = max(
        [1.0] + [fault.factor for fault in scenario.faults if fault.factor is not None]
    )

    def bounded(model):
        slots, queue = scenario.provider.slots, scenario.provider.queue
        assert slots is None or model.busy <= slots * max_factor + 1e-6
        assert queue is None or model.queued <= queue

    play(scenario, calls, watch=bounded)


@given(scenarios(), CALLS, st.integers(0, 3))
@settings(deadline=None)
def test_a_run_depends_on_its_seed_and_not_on_the_steps_of_time(scenario, calls, seed):
    once, replies = play(scenario, calls, seed=seed)
    again, in_steps = play(scenario, calls, seed=seed, steps=7)
    assert replies == in_steps
    assert once.clients.outcomes == again.clients.outcomes
    assert once.background.seconds == again.background.seconds


@given(CALLS)
@settings(deadline=None)
def test_service_begins_in_the_order_of_arrival(calls):
    scenario = parse("[provider]\nslots = 2\nservice = 1\nvariation = 2\nprefill = 0")
    streamed = [(gap, True, None) for gap, _, _ in calls]
    _, replies = play(scenario, streamed)
    begun = [reply for reply in replies if reply.part is Part.FIRST]
    assert [reply.request for reply in begun] == sorted(reply.request for reply in begun)
    assert all(before.at <= after.at for before, after in pairwise(replies))


def test_the_fate_of_a_request_does_not_depend_on_the_order_of_arrival():
    faults = (Fault(kind=Kind.S503, share=0.5),)
    there, back = (model_of(faults=faults, provider=provider(variation=1.0)) for _ in range(2))
    forth = {there.arrive(0.0, key): key for key in range(50)}
    reverse = {back.arrive(0.0, key): key for key in reversed(range(50))}
    fates = [
        {numbers[reply.request]: (reply.at, reply.fault) for reply in model.advance(FOREVER)}
        for model, numbers in ((there, forth), (back, reverse))
    ]
    assert fates[0] == fates[1]


def test_another_seed_gives_other_replies():
    outcomes = [play(load("chaos"), [(0.1, False, None)] * 100, seed=s)[1] for s in (1, 2)]
    assert outcomes[0] != outcomes[1]
