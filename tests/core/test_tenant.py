"""The limits of tenants: never exceeded, freed however a call ends, and independent of other tenants."""

import pickle
import random
from bisect import bisect_left
from dataclasses import replace
from decimal import Decimal
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metering import answer
from quiet_fleet import QuietFleet
from stage import OK, OTHER, SERVER_ERROR, TARGET, Stage, policy, retry_in
from table_test import table_test
from tenant_stage import CENT, COMMITTED, DOLLAR, RETRIES, limited, shown, spending, spent, usd

from stormbreak.core import tenant
from stormbreak.core.concurrency_limit import AimdLimit, FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.core.fallback_policy import ELSEWHERE, Step
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.tenant import TenantLimits
from stormbreak.drivers.virtual_time import Timeline, VirtualDriver
from stormbreak.errors import ConfigurationError, error_for
from stormbreak.events import CallRejected
from stormbreak.types import CACHE, FALLBACK, Call, Outcome, Verdict

# ---------------------------------------------------------------- calls that wait


def test_a_tenant_at_its_rate_waits_and_no_other_does():
    stage = limited(acme=TenantLimits(rpm=60))
    runs = [stage.start(tenant=name) for name in ("acme", "acme", "acme", "other", "")]

    assert [run.sending for run in runs] == [True, False, False, True, True]
    stage.pass_time(1.01)
    assert [run.sending for run in runs[:3]] == [True, True, False]


def test_unused_reserved_tokens_are_refunded():
    stage = limited(acme=TenantLimits(tpm=6000))  # 100 at once
    first = stage.start(tenant="acme", tokens=85)
    second = stage.start(tenant="acme", tokens=85)
    assert (first.sending, second.queued) == (True, True)

    first.step(answer(into=10))
    stage.settle()
    assert second.sending


def test_a_call_keeps_its_slot_over_all_its_attempts():
    stage = limited(acme=TenantLimits(max_in_flight=1))
    first, second = (stage.start(tenant="acme") for _ in range(2))
    first.step(SERVER_ERROR)
    stage.settle()
    assert (first.backing_off, second.queued) == (True, True)

    stage.pass_time(1.0)
    first.step(OK)
    stage.settle()
    assert second.sending


def test_a_stream_keeps_its_slot_to_its_end():
    stage = limited(acme=TenantLimits(max_in_flight=1))
    first = stage.start(tenant="acme", delivers=True).step(COMMITTED)
    second = stage.start(tenant="acme")
    assert (first.delivering, second.queued) == (True, True)

    first.step(OK)
    stage.settle()
    assert second.sending


def test_a_rejection_names_the_tenant_and_no_event_does():
    stage = limited(acme=TenantLimits(rpm=6)).listen()
    stage.start(tenant="acme")
    ended = stage.start(tenant="acme", patience=2.0).ended

    error = error_for(TARGET, ended)
    assert str(error) == "acme/large: tenant acme: the call may not wait that long (quota)"
    assert (error.policy, error.retry_at) == ("quota", stage.now + 10.0)
    (event,) = [each for each in stage.events if isinstance(each, CallRejected)]
    assert event.reason == "limit of its tenant: the call may not wait that long"
    assert not any("tenant acme" in str(each) for each in stage.events)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert pickle.loads(pickle.dumps(error)).ended.outcome.rejection.tenant == "acme"


def test_a_rejection_by_a_tenant_limit_has_no_fallback():
    stage = limited(acme=TenantLimits(rpm=6))
    steps = (Step(frozenset(ELSEWHERE), None, FALLBACK, ((OTHER, 1.0),)),)
    stage.start(tenant="acme", fallbacks=steps)

    assert (
        stage.start(tenant="acme", patience=2.0, fallbacks=steps).ended.outcome.verdict
        is Verdict.REJECTED
    )


def test_time_in_the_queue_of_a_tenant_counts_as_unserved():
    stage = limited(acme=TenantLimits(rpm=60))
    stage.start(tenant="acme")
    second = stage.start(tenant="acme")
    stage.pass_time(1.0)

    ended = second.step(OK).ended
    assert (ended.waited, ended.queued) == (pytest.approx(1.0), pytest.approx(1.0))


