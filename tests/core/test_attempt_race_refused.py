"""Reasons to send no hedge."""

from races import AFTER, events_of, scene, slow
from stage import OK, SERVER_ERROR, retry_in
from table_test import table_test

from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy, Load
from stormbreak.core.target_state import TargetState
from stormbreak.events import HedgeRefused
from stormbreak.types import TREATMENTS


class TestNoHedgeIsSent:
    def refused(self, stage, gate, **call):
        run = slow(stage, **call)
        assert run.racing == [1]
        assert [event.gate for event in events_of(stage, HedgeRefused)] == [gate]
        stage.pass_time(100.0)
        assert len(events_of(stage, HedgeRefused)) == 1  # the call does not ask again
        return run

    def test_if_the_attempts_are_used_up(self):
        self.refused(scene(retry=RetryPolicy(max_attempts=1)), "attempts")
        self.refused(scene(), "attempts", max_attempts=1)

    def test_if_too_little_time_is_left(self):
        self.refused(scene(), "deadline", within=AFTER + 0.4)
        assert slow(scene(), within=AFTER + 0.5).racing == [1, 2]

    def test_if_the_limit_is_reached(self):
        self.refused(scene(limit=FixedLimit(max_in_flight=1)), "load")

    def test_if_a_call_waits(self):
        stage = scene(limit=FixedLimit(max_in_flight=1))
        run = stage.start(races=True)
        stage.start()
        stage.pass_time(AFTER)

        assert run.racing == [1]

    def test_during_a_cooldown(self):
        stage = scene()
        run = stage.start(races=True)
        stage.start(max_attempts=1).step(retry_in(60.0))
        stage.pass_time(AFTER)

        assert run.racing == [1]
        assert [event.gate for event in events_of(stage, HedgeRefused)] == ["cooldown"]

    def test_if_the_circuit_is_not_closed(self):
        stage = scene(breaker=BreakerPolicy())
        run = stage.start(races=True)
        stage.state.isolate(stage.now)
        stage.pass_time(AFTER)

        assert run.racing == [1]

    def test_if_answers_are_late(self, monkeypatch):
        monkeypatch.setattr(TargetState, "load", lambda *_: Load(in_trouble=True))

        self.refused(scene(), "load")

    def test_if_the_target_is_dead(self):
        stage = scene()
        for _ in range(8):
            stage.pass_time(0.01)
            stage.start(max_attempts=1).step(SERVER_ERROR)

        self.refused(stage, "load")

    def test_if_the_requests_per_minute_are_used_up(self):
        stage = scene(rate_limit=RateLimitPolicy(rpm=1.0))
        run = slow(stage)

        assert run.racing == [1]
        assert [event.gate for event in events_of(stage, HedgeRefused)] == ["quota"]

    def test_if_the_budget_is_empty(self):
        stage = scene(retry_budget=BudgetPolicy())
        self.refused(stage, "budget")
        assert stage.state.slots.in_flight == 1

        for _ in range(9):
            stage.start().step(OK)
        run = slow(stage)
        assert run.racing == [1, 2]
        assert stage.engine.budget.balance(stage.now) < 1.0


def test_the_first_call_of_a_process_is_hedged():
    stage = scene()
    stage.state.diagnosis.__init__(TREATMENTS)

    assert slow(stage).racing == [1, 2]


@table_test("late", [False, True])
def test_the_first_call_after_three_minutes_of_silence_is_hedged(late):
    stage = scene()
    stage.state.diagnosis._late_share = float(late)
    stage.pass_time(180.1)

    assert slow(stage).racing == [1, 2]


def test_a_hedge_is_never_free():
    """Most calls succeed: a retry would be free. A hedge is not."""
    stage = scene(retry_budget=BudgetPolicy(ratio=0.01))
    for _ in range(50):
        stage.start().step(OK)

    assert slow(stage).racing == [1]
