"""Callers choose model names: an engine remembers a bounded number of targets, and never forgets one that holds calls."""

import pytest
from stage import OK, OTHER, SERVER_ERROR, TARGET, THROTTLED, Stage, policy, retry_in

from stormbreak.core import call, engine
from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy, State
from stormbreak.core.concurrency_limit import AimdLimit
from stormbreak.core.policy import Policy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.types import Outcome, RateLimits, RateLimitStatus, Target, Verdict

FEW = 8
ONCE = RetryPolicy(max_attempts=1)
FRAGILE = BreakerPolicy(
    trip=ConsecutiveFailures(failure_threshold=2), open_duration=5.0, open_duration_jitter=0.0
)


@pytest.fixture
def few(monkeypatch):
    for module in (call, engine):
        monkeypatch.setattr(module, "MAX_TARGETS", FEW)


def ask_many(stage, models=100, outcome=OK):
    for number in range(models):
        stage.start(target=Target("acme", f"model-{number}")).step(outcome)


def known(stage):
    return set(stage.engine.targets)


def test_an_engine_remembers_a_bounded_number_of_targets():
    stage = Stage(Policy())
    ask_many(stage, 3 * engine.MAX_TARGETS)

    assert len(known(stage)) == engine.MAX_TARGETS


@pytest.mark.parametrize("verdict", [Verdict.NOT_FOUND, Verdict.INVALID, Verdict.AUTH])
def test_unknown_models_that_fail_are_forgotten(few, verdict):
    stage = Stage(Policy())
    ask_many(stage, outcome=Outcome(verdict))

    assert len(known(stage)) <= FEW + 1


def test_a_target_that_is_used_again_and_again_stays(few):
    stage = Stage(policy())
    target_state = stage.state
    for round_ in range(20):
        stage.start().step(OK)
        for model in range(4):
            stage.start(target=Target("acme", f"model-{round_}-{model}")).step(OK)

    assert stage.state is target_state
    assert len(known(stage)) <= FEW + 1


@pytest.mark.usefixtures("few")
class TestATargetIsKept:
    def assert_stays(self, stage, seconds=0.0):
        target_state = stage.state
        stage.now += seconds
        ask_many(stage)
        assert stage.engine.targets.get(TARGET) is target_state
        assert len(known(stage)) <= FEW + 1

    def assert_goes(self, stage, seconds=0.0):
        stage.now += seconds
        ask_many(stage)
        assert TARGET not in known(stage)

    def test_while_an_attempt_is_in_flight(self):
        stage = Stage(policy())
        run = stage.start()
        self.assert_stays(stage)
        run.step(OK)
        self.assert_goes(stage)

    def test_while_a_call_backs_off(self):
        retry = RetryPolicy(max_attempts=2, backoff=Backoff(kind="constant", initial_delay=200.0))
        stage = Stage(policy(retry=retry))
        run = stage.start().step(SERVER_ERROR)
        assert run.backing_off
        self.assert_stays(stage, 100.0)
        run.close()
        self.assert_goes(stage)

    def test_while_a_failure_may_still_count(self):
        stage = Stage(policy(retry=ONCE))
        stage.start().step(SERVER_ERROR)
        self.assert_stays(stage, 59.0)
        self.assert_goes(stage, 2.0)

    def test_during_a_cooldown(self):
        stage = Stage(policy(retry=ONCE))
        stage.start().step(retry_in(200.0))
        self.assert_stays(stage, 199.0)
        self.assert_goes(stage, 200.0)

    def test_while_its_circuit_is_open_and_for_a_while_after(self):
        stage = Stage(policy(retry=ONCE, breaker=FRAGILE))
        stage.fail_until_open()
        self.assert_stays(stage, 899.0)
        assert stage.state.breaker.state is State.OPEN
        self.assert_goes(stage, 100.0)

    def test_while_its_circuit_is_isolated_by_hand(self):
        stage = Stage(policy(breaker=FRAGILE))
        stage.state.isolate(stage.now)
        self.assert_stays(stage, 10_000.0)
        stage.state.reset(stage.now)
        stage.now += 10.0
        self.assert_goes(stage)

    def test_while_a_learned_rate_is_in_force(self):
        stage = Stage(policy(retry=ONCE, adaptive_rate=True))
        while not stage.state.rate.in_force(stage.now):
            stage.now += 0.05
            stage.start().step(OK)
            stage.start().step(THROTTLED)
        self.assert_stays(stage, 119.0)
        self.assert_goes(stage, 3_600.0)

    @pytest.mark.parametrize("limit", [AimdLimit(), AutomaticLimit()])
    def test_while_its_limit_is_reduced(self, limit):
        stage = Stage(policy(retry=ONCE, limit=limit))
        runs = [stage.start() for _ in range(20)]
        stage.now += 1.0
        for run in runs:
            run.step(Outcome(Verdict.TIMEOUT))
        assert stage.state.slots.learned(stage.now)
        self.assert_stays(stage, 100.0)
        self.assert_goes(stage, 30.0)

    def test_while_its_quota_is_partly_used(self):
        stage = Stage(policy(rate_limit=RateLimitPolicy(rpm=1.0, burst_seconds=300.0)))
        stage.start().step(OK)
        assert stage.state.is_needed(stage.now + 59.0)
        assert not stage.state.is_needed(stage.now + 61.0)

    @pytest.mark.parametrize(("remaining", "stays"), [(0, True), (49, True), (99, False)])
    def test_while_a_reported_limit_is_nearly_used_up(self, remaining, stays):
        limits = RateLimits(
            RateLimitStatus(limit=100, remaining=remaining, reset=60.0, flows=False)
        )
        stage = Stage(policy(rate_limit=RateLimitPolicy(learn_from_headers=True)))
        stage.start().step(OK._replace(rate_limits=limits))
        (self.assert_stays if stays else self.assert_goes)(stage)

    def test_a_retry_budget_survives_the_eviction_of_its_target(self):
        stage = Stage(policy())
        budget = stage.state.budget
        self.assert_goes(stage)
        assert stage.state.budget is budget


def test_a_call_checks_only_a_few_targets_if_all_are_needed(few, monkeypatch):
    checks = []
    is_needed = engine.TargetState.is_needed
    monkeypatch.setattr(
        engine.TargetState,
        "is_needed",
        lambda target_state, now: checks.append(target_state) or is_needed(target_state, now),
    )
    stage = Stage(policy(retry=ONCE))
    ask_many(stage, outcome=SERVER_ERROR)
    checks.clear()
    stage.start(target=OTHER)

    assert len(known(stage)) == 101
    assert len(checks) <= engine.EVICTION_CHECKS