def test_a_call_that_was_never_sent_does_not_count_for_a_rate():
    stage = limited(policy(limit=FixedLimit(max_in_flight=1)), acme=TenantLimits(rpm=60))
    stage.start()  # takes the only slot of the target
    for _ in range(5):
        run = stage.start(tenant="acme")
        assert run.queued
        run.close()

    assert stage.engine.tenants["acme"].calls.quota.ready_at(run.call, stage.now) <= stage.now


@table_test(("outcome", "counts"), [(SERVER_ERROR, True), (Outcome(Verdict.CONNECT_FAILED), False)])
def test_a_failed_call_counts_if_it_was_sent(outcome, counts):
    stage = limited(policy(retry=RetryPolicy(max_attempts=1)), acme=TenantLimits(rpm=60, tpm=6000))
    stage.start(tenant="acme", tokens=100).step(outcome)

    assert stage.start(tenant="acme", tokens=100).sending is not counts


def test_an_answer_from_a_cache_uses_no_tokens():
    steps = (Step(frozenset({Verdict.CONNECT_FAILED}), None, CACHE),)
    stage = limited(policy(retry=RetryPolicy(max_attempts=1)), acme=TenantLimits(tpm=6000))
    run = stage.start(tenant="acme", tokens=100, fallbacks=steps)
    run.step(Outcome(Verdict.CONNECT_FAILED)).step(answer(into=100))
    assert run.ended.source == CACHE

    assert stage.start(tenant="acme", tokens=99).sending


def test_a_possibly_processed_attempt_counts_although_a_later_one_was_refused():
    stage = limited(acme=TenantLimits(tpm=6000))
    run = stage.start(tenant="acme", tokens=100)
    run.step(Outcome(Verdict.TIMEOUT, maybe_processed=True))
    stage.now += 1.0
    run.step().step(Outcome(Verdict.INVALID))
    assert run.ended.outcome.verdict is Verdict.INVALID

    stage.now -= 1.0
    assert stage.start(tenant="acme", tokens=100).queued


# ---------------------------------------------------------------- ends of calls

LIMITS = TenantLimits(rpm=600, tpm=60_000, max_in_flight=3, spend=SpendPolicy(max_usd=0.05))
OUTCOMES = [
    OK,
    answer(into=4_000),
    SERVER_ERROR,
    retry_in(2.0),
    Outcome(Verdict.TIMEOUT, maybe_processed=True),
]


def reserved(stage):
    return spent(stage)[1]


def taken(stage):
    return sum(spent(stage))


def check(stage):
    tenant = stage.engine.tenants["acme"]
    mine = [run for run in stage.runs if run.call.tenant == "acme" and not run.over]
    assert len(tenant.permits) <= tenant.calls.slots.in_flight + len(mine)
    assert tenant.calls.slots.in_flight <= 3
    assert sum(not run.queued for run in mine) <= 3
    assert taken(stage) <= Decimal("0.05")


class Actions:
    """Random actions on calls."""

    def __init__(self, stage):
        self.stage = stage

    def do(self, kind, number, tenant):
        stage = self.stage
        alive = [run for run in stage.runs if not run.over]
        run = alive[number % len(alive)] if alive else None
        if kind == "start":
            stage.start(tenant=tenant, bound=CENT, tokens=700, delivers=number % 2 == 1)
        elif kind == "tick":
            stage.tick(number / 10)
        elif kind == "reload":
            govern(stage, acme=replace(LIMITS, rpm=600 + number % 3))
        elif run is None:
            return
        elif kind == "close":
            run.close()
        elif kind == "drop":
            run.drop()
        elif run.sending and kind == "commit" and run.call.delivers:
            run.step(COMMITTED)
        elif run.sending or run.delivering:
            run.step(OUTCOMES[number % len(OUTCOMES)])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["start", "start", "answer", "commit", "close", "drop", "tick", "reload"]
            ),
            st.integers(0, 40),
            st.sampled_from(["acme", "acme", "other", ""]),
        ),
        max_size=60,
    )
)
def test_no_limit_is_exceeded_and_every_permit_is_freed(actions):
    stage = limited(policy(retry=RETRIES, cooldown=False), acme=LIMITS)
    happening = Actions(stage)
    for action in actions:
        happening.do(*action)
        stage.settle()
        check(stage)
        assert not any(run.queued for run in stage.runs if run.call.tenant != "acme")
    for run in stage.runs:
        if not run.over:
            run.close()
    tenant = stage.engine.tenants["acme"]
    assert [state.idle for state in tenant.states] == [True] * len(tenant.states)
    assert (tenant.permits, reserved(stage)) == (set(), 0)


