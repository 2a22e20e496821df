"""The spend limits of tenants: reserved for each attempt, settled after it, independent of other tenants."""

from metering import answer, usage
from stage import OK, OTHER, SERVER_ERROR, TARGET, policy
from table_test import table_test
from tenant_stage import CENT, DOLLAR, RETRIES, limited, shown, spending, spent, usd

from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.fallback_policy import Step
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.errors import error_for
from stormbreak.events import HedgeRefused, SpendReached
from stormbreak.types import CACHE, Outcome, Rejection, Verdict


def test_money_is_reserved_for_an_attempt_and_settled_after_it():
    stage = limited(acme=spending(1.0))
    run = stage.start(tenant="acme", bound=CENT)
    assert spent(stage) == usd("0", "0.01")

    run.step(answer(into=5_000))
    assert spent(stage) == usd("0.005", "0.00")


def test_every_attempt_costs():
    stage = limited(acme=spending(1.0))
    run = stage.start(tenant="acme", bound=CENT)
    run.step(Outcome(Verdict.TIMEOUT, maybe_processed=True))
    stage.pass_time(1.0)
    run.step(answer(into=10_000))

    assert spent(stage) == usd("0.02", "0.00")


def test_a_refused_attempt_costs_nothing():
    stage = limited(acme=spending(1.0))
    stage.start(tenant="acme", bound=CENT).step(SERVER_ERROR)

    assert spent(stage) == usd("0", "0.00")


def test_a_tenant_waits_for_reserved_money_and_no_other_does():
    stage = limited(acme=spending(1.0), other=spending(1.0))
    first, second = (stage.start(tenant="acme", bound=DOLLAR) for _ in range(2))
    other = stage.start(tenant="other", bound=DOLLAR)
    free = stage.start(bound=DOLLAR)
    assert [run.sending for run in (first, second, other, free)] == [True, False, True, True]
    assert shown(stage)["short_of_money"] == 1

    first.step(SERVER_ERROR)
    stage.settle()
    assert second.sending


@table_test("period", ["day", 60.0])
def test_a_waiting_call_is_rejected_as_soon_as_the_money_is_spent(period):
    """A bug: it waited out its patience, although the period ended much later."""
    stage = limited(acme=spending(1.0, period=period))
    first, second, third = (
        stage.start(tenant="acme", bound=DOLLAR, patience=9.0) for _ in range(3)
    )
    stage.settle()
    assert second.queued
    assert third.queued
    first.step(answer(into=600_000))
    stage.settle()
    for run in (second, third):
        rejection = run.ended.outcome.rejection
        assert (rejection.policy, "may not wait that long" in rejection.text) == ("spend", True)
        assert rejection.retry_at > stage.now + 9.0


def test_a_spend_limit_covers_all_targets():
    stage = limited(acme=spending(1.0))
    first = stage.start(tenant="acme", bound=DOLLAR)
    second = stage.start(tenant="acme", bound=DOLLAR, target=OTHER)
    assert second.queued

    first.step(SERVER_ERROR)
    stage.settle()
    assert second.sending


def test_a_tenant_without_money_is_rejected_with_the_end_of_the_period():
    stage = limited(acme=spending(1.0, period=3600))
    stage.start(tenant="acme", bound=DOLLAR).step(answer(into=1_000_000))
    error = error_for(TARGET, stage.start(tenant="acme", bound=CENT).ended)

    assert (error.policy, error.retry_at) == ("spend", stage.now + 3600)
    assert "tenant acme" in str(error)
    stage.tick(3600)
    assert stage.start(tenant="acme", bound=CENT).sending


@table_test(
    ("bound", "policy_name"),
    [(None, "cost"), (usage(into=2_000_000), "cost"), (CENT, "spend")],
)
def test_a_call_that_can_never_be_paid_is_rejected(bound, policy_name):
    stage = limited(acme=spending(1.0))
    stage.start(tenant="acme", bound=DOLLAR).step(answer(into=1_000_000))

    rejection = stage.start(tenant="acme", bound=bound).ended.outcome.rejection
    assert (rejection.policy, rejection.retry_at) == (policy_name, None)


def waiting_at_the_target(**call):
    """A stage whose target serves one call, that call, and two calls of a tenant that wait for it and can be paid."""
    of = policy(retry=RETRIES, limit=FixedLimit(max_in_flight=1))
    stage = limited(of, acme=spending(2.0, period=100.0))
    blocker = stage.start()
    return stage, blocker, [stage.start(tenant="acme", bound=DOLLAR, **call) for _ in range(2)]


def answer_all(stage, runs):
    """Answer calls until none leaves; return how many were sent."""
    sent = 0
    while run := next((each for each in runs if each.sending), None):
        sent += 1
        run.step(answer(into=1_000_000))
        stage.settle()
    return sent


def test_an_attempt_that_waited_is_paid_in_the_period_in_which_it_leaves():
    """A bug: it was paid in the previous period, and twice the limit was spent in the next."""
    stage, blocker, runs = waiting_at_the_target()
    stage.pass_time(101.0)
    runs += [stage.start(tenant="acme", bound=DOLLAR) for _ in range(2)]
    blocker.step(OK)
    stage.settle()

    assert answer_all(stage, runs) == 2
    assert spent(stage) == usd("2", "0")
    stage.pass_time(100.0)
    assert answer_all(stage, runs) == 2


