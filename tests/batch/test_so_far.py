"""What a batch has cost so far, looked at beside the run."""

import threading
from decimal import Decimal
from types import SimpleNamespace

from metering import prices

from stormbreak import AsyncClient
from stormbreak.batch.live_cost import LiveCost
from stormbreak.batch.token_ledger import Account, Cost, Spent, Tokens
from stormbreak.core.policy import Policy
from stormbreak.core.spend_policy import SpendPolicy


def spent(tokens):
    some = Tokens(attempts=1, input_tokens=tokens)
    return Account(spent=(Spent(provider="p", model="m", useful=some),))


class LedgerByPurpose:
    """A ledger whose account is looked up by a function."""

    def __init__(self, account):
        self._account = account

    @property
    def account(self):
        return self._account()


def so_far(account, *, price_of=prices, spend=None):
    client = AsyncClient(
        base_url="http://127.0.0.1:9/v1",
        policy=Policy(spend=spend or SpendPolicy()),
        prices=price_of,
    )
    return LiveCost(client, LedgerByPurpose(account))


def test_it_is_as_it_was_at_the_last_look():
    told = so_far(lambda: spent(100_000), spend=SpendPolicy(max_usd=2.0))
    assert (told.cost, told.limit) == (Cost(), None)
    told.look()
    assert (told.cost.least, told.cost.most) == (Decimal("0.1"), Decimal("0.1"))
    assert told.limit == (2, 0)


def test_without_a_limit_there_is_none():
    told = so_far(lambda: spent(1))
    told.look()
    assert told.limit is None


def test_prices_that_cannot_be_read_are_told_once_and_tried_no_more(caplog):
    asked = SimpleNamespace(times=0)

    def broken(provider, model):
        asked.times += 1
        raise ZeroDivisionError

    told = so_far(lambda: spent(1), price_of=broken)
    for _ in range(3):
        told.look()
    assert (asked.times, told.cost.unpriced) == (1, 1)
    assert [each.message for each in caplog.records] == ["what it costs cannot be told"]


def test_the_last_look_has_the_last_word():
    inside, on = threading.Event(), threading.Event()

    def account():
        if inside.is_set():
            return spent(200_000)
        inside.set()
        on.wait(30)
        return spent(100_000)

    told = so_far(account)
    first, last = (threading.Thread(target=told.look) for _ in range(2))
    first.start()
    inside.wait(30)
    last.start()
    last.join(0.05)  # it would be through by now, if it did not wait
    on.set()
    first.join()
    last.join()
    assert told.cost.least == Decimal("0.2")
