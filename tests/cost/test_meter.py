import decimal
import threading
from dataclasses import fields, replace

import pytest
from forking import in_child
from metering import answer, metered, price_of, usage, usd
from races import FIRST, scene, slow
from stage import OK, OTHER, SERVER_ERROR, TARGET, Stage, policy
from table_test import table_test

from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.core.fallback_policy import Step
from stormbreak.core.queue_order import QueuePolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.cost.accounts import Bill, PricedSum
from stormbreak.cost.meter import Meter
from stormbreak.cost.price_source import EXACT, known_cost, known_max_cost
from stormbreak.cost.spend_gate import SpendAccounts
from stormbreak.cost.token_prices import Rate, Rates
from stormbreak.cost.token_prices import Step as PriceStep
from stormbreak.errors import ConfigurationError
from stormbreak.events import CallCancelled, CallEnded, Committed, Overtaken, Sent
from stormbreak.types import CACHE, DEGRADED, FALLBACK, Outcome, Priority, Target, Verdict

BOUND = usage(1_000_000, 100_000)  # 2 dollars
LOST = Outcome(Verdict.BROKEN, maybe_processed=True)
SECRET = Target("acme", "secret")


def test_a_price_function_that_changes_the_decimal_context_changes_no_sum():
    class Rough:
        def cost_of(self, _):
            decimal.getcontext().prec = 3
            return usd("0.5")

    assert known_cost(Rough(), usage(1, 1)) == usd("0.5")
    assert EXACT.add(usd("1234.5"), usd("0.01")) == usd("1234.51")


class Broken:
    """Prices of a user whose attributes raise."""

    def __getattr__(self, name):
        raise ZeroDivisionError


BROKEN = table_test("broken", [lambda *_: Broken(), lambda *_: 1 / 0])


@BROKEN
def test_failing_prices_break_no_snapshot(broken):
    assert known_cost(Broken(), usage(1, 1)) is known_max_cost(Broken(), usage(1, 1)) is None
    stage, meter = Stage(policy()), Meter(broken)
    stage.engine.listeners.append(meter)
    run = stage.start(bound=BOUND)
    assert meter.snapshot().under_way[TARGET].usd == 0
    run.step(answer(1_000_000))
    assert meter.snapshot().total.unpriced == 1


@BROKEN
def test_failing_prices_are_unknown_to_a_spend_limit(broken):
    limited = policy(spend=SpendPolicy(max_usd=1.0))
    stage = Stage(limited)
    stage.engine = Engine(limited, SpendAccounts(broken))
    rejection = stage.start(bound=BOUND).ended.outcome.rejection
    assert rejection.policy == "cost"
    assert "no price is known for" in rejection.reason


def test_prices_that_fail_once_are_called_again():
    """One failure of a user's function used to reject every later call for a missing price."""
    failures = [ZeroDivisionError]

    def flaky(provider, model):
        if failures:
            raise failures.pop()
        return price_of(provider, model)

    limited = policy(spend=SpendPolicy(max_usd=100.0))
    stage, meter = Stage(limited), Meter(flaky)
    stage.engine = Engine(limited, SpendAccounts(flaky))
    stage.engine.listeners.append(meter)
    assert stage.start(bound=usage(1)).ended.outcome.rejection.policy == "cost"
    failures.append(ZeroDivisionError)
    runs = [stage.start(bound=usage(1_000_000)) for _ in range(3)]
    assert runs[0].ended.outcome.rejection.policy == "cost"
    failures.append(ZeroDivisionError)
    for run in runs[1:]:
        run.step(answer(1_000_000))
    total = meter.snapshot().total
    assert (total.unpriced, total.useful.usd) == (1, 1)


def test_an_answer_costs_what_its_usage_says():
    stage, meter = metered()
    stage.start(bound=BOUND).step(answer(1_000_000, 100_000, cached=500_000))

    bill = meter.snapshot().total
    assert bill.of_use == (usd("1.55"), usd("1.55"))
    assert bill.for_nothing.max_usd == 0
    assert bill.saved_by_cache == usd("0.45")
    assert (bill.attempts, bill.useful.input_tokens, bill.useful.cached_input_tokens) == (
        1, 1_000_000, 500_000,
    )  # fmt: skip


def test_a_rejected_attempt_costs_nothing():
    stage, meter = metered()
    run = stage.start(bound=BOUND).step(SERVER_ERROR)
    stage.tick(0.1)
    run.step(answer(10))

    bill = meter.snapshot().total
    assert bill.in_all == (usd("0.00001"), usd("0.00001"))
    assert (bill.attempts, bill.free) == (2, 1)


