"""The spending of the workers of a batch: the parent's store grants money, after it has recorded the grant on disk.

Each worker reports the usage of its attempts. The sum goes into the run file, like the account of one process.
"""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from functools import reduce

from stormbreak.batch.store.durable_file import OutputError
from stormbreak.batch.store.output_files import Store
from stormbreak.batch.store.spend_record import future
from stormbreak.core.spend_policy import MICRO
from stormbreak.cost.accounts import Account, Cost, SpendLimit
from stormbreak.cost.price_source import NOTHING, PriceOf
from stormbreak.cost.spend_gate import PART
from stormbreak.drivers.locks import new_lock
from stormbreak.fleet.lease_renewal import micro_dollars
from stormbreak.fleet.parent_store import Money


class SharedSpend:
    """The account of all workers and of earlier runs: the record of the parent's store.

    `cost` and `limit` are as of the last `update_cost`.
    """

    def __init__(self, store: Store, *, price_of: PriceOf, max_usd: Decimal | None) -> None:
        """Under a limit of `max_usd`, count the possible cost of earlier runs.

        Raises ConfigurationError if a price is unknown.
        """
        self.cost = Cost()
        self.limit: SpendLimit | None = None
        self._store = store
        self._price_of = price_of
        self._max_usd = max_usd
        # In micro-dollars: what may have been spent, by earlier runs too, and how much of it is written.
        self._taken = self._allowed = 0
        self._accounts: dict[int, Account] = {}
        self._pauses: dict[str, float] = dict(store.pauses)
        self._lost = 0
        self._error: OutputError | None = None
        self._writing = new_lock()
        self._changed = False
        if max_usd is not None:
            self._taken = micro_dollars(store.run.account.max_cost(price_of))

    def restored(self, _scope: str) -> Money | None:
        return Money(float(self._taken), ends_in=None) if self._taken else None

    def note(self, _scope: str, money: Money, limit: float) -> bool:
        """Write more than the workers may spend, unless that is written; raise OSError if it cannot be."""
        self._taken = taken = int(money.micro)
        before = self._allowed
        if taken > before:
            self._allowed = max(taken, min(int(limit), taken + int(limit) // PART))
            try:
                self._write(at_work=True)
            except OutputError as error:
                self._error, self._allowed = error, before
                raise OSError from error  # the worker gets neither an answer nor money
        return True

    def add(self, worker: int, account: Account, pauses: Mapping[str, float]) -> None:
        self._accounts[worker] = account
        for model, until in pauses.items():
            self._pauses[model] = max(until, self._pauses.get(model, 0.0))
        self._changed = True

    def lose(self) -> None:
        """Handle a killed worker: its grant may be spent."""
        self._lost += 1
        self._changed = True

    def write(self) -> None:
        """Write what was spent, if it has changed. Blocks on the disk.

        Raises OutputError if it cannot be written, now or for a worker that wanted money.
        """
        if self._error is not None:
            raise self._error
        if self._changed:
            self._changed = False
            self._write(at_work=True)

    def close(self) -> None:
        self._write(at_work=False)

    def update_cost(self) -> None:
        account = self._account(at_work=True)
        self.cost = account.cost(self._price_of)
        if self._max_usd is not None:
            spent = replace(account, ahead=NOTHING).max_cost(self._price_of)
            self.limit = SpendLimit(self._max_usd, spent)

    def _write(self, *, at_work: bool) -> None:
        with self._writing:
            self._store.note(self._account(at_work=at_work), future(self._pauses))

    def _account(self, *, at_work: bool) -> Account:
        account = reduce(Account.merged, list(self._accounts.values()), self._store.run.account)
        account = replace(account, at_work=at_work, killed=account.killed + self._lost)
        if self._max_usd is None:
            return account
        spent = account.max_cost(self._price_of)
        if at_work:
            return replace(account, ahead=max(NOTHING, self._allowed * MICRO - spent))
        if self._lost:
            lost = max(NOTHING, self._taken * MICRO - spent)
            account = replace(account, lost=account.lost + lost)
        return account
