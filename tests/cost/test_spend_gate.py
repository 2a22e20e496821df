"""A spend limit call by call: calls that are sent, wait or are rejected, and money that is released."""

from dataclasses import replace
from decimal import Decimal

import pytest
from metering import price_of, usage
from stage import INVALID, OK, OTHER, SERVER_ERROR, TARGET, TIMEOUT, Stage, policy, retry_in
from table_test import table_test

from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.cost.spend_gate import SpendAccounts, allow_spending, spend_accounts
from stormbreak.cost.token_prices import Prices, Rate, Rates, Source, Step
from stormbreak.errors import ConfigurationError
from stormbreak.events import SpendReached
from stormbreak.types import Outcome, Target, Verdict

ONCE = RetryPolicy(max_attempts=1)
DOLLAR = usage(1_000_000)
CENT = usage(10_000)
LOST = Outcome(Verdict.BROKEN, maybe_processed=True)


def stage(max_usd=2.0, period=None, **changes):
    made = Stage(
        policy(**{"retry": ONCE, "spend": SpendPolicy(max_usd=max_usd, period=period), **changes})
    )
    made.engine = Engine(made.engine.policy, SpendAccounts(price_of))
    return made


def answered(used):
    return OK._replace(usage=used)


def spend_state(made):
    (budget,) = made.engine.snapshot(made.now)["spend"]
    return budget


def money(made):
    budget = spend_state(made)
    return float(budget["spent"]), float(budget["reserved"])


def test_an_attempt_reserves_its_maximum_cost_and_releases_the_rest():
    made = stage()
    run = made.start(bound=DOLLAR)
    assert money(made) == (0, 1)
    run.step(answered(CENT))

    assert money(made) == (0.01, 0)


@table_test(
    ("outcome", "spent"),
    [
        (answered(CENT), 0.01),
        (OK, 1),
        (LOST, 1),
        (LOST._replace(usage=CENT), 0.01),
        (TIMEOUT._replace(maybe_processed=True), 1),
        (SERVER_ERROR, 0),
        (INVALID, 0),
        (Outcome(Verdict.CONNECT_FAILED), 0),
    ],
)
def test_the_outcome_decides_the_amount_spent(outcome, spent):
    made = stage()
    made.start(bound=DOLLAR).step(outcome)

    assert money(made) == (spent, 0)


def test_a_cancelled_call_spends_its_reservation():
    made = stage()
    made.start(bound=DOLLAR).close()
    assert money(made) == (1, 0)

    made.start(bound=DOLLAR).drop()
    assert money(made) == (2, 0)


def test_a_call_waits_for_reserved_money_to_be_released():
    made = stage()
    first, second, third = (made.start(bound=DOLLAR) for _ in range(3))
    assert (first.sending, second.sending, third.queued) == (True, True, True)

    first.step(answered(CENT))
    made.settle()
    assert third.queued  # 0.01 spent, 1 reserved: less than a dollar is left
    second.step(SERVER_ERROR)
    made.settle()
    assert third.sending


def test_money_released_by_one_target_admits_a_call_at_another():
    made = stage(max_usd=1.0)
    first = made.start(bound=DOLLAR)
    second = made.start(target=OTHER, bound=usage(10_000_000))
    assert second.queued

    first.step(SERVER_ERROR)
    made.settle()
    assert second.sending


def test_released_money_admits_no_call_before_retry_after():
    made = stage(max_usd=1.0)
    first, second = made.start(bound=DOLLAR), made.start(bound=DOLLAR)
    first.step(retry_in(10.0))
    made.settle()
    assert second.queued
    made.pass_time(9.9)

    assert second.queued


def test_a_call_that_can_never_be_paid_is_rejected_at_once():
    made = stage()
    made.start(bound=DOLLAR).step(answered(DOLLAR))
    run = made.start(bound=usage(1_100_000))

    assert run.ended.outcome.rejection == (
        "spend", "the rest of the limit of 2.0 USD is less than 1.100000 USD", None,
    )  # fmt: skip
    assert made.start(bound=DOLLAR).sending


def test_waiting_calls_are_rejected_when_the_money_is_spent():
    made = stage()
    runs = [made.start(bound=DOLLAR) for _ in range(4)]
    runs[0].step(answered(DOLLAR))
    made.settle()
    assert [run.over for run in runs] == [True, False, False, False]
    runs[1].step(OK)
    made.settle()

    assert [run.ended.stopped for run in runs[2:]] == ["spend", "spend"]


def test_a_waiting_call_that_cannot_fit_is_rejected_for_cheaper_ones():
    made = stage(max_usd=1.0)
    first = made.start(bound=DOLLAR)
    heavy, light = made.start(bound=DOLLAR), made.start(bound=CENT)
    first.step(answered(CENT))
    made.settle()

    assert heavy.ended.stopped == "spend"
    assert light.sending


