"""A call that waited for money reserved by calls at another target was not checked when that money was spent, nor when
the next period began."""

from metering import price_of, usage
from stage import OK, OTHER, SERVER_ERROR, Stage, policy

from stormbreak.core.engine import Engine
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.cost.spend_gate import SpendAccounts

ONCE = RetryPolicy(max_attempts=1)
DOLLAR, OF_OTHER = usage(1_000_000), usage(10_000_000)


def rules(**spend):
    return policy(retry=ONCE, spend=SpendPolicy(**spend))


def stage(**spend):
    made = Stage(rules(**spend))
    made.engine = Engine(made.engine.policy, SpendAccounts(price_of))
    return made


def test_a_waiting_call_is_rejected_when_another_target_spends_the_money():
    made = stage(max_usd=1.0)
    first = made.start(bound=DOLLAR)
    second = made.start(target=OTHER, bound=OF_OTHER)
    assert second.queued
    first.step(OK)
    made.settle()

    assert second.ended.stopped == "spend"


def test_a_waiting_call_is_sent_when_the_next_period_begins():
    made = stage(max_usd=1.0, period=60.0)
    first = made.start(bound=DOLLAR)
    second = made.start(target=OTHER, bound=OF_OTHER)
    first.step(OK)
    made.pass_time(59.0)
    assert second.queued
    made.pass_time(1.0)

    assert second.sending


def test_calls_at_two_targets_are_sent_when_the_next_period_begins():
    made = stage(max_usd=1.0, period=60.0)
    made.start(bound=DOLLAR)
    here, elsewhere = made.start(bound=usage(100)), made.start(target=OTHER, bound=usage(100))
    made.pass_time(59.0)
    assert (here.queued, elsewhere.queued) == (True, True)
    made.pass_time(1.0)

    assert (here.sending, elsewhere.sending) == (True, True)


def test_a_waiting_call_is_sent_when_another_target_releases_money():
    made = stage(max_usd=1.0, period=3600.0)
    first = made.start(bound=DOLLAR)
    second = made.start(target=OTHER, bound=OF_OTHER, within=30.0)
    assert second.queued
    first.step(SERVER_ERROR)
    made.settle()

    assert second.sending


def test_a_waiting_call_is_sent_when_the_limit_is_raised():
    made = stage(max_usd=1.0)
    made.start(bound=DOLLAR)
    second = made.start(bound=DOLLAR)
    made.engine.govern(rules(max_usd=2.0), {}, made.now)
    made.settle()

    assert second.sending


def test_a_waiting_call_is_sent_after_a_change_of_policy():
    made = stage(max_usd=1.0)
    first = made.start(target=OTHER, bound=OF_OTHER)
    second = made.start(bound=DOLLAR)
    for usd in (1.2, 1.4):
        made.engine.govern(rules(max_usd=usd), {}, made.now)
    assert second.queued
    first.step(SERVER_ERROR)
    made.settle()

    assert second.sending
