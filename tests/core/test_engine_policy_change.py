"""Targets with their own policies, and their states when policies change."""

from dataclasses import replace

from stage import INVALID, OK, SERVER_ERROR, Stage, policy
from table_test import table_test

from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy, Mode, State
from stormbreak.core.circuit_snapshot import CircuitSnapshot
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.fallback_policy import ELSEWHERE, Step, TargetOrder
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.core.tenant import TenantLimits
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.types import Target

MAIN = Target("acme", "large", "k1", "main")
SPARE = Target("acme", "small", "k2", "spare")
PLAIN = Target("acme", "large", "k1")

FRAGILE = BreakerPolicy(
    trip=ConsecutiveFailures(failure_threshold=1), open_duration=5.0, open_duration_jitter=0.0
)
FILE = policy(limit=FixedLimit(max_in_flight=9))
NEARLY_FULL = policy(limit=FixedLimit(max_in_flight=1), attempt_timeout=3.0)


def governed(**named):
    """A stage with the given policies for `main` and `spare`."""
    stage = Stage(FILE)
    govern(stage, **named)
    return stage


def govern(stage, file=FILE, **named):
    targets = {"main": MAIN, "spare": SPARE}
    accounts = {targets[name].account: policy for name, policy in named.items()}
    stage.engine.govern(file, accounts, stage.now)


def test_a_named_target_has_its_own_policy_and_any_other_that_of_the_engine():
    stage = governed(main=NEARLY_FULL)
    first, second = stage.start(target=MAIN), stage.start(target=MAIN)

    assert (first.sending, first.command.timeout, second.queued) == (True, 3.0, True)
    assert stage.engine.target_state(MAIN._replace(model="tiny")).policy is NEARLY_FULL
    assert stage.engine.target_state(PLAIN).policy is FILE
    assert all(stage.start(target=PLAIN).sending for _ in range(9))


def test_retries_follow_the_policy_of_the_target():
    thrice = policy(
        retry=RetryPolicy(max_attempts=3, backoff=Backoff(kind="constant", initial_delay=1.0))
    )
    once = policy(retry=RetryPolicy(max_attempts=1))
    stage = governed(main=thrice, spare=once)

    assert stage.start(target=MAIN).step(SERVER_ERROR).backing_off
    assert stage.start(target=SPARE).step(SERVER_ERROR).ended.stopped == "attempts"


def test_policies_with_an_equal_budget_share_it():
    paying = policy(retry_budget=BudgetPolicy())
    stage = governed(main=paying, spare=replace(paying, attempt_timeout=1.0))
    main, spare, other = map(stage.engine.target_state, (MAIN, SPARE, PLAIN))

    assert main.budget is spare.budget is not None
    assert other.budget is None


def test_an_unchanged_policy_keeps_its_target_state():
    stage = governed(main=NEARLY_FULL, spare=NEARLY_FULL)
    kept, changed = stage.engine.target_state(MAIN), stage.engine.target_state(SPARE)
    govern(stage, main=policy(limit=FixedLimit(max_in_flight=1), attempt_timeout=3.0), spare=FILE)

    assert stage.engine.target_state(MAIN) is kept
    assert stage.engine.target_state(SPARE) is not changed


def test_an_unnamed_target_gets_a_new_state_when_the_policy_of_the_engine_changes():
    stage = governed(main=NEARLY_FULL)
    before = stage.engine.target_state(PLAIN)
    govern(stage, file=NEARLY_FULL, main=NEARLY_FULL)

    assert stage.engine.target_state(PLAIN) is not before
    assert stage.engine.target_state(PLAIN).policy is NEARLY_FULL


def test_calls_finish_in_the_target_state_in_which_they_began():
    stage = governed(main=NEARLY_FULL)
    flying, waiting = stage.start(target=MAIN), stage.start(target=MAIN)
    govern(stage, main=FILE)
    new = stage.start(target=MAIN)
    assert (waiting.queued, new.sending) == (True, True)

    flying.step(OK)
    stage.settle()
    assert waiting.sending
    waiting.step(OK)
    assert waiting.ended.outcome is OK
    assert stage.engine.target_state(MAIN).slots.in_flight == 1  # of the new call


@table_test("isolated", [False, True])
def test_a_changed_policy_does_not_close_a_circuit(isolated):
    stage = governed(main=replace(NEARLY_FULL, breaker=FRAGILE))
    target_state = stage.engine.target_state(MAIN)
    if isolated:
        target_state.isolate(stage.now)
    else:
        stage.start(target=MAIN).step(SERVER_ERROR)
    govern(stage, main=replace(FILE, breaker=FRAGILE))

    assert stage.engine.target_state(MAIN).breaker.state is (
        State.ISOLATED if isolated else State.OPEN
    )
    assert not stage.start(target=MAIN).sending


