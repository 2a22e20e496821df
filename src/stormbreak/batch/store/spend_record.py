"""The spending of a batch: written to the run file during the run; under a limit, before the money is spent.

A killed process writes nothing more. So it may spend only what the run file allows; when little of that is left, the
file is written again with a higher allowance. The next run counts the whole allowance, however often a run was killed.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace

from stormbreak.batch.store.output_files import Store
from stormbreak.cost.accounts import Account, Cost, SpendLimit
from stormbreak.cost.meter import Meter
from stormbreak.cost.price_source import NOTHING, PriceOf, no_price
from stormbreak.cost.spend_gate import SpendAccount, spend_accounts
from stormbreak.drivers.locks import new_lock
from stormbreak.events import CooldownStarted
from stormbreak.http.client import AsyncClient

MAX_MODELS = 100_000  # models with their own bill; all others share one, which has no price

_log = logging.getLogger("stormbreak")


def metered(client: AsyncClient) -> Meter:
    """Count the tokens of `client` from now on, not dollars: prices load later and may change."""
    meter = Meter(lambda *_: None, max_names=MAX_MODELS, detailed=False)
    client.subscribe(meter)
    return meter


class SpendRecord:
    """The account of one run and of earlier ones.

    With `price_of`, from `open` on, the maximum cost of all runs is held to the spend limit of the client's policy.
    `cost` and `limit` are as of the last `update_cost`, at the client's prices.
    """

    def __init__(
        self, client: AsyncClient, store: Store, meter: Meter, price_of: PriceOf | None
    ) -> None:
        accounts = spend_accounts(client.engine)
        self.cost = Cost()
        self.limit: SpendLimit | None = None
        self._client = client
        self._store = store
        self._meter = meter
        self._list_price: PriceOf = accounts.price_of
        self._spend = accounts.account(client.policy.spend)
        self._bound: tuple[SpendAccount, PriceOf] | None = None
        if self._spend is not None and price_of is not None:
            self._bound = self._spend, price_of
        self._allowed = NOTHING
        self._pauses = dict(store.pauses)
        self._written_pauses = self._pauses
        # Writes and price lookups may outlive the run in their threads, so they must end in the order they start.
        self._writing = new_lock()
        self._pricing = new_lock()

    @property
    def account(self) -> Account:
        return self._store.run.account.plus(self._meter.snapshot(), at_work=True)

    @property
    def is_short(self) -> bool:
        """Whether little of the allowance until the next write is left."""
        if self._bound is None:
            return False
        spend, _ = self._bound
        return self._allowed < spend.limit and spend.room < spend.step / 2

    @property
    def is_behind(self) -> bool:
        """Whether a target named a time that is not yet written."""
        return self._pauses is not self._written_pauses

    def pause(self, event: CooldownStarted) -> None:
        """Keep a time that a target named, for the next run."""
        model = event.target.model
        if event.target == self._client.target(model):
            until = time.time() + event.until - time.monotonic()
            self._pauses = {**future(self._pauses), model: until}

    def open(self) -> None:
        """Respect times that targets named to earlier runs, count the possible cost of these, allow the first attempts.

        Raises ConfigurationError if a price is unknown, or the run file cannot be written.
        """
        retry, now = self._client.policy.retry, time.time()
        longest = retry.max_wait * (1 + retry.retry_after_jitter)  # the clock may have changed
        for model, until in future(self._pauses).items():
            self._client.pause(model, min(until - now, longest))
        if self._bound is not None:
            spend, price_of = self._bound
            spend.spend(self._store.run.account.max_cost(price_of))
            self.write()
            self.allow()

    def write(self) -> None:
        """Write what was spent and, under a limit, the next allowance. Blocks on the disk."""
        with self._writing:
            account = self.account
            if self._bound is not None:
                spend, price_of = self._bound
                upto = min(spend.limit, spend.taken + spend.step)
                self._allowed = max(self._allowed, upto)
                ahead = max(NOTHING, self._allowed - account.max_cost(price_of))
                account = replace(account, ahead=ahead)
            pauses = self._pauses
            self._store.note(account, pauses)
            self._written_pauses = pauses

    def allow(self) -> None:
        if self._bound is not None:
            self._client.may_spend(self._allowed)

    def close(self) -> None:
        with self._writing:
            self._store.note(replace(self.account, at_work=False), future(self._pauses))

    def update_cost(self) -> None:
        """Update `cost` and `limit`. Blocks: price lists load slowly."""
        spend = self._spend
        with self._pricing:
            self.limit = None if spend is None else SpendLimit(spend.limit, spend.spent)
            try:
                self.cost = self.account.cost(self._list_price)
            except Exception:  # noqa: BLE001 - such as a price list that is broken
                _log.warning("the cost of the batch is unknown", exc_info=True)
                self._list_price = no_price


def future(pauses: Mapping[str, float]) -> dict[str, float]:
    """Return the pauses that have not ended."""
    now = time.time()
    return {model: until for model, until in pauses.items() if until > now}