def test_a_possibly_processed_attempt_costs_from_zero_to_its_bound():
    stage, meter = metered()
    run = stage.start(bound=BOUND).step(LOST)
    stage.tick(0.1)
    run.step(answer(10))

    bills = meter.snapshot()
    assert bills.total.for_nothing == (0, 2)
    assert bills.waste["broken"].for_nothing == (0, 2)
    assert bills.total.useful.usd == usd("0.00001")


def test_a_failed_attempt_with_usage_is_wasted_exactly():
    stage, meter = metered()
    stage.start(bound=BOUND).step(LOST._replace(usage=usage(100_000)))

    assert meter.snapshot().total.for_nothing == (usd("0.1"), usd("0.1"))


def test_an_answer_without_usage_is_useful_and_costs_up_to_its_bound():
    stage, meter = metered()
    stage.start(bound=BOUND).step(OK)

    bill = meter.snapshot().total
    assert bill.of_use == (0, 2)
    assert bill.used_uncounted.attempts == 1
    assert bill.is_whole


def test_a_cancelled_call_may_be_billed():
    stage, meter = metered()
    run = stage.start(bound=BOUND)
    assert meter.snapshot().under_way[TARGET].usd == 2
    run.close()  # by hand: a driver would send this event
    meter(CallCancelled(stage.now, run.call.number, TARGET, sent=True))

    bills = meter.snapshot()
    assert bills.waste["cancelled"].for_nothing == (0, 2)
    assert not bills.under_way


def test_the_losing_attempt_of_a_hedge_may_be_billed():
    stage = scene()
    meter = Meter(price_of)
    stage.engine.listeners.append(meter)
    for _ in range(12):  # they earn a hedge
        stage.start(races=True).cross(1, answer(1))
    run = slow(stage, bound=BOUND)
    assert run.racing == [1, 2]
    run.cross(2, answer(1_000_000))

    bills = meter.snapshot()
    assert bills.waste["overtaken"].for_nothing == (0, 2)
    assert bills.total.useful.usd == usd("1.000012")


def test_a_broken_stream_is_wasted_as_cut():
    stage, meter = metered()
    run = stage.start(bound=BOUND, delivers=True).step(FIRST)
    assert run.delivering
    run.step(LOST)

    assert meter.snapshot().waste["cut"].for_nothing == (0, 2)


def test_an_unknown_price_is_not_zero():
    stage, meter = metered()
    stage.start(target=SECRET, bound=BOUND).step(answer(7, 3))
    for _ in range(2):
        stage.start(target=SECRET).step(LOST._replace(verdict=Verdict.INVALID))

    bill = meter.snapshot().total
    assert not bill.is_whole
    assert (bill.unpriced, bill.unbounded) == (1, 2)
    assert (bill.useful.attempts, bill.useful.output_tokens) == (1, 3)


def test_an_attempt_without_tokens_needs_no_price():
    stage, meter = metered()
    stage.start(target=SECRET, bound=usage()).step(OK)

    bill = meter.snapshot().total
    assert bill.is_whole
    assert (bill.attempts, bill.in_all) == (1, (0, 0))


def test_a_bound_uses_the_highest_price_up_to_its_length():
    stage, _ = metered()
    rate = Rate(usd("2"), (PriceStep(1_000_000, usd("1")),))
    falling = replace(price_of("p", "m"), standard=Rates(input=rate))
    meter = Meter(lambda *_: falling)
    stage.engine.listeners[:] = [meter]
    run, _ = stage.start(bound=usage(2_000_000)), stage.start(bound=usage(1_000_000))
    run.step(LOST)

    assert meter.snapshot().total.for_nothing == (0, 4)
    assert meter.snapshot().under_way[TARGET].usd == 2


def test_a_low_decimal_precision_of_the_thread_changes_no_sum():
    stage, meter = metered()
    stage.start().step(answer(100_000_000))
    with decimal.localcontext(prec=4):
        for _ in range(10):
            stage.start().step(answer(123_457, cached=100_000))
        bill = meter.snapshot().total
        spans = bill.of_use, bill.in_all

    assert bill.useful.usd == usd("100.33457")
    assert bill.saved_by_cache == usd("0.9")
    assert spans == ((usd("100.33457"),) * 2,) * 2


def test_a_low_decimal_precision_of_the_thread_lowers_no_bound():
    with decimal.localcontext(prec=2):
        assert known_max_cost(price_of("acme", "small"), usage(123_457)) == usd("0.0123457")


