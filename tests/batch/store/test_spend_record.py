"""A run writes its spend to the run file first, so that the next run counts it after a kill."""

import threading
import time
from decimal import Decimal
from types import SimpleNamespace

import pytest
from batches import chat_rows, run_args, scenario, started, wait_until, write
from metering import prices, usage

from stormbreak import AsyncClient
from stormbreak.batch.store.run_file import read_run
from stormbreak.batch.store.spend_record import SpendRecord
from stormbreak.core.policy import Policy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.cost.accounts import Account, Bill, Bills, Cost, ModelUsage, PricedSum, TokenSum
from stormbreak.cost.spend_gate import ATTEMPTS, PART, spend_accounts
from stormbreak.types import Target

LIMIT = Decimal("0.5")
QUICK = scenario(service=0.05, slots=500, use_max_tokens=True)
EARLIER = Account(
    spent=(ModelUsage(provider="p", model="m", useful=TokenSum(attempts=1, input_tokens=100_000)),),
    lost=Decimal("0.03"),
)  # 0.13 dollars


def price_of(provider, model):
    return prices(provider, model)


class Store:
    """Keeps the accounts that are written."""

    def __init__(self, account):
        self.run = SimpleNamespace(account=account.begin())
        self.written = []
        self.pauses = {}

    def note(self, account, pauses):
        self.written.append(account)
        self.pauses = pauses


class Scene:
    """A spend record, and attempts that reserve money and add to the bill."""

    def __init__(self, account=EARLIER, *, usd=1.0, limited=True):
        policy = Policy(spend=SpendPolicy(max_usd=usd))
        self.client = AsyncClient(
            base_url="http://127.0.0.1:9/v1", api_key="-", policy=policy, prices=price_of
        )
        self.budget = spend_accounts(self.client.engine).account(policy.spend)
        self.under_way = PricedSum()
        self.store = Store(account)
        self.record = SpendRecord(self.client, self.store, self, price_of if limited else None)
        self.record.open()

    def snapshot(self):
        target = Target("p", "m")
        return Bills(total=Bill(), targets={}, under_way={target: self.under_way})

    def send(self, tokens):
        cost = Decimal(tokens) / 10**6
        self.budget.reserve(cost, 0.0)
        self.under_way.put(usage(tokens), cost)

    @property
    def allowed_for(self):
        """By the run file as it is now."""
        return self.store.written[-1].max_cost(price_of)


def test_earlier_runs_count_as_spent_and_part_of_the_limit_is_allowed_ahead():
    scene = Scene()

    assert scene.budget.spent == Decimal("0.13")
    assert scene.budget.allowed == scene.allowed_for == Decimal("0.13") + Decimal(1) / PART
    assert not scene.record.is_short


def test_the_budget_grows_only_after_the_run_file_is_written():
    scene = Scene()
    scene.send(11_000)
    assert scene.record.is_short
    assert scene.budget.room == Decimal("0.009")
    scene.record.write()
    assert scene.budget.room == Decimal("0.009")
    scene.record.allow()

    assert scene.budget.room == Decimal("0.02")
    assert scene.budget.allowed == scene.allowed_for == Decimal("0.161")
    assert scene.store.written[-1].ahead == Decimal("0.02")


def test_the_run_file_includes_reserved_money_that_is_not_yet_billed():
    scene = Scene()
    scene.budget.reserve(Decimal("0.011"), 0.0)
    scene.record.write()

    assert scene.allowed_for == Decimal("0.161")


def test_allowed_spend_never_shrinks_during_a_run():
    scene = Scene()
    scene.send(11_000)
    scene.record.write()
    scene.record.allow()
    scene.budget.settle(Decimal("0.011"), Decimal(0), 0, 0.0)
    scene.under_way = PricedSum()
    scene.record.write()

    assert scene.allowed_for == scene.budget.allowed == Decimal("0.161")


def test_allowed_spend_grows_up_to_the_limit():
    scene = Scene()
    for _ in range(86):
        scene.send(10_000)
        scene.record.write()
        scene.record.allow()

    assert scene.budget.allowed == scene.allowed_for == 1
    assert not scene.record.is_short


def test_allowed_spend_covers_rows_larger_than_one_part():
    scene = Scene()
    scene.budget.largest = Decimal("0.1")
    assert scene.record.is_short
    scene.record.write()
    scene.record.allow()

    assert scene.budget.room == ATTEMPTS * Decimal("0.1")


