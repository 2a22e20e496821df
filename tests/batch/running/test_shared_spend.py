"""The spend store of the parent of workers: it writes before it grants, and never exceeds the limit."""

from decimal import Decimal
from types import SimpleNamespace

import pytest
from metering import prices

from stormbreak.batch.running.shared_spend import SharedSpend
from stormbreak.batch.store.durable_file import OutputError
from stormbreak.core.spend_policy import MICRO
from stormbreak.cost.accounts import Account, ModelUsage, TokenSum
from stormbreak.cost.spend_gate import PART
from stormbreak.fleet.messages import Message, Report, SpendReport
from stormbreak.fleet.parent_store import ParentStore

LIMIT = 1_000_000  # micro-dollars


def spent(tokens):
    """An account, at a dollar for a million tokens."""
    return Account(
        spent=(
            ModelUsage(provider="p", model="m", useful=TokenSum(attempts=1, input_tokens=tokens)),
        )
    )


class Worker:
    """A member that asks for money, and spends all of it."""

    def __init__(self, name, fleet):
        self.name = name
        self.fleet = fleet
        self.granted = 0.0
        self.elsewhere = 0.0

    def ask(self, more):
        spend = SpendReport(
            limit=LIMIT,
            started=1.0 if self.granted else 0.0,
            granted=self.granted,
            spent=self.granted,
            needed=self.granted + more,
        )
        (answer,) = self.fleet.beat([Message("batch/spend", self.name, Report(spend=spend))])
        got = answer.spend.granted - self.granted
        self.granted, self.elsewhere = answer.spend.granted, answer.spend.elsewhere
        return got


class Scene:
    def __init__(self, before=100_000):
        self.written = []
        store = SimpleNamespace(
            run=SimpleNamespace(account=spent(before)), pauses={}, note=self.note
        )
        self.spend = SharedSpend(store, price_of=prices, max_usd=Decimal(LIMIT) * MICRO)
        self.fleet = ParentStore(record=self.spend)
        self.workers = [Worker(name, self.fleet) for name in "ab"]
        self.breaks = False

    def note(self, account, pauses):
        if self.breaks:
            raise OutputError("disk full")
        self.written.append(account)

    def allowed(self):
        """The spend that the run file allows, in micro-dollars."""
        return int(self.written[-1].max_cost(prices) / MICRO)


@pytest.fixture
def make_scene():
    made = []

    def make(**options):
        made.append(Scene(**options))
        return made[-1]

    yield make
    for scene in made:
        scene.fleet.folder.rmdir()


@pytest.fixture
def scene(make_scene):
    return make_scene()


def test_grants_are_written_first_and_end_at_the_limit(scene):
    turns = 0
    while sum(worker.ask(7_000) for worker in scene.workers):
        granted = 100_000 + sum(worker.granted for worker in scene.workers)
        assert granted <= scene.allowed() <= LIMIT
        turns += 1
    assert LIMIT - 7_000 < granted <= LIMIT
    assert len(scene.written) <= 2 * PART
    assert turns > 20
    first, second = scene.workers
    assert first.ask(7_000) == second.ask(7_000) == first.ask(7_000) == 0
    # So a worker knows that no grant will follow.
    assert first.elsewhere >= 100_000 + second.granted


def test_a_limit_already_reached_grants_nothing(make_scene):
    scene = make_scene(before=LIMIT + 1)
    assert scene.workers[0].ask(1) == 0
    assert scene.workers[0].elsewhere > LIMIT


def test_the_grant_of_a_lost_worker_counts_as_spent(scene):
    first, second = scene.workers
    granted = first.ask(10_000) + second.ask(10_000)
    scene.spend.add(0, spent(9_000), {"m": 5.0})
    scene.spend.add(1, spent(1_000), {})
    scene.spend.lose()
    scene.spend.close()
    account = scene.written[-1]
    assert (account.killed, account.at_work, account.ahead) == (1, False, 0)
    assert account.lost == (Decimal(granted) - 10_000) * MICRO
    assert account.max_cost(prices) == Decimal(100_000 + granted) * MICRO


def test_a_failed_write_grants_nothing_and_ends_the_run(scene):
    scene.breaks = True
    for _ in range(2):  # it was not written: the next one has to be
        with pytest.raises(OSError):
            scene.workers[0].ask(10)
    with pytest.raises(OutputError, match="disk full"):
        scene.spend.write()