FORCED = replace(FRAGILE, mode=Mode.FORCED_OPEN)


def test_a_circuit_closes_when_it_is_no_longer_forced_open():
    stage = governed(main=replace(NEARLY_FULL, breaker=FORCED))
    assert stage.start(target=MAIN, fail_fast=False).queued
    govern(stage, main=replace(NEARLY_FULL, breaker=FRAGILE))

    assert stage.start(target=MAIN, fail_fast=False).sending


def test_waiting_calls_leave_when_a_circuit_is_no_longer_forced_open():
    stage = governed(main=replace(NEARLY_FULL, breaker=FORCED))
    waiting = stage.start(target=MAIN, fail_fast=False)
    govern(stage, main=replace(NEARLY_FULL, breaker=FRAGILE))
    stage.settle()

    assert waiting.sending


def test_forcing_a_circuit_open_holds_calls_in_the_previous_state():
    stage = governed(main=replace(NEARLY_FULL, breaker=FRAGILE))
    first, second = (
        stage.start(target=MAIN, fail_fast=False),
        stage.start(target=MAIN, fail_fast=False),
    )
    govern(stage, main=replace(NEARLY_FULL, breaker=FORCED))
    first.step(OK)
    stage.settle()

    assert (first.ended.outcome.verdict, second.queued) == ("ok", True)


def test_a_reset_by_hand_reaches_calls_in_the_previous_state():
    stage = governed(main=replace(NEARLY_FULL, breaker=FRAGILE))
    stage.engine.isolate(MAIN, stage.now)
    waiting = stage.start(target=MAIN, fail_fast=False)
    govern(stage, main=replace(FILE, breaker=FRAGILE))
    assert waiting.queued
    stage.engine.reset(MAIN, stage.now)
    stage.settle()

    assert waiting.sending


@table_test("paused", [False, True])
def test_a_restored_circuit_and_a_pause_reach_calls_in_the_previous_state(paused):
    stage = governed(main=replace(NEARLY_FULL, breaker=FRAGILE))
    busy, waiting = (stage.start(target=MAIN, fail_fast=False) for _ in range(2))
    govern(stage, main=replace(FILE, breaker=FRAGILE))
    if paused:
        stage.engine.pause(MAIN, 5.0, stage.now)
    else:
        opened = CircuitSnapshot(state=State.OPEN, open_left=5.0, open_for=5.0)
        stage.engine.restore_circuits({MAIN: opened}, stage.now, 0.0)
    busy.step(INVALID)  # a success would end the pause
    stage.settle()
    assert (busy.over, waiting.queued) == (True, True)


def test_a_new_target_state_keeps_the_count_of_openings():
    stage = governed(main=replace(NEARLY_FULL, breaker=FRAGILE))
    stage.start(target=MAIN).step(SERVER_ERROR)
    before = stage.engine.target_state(MAIN)
    govern(stage, main=replace(FILE, breaker=FRAGILE))
    after = stage.engine.target_state(MAIN)
    assert after is not before
    assert (after.openings, after.breaker.trips) == (1, 1)

    stage.engine.reset(MAIN, stage.now)
    govern(stage, main=replace(NEARLY_FULL, breaker=FRAGILE))
    assert (
        stage.engine.target_state(MAIN).openings,
        stage.engine.target_state(MAIN).breaker.trips,
    ) == (1, 1)


def test_an_isolation_by_hand_survives_a_temporary_mode():
    stage = governed(main=replace(NEARLY_FULL, breaker=FRAGILE))
    stage.engine.isolate(MAIN, stage.now, duration=50.0)
    for breaker in (FORCED, FRAGILE):
        govern(stage, main=replace(NEARLY_FULL, breaker=breaker))

    assert stage.engine.target_state(MAIN).breaker.ready_at(None, stage.now) == stage.now + 50.0


def test_a_removed_target_is_shown_until_its_last_call_has_ended():
    stage = governed(main=NEARLY_FULL, spare=NEARLY_FULL)
    run = stage.start(target=MAIN)
    stage.start(target=SPARE)
    govern(stage, spare=NEARLY_FULL)
    assert list(stage.engine.snapshot(stage.now)["targets"]) == [str(MAIN), str(SPARE)]

    run.step(OK)
    assert list(stage.engine.snapshot(stage.now)["targets"]) == [str(SPARE)]
    govern(stage, spare=NEARLY_FULL)
    assert MAIN not in stage.engine.targets