def test_no_window_exceeds_a_rate_in_virtual_time_and_other_tenants_do_not_wait():
    """One tenant floods a target for five minutes, which fails sometimes."""
    timeline, chance = Timeline(), random.Random(7)
    limits = TenantLimits(rpm=60, max_in_flight=2)
    engine = Engine(policy(retry=RETRIES), tenants={"acme": limits})
    driver = VirtualDriver(engine, timeline, chance=chance.random)
    sent, ended = {"acme": [], "other": []}, {"acme": [], "other": []}

    def call(tenant, patience):
        def send(command, reply):
            sent[tenant].append((timeline.now, command.attempt))
            outcome = SERVER_ERROR if chance.random() < 0.1 else OK
            timeline.at(timeline.now + chance.expovariate(2.0), lambda: reply(outcome))

        one = Call(engine.number(), TARGET, patience=patience, tenant=tenant)
        driver.start(one, send, ended[tenant].append)

    for tenth in range(3_000):
        timeline.at(tenth / 10, partial(call, "acme", 20.0))
        if tenth % 5 == 0:
            timeline.at(tenth / 10, partial(call, "other", 20.0))
    timeline.run(400.0)

    begun = [at for at, attempt in sent["acme"] if attempt == 1]
    assert len(begun) > 250
    for place, at in enumerate(begun):
        assert bisect_left(begun, at + 60.0) - place <= 61
    assert len(ended["acme"]) == 3_000
    assert [each.queued for each in ended["other"]] == [0.0] * 600
    assert engine.tenants["acme"].idle


# ---------------------------------------------------------------- changed limits, interrupts, forks


def govern(stage, **tenants):
    stage.engine.govern(stage.engine.policy, {}, stage.now, tenants=tenants)


def test_unchanged_limits_keep_their_usage():
    stage = limited(acme=TenantLimits(max_in_flight=1))
    stage.start(tenant="acme")
    govern(stage, acme=TenantLimits(max_in_flight=1))

    assert stage.start(tenant="acme").queued


def test_changed_limits_apply_to_all_calls():
    stage = limited(acme=TenantLimits(max_in_flight=1))
    runs = [stage.start(tenant="acme") for _ in range(2)]
    govern(stage, acme=TenantLimits(max_in_flight=2))
    runs += [stage.start(tenant="acme") for _ in range(3)]
    stage.settle()
    assert [run.sending for run in runs] == [True, True, False, False, False]

    for place in range(3):
        runs[place].step(OK)
        stage.settle()
        assert [run.sending for run in runs[place + 1 :]][:3] == [True, True, False][: 4 - place]


def test_calls_in_flight_count_for_limits_after_any_change():
    """A bug: `max_in_flight` started from zero when `rpm` was added."""
    stage = limited(acme=TenantLimits(max_in_flight=1))
    first, second = (stage.start(tenant="acme") for _ in range(2))
    govern(stage, acme=TenantLimits(max_in_flight=1, rpm=6000))
    third = stage.start(tenant="acme")
    assert (second.queued, third.queued, shown(stage)["in_flight"]) == (True, True, 1)

    first.step(OK)
    stage.settle()
    assert (second.sending, third.queued) == (True, True)
    second.step(OK)
    stage.settle()
    assert third.sending


def test_a_previous_state_is_kept_only_while_calls_wait_in_it():
    stage = limited(acme=TenantLimits(max_in_flight=1))
    first, second = (stage.start(tenant="acme") for _ in range(2))
    tenant = stage.engine.tenants["acme"]
    for rpm in range(6000, 6010):
        govern(stage, acme=TenantLimits(max_in_flight=1, rpm=rpm))
    assert len(tenant.states) == 2  # one holds `second` in its queue

    first.step(OK)
    stage.settle()
    govern(stage, acme=TenantLimits(max_in_flight=1))
    assert (second.sending, len(tenant.states), tenant.idle) == (True, 1, False)


@table_test("limits", [TenantLimits(rpm=6), TenantLimits(tpm=6)])
def test_an_unchanged_rate_keeps_its_usage_when_other_limits_change(limits):
    """A bug: a change of another limit let a call leave at once."""
    stage = limited(acme=limits)
    first = stage.start(tenant="acme", tokens=1)
    for most in range(10, 15):
        govern(stage, acme=replace(limits, max_in_flight=most))
        assert stage.start(tenant="acme", tokens=1, patience=5.0).ended
    first.step(Outcome(Verdict.CONNECT_FAILED))
    first.close()
    assert stage.start(tenant="acme", tokens=1).sending  # it gave back what it took


