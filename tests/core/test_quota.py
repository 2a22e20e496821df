import pytest
from stage import INVALID, OK, SERVER_ERROR, TARGET, THROTTLED, TIMEOUT, Stage, policy
from table_test import table_test

from stormbreak.core.gate import READY
from stormbreak.core.rate_limit_gate import RateLimitGate, RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import ConfigurationError
from stormbreak.types import (
    CANCELLED,
    CANCELLED_AFTER_SEND,
    Call,
    Outcome,
    RateLimits,
    RateLimitStatus,
    Usage,
    Verdict,
)

UNCONNECTED = Outcome(Verdict.CONNECT_FAILED)
BROKEN = Outcome(Verdict.BROKEN, maybe_processed=True)
NOW = 100.0


def quota(**values):
    return RateLimitGate(RateLimitPolicy(**values), max_wait=900.0)


def call(tokens=0):
    return Call(1, TARGET, tokens=tokens)


def ask(gate, tokens=0, now=NOW):
    return gate.ready_at(call(tokens), now)


def take(gate, tokens=0, now=NOW):
    assert ask(gate, tokens, now) == READY
    return gate.take(call(tokens), now)


@table_test(
    ("outcome", "tokens", "requests"),
    [
        (CANCELLED, 0, 0),
        (UNCONNECTED, 0, 0),
        (Outcome(Verdict.REJECTED), 0, 0),
        (CANCELLED_AFTER_SEND, 600, 1),
        (OK, 600, 1),
        (OK._replace(usage=Usage(output_tokens=60)), 60, 1),
        (OK._replace(usage=Usage(output_tokens=1200)), 1200, 1),
        (TIMEOUT._replace(maybe_processed=True), 600, 1),
        (BROKEN, 600, 1),
        (BROKEN._replace(usage=Usage(output_tokens=60)), 60, 1),
        (THROTTLED, 0, 1),
        (SERVER_ERROR, 0, 1),
        (INVALID, 0, 1),
    ],
)
def test_an_outcome_decides_how_much_of_a_reservation_is_refunded(outcome, tokens, requests):
    gate = quota(rpm=60, tpm=6000, burst_seconds=10)
    token = take(gate, 600)
    gate.settle(token, outcome, NOW, 0.5)

    assert ask(gate, 1000) == (READY if not tokens else pytest.approx(NOW + tokens / 100))
    gate = quota(rpm=60)
    gate.settle(take(gate), outcome, NOW, 0.5)
    assert ask(gate) == (READY if not requests else pytest.approx(NOW + 1))


def test_the_slowest_limit_decides():
    gate = quota(rpm=60, tpm=600, burst_seconds=0)
    take(gate, 100)

    assert ask(gate, 0) == pytest.approx(NOW + 10.0, abs=0.2)  # the tokens are owed
    gate = quota(rpm=6, tpm=600, burst_seconds=0)
    take(gate, 1)
    assert ask(gate, 0) == pytest.approx(NOW + 10.0, abs=0.2)


def tokens_reported(**tokens):
    return OK._replace(rate_limits=RateLimits(tokens=RateLimitStatus(**tokens)))


def test_rate_limit_headers_are_obeyed():
    gate = quota(learn_from_headers=True)
    gate.settle(take(gate, 100), tokens_reported(limit=600.0, remaining=50.0, reset=55.0), NOW, 0.5)

    assert ask(gate, 50) == READY
    assert ask(gate, 150) == pytest.approx(NOW + 10.0)


def requests_receipt(**requests):
    return OK._replace(rate_limits=RateLimits(requests=RateLimitStatus(**requests)))


def test_unused_tokens_are_refunded_to_a_reported_limit():
    gate = quota(learn_from_headers=True)
    first, second = take(gate, 100), take(gate, 100)
    gate.settle(first, tokens_reported(limit=600.0, remaining=200.0, reset=40.0), NOW, 0.5)
    gate.settle(second, OK._replace(usage=Usage(output_tokens=30)), NOW, 0.5)

    assert ask(gate, 170) == READY
    assert ask(gate, 171) == pytest.approx(NOW + 0.1)


def test_a_reported_request_limit_is_refunded_if_nothing_was_sent():
    gate = quota(learn_from_headers=True)
    first, second = take(gate), take(gate)
    gate.settle(first, requests_receipt(limit=60.0, remaining=1.0, reset=59.0), NOW, 0.5)
    assert ask(gate) > NOW  # the second may have it
    gate.settle(second, UNCONNECTED, NOW, 0.5)
    take(gate)
    assert ask(gate) > NOW