@table_test("known", [False, True])
def test_a_call_begun_before_a_change_may_fall_back_to_a_removed_target(known):
    once = policy(retry=RetryPolicy(max_attempts=1))
    stage = governed(main=once, spare=NEARLY_FULL)
    busy = stage.start(target=SPARE) if known else None
    step = Step(frozenset(ELSEWHERE), None, "fallback", ((SPARE, 1.0),), TargetOrder.IN_ORDER)
    run = stage.start(target=MAIN, fallbacks=(step,))
    govern(stage, main=once)
    busy = busy or stage.start(target=SPARE)

    assert run.step(SERVER_ERROR).queued  # the previous limit holds
    busy.step(OK)
    stage.settle()
    assert (run.sending, run.command.target) == (True, SPARE)
    run.step(OK)
    assert str(SPARE) not in stage.engine.snapshot(stage.now)["targets"]


def test_a_target_that_comes_back_is_no_longer_gone():
    stage = governed(main=NEARLY_FULL)
    stage.start(target=MAIN)
    govern(stage)
    govern(stage, main=NEARLY_FULL)

    assert not stage.engine.target_state(MAIN).gone


def test_the_name_of_a_target_comes_first_in_its_text():
    assert [str(MAIN), str(PLAIN)] == ["main=acme/large#k1", "acme/large#k1"]


def test_a_new_fixed_limit_admits_queued_calls_and_keeps_the_state():
    stage = governed(main=NEARLY_FULL)
    state = stage.engine.target_state(MAIN)
    runs = [stage.start(target=MAIN) for _ in range(4)]
    assert [run.sending for run in runs] == [True, False, False, False]

    stage.engine.change_limit(FixedLimit(max_in_flight=3), stage.now)
    stage.settle()
    assert [run.sending for run in runs] == [True, True, True, False]
    assert stage.engine.target_state(MAIN) is state
    assert state.policy.attempt_timeout == 3.0

    stage.engine.change_limit(FixedLimit(max_in_flight=1), stage.now)
    for run in runs[:2]:
        run.step(OK)
        stage.settle()
    assert runs[3].queued
    runs[2].step(OK)
    stage.settle()
    assert runs[3].sending


def test_a_limit_of_another_kind_replaces_the_state():
    stage = Stage(FILE)
    first = stage.engine.target_state(PLAIN)
    stage.engine.change_limit(AutomaticLimit(), stage.now)
    assert stage.engine.target_state(PLAIN) is not first
    assert stage.engine.target_state(PLAIN).policy.limit == AutomaticLimit()


def test_an_engine_races_if_a_policy_hedges():
    stage = Stage(FILE)
    assert not stage.engine.races
    govern(stage, main=replace(FILE, hedge=HedgePolicy()))
    assert stage.engine.races
    govern(stage, main=NEARLY_FULL)
    assert not stage.engine.races


def test_a_replaced_state_is_kept_only_while_calls_wait_in_it():
    stage = governed(main=NEARLY_FULL)
    first, _second = stage.start(target=MAIN), stage.start(target=MAIN)
    govern(stage, main=replace(NEARLY_FULL, attempt_timeout=4.0))
    assert len(stage.engine.states) == 2
    first.step(OK)
    stage.settle()
    govern(stage, main=replace(NEARLY_FULL, attempt_timeout=5.0))
    assert len(stage.engine.states) == 1


@table_test("shares_slots", [False, True])
def test_a_new_state_keeps_the_used_rate_if_slots_are_shared(shares_slots):
    before = policy(rate_limit=RateLimitPolicy(rpm=60.0))
    stage = Stage(before)
    stage.start(target=PLAIN)
    after = replace(before, attempt_timeout=3.0)
    stage.engine.govern(after, {}, stage.now, shares_slots=shares_slots)
    assert stage.start(target=PLAIN).queued is shares_slots


def test_tenants_keep_their_limits_until_new_ones_are_given():
    stage = Stage(FILE)
    stage.engine.govern(FILE, {}, stage.now, tenants={"acme": TenantLimits(rpm=60.0)})
    stage.engine.govern(NEARLY_FULL, {}, stage.now)
    assert stage.engine.tenants["acme"].limits == TenantLimits(rpm=60.0)
    stage.engine.start_over()
    assert set(stage.engine.tenants) == {"acme"}