def test_rejecting_an_expensive_call_does_not_reject_a_cheap_one():
    made = stage(limit=FixedLimit(max_in_flight=1))
    made.start(bound=usage(1_500_000)).step(OK)
    first, light = made.start(bound=CENT), made.start(bound=CENT)
    assert made.start(bound=DOLLAR).ended.stopped == "spend"
    first.step(retry_in(5.0))

    assert light.queued


def test_a_call_above_the_whole_limit_is_rejected():
    made = stage(period=60.0)
    run = made.start(bound=usage(3_000_000))
    assert run.ended.stopped == "cost"

    assert (
        run.ended.outcome.rejection.reason == "it may cost 3.000000 USD, and the limit is 2.0 USD"
    )


@table_test(
    ("call", "reason"),
    [
        ({}, "its cost has no bound"),
        ({"unbounded": "its document may cost more"}, "its document may cost more"),
        (
            {"target": Target("acme", "secret"), "bound": CENT},
            "no price is known for secret at acme; pass prices, or set no [spend]",
        ),
    ],
)
def test_a_call_without_a_known_maximum_cost_is_rejected(call, reason):
    run = stage().start(**call)

    assert run.ended.outcome.rejection == ("cost", reason, None)


def test_a_call_without_tokens_needs_no_price():
    assert stage().start(target=Target("acme", "secret"), bound=usage()).sending


def test_a_period_begins_with_its_first_attempt_and_the_next_one_has_the_full_limit():
    made = stage(period=60.0)
    made.start(bound=usage(2_000_000)).step(OK)
    run = made.start(bound=DOLLAR)
    assert run.queued
    assert spend_state(made)["ends"] == 60.0
    made.pass_time(59.0)
    assert run.queued
    made.pass_time(1.0)

    assert run.sending
    assert money(made) == (0, 1)


def test_a_rejection_names_the_start_of_the_next_period():
    made = stage(period=60.0)
    made.start(bound=usage(2_000_000)).step(OK)
    run = made.start(bound=DOLLAR, within=30.0)

    assert run.ended.stopped == "spend"
    assert run.ended.retry_at == made.now + 60.0


def test_an_attempt_counts_in_the_period_in_which_it_was_sent():
    made = stage(period=60.0)
    late = made.start(bound=DOLLAR)
    made.pass_time(61.0)
    made.start(bound=DOLLAR)
    assert money(made) == (0, 1)
    late.step(OK)

    assert money(made) == (0, 1)


def test_each_alert_level_of_the_limit_is_reported_once():
    made = stage().listen()
    for _ in range(5):
        made.start(bound=usage(400_000)).step(OK)
    made.start(bound=CENT)

    alerts = [event for event in made.events if isinstance(event, SpendReached)]
    assert [event.percent for event in alerts] == [50, 80, 100]
    assert alerts[0] == SpendReached(made.now, TARGET, 50, Decimal("1.2"), Decimal("2.0"), None)


def test_a_call_rejected_for_its_cost_reports_100_percent():
    made = stage().listen()
    made.start(bound=usage(1_900_000)).step(OK)
    made.start(bound=DOLLAR)

    alerts = [event for event in made.events if isinstance(event, SpendReached)]
    assert [event.percent for event in alerts] == [80, 100]


def test_a_changed_limit_keeps_the_amount_spent():
    made = stage()
    made.start(bound=DOLLAR).step(OK)
    made.engine.govern(policy(spend=SpendPolicy(max_usd=5.0)), {}, made.now)
    made.start(bound=DOLLAR)

    assert money(made) == (1, 1)
    assert spend_state(made)["limit"] == "5.0"


def test_a_limit_with_another_period_starts_from_zero():
    made = stage()
    made.start(bound=DOLLAR).step(OK)
    made.engine.govern(
        policy(retry=ONCE, spend=SpendPolicy(max_usd=2.0, period=60.0)), {}, made.now
    )
    made.start(bound=DOLLAR)

    assert [budget["spent"] for budget in made.engine.snapshot(made.now)["spend"]] == ["1", "0"]


def test_a_raised_limit_reports_its_own_alert_levels():
    made = stage(max_usd=1.0).listen()
    made.start(bound=DOLLAR).step(OK)
    made.engine.govern(policy(retry=ONCE, spend=SpendPolicy(max_usd=4.0)), {}, made.now)
    for _ in range(3):
        made.start(bound=DOLLAR).step(OK)

    alerts = [event for event in made.events if isinstance(event, SpendReached)]
    assert [(each.percent, each.limit) for each in alerts] == [(100, 1), (50, 4), (100, 4)]


def test_each_period_reports_its_own_alert_levels():
    made = stage(period=60.0).listen()
    for _ in range(2):
        made.start(bound=DOLLAR).step(OK)
        made.pass_time(61.0)

    alerts = [event.percent for event in made.events if isinstance(event, SpendReached)]
    assert alerts == [50, 50]