def test_a_waiting_attempt_keeps_its_money_and_place_within_a_period():
    stage, blocker, runs = waiting_at_the_target()
    stage.pass_time(10.0)
    blocker.step(OK)
    stage.settle()

    assert [run.sending for run in runs] == [True, False]
    assert spent(stage) == usd("0", "2")


def test_a_waiting_attempt_leaves_in_the_next_period_if_there_is_money():
    stage, blocker, runs = waiting_at_the_target()
    stage.pass_time(101.0)
    blocker.step(OK)
    stage.settle()

    assert (runs[0].sending, spent(stage)) == (True, usd("0", "1"))
    runs[0].close()
    stage.settle()
    assert (runs[1].sending, spent(stage)) == (True, usd("1", "1"))


def test_a_waiting_attempt_is_rejected_if_the_money_of_the_next_period_is_spent():
    stage, blocker, runs = waiting_at_the_target(patience=110.0)
    stage.pass_time(101.0)
    elsewhere = stage.start(tenant="acme", bound=usage(into=20_000_000), target=OTHER)
    elsewhere.step(answer(into=20_000_000))
    blocker.step(OK)
    stage.settle()

    rejections = [run.ended.outcome.rejection for run in runs]
    assert [each.text for each in rejections] == [
        "tenant acme: the call may not wait that long"
    ] * 2
    assert [each.retry_at for each in rejections] == [stage.now + 100.0] * 2
    assert (stage.state.slots.in_flight, stage.engine.tenants["acme"].permits) == (0, set())


@table_test("fallbacks", [(), (Step(frozenset({Verdict.INVALID}), None, CACHE),)])
def test_a_result_says_that_its_tenant_could_not_pay_for_a_retry(fallbacks):
    """A bug: a batch took this failure for its own spend limit."""
    stage = limited(acme=spending(1.0))
    run = stage.start(tenant="acme", bound=usage(into=600_000), fallbacks=fallbacks)
    run.step(Outcome(Verdict.TIMEOUT, maybe_processed=True))
    stage.pass_time(1.0)

    ended = run.ended
    assert (ended.outcome.verdict, ended.stopped, ended.of_tenant) == (
        Verdict.TIMEOUT,
        "spend",
        True,
    )


def test_a_result_does_not_blame_a_tenant_for_the_limit_of_a_policy():
    of = policy(retry=RETRIES, spend=SpendPolicy(max_usd=1.0))
    stage = limited(of, acme=spending(5.0))
    run = stage.start(tenant="acme", bound=usage(into=600_000))
    run.step(Outcome(Verdict.TIMEOUT, maybe_processed=True))
    stage.pass_time(1.0)

    assert (run.ended.stopped, run.ended.of_tenant) == ("spend", False)


def test_equal_limits_are_separate_accounts():
    stage = limited(acme=spending(1.0), other=spending(1.0))
    stage.start(tenant="acme", bound=DOLLAR).step(answer(into=1_000_000))

    assert (spent(stage), spent(stage, "other")) == (usd("1", "0"), usd("0", "0"))


def test_a_spend_threshold_is_reported_as_that_of_a_tenant():
    stage = limited(acme=spending(1.0)).listen()
    stage.start(tenant="acme", bound=DOLLAR).step(answer(into=600_000))

    (event,) = [each for each in stage.events if isinstance(each, SpendReached)]
    assert (event.percent, event.of_tenant) == (50, True)


def hedging(**tenants):
    stage = limited(
        policy(hedge=HedgePolicy(delay=1.0, percentile=None), patience=20.0), **tenants
    ).listen()
    run = stage.start(tenant="acme", bound=usage(into=600_000), races=True)
    stage.pass_time(1.5)
    return stage, run


def test_a_hedge_is_paid_like_any_attempt():
    stage, run = hedging(acme=spending(2.0))
    assert (run.racing, spent(stage)) == ([1, 2], usd("0", "1.2"))

    run.cross(2, answer(into=100_000))
    assert spent(stage) == usd("0.7", "0.0")  # the cancelled attempt may be billed


def test_a_hedge_that_cannot_be_paid_is_not_sent():
    stage, run = hedging(acme=spending(1.0))
    assert run.racing == [1]
    (event,) = [each for each in stage.events if isinstance(each, HedgeRefused)]
    assert event.gate == "spend"


def test_the_bound_of_a_cancelled_hedge_is_spent_if_the_first_was_rejected():
    """A bug: the sender rejected the first, and the cancelled hedge counted as not sent."""
    stage, run = hedging(acme=spending(2.0))
    rejection = Rejection("open_files", "too many open files")
    run.cross(1, Outcome(Verdict.REJECTED, rejection=rejection))
    assert (run.racing, spent(stage)) == ([2], usd("0", "0.6"))

    run.close()
    assert spent(stage) == usd("0.6", "0")


def test_a_hedge_at_the_deadline_is_paid_and_sent():
    """A bug: it was rejected after it had its permit, which was never freed."""
    of = policy(hedge=HedgePolicy(delay=1.0, percentile=None), retry=RetryPolicy(min_time_left=0.0))
    stage = limited(of, acme=spending(2.0))
    run = stage.start(tenant="acme", bound=CENT, races=True, within=1.0)
    stage.pass_time(1.0)
    assert run.racing == [1, 2]

    run.close()
    assert spent(stage) == usd("0.02", "0")
