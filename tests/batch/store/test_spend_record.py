"""What a run spends is in its run file before it is spent: whenever it is killed, the next one counts it."""

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
    """Keeps what is written of an account."""

    def __init__(self, account):
        self.run = SimpleNamespace(account=account.begin())
        self.written = []
        self.pauses = {}

    def note(self, account, pauses):
        self.written.append(account)
        self.pauses = pauses


class Scene:
    """A spend record, and what an attempt takes from the purse and puts on the bill."""

    def __init__(self, account=EARLIER, *, usd=1.0, limited=True):
        policy = Policy(spend=SpendPolicy(max_usd=usd))
        self.client = AsyncClient(
            base_url="http://127.0.0.1:9/v1", api_key="-", policy=policy, prices=price_of
        )
        self.purse = spend_accounts(self.client.engine).account(policy.spend)
        self.under_way = PricedSum()
        self.store = Store(account)
        self.record = SpendRecord(self.client, self.store, self, price_of if limited else None)
        self.record.open()

    def snapshot(self):
        target = Target("p", "m")
        return Bills(total=Bill(), targets={}, under_way={target: self.under_way})

    def send(self, tokens):
        cost = Decimal(tokens) / 10**6
        self.purse.reserve(cost, 0.0)
        self.under_way.put(usage(tokens), cost)

    @property
    def allowed_for(self):
        """By the run file as it is now."""
        return self.store.written[-1].max_cost(price_of)


def test_what_earlier_runs_have_cost_and_lost_is_spent_and_a_part_of_the_limit_allowed_for():
    scene = Scene()

    assert scene.purse.spent == Decimal("0.13")
    assert scene.purse.allowed == scene.allowed_for == Decimal("0.13") + Decimal(1) / PART
    assert not scene.record.is_short


def test_no_more_is_spent_than_is_written():
    scene = Scene()
    scene.send(11_000)
    assert scene.record.is_short
    assert scene.purse.room == Decimal("0.009")
    scene.record.write()
    assert scene.purse.room == Decimal("0.009")
    scene.record.allow()

    assert scene.purse.room == Decimal("0.02")
    assert scene.purse.allowed == scene.allowed_for == Decimal("0.161")
    assert scene.store.written[-1].ahead == Decimal("0.02")


def test_what_is_set_aside_and_on_no_bill_yet_is_allowed_for_as_well():
    scene = Scene()
    scene.purse.reserve(Decimal("0.011"), 0.0)
    scene.record.write()

    assert scene.allowed_for == Decimal("0.161")


def test_what_was_allowed_for_once_stays_so():
    scene = Scene()
    scene.send(11_000)
    scene.record.write()
    scene.record.allow()
    scene.purse.settle(Decimal("0.011"), Decimal(0), 0, 0.0)
    scene.under_way = PricedSum()
    scene.record.write()

    assert scene.allowed_for == scene.purse.allowed == Decimal("0.161")


def test_it_goes_on_to_the_limit_and_no_further():
    scene = Scene()
    for _ in range(86):
        scene.send(10_000)
        scene.record.write()
        scene.record.allow()

    assert scene.purse.allowed == scene.allowed_for == 1
    assert not scene.record.is_short


def test_a_row_that_costs_more_than_a_part_is_allowed_for():
    scene = Scene()
    scene.purse.largest = Decimal("0.1")
    assert scene.record.is_short
    scene.record.write()
    scene.record.allow()

    assert scene.purse.room == ATTEMPTS * Decimal("0.1")


def test_in_the_end_only_what_was_spent_is_written():
    scene = Scene()
    scene.record.write()
    assert scene.store.written[-1].at_work
    scene.record.close()

    assert scene.store.written[-1] == EARLIER


def test_without_a_limit_it_is_only_written():
    scene = Scene(limited=False)
    assert scene.store.written == []
    scene.send(900_000)
    assert not scene.record.is_short
    scene.record.write()

    assert scene.store.written[-1].spent[0].wasted_open.input_tokens == 900_000
    assert scene.store.written[-1].ahead == 0


def test_what_was_ahead_when_a_run_was_killed_is_lost():
    account = Account(at_work=True, ahead=Decimal(2), lost=Decimal(1), killed=1).begin()
    assert (account.killed, account.ahead, account.lost) == (2, 0, 3)

    assert Account(lost=Decimal(1)).begin().lost == 1


@pytest.mark.usefixtures("no_words_about_providers")
def test_a_batch_that_is_killed_soon_again_and_again_stays_within_its_limit(
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


def test_the_cost_is_that_of_the_last_update():
    record = priced_record(lambda _: account_of(100_000), spend=SpendPolicy(max_usd=2.0))
    assert (record.cost, record.limit) == (Cost(), None)
    record.update_cost()
    assert (record.cost.min_usd, record.cost.max_usd) == (Decimal("0.1"), Decimal("0.1"))
    assert record.limit == (2, 0)


def test_without_a_limit_there_is_none():
    record = priced_record(lambda _: account_of(1))
    record.update_cost()
    assert record.limit is None


def test_broken_prices_are_logged_once_and_not_tried_again(caplog):
    asked = SimpleNamespace(times=0)

    def broken(provider, model):
        asked.times += 1
        raise ZeroDivisionError

    record = priced_record(lambda _: account_of(1), price_of=broken)
    for _ in range(3):
        record.update_cost()
    assert (asked.times, record.cost.unpriced) == (1, 1)
    assert [each.message for each in caplog.records] == ["the cost of the batch is not known"]


def test_the_last_update_to_start_is_the_last_to_end():
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
    last.join(0.05)  # it would be through by now, if it did not wait
    on.set()
    first.join()
    last.join()
    assert record.cost.min_usd == Decimal("0.2")
