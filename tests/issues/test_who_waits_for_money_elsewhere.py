"""A call that waited for money, which calls at another target had set aside, was not looked at when they had spent it, nor
when another period began."""

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


def test_it_is_told_when_nothing_is_left():
    made = stage(max_usd=1.0)
    first = made.start(bound=DOLLAR)
    second = made.start(target=OTHER, bound=OF_OTHER)
    assert second.queued
    first.step(OK)
    made.settle()

    assert second.ended.stopped == "spend"


def test_it_leaves_when_the_next_period_begins():
    made = stage(max_usd=1.0, period=60.0)
    first = made.start(bound=DOLLAR)
    second = made.start(target=OTHER, bound=OF_OTHER)
    first.step(OK)
    made.pass_time(59.0)
    assert second.queued
    made.pass_time(1.0)

    assert second.sending


def test_it_leaves_when_the_next_period_begins_though_nobody_has_ended():
    made = stage(max_usd=1.0, period=60.0)
    made.start(bound=DOLLAR)
    here, there = made.start(bound=usage(100)), made.start(target=OTHER, bound=usage(100))
    made.pass_time(59.0)
    assert (here.queued, there.queued) == (True, True)
    made.pass_time(1.0)

    assert (here.sending, there.sending) == (True, True)


def test_it_may_wait_for_others_where_the_period_ends_too_late():
    made = stage(max_usd=1.0, period=3600.0)
    first = made.start(bound=DOLLAR)
    second = made.start(target=OTHER, bound=OF_OTHER, within=30.0)
    assert second.queued
    first.step(SERVER_ERROR)
    made.settle()

    assert second.sending


def test_it_leaves_when_a_limit_is_raised():
    made = stage(max_usd=1.0)
    made.start(bound=DOLLAR)
    second = made.start(bound=DOLLAR)
    made.engine.govern(rules(max_usd=2.0), {}, made.now)
    made.settle()

    assert second.sending


def test_it_leaves_though_another_policy_has_come_meanwhile():
    made = stage(max_usd=1.0)
    first = made.start(target=OTHER, bound=OF_OTHER)
    second = made.start(bound=DOLLAR)
    for usd in (1.2, 1.4):
        made.engine.govern(rules(max_usd=usd), {}, made.now)
    assert second.queued
    first.step(SERVER_ERROR)
    made.settle()

    assert second.sending