@table_test(("outcome", "believed"), [(OK, False), (THROTTLED, True)])
def test_an_empty_remainder_is_ignored_if_the_server_serves_on(outcome, believed):
    gate = quota(learn_from_headers=True)
    empty = RateLimitStatus(limit=600.0, remaining=0.0, reset=50.0, flows=False)
    reply = outcome._replace(rate_limits=RateLimits(tokens=empty))
    for token in [take(gate, 100), take(gate, 100)]:
        gate.settle(token, reply, NOW, 0.5)

    assert (ask(gate, 100) > NOW) is believed


def test_calls_within_a_burst_leave_at_once():
    gate = quota(rpm=60, burst_seconds=10)
    for _ in range(10):
        take(gate)

    assert ask(gate) == pytest.approx(NOW + 1.0)


def test_a_request_limit_that_held_a_call_paces_for_a_second_more():
    gate = quota(rpm=60, burst_seconds=10)
    assert not gate.paces(call(), NOW)
    for _ in range(10):
        take(gate)  # the next may leave at 101

    assert [gate.paces(call(), now) for now in (NOW, 101.9, 102.0)] == [True, True, False]


def test_a_token_limit_that_held_a_call_paces_for_a_second_more():
    gate = quota(tpm=600, burst_seconds=10)  # holds a hundred
    assert not gate.paces(call(), NOW)
    take(gate, 100)
    ask(gate, 50)  # would fit at 105

    assert [gate.paces(call(50), now) for now in (NOW, 105.9, 106.0)] == [True, True, False]


def test_the_time_for_sends_depends_only_on_requests():
    gate = quota(rpm=60, burst_seconds=10)
    assert gate.time_to_send(10, NOW) == 0.0
    for _ in range(10):
        take(gate)

    assert [gate.time_to_send(sends, NOW) for sends in (1, 3)] == pytest.approx([1.0, 3.0])
    assert quota(tpm=6).time_to_send(1_000, NOW) == 0.0


def test_rate_limit_headers_are_ignored_if_not_configured():
    gate = quota(rpm=6000)
    gate.settle(take(gate, 100), tokens_reported(limit=600.0, remaining=0.0, reset=60.0), NOW, 0.5)

    assert ask(gate, 600) == READY


@table_test(
    ("values", "message"),
    [
        ({"rpm": 0}, "rpm must be positive, got 0"),
        ({"tpm": -3}, "tpm must be positive, got -3"),
        ({"burst_seconds": -1}, "burst_seconds must not be negative, got -1"),
    ],
)
def test_an_invalid_rate_limit_is_rejected(values, message):
    with pytest.raises(ConfigurationError, match=message):
        RateLimitPolicy(**values)


def test_a_rate_limit_acts_if_a_value_is_set():
    assert not RateLimitPolicy().acts
    assert all(
        RateLimitPolicy(**one).acts
        for one in ({"rpm": 1}, {"tpm": 1}, {"learn_from_headers": True})
    )


def test_a_wrong_token_count_closes_the_limit_for_max_wait_at_most():
    gate = quota(tpm=60_000.0)
    gate.settle(take(gate, tokens=100), OK._replace(usage=Usage(output_tokens=10**12)), NOW, 0.5)

    assert ask(gate, tokens=100, now=NOW + 899.0) > NOW + 899.0
    assert ask(gate, tokens=100, now=NOW + 901.0) == READY


def usually(gate, tokens):
    """Answer a call of `tokens` tokens."""
    gate.settle(take(gate, tokens), OK._replace(usage=Usage(output_tokens=tokens)), NOW, 0.5)
    return gate


TOKENS_LACK = RateLimits(RateLimitStatus(1000, 900, 6.0), RateLimitStatus(10_000, 2_000, 48.0))


@table_test(
    ("learn", "usual", "limits", "lacks"),
    [
        (True, 2_000, TOKENS_LACK, True),
        (True, 2_001, TOKENS_LACK, False),  # too few for a usual call: all have to wait
        (True, None, TOKENS_LACK, False),
        (False, 2_000, TOKENS_LACK, False),
        (True, 2_000, TOKENS_LACK._replace(requests=RateLimitStatus(1000, 0, 60.0)), False),
        (True, 2_000, TOKENS_LACK._replace(requests=None), False),
        (True, 2_000, TOKENS_LACK._replace(tokens=None), False),
        (True, 2_000, TOKENS_LACK._replace(tokens=RateLimitStatus(10_000, None, 48.0)), False),
        (True, 2_000, None, False),
    ],
)
def test_only_tokens_lack_if_a_usual_call_would_still_fit(learn, usual, limits, lacks):
    outcome = THROTTLED._replace(retry_after=30.0, rate_limits=limits)
    gate = quota(tpm=1e9, learn_from_headers=learn)
    if usual:
        usually(gate, usual)

    assert gate.is_what_lacks(outcome) is lacks


