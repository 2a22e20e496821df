"""The reason of a slow target for each cause, from the snapshot of a target that really delays calls."""

from datetime import UTC, datetime

from metering import price_of, usage
from stage import OK, SERVER_ERROR, THROTTLED, Stage, policy, retry_in
from table_test import table_test

from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.cost.spend_gate import SpendAccounts
from stormbreak.drivers.slow_reason import slow_reason
from stormbreak.types import RateLimits, RateLimitStatus

AT = datetime(2026, 11, 28, 13, 59, tzinfo=UTC)
DOLLAR = usage(1_000_000)
ONCE = RetryPolicy(max_attempts=1)
FRAGILE = BreakerPolicy(
    trip=ConsecutiveFailures(failure_threshold=1),
    open_duration=5.0,
    open_duration_jitter=0.0,
    probes=1,
    max_concurrent_probes=1,
)
NOTHING = Stage().state.snapshot(100.0)


def reason_of(stage):
    return slow_reason(stage.state.snapshot(stage.now), AT)


def test_a_target_without_a_queue_has_no_slow_reason():
    stage = Stage()
    assert reason_of(stage) == ""
    stage.start().step(OK)
    stage.start()

    assert reason_of(stage) == ""


def test_a_reached_fixed_limit_is_no_slow_reason():
    stage = Stage(policy(limit=FixedLimit(max_in_flight=1)))
    stage.start()
    assert stage.start().queued

    assert reason_of(stage) == ""


def test_a_pause_requested_by_the_provider_is_a_slow_reason():
    stage = Stage(policy(retry=ONCE), chance=0.5)
    stage.start().step(retry_in(12.0))
    assert reason_of(stage) == "waiting: provider asked for 12 s, next calls in 15 s"
    stage.tick(14.5)
    assert reason_of(stage) == "waiting: provider asked for 12 s, next calls in 1 s"
    stage.tick(0.5)
    assert reason_of(stage) == ""


def test_a_long_pause_is_shown_in_minutes():
    stage = Stage(policy(retry=ONCE))
    stage.start().step(retry_in(600.0))

    assert reason_of(stage) == "waiting: provider asked for 10 min, next calls in 10 min"


def test_a_pause_beyond_our_own_maximum_is_shown_as_it_came():
    """Found: after a Retry-After of a day, a batch said that the provider asked for 15 minutes."""
    stage = Stage(policy(retry=ONCE))
    stage.start().step(retry_in(90_000.0))

    assert reason_of(stage) == "waiting: provider asked for 25 h, next calls in 15 min"


def test_an_open_or_half_open_circuit_is_a_slow_reason():
    stage = Stage(policy(breaker=FRAGILE, retry=ONCE))
    stage.start().step(SERVER_ERROR)
    assert reason_of(stage) == "circuit open, next probe in 5 s"
    stage.tick(4.5)
    assert reason_of(stage) == "circuit open, next probe in 1 s"
    stage.tick(0.5)
    assert reason_of(stage) == "circuit open, next probe now"
    probe = stage.start()
    assert reason_of(stage) == "circuit half-open: waiting for its probes"
    probe.step(OK)
    assert reason_of(stage) == ""
    stage.state.isolate(stage.now, duration=30.0)
    assert reason_of(stage) == "circuit isolated, next probe in 30 s"
    stage.state.isolate(stage.now)
    assert reason_of(stage) == "circuit isolated"


def test_a_send_rate_learned_from_429s_is_a_slow_reason():
    stage = Stage(policy(adaptive_rate=True, retry=ONCE))
    for number in range(60):
        run = stage.start()
        if run.sending:
            run.step(THROTTLED if number % 2 else OK)
        stage.pass_time(0.2)
    while not stage.start().queued:
        pass
    rate = stage.state.rate.rate_at(stage.now)

    assert reason_of(stage) == f"429s: at most {rate:.1f} requests/s"
    assert 1 < rate < 5


