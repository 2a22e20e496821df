"""The spending of the workers of a batch: the parent's store grants money, after it has recorded the grant on disk.

Each worker reports the usage of its attempts. The sum goes into the run file, like the account of one process.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import reduce

from stormbreak.batch.store.durable_file import OutputError
from stormbreak.batch.store.output_files import Store
from stormbreak.batch.store.spend_record import future
from stormbreak.cost.accounts import NOTHING, Account, Cost, SpendLimit
from stormbreak.cost.price_source import PriceOf
from stormbreak.cost.spend_gate import MICRO, PART
from stormbreak.drivers.locks import new_lock
from stormbreak.fleet.lease_renewal import micro_dollars
from stormbreak.fleet.messages import Answer, Message
from stormbreak.fleet.parent_store import ParentStore

NOTHING_LEFT = 1e-9  # micro-dollars; 0 would be no limit


class BudgetStore(ParentStore):
    """The store of a parent process, with the money that earlier runs spent (`before`, in micro-dollars).

    Before money is granted, `write_ahead` is called with the total that may be spent, unless an earlier call covers it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.before = 0
        self.write_ahead: Callable[[int], object] = lambda _: None
        self._allowed = 0
        self._granting = new_lock()

    @property
    def taken(self) -> int:
        """Micro-dollars that workers have spent, or may still spend."""
        return int(
            sum(
                scope.unclaimed + sum(member.money for member in scope.members.values())
                for scope in list(self.scopes.values())
            )
        )

    def beat(self, messages: Sequence[Message]) -> list[Answer]:
        """Process reports; earlier spending counts as spent by others."""
        if not any(each.report.spend.limit for each in messages):
            return super().beat(messages)
        with self._granting:
            answers = super().beat([self._less_before(each) for each in messages])
            limit = max(int(each.report.spend.limit) for each in messages)
            needed = self.before + self.taken
            if needed > self._allowed:
                allowed = max(needed, min(limit, needed + limit // PART))
                self.write_ahead(allowed)
                self._allowed = allowed
        return [self._with_before(each) for each in answers]

    def _less_before(self, message: Message) -> Message:
        spend = message.report.spend
        if not spend.limit:
            return message
        spend = spend._replace(limit=max(NOTHING_LEFT, spend.limit - self.before))
        return message._replace(report=message.report._replace(spend=spend))

    def _with_before(self, answer: Answer) -> Answer:
        spend = answer.spend
        return answer._replace(spend=spend._replace(elsewhere=spend.elsewhere + self.before))


class SharedSpend:
    """The account of all workers and of earlier runs. `cost` and `limit` are as of the last `update_cost`."""

    def __init__(
        self, store: Store, budget: BudgetStore, *, price_of: PriceOf, max_usd: Decimal | None
    ) -> None:
        """Under a limit of `max_usd`, count the possible cost of earlier runs.

        Raises ConfigurationError if a price is unknown.
        """
        self.cost = Cost()
        self.limit: SpendLimit | None = None
        self._store = store
        self._budget = budget
        self._price_of = price_of
        self._max_usd = max_usd
        self._allowed = NOTHING
        self._accounts: dict[int, Account] = {}
        self._pauses: dict[str, float] = dict(store.pauses)
        self._lost = 0
        self._error: OutputError | None = None
        self._writing = new_lock()
        self._changed = False
        if max_usd is not None:
            budget.before = micro_dollars(store.run.account.max_cost(price_of))
            budget.write_ahead = self._write_ahead

    def note(self, worker: int, account: Account, pauses: Mapping[str, float]) -> None:
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

    def _write_ahead(self, micro: int) -> None:
        self._allowed = micro * MICRO
        try:
            self._write(at_work=True)
        except OutputError as error:
            self._error = error
            raise OSError from error  # the worker gets neither an answer nor money

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
            return replace(account, ahead=max(NOTHING, self._allowed - spent))
        if self._lost:
            granted = (self._budget.before + self._budget.taken) * MICRO
            account = replace(account, lost=account.lost + max(NOTHING, granted - spent))
        return account
