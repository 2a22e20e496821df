"""A shadow policy sees what happens, counts its decisions, and changes nothing."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import INVALID, OK, SERVER_ERROR, TARGET, THROTTLED, TIMEOUT, Stage, policy, retry_in
from table_test import table_test

from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.concurrency_limit import AimdLimit, FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.presets import ARTICLE
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.core.shadow import ShadowPolicy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.errors import ConfigurationError
from stormbreak.events import WouldHave
from stormbreak.types import Call, Outcome, Verdict

FRAGILE = BreakerPolicy(
    trip=ConsecutiveFailures(failure_threshold=2),
    open_duration=10.0,
    open_duration_jitter=0.0,
    probes=1,
    max_concurrent_probes=1,
)


def beside(changes=None, **shadow):
    return Stage(policy(shadow=ShadowPolicy(**shadow), **(changes or {}))).listen()


def would(stage):
    return [
        (event.mechanism, event.what, event.until)
        for event in stage.events
        if isinstance(event, WouldHave)
    ]


def once(stage, outcome):
    run = stage.start()
    run.step(outcome)
    return run


def test_a_shadow_circuit_rejects_no_call():
    stage = beside({"retry": RetryPolicy(max_attempts=1), "fail_fast": True}, breaker=FRAGILE)
    for outcome in (SERVER_ERROR, SERVER_ERROR, OK, OK):
        assert once(stage, outcome).ended.attempts == 1

    assert would(stage) == [
        ("breaker", "open", 110.0),
        ("breaker", "refuse", 110.0),
        ("breaker", "refuse", 110.0),
    ]
    assert stage.state.shadow.snapshot()["would"] == {"breaker.open": 1, "breaker.refuse": 2}
    assert stage.state.breaker is None


def test_a_patient_call_counts_as_waiting_for_a_shadow_circuit():
    stage = beside({"retry": RetryPolicy(max_attempts=1), "fail_fast": False}, breaker=FRAGILE)
    for outcome in (SERVER_ERROR, SERVER_ERROR, OK):
        once(stage, outcome)

    assert would(stage)[-1] == ("breaker", "wait", 110.0)


def test_a_shadow_rejects_verdicts_that_cannot_count():
    with pytest.raises(ConfigurationError, match="failures must name only verdicts that can count"):
        ShadowPolicy(failures=(Verdict.OK,))
    with pytest.raises(ConfigurationError, match="ignored must name none of failures"):
        ShadowPolicy(failures=(Verdict.AUTH,), ignored=(Verdict.AUTH,))


def test_an_open_shadow_circuit_learns_from_its_probes_alone():
    stage = beside({"retry": RetryPolicy(max_attempts=1)}, breaker=FRAGILE)
    for outcome in (SERVER_ERROR, SERVER_ERROR, OK, OK, OK):
        once(stage, outcome)
    assert stage.state.shadow.breaker.state == "open"
    stage.tick(10.0)
    once(stage, OK)

    assert [what for _, what, _ in would(stage)][-2:] == ["probe", "close"]


def test_a_shadow_counts_verdicts_by_its_own_policy():
    """The breaker of the article counts 429s; the real one does not."""
    stage = Stage(
        policy(shadow=ARTICLE.shadow_overrides(), retry=RetryPolicy(max_attempts=1))
    ).listen()
    for _ in range(5):
        once(stage, THROTTLED)

    assert stage.state.shadow.breaker.state == "open"
    assert ("breaker", "open") in [(mechanism, what) for mechanism, what, _ in would(stage)]


@table_test(
    ("shadow", "state"),
    [({}, "open"), ({"failures": ()}, "closed"), ({"ignored": (Verdict.THROTTLED,)}, "closed")],
)
def test_a_shadow_counts_verdicts_like_the_real_policy_by_default(shadow, state):
    real = {"retry": RetryPolicy(max_attempts=1), "failures": (Verdict.THROTTLED,)}
    stage = beside(real, breaker=FRAGILE, **shadow)
    for _ in range(2):
        once(stage, THROTTLED)

    assert stage.state.shadow.breaker.state == state


def test_a_shadow_quota_counts_calls_that_would_have_waited():
    one_attempt = {"retry": RetryPolicy(max_attempts=1)}
    stage = beside(one_attempt, rate_limit=RateLimitPolicy(rpm=60.0, burst_seconds=0.0))
    for _ in range(2):
        assert once(stage, OK).ended.attempts == 1

    assert would(stage) == [("quota", "wait", 101.0)]


@table_test("real", [None, RateLimitPolicy(tpm=6e6)])
def test_a_shadow_quota_reserves_for_calls_that_leave(real):
    changes = {"retry": RetryPolicy(max_attempts=1)} | (
        {} if real is None else {"rate_limit": real}
    )
    stage = beside(changes, rate_limit=RateLimitPolicy(tpm=600.0, burst_seconds=0.0))
    for _ in range(2):
        stage.start(tokens=20).step(OK)

    assert would(stage) == [("quota", "wait", 102.0)]


def test_the_fail_fast_of_the_shadow_decides_between_refuse_and_wait():
    stage = beside({"retry": RetryPolicy(max_attempts=1)}, breaker=FRAGILE, fail_fast=True)
    for outcome in (SERVER_ERROR, SERVER_ERROR, OK):
        once(stage, outcome)

    assert would(stage)[-1] == ("breaker", "refuse", 110.0)


def test_a_shadow_limit_counts_only_calls_that_it_would_admit():
    stage = beside(limit=FixedLimit(max_in_flight=2))
    runs = [stage.start() for _ in range(5)]

    assert all(run.sending for run in runs)
    assert would(stage) == [("limit", "wait", None)] * 3
    assert stage.state.shadow.slots.in_flight == 2
    for run in runs:
        run.step(OK)
    assert stage.state.shadow.slots.in_flight == 0


def test_a_cancelled_attempt_frees_its_shadow():
    stage = beside(limit=FixedLimit(max_in_flight=2), breaker=FRAGILE)
    for way in ("close", "drop"):
        getattr(stage.start(), way)()

    assert stage.state.shadow.slots.in_flight == 0


def test_the_snapshot_shows_the_shadow_limit():
    stage = beside(
        {"retry": RetryPolicy(max_attempts=1)},
        limit=AimdLimit(initial_in_flight=10, decrease_factor=0.5),
    )
    once(stage, THROTTLED)

    assert stage.engine.snapshot(stage.now)["targets"][str(TARGET)]["shadow"]["limit"] == 5


def test_a_shadow_send_rate_counts_calls_that_would_have_waited():
    stage = beside({"retry": RetryPolicy(max_attempts=1)}, adaptive_rate=True)
    for number in range(100):
        once(stage, (OK, THROTTLED)[number % 2])
        stage.tick(0.2)

    assert {("rate", "wait")} == {(mechanism, what) for mechanism, what, _ in would(stage)}
    assert stage.state.rate is None


@table_test(
    ("real", "shadow", "outcome", "expected"),
    [
        (3, 1, SERVER_ERROR, [("attempts", "not_retry", None)]),
        (1, 3, SERVER_ERROR, [("retry", "retry", 107.0)]),
        (3, 3, SERVER_ERROR, [("retry", "retry_later", 107.0)]),
        (3, 3, retry_in(8.0), []),
        (3, 3, INVALID, []),
        (1, 1, SERVER_ERROR, []),
    ],
)
def test_retries_are_compared(real, shadow, outcome, expected):
    stage = beside(
        {
            "retry": RetryPolicy(
                max_attempts=real, backoff=Backoff(kind="constant", initial_delay=1.0)
            )
        },
        retry=RetryPolicy(max_attempts=shadow, backoff=Backoff(kind="constant", initial_delay=7.0)),
    )
    once(stage, outcome)

    assert expected == would(stage)


@table_test(
    ("seconds", "expected"),
    [(0.5, "retry_sooner"), (0.9995, None), (1.0005, None), (1.5, "retry_later")],
)
def test_retry_times_differ_beyond_a_millisecond(seconds, expected):
    stage = beside(
        {"retry": RetryPolicy(max_attempts=3, backoff=Backoff(kind="constant", initial_delay=1.0))},
        retry=RetryPolicy(max_attempts=3, backoff=Backoff(kind="constant", initial_delay=seconds)),
    )
    once(stage, SERVER_ERROR)

    assert [what for _, what, _ in would(stage)] == ([] if expected is None else [expected])


def test_a_shadow_limit_notices_a_dead_target():
    stage = beside({"retry": RetryPolicy(max_attempts=1)}, limit=AutomaticLimit())
    for _ in range(60):
        runs = [stage.start() for _ in range(20)]
        stage.tick(0.5)
        for run in runs:
            run.step(OK)
    for _ in range(20):
        stage.start()  # never answered
    before = stage.now
    stage.tick(2.0)
    once(stage, OK)

    assert stage.state.shadow.slots.binds(stage.now)
    assert stage.state.shadow._gates[-1].dead_at > before


def test_an_empty_shadow_decides_nothing():
    stage = beside()
    for _ in range(50):
        once(stage, THROTTLED)

    assert would(stage) == []
    assert [gate.name for gate in stage.state.shadow._gates] == ["diagnosis"]


def test_a_shadow_without_retries_does_not_judge_a_budget():
    broke = {"retry_budget": BudgetPolicy(ratio=0.0, low_traffic_calls=0)}
    stage = beside(broke, limit=FixedLimit(max_in_flight=9))
    assert once(stage, TIMEOUT).ended.stopped == "budget"

    assert would(stage) == []


def test_a_shadow_budget_has_its_own_balance():
    stage = beside(
        {"retry": RetryPolicy(max_attempts=3, backoff=Backoff(kind="constant", initial_delay=1.0))},
        retry_budget=BudgetPolicy(ratio=1.0, low_traffic_calls=0),
    )
    run = once(stage, TIMEOUT)
    assert would(stage) == []  # the call itself has earned it
    stage.tick(1.0)
    run.step(TIMEOUT)

    assert would(stage) == [("budget", "not_retry", None)]
    assert run.backing_off
    assert stage.engine.budget is None


def test_both_budgets_earn():
    both = policy(retry_budget=BudgetPolicy(), shadow=ShadowPolicy(retry_budget=BudgetPolicy()))
    stage = Stage(both)
    stage.start()
    target_state = stage.state

    assert (
        target_state.budget.balance(stage.now)
        == target_state.shadow_budget.balance(stage.now)
        == pytest.approx(0.1)
    )


def test_no_event_is_built_without_listeners():
    stage = Stage(policy(shadow=ShadowPolicy(limit=FixedLimit(max_in_flight=1))))
    stage.start(), stage.start()

    assert stage.state.shadow.counts == {"limit.wait": 1}
    assert stage.engine.events == []


def test_without_a_shadow_there_is_no_gate_and_nothing_in_the_snapshot():
    stage = Stage(policy())

    assert stage.state.shadow is None
    assert "shadow" not in [gate.name for gate in stage.state.admission._gates]
    assert "shadow" not in stage.state.snapshot(stage.now)


def test_a_whole_policy_can_be_a_shadow():
    shadow = ARTICLE.shadow_overrides()

    assert shadow == ShadowPolicy(
        failures=(Verdict.THROTTLED,),
        ignored=(),
        fail_fast=True,
        retry=ARTICLE.retry,
        breaker=ARTICLE.breaker,
        limit=ARTICLE.limit,
        adaptive_rate=False,
    )
    assert Policy(shadow=shadow).shadow.retries


# ------------------------------------------------------------------ it changes no call

SHADOWS = [
    ARTICLE.shadow_overrides(),
    Policy().shadow_overrides(),
    ShadowPolicy(limit=AutomaticLimit(max_in_flight=1), breaker=FRAGILE, adaptive_rate=True),
    ShadowPolicy(
        limit=AimdLimit(initial_in_flight=1),
        retry_budget=BudgetPolicy(ratio=0.0, low_traffic_calls=0),
    ),
    ShadowPolicy(retry=RetryPolicy(max_attempts=1), limit=FixedLimit(max_in_flight=1)),
    ShadowPolicy(
        rate_limit=RateLimitPolicy(rpm=60.0, tpm=600.0, burst_seconds=0.0),
        failures=(Verdict.INVALID,),
    ),
]
REAL = [
    Policy(),
    ARTICLE,
    policy(
        limit=FixedLimit(max_in_flight=2), breaker=FRAGILE, retry_budget=BudgetPolicy(ratio=0.5)
    ),
]
ACTS = st.lists(
    st.tuples(
        st.sampled_from(["start", "answer", "cancel", "first", "pass"]),
        st.integers(0, 100),
        st.sampled_from([OK, OK, SERVER_ERROR, THROTTLED, TIMEOUT, retry_in(2.0), INVALID]),
        st.sampled_from([0.0, 0.3, 2.0, 12.0]),
        st.floats(0.0, 0.99),
    ),
    max_size=60,
)


def played(real, acts):
    """The results and events of all calls."""
    stage = Stage(real).listen()
    for act, pick, outcome, seconds, chance in acts:
        stage.chance = chance
        going = [run for run in stage.runs if (run.sending if act != "cancel" else not run.over)]
        if act == "start":
            stage.start(within=30.0)
        elif act == "pass":
            stage.pass_time(seconds)
        elif going:
            run = going[pick % len(going)]
            if act == "answer":
                run.step(outcome)
            elif act == "cancel":
                run.close()
            else:
                run.command.permit.first_output(stage.now)
        stage.settle()
    events = [event for event in stage.events if not isinstance(event, WouldHave)]
    return events, [run.ended for run in stage.runs], [str(type(run.command)) for run in stage.runs]


@given(real=st.sampled_from(REAL), shadow=st.sampled_from(SHADOWS), acts=ACTS)
def test_a_shadow_changes_no_call(real, shadow, acts):
    assert played(real, acts) == played(replace(real, shadow=shadow), acts)


def test_the_history_of_a_call_has_no_shadow_events():
    stage = beside({"retry": RetryPolicy(max_attempts=2)}, retry=RetryPolicy(max_attempts=1))
    run = once(stage, SERVER_ERROR)
    stage.pass_time(5.0)
    run.step(Outcome(Verdict.AUTH))

    assert not any(isinstance(event, WouldHave) for event in run.ended.history)
    assert isinstance(run.call, Call)