def test_bills_are_split_by_tenant_priority_label_model_and_target():
    stage, meter = metered()
    stage.start(tenant="a", priority=Priority.BATCH, labels=(("team", "search"),)).step(answer(1))
    stage.start(target=OTHER, tenant="b").step(answer(1))

    bills = meter.snapshot()
    for kind in (
        {name: bill.attempts for name, bill in bills.tenants.items()} == {"a": 1, "b": 1},
        set(bills.priorities) == {"batch", "interactive"},
        set(bills.labels) == {"team=search"},
        set(bills.models) == {"large", "small"},
        bills.targets[OTHER].useful.usd == usd("0.0000001"),
    ):
        assert kind


def test_a_cheaper_fallback_saves_and_a_more_expensive_one_costs():
    stage, meter = metered()
    step = Step(frozenset({Verdict.INVALID}), None, FALLBACK, ((OTHER, 1.0),))
    run = stage.start(fallbacks=(step,)).step(Outcome(Verdict.INVALID))
    run.step(answer(1_000_000))
    step = Step(frozenset({Verdict.INVALID}), None, FALLBACK, ((TARGET, 1.0),))
    run = stage.start(target=OTHER, fallbacks=(step,)).step(Outcome(Verdict.INVALID))
    run.step(answer(1_000_000))

    bills = meter.snapshot()
    assert bills.targets[TARGET].saved_by_fallback == usd("0.9")
    assert bills.targets[OTHER].saved_by_fallback == usd("-0.9")
    assert bills.total.saved_by_fallback == 0


def test_savings_of_a_fallback_belong_to_the_tenant():
    stage, meter = metered()
    step = Step(frozenset({Verdict.INVALID}), None, FALLBACK, ((OTHER, 1.0),))
    run = stage.start(fallbacks=(step,), tenant="team").step(Outcome(Verdict.INVALID))
    run.step(answer(1_000_000))

    assert meter.snapshot().tenants["team"].saved_by_fallback == usd("0.9")


def test_savings_of_a_fallback_without_a_first_attempt_belong_to_the_call():
    stage, meter = metered(queue=QueuePolicy(max_size=0), limit=FixedLimit(max_in_flight=1))
    step = Step(frozenset({Verdict.REJECTED}), None, FALLBACK, ((OTHER, 1.0),))
    stage.start()
    run = stage.start(fallbacks=(step,), tenant="team", labels=(("a", "b"),))
    run.step(answer(1_000_000))

    bills = meter.snapshot()
    assert bills.tenants["team"].saved_by_fallback == usd("0.9")
    assert bills.labels["a=b"].saved_by_fallback == usd("0.9")
    assert bills.priorities["interactive"].saved_by_fallback == bills.total.saved_by_fallback


def test_savings_of_a_cached_answer_have_the_labels_of_the_call():
    stage, meter = metered(queue=QueuePolicy(max_size=0), limit=FixedLimit(max_in_flight=1))
    step = Step(frozenset({Verdict.REJECTED}), None, CACHE)
    stage.start()
    stage.start(fallbacks=(step,), labels=(("a", "b"),)).step(answer(1_000_000))

    assert meter.snapshot().labels["a=b"].saved_by_cache == 1


def test_a_forked_child_begins_with_an_empty_bill():
    stage, meter = metered()
    stage.start(bound=BOUND).step(answer(1_000_000))
    stage.start(bound=BOUND)
    holding, free = threading.Event(), threading.Event()

    def hold():
        with meter._lock:
            holding.set()
            free.wait(20.0)

    def check():
        bills = meter.snapshot()
        stage.start(bound=BOUND).step(answer(1))
        return not bills.total.attempts and not bills.under_way

    holder = threading.Thread(target=hold)
    holder.start()
    holding.wait()
    is_empty = in_child(check)
    free.set()
    holder.join()

    assert is_empty
    assert meter.snapshot().total.attempts == 1


def test_a_cached_answer_saves_the_cost_of_a_new_one():
    stage, meter = metered()
    step = Step(frozenset({Verdict.INVALID}), None, CACHE)
    run = stage.start(fallbacks=(step,)).step(Outcome(Verdict.INVALID))
    run.step(answer(1_000_000))

    bill = meter.snapshot().total
    assert bill.saved_by_cache == 1
    assert bill.in_all.max_usd == 0


def test_a_degraded_answer_saves_nothing():
    stage, meter = metered()
    step = Step(frozenset({Verdict.INVALID}), None, DEGRADED)
    run = stage.start(fallbacks=(step,)).step(Outcome(Verdict.INVALID))
    run.step(answer(1_000_000))

    bill = meter.snapshot().total
    assert (bill.saved_by_cache, bill.saved_by_fallback) == (0, 0)


