"""Law 13, its quotas. Requests and tokens per minute: an estimate is reserved before sending, settled with the real
usage, the rest refunded; limits are learned from response headers.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import OK, SERVER_ERROR, THROTTLED, Stage, policy
from table_test import table_test

from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.types import Outcome, Priority, RateLimits, RateLimitStatus, Usage, Verdict

UNCONNECTED = Outcome(Verdict.CONNECT_FAILED)
ONCE = RetryPolicy(max_attempts=1)


def scene(*, slots=1000, **quota):
    return Stage(
        policy(
            rate_limit=RateLimitPolicy(**quota), retry=ONCE, limit=FixedLimit(max_in_flight=slots)
        )
    )


def tokens_reported(**status):
    return OK._replace(rate_limits=RateLimits(tokens=RateLimitStatus(**status)))


def requests_reported(**status):
    return OK._replace(rate_limits=RateLimits(requests=RateLimitStatus(**status)))


def sending(stage):
    return [run for run in stage.runs if run.sending]


def test_calls_leave_at_the_rate_and_the_rest_waits():
    stage = scene(rpm=60)
    for _ in range(5):
        stage.start()
    counts = []
    for _ in range(5):
        counts.append(len(sending(stage)))
        stage.pass_time(1.0)

    assert counts == [1, 2, 3, 4, 5]


def test_a_call_that_cannot_leave_in_time_names_the_quota():
    stage = scene(rpm=6).listen()
    stage.start()
    refused = stage.start(within=5.0)

    assert refused.ended.outcome.rejection.policy == "quota"
    assert refused.ended.retry_at == pytest.approx(stage.now + 10.0)
    waiting = stage.start(within=15.0)
    assert waiting.queued
    assert stage.events[-1].held_by == "quota"


def test_a_call_too_far_back_is_shed_on_arrival():
    stage = scene(rpm=60)
    for _ in range(10):
        stage.start(within=60.0)
    refused, last = stage.start(within=9.5), stage.start(within=10.5)

    assert refused.ended.outcome.rejection.policy == "shed"
    assert refused.ended.retry_at == pytest.approx(stage.now + 10.0)
    stage.pass_time(10.1)
    assert last.sending


def test_the_oldest_call_is_served_first_under_a_quota():
    stage = scene(rpm=60, slots=2)
    runs = [stage.start() for _ in range(20)]
    order = []
    for _ in runs:
        for run in sending(stage):
            order.append(runs.index(run))
            run.step(OK)
        stage.pass_time(1.0)

    assert order == list(range(20))


def test_a_light_call_does_not_overtake_a_heavy_one():
    stage = scene(tpm=6000, burst_seconds=10)  # a hundred a second, and a thousand at once
    stage.start(tokens=1000)
    heavy, light = stage.start(tokens=500), stage.start(tokens=1)
    stage.pass_time(4.9)
    assert heavy.queued
    assert light.queued
    stage.pass_time(0.2)

    assert heavy.sending
    assert light.sending


def test_a_more_urgent_call_overtakes_a_heavy_one():
    stage = scene(tpm=6000, burst_seconds=10)
    stage.start(tokens=1000)
    heavy = stage.start(tokens=500, priority=Priority.BATCH)
    urgent = stage.start(tokens=100)
    stage.pass_time(1.1)

    assert urgent.sending
    assert heavy.queued


def test_a_call_heavier_than_any_burst_leaves_a_debt():
    stage = scene(tpm=6000, burst_seconds=1)
    huge, small = stage.start(tokens=1000), stage.start(tokens=100)
    assert huge.sending
    stage.pass_time(9.9)
    assert small.queued
    stage.pass_time(0.2)

    assert small.sending


def test_a_refund_releases_the_next_call_in_the_same_step():
    stage = scene(tpm=6000, burst_seconds=10)
    first, second = stage.start(tokens=1000), stage.start(tokens=900)
    assert second.queued
    first.step(OK._replace(usage=Usage(output_tokens=100)))
    stage.settle()

    assert second.sending


def test_unused_tokens_are_refunded_however_long_the_reservations_hold():
    """The burst is an hour, longer than any wait may be."""
    stage = scene(tpm=6000, burst_seconds=3600)
    for run in [stage.start(tokens=1000) for _ in range(360)]:
        run.step(OK._replace(usage=Usage(output_tokens=10)))

    assert [stage.start(tokens=1000).sending for _ in range(350)] == [True] * 350


@table_test("outcome", [THROTTLED, SERVER_ERROR, UNCONNECTED])
def test_tokens_of_an_unserved_attempt_are_refunded(outcome):
    stage = scene(tpm=6000, burst_seconds=10)
    first, second = stage.start(tokens=1000), stage.start(tokens=1000)
    first.step(outcome)
    stage.settle()

    assert second.sending


def test_a_cancelled_attempt_keeps_its_tokens_and_a_cancelled_wait_does_not():
    stage = scene(tpm=6000, burst_seconds=10)
    sent, waiting = stage.start(tokens=1000), stage.start(tokens=1000)
    third = stage.start(tokens=100)
    sent.close()
    assert waiting.queued
    waiting.close()
    stage.pass_time(1.1)

    assert third.sending


def test_a_call_cancelled_after_its_grant_frees_its_place():
    stage = scene(rpm=60)
    stage.start()
    waiting, next_one = stage.start(), stage.start()
    stage.now += 1.0
    waiting.command.ticket._withdraw.__self__.pump(stage.now)  # granted, not resumed yet
    assert waiting.command.ticket.permit is not None
    waiting.close()
    stage.settle()

    assert next_one.sending


def test_a_reported_remainder_limits_calls():
    stage = scene(learn_from_headers=True)
    stage.start().step(requests_reported(limit=60.0, remaining=2.0, reset=58.0))
    for _ in range(4):
        stage.start()
    assert len(sending(stage)) == 2
    stage.pass_time(1.1)

    assert len(sending(stage)) == 3


def test_learning_holds_no_call_without_headers():
    stage = scene(learn_from_headers=True)
    for _ in range(500):
        stage.start(tokens=10**6)

    assert len(sending(stage)) == 500


class Server:
    """Counts tokens as providers do: a bucket of `limit` per minute, charged with the estimate on arrival."""

    def __init__(self, limit, now):
        self.limit, self.left, self.at = limit, limit, now
        self.refused = self.served = 0

    def answer(self, amount, now):
        self.left = min(self.limit, self.left + (now - self.at) * self.limit / 60)
        self.at = now
        fits = amount <= self.left
        self.left -= amount if fits else 0
        status = RateLimitStatus(
            self.limit, int(self.left), (self.limit - int(self.left)) * 60 / self.limit
        )
        self.served, self.refused = self.served + fits, self.refused + (not fits)
        return (OK if fits else THROTTLED)._replace(rate_limits=RateLimits(tokens=status))


@table_test("latency", [0.0, 0.5, 5.0])
def test_a_learned_limit_is_used_in_full_and_hardly_exceeded(latency):
    stage = scene(learn_from_headers=True, slots=20)
    server, answers = Server(60_000, stage.now), []
    end = stage.now + 300.0
    while stage.now < end:
        while sum(run.queued for run in stage.runs) < 5:
            stage.start(tokens=500)
        for run in stage.runs:
            if run.sending and not hasattr(run, "due_at"):
                run.due_at = stage.now + latency
                answers.append((run, server.answer(500, stage.now)))
        for run, answer in answers:
            if run.due_at <= stage.now:
                run.step(answer)
        answers = [(run, answer) for run, answer in answers if not run.over]
        stage.runs = [run for run in stage.runs if not run.over]
        stage.pass_time(0.1)

    possible = min((60_000 * 5 + 60_000) / 500, 20 / latency * 300 if latency else 1e9)
    assert server.served >= 0.85 * possible
    assert server.refused <= 0.02 * possible


actions = st.lists(
    st.tuples(
        st.sampled_from(["start", "answer", "fail", "unconnected", "close", "tick"]),
        st.integers(0, 30),
    ),
    max_size=80,
)


@given(rpm=st.integers(6, 600), burst=st.sampled_from([0.0, 1.0, 10.0]), actions=actions)
def test_no_window_has_more_requests_than_rpm_and_burst(rpm, burst, actions):
    """Calls are answered, fail, are cancelled or get no connection; no call is stuck."""
    stage, sent, unsent = scene(rpm=rpm, burst_seconds=burst), {}, set()

    def look():
        for run in stage.runs:
            if run.sending:
                sent[id(run)] = run.since

    for action, number in actions:
        under_way = sending(stage)
        run = under_way[number % len(under_way)] if under_way else None
        if action == "start":
            for _ in range(number):
                stage.start()
        elif action == "tick":
            for _ in range(20):
                stage.pass_time(number / 40)
                look()
        elif action == "close" and stage.runs:
            stage.runs[number % len(stage.runs)].close()
        elif run is not None:
            outcome = {"answer": OK, "fail": SERVER_ERROR, "unconnected": UNCONNECTED}[action]
            unsent |= {id(run)} if action == "unconnected" else set()
            run.step(outcome)
        stage.settle()
        look()
    for _ in range(200):
        stage.pass_time(0.5)
        look()
    waiting = [run for run in stage.runs if run.queued]
    left_since = sum(at > stage.now - 50.0 for at in sent.values())
    assert not waiting or left_since >= rpm / 60 * 50 - 1

    times = sorted(at for run, at in sent.items() if run not in unsent)
    most = max(1.0, rpm / 60 * burst)
    for first, since in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= most + rpm / 60 * (times[last] - since) + 1e-6


@given(
    tpm=st.integers(600, 60_000),
    steps=st.lists(
        st.tuples(st.integers(1, 3000), st.floats(0.0, 1.5), st.floats(0, 5)), max_size=40
    ),
)
def test_average_token_use_stays_below_tpm(tpm, steps):
    stage, began, used = scene(tpm=tpm, burst_seconds=1), 100.0, 0
    largest = 0
    for tokens, share, pause in steps:
        stage.start(tokens=tokens)
        stage.pass_time(pause)
        for run in sending(stage):
            usage = int(run.call.tokens * share) or 1
            largest = max(largest, usage, run.call.tokens)
            run.step(OK._replace(usage=Usage(output_tokens=usage)))
            used += usage
            stage.settle()
        assert used <= tpm / 60 * (stage.now - began + 1) + 2 * largest + 1
    stage.pass_time(1e6)
    assert not [run for run in stage.runs if run.queued]


ends = st.sampled_from(
    [
        (OK._replace(usage=Usage(output_tokens=7)), lambda _: 7),
        (OK._replace(usage=Usage(output_tokens=5000)), lambda _: 5000),
        (OK, lambda tokens: tokens),
        (Outcome(Verdict.TIMEOUT, maybe_processed=True), lambda tokens: tokens),
        (THROTTLED, lambda _: 0),
        (SERVER_ERROR, lambda _: 0),
        (UNCONNECTED, lambda _: 0),
        ("closed", lambda tokens: tokens),
        ("dropped", lambda tokens: tokens),
    ]
)


@given(st.lists(st.tuples(st.integers(0, 3000), ends), max_size=30), st.randoms())
def test_every_reservation_is_refunded_exactly_once(calls, chance):
    """All in one instant, so that nothing refills: the debt is what was used."""
    stage = scene(tpm=6000, burst_seconds=1e6)
    runs = [(stage.start(tokens=tokens), *end) for tokens, end in calls]
    chance.shuffle(runs)
    owed = 0
    for run, outcome, counts in runs:
        assert run.sending
        owed += counts(run.call.tokens)
        if outcome == "dropped":
            run.drop()
        if outcome in ("closed", "dropped"):
            run.close()
        else:
            run.step(outcome)
        run.close()
    whole = 10**8  # the capacity of the bucket
    waits = stage.state.quota._tpm.ready_at(whole) - stage.now

    assert waits == pytest.approx(owed / 100, abs=1e-3) or (owed == 0 and waits <= 0)