def test_close_writes_only_the_actual_spend():
    scene = Scene()
    scene.record.write()
    assert scene.store.written[-1].at_work
    scene.record.close()

    assert scene.store.written[-1] == EARLIER


def test_a_record_without_a_limit_writes_the_spend_and_restricts_nothing():
    scene = Scene(limited=False)
    assert scene.store.written == []
    scene.send(900_000)
    assert not scene.record.is_short
    scene.record.write()

    assert scene.store.written[-1].spent[0].wasted_open.input_tokens == 900_000
    assert scene.store.written[-1].ahead == 0


def test_the_spend_allowed_ahead_of_a_killed_run_counts_as_lost():
    account = Account(at_work=True, ahead=Decimal(2), lost=Decimal(1), killed=1).begin()
    assert (account.killed, account.ahead, account.lost) == (2, 0, 3)

    assert Account(lost=Decimal(1)).begin().lost == 1


@pytest.mark.usefixtures("no_words_about_providers")
def test_a_batch_that_is_killed_repeatedly_stays_within_its_limit(
    stormbreak_provider, tmp_path, files
):
    provider = stormbreak_provider(QUICK)
    cost = prices("", "", into="3", out="15").cost_of
    deal = tmp_path / "deal.toml"
    deal.write_text(
        f'[[prices]]\nprovider = "127.0.0.1:{provider.port}"\nmodel = "storm-1"\ninput = 3\noutput = 15\n'
    )
    source = write(tmp_path / "in.jsonl", chat_rows(200, max_tokens=1000))
    args = (*run_args(source, files.output, provider.base_url), "--quiet", "--prices", deal)
    for _ in range(4):
        before = provider.stats()["arrivals"]
        with started(*args, "--max-cost", LIMIT) as process:
            wait_until(
                lambda: provider.stats()["arrivals"] > before or process.poll() is not None,  # noqa: B023
                "a row",
            )
            time.sleep(0.1)

    billed = sum(
        cost(usage(each.input_tokens, each.output_tokens)) for each in provider.billed().values()
    )
    assert 0 < billed <= LIMIT
    assert read_run(files).account.killed >= 1


# ------------------------------------------------------------ the cost so far


def account_of(tokens):
    some = TokenSum(attempts=1, input_tokens=tokens)
    return Account(spent=(ModelUsage(provider="p", model="m", useful=some),))


def priced_record(account, *, price_of=prices, spend=None):
    """A spend record whose account is given by a function."""
    client = AsyncClient(
        base_url="http://127.0.0.1:9/v1",
        policy=Policy(spend=spend or SpendPolicy()),
        prices=price_of,
    )
    kind = type("Record", (SpendRecord,), {"account": property(account)})
    return kind(client, Store(Account()), None, None)


def test_the_cost_changes_only_at_update_cost():
    record = priced_record(lambda _: account_of(100_000), spend=SpendPolicy(max_usd=2.0))
    assert (record.cost, record.limit) == (Cost(), None)
    record.update_cost()
    assert (record.cost.min_usd, record.cost.max_usd) == (Decimal("0.1"), Decimal("0.1"))
    assert record.limit == (2, 0)


def test_a_policy_without_a_limit_shows_none():
    record = priced_record(lambda _: account_of(1))
    record.update_cost()
    assert record.limit is None


def test_a_failing_price_function_is_logged_once_and_not_called_again(caplog):
    asked = SimpleNamespace(times=0)

    def broken(provider, model):
        asked.times += 1
        raise ZeroDivisionError

    record = priced_record(lambda _: account_of(1), price_of=broken)
    for _ in range(3):
        record.update_cost()
    assert (asked.times, record.cost.unpriced) == (1, 1)
    assert [each.message for each in caplog.records] == ["the cost of the batch is unknown"]


def test_cost_updates_in_two_threads_end_in_the_order_they_start():
    inside, on = threading.Event(), threading.Event()

    def account(_):
        if inside.is_set():
            return account_of(200_000)
        inside.set()
        on.wait(5)
        return account_of(100_000)

    record = priced_record(account)
    first, last = (threading.Thread(target=record.update_cost) for _ in range(2))
    first.start()
    inside.wait(5)
    last.start()
    last.join(0.05)  # without the lock it would end within this time
    on.set()
    first.join()
    last.join()
    assert record.cost.min_usd == Decimal("0.2")