@table_test(("remaining", "lacks"), [(1_900, True), (1_899, False), (None, False), (0, False)])
def test_the_usual_token_count_moves_a_tenth_of_the_way_with_each_answer(remaining, lacks):
    """From 2,000 with one answer of 1,000."""
    gate = quota(learn_from_headers=True)
    usually(gate, 2_000)
    usually(gate, 1_000)
    limits = TOKENS_LACK._replace(tokens=RateLimitStatus(10_000, remaining, 48.0))

    assert gate.is_what_lacks(THROTTLED._replace(rate_limits=limits)) is lacks


def test_a_report_without_a_remainder_is_ignored():
    gate = quota(learn_from_headers=True)
    usually(gate, 1)
    limits = TOKENS_LACK._replace(tokens=RateLimitStatus(10_000, None, 48.0))

    assert gate.is_what_lacks(THROTTLED._replace(rate_limits=limits)) is False


def test_a_small_call_does_not_wait_for_the_tokens_of_a_large_one():
    stage = Stage(
        policy(
            rate_limit=RateLimitPolicy(learn_from_headers=True), retry=RetryPolicy(max_attempts=2)
        )
    )
    stage.start(tokens=10).step(OK)
    heavy = stage.start(tokens=9_000).step(
        THROTTLED._replace(retry_after=30.0, rate_limits=TOKENS_LACK)
    )
    light, other = stage.start(tokens=10), stage.start(tokens=9_000)

    assert light.sending
    assert other.queued
    assert heavy.backing_off
    assert heavy.command.until == stage.now + 30.0


def test_a_process_uses_its_share_of_a_configured_limit():
    gate = RateLimitGate(
        RateLimitPolicy(rpm=120.0, tpm=1200.0, burst_seconds=0.0), max_wait=900.0, share=0.25
    )
    take(gate)
    assert ask(gate) == pytest.approx(NOW + 2.0)  # thirty a minute
    take(gate, 100, NOW + 2.0)

    assert ask(gate, 1, NOW + 4.0) == pytest.approx(NOW + 2.0 + 20.0)  # three hundred a minute


def test_a_process_uses_its_share_of_a_reported_limit():
    gate = RateLimitGate(RateLimitPolicy(learn_from_headers=True), max_wait=900.0, share=0.25)
    status = {"limit": 600.0, "remaining": 200.0, "reset": 40.0}
    gate.settle(take(gate, 100), tokens_reported(**status), NOW, 0.5)

    assert ask(gate, 50) == READY
    assert ask(gate, 60) == pytest.approx(NOW + 10 / (600 * 0.25 / 60))


def reported(**status):
    """A gate with a reported request limit."""
    gate = quota(learn_from_headers=True)
    gate.settle(
        take(gate), OK._replace(rate_limits=RateLimits(RateLimitStatus(**status))), NOW, 0.5
    )
    return gate


def test_scarcer_names_requests_or_tokens():
    gate = quota(rpm=60, burst_seconds=2.0)
    assert gate.scarcer(call(), NOW) is None
    take(gate)
    take(gate)
    assert gate.scarcer(call(), NOW) == "requests"
    assert gate.scarcer(call(), ask(gate)) is None

    gate = quota(rpm=60, tpm=600, burst_seconds=0.0)
    take(gate, 100)
    assert gate.scarcer(call(100), NOW) == "tokens"

    assert reported(limit=60.0, remaining=0.0, reset=60.0).scarcer(call(), NOW) == "requests"
    gate = quota(learn_from_headers=True)
    gate.settle(take(gate), tokens_reported(limit=600.0, remaining=0.0, reset=60.0), NOW, 0.5)
    assert gate.scarcer(call(100), NOW) == "tokens"


def test_a_changed_share_applies_to_later_reports():
    gate = quota(learn_from_headers=True)
    gate.set_reported_share(0.5)
    gate.settle(take(gate), tokens_reported(limit=600.0, remaining=100.0, reset=50.0), NOW, 0.5)
    assert (ask(gate, 50), ask(gate, 60) > NOW) == (READY, True)


@table_test(
    ("status", "after", "is_needed"),
    [
        ({"limit": 100.0, "remaining": 40.0}, 0.0, True),
        ({"limit": 100.0, "remaining": 40.0}, 9.0, True),
        ({"limit": 100.0, "remaining": 40.0}, 11.0, False),  # half is back
        ({"limit": 100.0, "remaining": 40.0, "flows": False}, 59.0, True),
        ({"limit": 100.0, "remaining": 40.0, "flows": False}, 60.0, False),
        ({"remaining": 1.0}, 0.0, False),
        ({"remaining": 0.0}, 0.0, True),
    ],
)
def test_a_target_is_needed_while_less_than_half_of_a_reported_limit_is_left(
    status, after, is_needed
):
    assert reported(**status, reset=60.0).is_needed(NOW + after) is is_needed