def test_a_target_keeps_the_spend_of_a_limit_that_another_target_leaves():
    main, spare = Target("a", "m", name="main"), Target("b", "m", name="spare")
    ours = policy(retry=ONCE, spend=SpendPolicy(max_usd=2.0))
    less = policy(retry=ONCE, spend=SpendPolicy(max_usd=1.5))
    made = stage()
    made.engine.govern(ours, {main.account: ours, spare.account: ours}, made.now)
    made.start(target=main, bound=DOLLAR).step(OK)
    made.engine.govern(ours, {main.account: ours, spare.account: less}, made.now)

    made.listen().start(target=spare, bound=usage(100_000)).step(OK)
    assert [event.percent for event in made.events if isinstance(event, SpendReached)] == []
    made.start(target=spare, bound=usage(100_000)).step(OK)
    budgets = made.engine.snapshot(made.now)["spend"]
    assert [event.percent for event in made.events if isinstance(event, SpendReached)] == [80]
    assert [(budget["limit"], budget["spent"]) for budget in budgets] == [
        ("2.0", "1"),
        ("1.5", "1.2"),
    ]


def test_the_maximum_cost_includes_a_higher_price_for_cached_input():
    made = stage()
    made.engine = Engine(made.engine.policy, SpendAccounts(lambda *_: ExpensiveCache()))
    made.start(bound=DOLLAR)

    assert money(made) == (0, 1.5)


def test_a_lower_price_for_long_prompts_does_not_lower_the_reservation():
    made = stage()
    made.engine = Engine(made.engine.policy, SpendAccounts(lambda *_: CHEAP_WHEN_LONG))
    run = made.start(bound=DOLLAR)
    assert money(made) == (0, 1)
    run.step(answered(usage(100_000)))

    assert money(made) == (0.1, 0)


def test_usage_without_a_price_spends_the_whole_reservation():
    made = stage()
    made.engine = Engine(made.engine.policy, SpendAccounts(lambda *_: NoOutputPrice()))
    made.start(bound=DOLLAR).step(SERVER_ERROR._replace(usage=usage(1, 1)))

    assert money(made) == (1, 0)


CHEAP_WHEN_LONG = Prices(
    provider="p",
    model="m",
    listed_as="m",
    standard=Rates(input=Rate(Decimal(1), (Step(200_000, Decimal("0.1")),))),
    source=Source(name="test"),
)


class FlatPrice:
    """A price that is the same for every prompt."""

    def max_cost_of(self, used):
        return self.cost_of(used)

    def max_cost_within(self, bound):
        cached = (0, bound.input_tokens)
        return max(self.cost_of(replace(bound, cached_input_tokens=each)) for each in cached)


class NoOutputPrice(FlatPrice):
    """Has no price for output."""

    def cost_of(self, used):
        if used.output_tokens:
            raise ConfigurationError("no price for output is known")
        return used.input_tokens / Decimal(10**6)


class ExpensiveCache(FlatPrice):
    """Charges half as much again for cached input."""

    def cost_of(self, used):
        return (used.input_tokens + used.cached_input_tokens / Decimal(2)) / 10**6


def test_waiting_calls_are_sent_when_more_spend_is_allowed():
    made = stage(max_usd=10.0)
    allow_spending(made.engine, made.engine.policy, Decimal(1), made.now)
    first, second = made.start(bound=DOLLAR), made.start(bound=DOLLAR)
    there = made.start(target=OTHER, bound=usage(10_000_000))
    made.start(bound=CENT).close()
    assert spend_accounts(made.engine).account(made.engine.policy.spend).largest == 1
    first.step(answered(DOLLAR))
    made.settle()
    assert (second.queued, there.queued) == (True, True)
    allow_spending(made.engine, made.engine.policy, Decimal(3), made.now)
    made.settle()

    assert (second.sending, there.sending) == (True, True)


def test_a_snapshot_without_a_limit_has_no_spend():
    assert "spend" not in Stage(policy()).engine.snapshot(0.0)


@table_test("bad", [{"max_usd": 0}, {"max_usd": -1.0}, {"period": 0.0}, {"max_output_tokens": 0}])
def test_a_limit_that_is_not_positive_is_rejected(bad):
    with pytest.raises(ConfigurationError, match=f"{next(iter(bad))} must be"):
        SpendPolicy(**bad)


class Odd:
    """Prices of a user that know the maximum cost of an attempt, but fail for the answer."""

    def __init__(self, cost):
        self._cost = cost

    def max_cost_within(self, _):
        return Decimal(1)

    def cost_of(self, _):
        if isinstance(self._cost, Exception):
            raise self._cost
        return self._cost


@table_test("cost", [KeyError("m"), ZeroDivisionError(), 0.01, None, Decimal("nan"), Decimal(-1)])
def test_prices_that_fail_after_an_answer_lose_no_answer_and_no_slot(cost):
    """The exception used to interrupt the release of the slot."""
    made = Stage(policy(retry=ONCE, spend=SpendPolicy(max_usd=2.0)))
    made.engine = Engine(made.engine.policy, SpendAccounts(lambda *_: Odd(cost)))
    run = made.start(bound=DOLLAR).step(answered(CENT))

    assert run.ended.outcome.verdict is Verdict.OK
    assert made.state.idle
    assert money(made) == (1, 0)  # the whole reservation