def test_a_changed_rate_starts_from_zero():
    stage = limited(acme=TenantLimits(rpm=6))
    stage.start(tenant="acme")
    govern(stage, acme=TenantLimits(rpm=12))
    assert stage.start(tenant="acme").sending
    assert stage.start(tenant="acme", patience=4.0).ended


def test_money_spent_counts_under_a_changed_limit_for_the_same_period():
    stage = limited(acme=spending(1.0, period=60))
    run = stage.start(tenant="acme", bound=DOLLAR)
    govern(stage, acme=spending(1.5, period=60))
    run.step(answer(into=1_000_000))

    assert spent(stage) == usd("1", "0")
    later = stage.start(tenant="acme", bound=DOLLAR, patience=20.0)
    assert later.ended.outcome.rejection.policy == "spend"


def test_a_higher_limit_releases_waiting_attempts():
    stage = limited(acme=spending(1.0, period=60))
    stage.start(tenant="acme", bound=DOLLAR)
    second = stage.start(tenant="acme", bound=DOLLAR)
    stage.settle()
    assert second.queued

    govern(stage, acme=spending(2.0, period=60))
    stage.settle()
    assert second.sending


def test_a_spend_limit_set_later_does_not_apply_to_a_waiting_call():
    """A bug: the call had no bound, and was rejected for that."""
    stage = limited(acme=TenantLimits(max_in_flight=1))
    first, second = (stage.start(tenant="acme") for _ in range(2))
    govern(stage, acme=TenantLimits(max_in_flight=1, spend=SpendPolicy(max_usd=5.0)))
    first.step(OK)
    stage.settle()
    assert second.sending


def test_a_changed_period_starts_from_zero_and_earlier_calls_settle():
    stage = limited(acme=spending(1.0, period=60))
    first, second = (stage.start(tenant="acme", bound=DOLLAR) for _ in range(2))
    govern(stage, acme=spending(1.0, period=3600))
    assert spent(stage) == usd("0", "0")

    first.step(SERVER_ERROR)
    stage.settle()
    assert second.sending


@table_test("between", [{}, {"acme": spending(1.0, period=3600)}])
def test_a_period_that_is_set_again_keeps_what_was_spent_in_it(between):
    """A bug: the tenant had all its money again."""
    stage = limited(acme=spending(1.0, period="day"))
    stage.start(tenant="acme", bound=DOLLAR).step(answer(into=600_000))
    govern(stage, **between)
    govern(stage, acme=spending(1.5, period="day"))
    assert spent(stage) == usd("0.6", "0")
    assert stage.start(tenant="acme", bound=DOLLAR).ended.outcome.rejection.policy == "spend"


def test_a_call_cancelled_after_sending_counts_as_sent():
    """A bug: the gauge of calls did not count it, but the rate did."""
    stage = limited(acme=TenantLimits(max_in_flight=1))
    first, second = (stage.start(tenant="acme") for _ in range(2))
    second.close()
    first.close()
    assert stage.engine.snapshot(stage.now)["tenants"]["acme"]["sent"] == 1


def test_a_tenant_whose_limits_are_removed_is_free_and_forgotten():
    stage = limited(acme=LIMITS)
    first = stage.start(tenant="acme", bound=CENT, tokens=700)
    govern(stage)
    assert all(stage.start(tenant="acme").sending for _ in range(9))
    assert stage.engine.tenants["acme"].permits  # for an interrupt

    first.step(OK)
    govern(stage)
    assert stage.engine.tenants == {}


def test_an_interrupt_keeps_every_permit():
    stage = limited(acme=TenantLimits(max_in_flight=2))
    runs = [stage.start(tenant="acme") for _ in range(3)]
    slots = stage.engine.tenants["acme"].calls.slots
    slots.in_flight = 7
    stage.engine.recover([run.command for run in runs], stage.now)
    assert (slots.in_flight, runs[2].queued) == (2, True)

    runs[0].step(OK)
    stage.settle()
    assert runs[2].sending