def test_savings_are_zero_when_the_first_target_has_no_price():
    stage, meter = metered()
    step = Step(frozenset({Verdict.INVALID}), None, FALLBACK, ((OTHER, 1.0),))
    run = stage.start(target=SECRET, fallbacks=(step,)).step(Outcome(Verdict.INVALID))
    run.step(answer(1_000_000))

    bill = meter.snapshot().total
    assert (bill.saved_by_fallback, bill.useful.usd) == (0, usd("0.1"))


def test_an_attempt_in_flight_at_the_end_of_its_call_may_be_billed():
    _, meter = metered()
    meter(Sent(1.0, 1, TARGET, 1, Priority.BATCH, "", BOUND))
    meter(CallEnded(2.0, 1, TARGET, Verdict.OK, 1, 0.0))

    bills = meter.snapshot()
    assert bills.waste["cancelled"].for_nothing == (0, 2)
    assert not bills.under_way


def test_a_meter_ignores_events_of_unknown_calls():
    stage, meter = metered()
    run = stage.start(bound=BOUND)
    for number, attempt in (1, 2), (7, 1):
        meter(Committed(1.0, number, TARGET, attempt, 0.5))
        meter(Overtaken(1.0, number, TARGET, attempt, 0.5))
    meter(CallEnded(2.0, 7, TARGET, Verdict.OK, 1, 0.0))
    run.step(LOST)

    assert set(meter.snapshot().waste) == {"broken"}


def test_the_oldest_of_too_many_open_calls_counts_as_cancelled(monkeypatch):
    monkeypatch.setattr("stormbreak.cost.meter.MAX_CALLS", 2)
    stage, meter = metered()
    first, *_ = (stage.start(bound=BOUND) for _ in range(3))
    bills = meter.snapshot()
    assert bills.waste["cancelled"].for_nothing == (0, 2)
    assert bills.under_way[TARGET].attempts == 2
    first.step(answer(1))

    assert meter.snapshot().total.attempts == 1


def test_tenants_above_max_names_share_a_bill():
    stage, _ = metered()
    meter = Meter(price_of, max_names=3)
    stage.engine.listeners[:] = [meter]
    for number in range(10):
        stage.start(tenant=str(number)).step(answer(1))

    tenants = meter.snapshot().tenants
    assert {name: bill.attempts for name, bill in tenants.items()} == {
        "0": 1, "1": 1, "2": 1, "other": 7,
    }  # fmt: skip


def test_a_meter_without_details_has_bills_by_target_and_waste():
    stage, _ = metered()
    meter = Meter(price_of, detailed=False)
    stage.engine.listeners[:] = [meter]
    stage.start(tenant="a", labels=(("a", "b"),)).step(answer(1))

    bills = meter.snapshot()
    assert bills.total == bills.targets[TARGET]
    assert (bills.models, bills.priorities, bills.tenants, bills.labels) == ({}, {}, {}, {})


def test_a_meter_keeps_no_state_of_ended_calls():
    stage, meter = metered()
    for _ in range(100):
        run = stage.start(labels=(("a", "b"),)).step(SERVER_ERROR)
        stage.tick(0.1)
        run.step(OK)

    assert not meter._calls


def test_a_meter_watches_only_one_engine():
    stage, meter = metered()
    meter.watch(stage.engine)
    meter.watch(stage.engine)
    with pytest.raises(ConfigurationError, match="one engine"):
        meter.watch(metered()[0].engine)


def test_a_bill_sums_useful_and_wasted_cost():
    bill = Bill(
        useful=PricedSum(usd=usd("1")),
        used_uncounted=PricedSum(usd=usd("2")),
        wasted=PricedSum(usd=usd("4")),
        wasted_open=PricedSum(usd=usd("8")),
    )

    assert (bill.of_use, bill.for_nothing, bill.in_all) == ((1, 3), (4, 12), (5, 15))
    whole = [Bill(), Bill(unpriced=1), Bill(unbounded=1)]
    assert [each.is_whole for each in whole] == [True, False, False]


def test_the_copy_of_a_bill_has_every_field():
    whole = Bill(**{field.name: PricedSum(attempts=7) if field.default_factory is PricedSum else 7 for field in fields(Bill)})  # fmt: skip
    assert whole.copy() == whole
    assert whole.copy() is not whole
    assert whole.copy().useful is not whole.useful