@table_test(
    ("outcome", "seconds", "pause", "words"),
    [
        (SERVER_ERROR, 0.1, 0.0, "limit: {} in flight, nothing is answered"),
        (OK, 30.0, 0.0, "limit: {} in flight, answers are late"),
        (OK, 30.0, 10.0, "limit: {} in flight, answers are late"),  # no answer was on time since
    ],
)
def test_a_lowered_limit_is_a_slow_reason(outcome, seconds, pause, words):
    stage = Stage(policy(limit=AutomaticLimit(max_in_flight=256), retry=ONCE))
    for _ in range(40):  # the latency baseline
        stage.start()
        stage.now += 0.2
        stage.runs[-1].step(OK)
    batch = [stage.start() for _ in range(40)]
    stage.now += seconds
    for run in batch:
        run.step(outcome)
    stage.tick(pause)
    while not stage.start().queued:
        assert stage.state.slots.in_flight < 256

    assert reason_of(stage) == words.format(stage.state.slots.limit)


@table_test(
    ("quota", "words"),
    [
        (RateLimitPolicy(rpm=6.0), "waiting for requests per minute: 10 s"),
        (RateLimitPolicy(tpm=6_000.0), "waiting for tokens per minute: 8 s"),
    ],
)
def test_an_exhausted_quota_is_a_slow_reason(quota, words):
    stage = Stage(policy(rate_limit=quota))
    stage.start(tokens=800)
    assert stage.start(tokens=800).queued

    assert reason_of(stage) == words


def test_a_quota_from_rate_limit_headers_is_a_slow_reason():
    tokens = RateLimitStatus(limit=1_000, remaining=0, reset=8.0, window=60.0, flows=False)
    stage = Stage(policy(rate_limit=RateLimitPolicy(learn_from_headers=True), retry=ONCE))
    stage.start(tokens=10).step(OK._replace(rate_limits=RateLimits(tokens=tokens)))
    assert stage.start(tokens=10).queued

    assert reason_of(stage) == "waiting for tokens per minute: 8 s"


@table_test(
    ("per", "words"),
    [(60.0, "spending limit until 14:00"), (86_400.0, "spending limit until 2026-11-29 13:59")],
)
def test_a_reached_spend_limit_is_a_slow_reason(per, words):
    stage = spending(per)
    stage.start(bound=DOLLAR).step(OK._replace(usage=DOLLAR))
    run = stage.start(bound=DOLLAR)
    assert run.queued or run.ended.stopped == "spend"  # because it would wait for a day

    assert reason_of(stage) == words


def test_a_fully_reserved_spend_limit_is_a_slow_reason():
    stage = spending(60.0)
    stage.start(bound=DOLLAR)
    assert stage.start(bound=DOLLAR).queued

    assert reason_of(stage) == "spending limit: the rest is reserved for requests in flight"


def spending(per):
    """A stage on which a call may cost more than half of the limit."""
    stage = Stage(policy(spend=SpendPolicy(max_usd=1.5, period=per), retry=ONCE))
    stage.engine = Engine(stage.engine.policy, SpendAccounts(price_of))
    return stage


def test_an_empty_retry_budget_is_a_slow_reason_for_ten_seconds():
    budget = BudgetPolicy(ratio=0.0, no_free_retries=True)
    stage = Stage(policy(retry_budget=budget, retry=RetryPolicy(max_attempts=2)))
    assert reason_of(stage) == ""
    stage.start().step(SERVER_ERROR)
    assert reason_of(stage) == "retry budget empty"
    stage.tick(10.0)
    assert reason_of(stage) == ""


def test_pacing_after_a_pause_is_a_slow_reason():
    stage = Stage(policy(limit=FixedLimit(max_in_flight=10), retry=ONCE))
    stage.start().step(retry_in(4.0))
    for _ in range(20):
        stage.start()
    stage.pass_time(4.0)

    assert reason_of(stage) == "starting slowly after a pause"


def test_the_slow_reason_names_the_strictest_gate():
    snapshot = NOTHING | {
        "circuit": "open",
        "next_probe": 1.0,
        "cooldown": 9.0,
        "cooldown_asked": 9.0,
    }
    snapshot |= {"held_by": "quota", "held_for": 3.0, "quota": "tokens", "retries_refused": True}

    assert slow_reason(snapshot, AT) == "circuit open, next probe in 1 s"
    assert slow_reason(snapshot | {"circuit": "closed"}, AT).startswith("waiting: provider asked")
    snapshot |= {"circuit": "closed", "cooldown": 0.0}
    assert slow_reason(snapshot, AT) == "waiting for tokens per minute: 3 s"
    assert slow_reason(snapshot | {"held_by": None}, AT) == "retry budget empty"