def test_queues_with_shared_slots_do_not_fill_them_twice_after_an_interrupt():
    stage = limited(acme=TenantLimits(max_in_flight=1))
    stage.start(tenant="acme")
    second = stage.start(tenant="acme")
    govern(stage, acme=TenantLimits(max_in_flight=1, rpm=6000))
    third = stage.start(tenant="acme")
    stage.engine.tenants["acme"].permits.clear()  # an interrupt ended the first call
    stage.engine.recover([second.command, third.command], stage.now)
    stage.settle()

    assert [second.sending, third.sending].count(True) == 1
    assert shown(stage)["in_flight"] == 1


def test_a_fork_starts_from_zero():
    stage = limited(acme=LIMITS)
    stage.start(tenant="acme", bound=CENT, tokens=700)
    stage.engine.start_over()

    assert (spent(stage), shown(stage)["in_flight"]) == (usd("0", "0"), 0)


# ---------------------------------------------------------------- snapshots, invalid limits


def test_the_snapshot_shows_what_holds_a_tenant():
    stage = limited(acme=TenantLimits(rpm=60))
    stage.start(tenant="acme")
    stage.start(tenant="acme")

    found = shown(stage)
    assert (found["in_flight"], found["queued"], found["held_by"]) == (1, 1, "quota")
    assert (found["held_for"], found["quota"]) == (pytest.approx(1.0), "requests")


def test_an_engine_without_tenants_shows_none():
    assert "tenants" not in Stage().engine.snapshot(0.0)


@table_test(
    ("tenants", "message"),
    [
        ({"acme": 5}, "tenants.acme must be TenantLimits, got int"),
        ({"": TenantLimits(rpm=1)}, "the name of a tenant must be printable text, got ''"),
        ([], "tenants must be a mapping of names to limits, got list"),
        ({"acme": spending(1.0)}, "tenants.acme.spend.max_usd needs an engine that knows prices"),
    ],
)
def test_invalid_limits_are_rejected(tenants, message):
    with pytest.raises(ConfigurationError, match=message):
        Engine(Policy(), tenants=tenants)


# ---------------------------------------------------------------- counters and memory


def test_calls_and_tokens_of_a_tenant_are_counted_when_its_calls_end():
    stage = limited(acme=TenantLimits(rpm=600))
    stage.start(tenant="acme").step(answer(into=100, out=20))
    stage.pass_time(1.0)
    stage.start(tenant="acme").step(OK)  # its usage is unknown
    stage.pass_time(1.0)
    stage.engine.pause(TARGET, 5.0, stage.now)
    stage.start(tenant="acme").close()  # it was not sent
    assert (shown(stage)["sent"], shown(stage)["tokens"]) == (2, 120)


@table_test(
    ("limits", "reserves"),
    [
        (TenantLimits(rpm=60), False),
        (TenantLimits(tpm=60), True),
        (spending(1.0), True),
    ],
)
def test_only_token_and_spend_limits_reserve_before_a_call_is_sent(limits, reserves):
    assert limits.reserves is reserves


def test_the_snapshot_shows_a_limit_in_flight_only_if_there_is_one():
    stage = limited(acme=TenantLimits(rpm=60), other=TenantLimits(max_in_flight=3))
    assert "limit" not in shown(stage)
    assert shown(stage, "other")["limit"] == 3


def test_a_tenant_remembers_a_bounded_number_of_targets_and_those_with_calls(monkeypatch):
    monkeypatch.setattr(tenant, "MAX_PAYERS", 3)
    stage = limited(acme=spending(10.0))
    run = stage.start(tenant="acme", bound=CENT)
    for number in range(9):
        target = TARGET._replace(model=f"model-{number}")
        stage.start(tenant="acme", bound=CENT, target=target).step(OK)
    known = stage.engine.tenants["acme"].targets
    assert len(known) <= 3
    assert TARGET in known
    run.step(OK)


def test_a_tenant_in_a_fleet_leases_slots_only_if_they_are_limited():
    of = policy(fleet=FleetPolicy(url="redis://x"), limit=AimdLimit())
    stage = limited(of, acme=TenantLimits(rpm=60), other=TenantLimits(max_in_flight=3))
    stage.engine.fleet = QuietFleet()
    stage.engine.start_over()
    leases = {name: each.calls.lease for name, each in stage.engine.tenants.items()}
    assert leases["acme"].slots is None
    assert leases["other"].slots is not None
    leases["acme"].rest()
    stage.start(tenant="acme")
    assert not leases["acme"].rests
