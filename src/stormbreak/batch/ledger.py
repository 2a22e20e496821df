"""What a batch spends, written down while it does: under a limit before it is spent.

A process that is killed writes nothing more. So no more may be spent than the run file allows for; when little is left of
that, it is written anew, with more. Whoever goes on counts all of it, however often a run was killed.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

from stormbreak.batch.store.output_files import Store
from stormbreak.batch.token_ledger import Account
from stormbreak.core.spend_account import Purse
from stormbreak.core.spend_policy import PriceOf
from stormbreak.cost.bill import NOTHING
from stormbreak.cost.meter import Meter
from stormbreak.drivers.locks import new_lock
from stormbreak.events import CooldownStarted
from stormbreak.http.client import AsyncClient

PART = 50  # of the limit is allowed for at a time ...
ATTEMPTS = 4  # ... or what so many attempts can cost, where that is more


class Ledger:
    """The account of one run and of those before it.

    With `price_of`, what all of them can have cost is held to the limit of the client's policy, from `open` on.
    """

    def __init__(
        self, client: AsyncClient, store: Store, meter: Meter, price_of: PriceOf | None
    ) -> None:
        self._client = client
        self._store = store
        self._meter = meter
        self._limit: tuple[Purse, PriceOf] | None = None
        self._allowed = NOTHING
        self._pauses = dict(store.pauses)
        self._noted = self._pauses
        # A write that is under way when the run ends goes on in its thread.
        self._writing = new_lock()
        purse = client.engine.payers.purse(client.policy)
        if purse is not None and price_of is not None:
            self._limit = purse, price_of

    @property
    def account(self) -> Account:
        """What all runs have spent by now."""
        return self._store.run.account.plus(self._meter.snapshot(), at_work=True)

    @property
    def is_short(self) -> bool:
        """Whether little is left of what may be spent before it is written anew."""
        if self._limit is None:
            return False
        purse, _ = self._limit
        return self._allowed < purse.limit and purse.room < _step(purse) / 2

    @property
    def is_behind(self) -> bool:
        """Whether a target named a time that is not written yet."""
        return self._pauses is not self._noted

    def pause(self, event: CooldownStarted) -> None:
        """Take note of a time that a target named, so that the next run obeys it, too."""
        model = event.target.model
        if event.target == self._client.target(model):
            until = time.time() + event.until - time.monotonic()
            self._pauses = {**_still(self._pauses), model: until}

    def open(self) -> None:
        """Obey times that targets named to earlier runs; count what these can have cost, and allow for the first attempts.

        Raises:
            ConfigurationError: a price is not known, or the run file cannot be written.
        """
        policy, now = self._client.policy, time.time()
        longest = policy.retry.max_wait * (
            1 + policy.retry.retry_after_jitter
        )  # whatever a clock says
        for model, until in _still(self._pauses).items():
            self._client.pause(model, min(until - now, longest))
        if self._limit is not None:
            purse, price_of = self._limit
            purse.spend(self._store.run.account.most(price_of))
            self.write()
            self.allow()

    def write(self) -> None:
        """Write down what is spent, and under a limit how far that may go; blocks for as long as the disk takes."""
        with self._writing:
            self._write()

    def _write(self) -> None:
        account = self.account
        if self._limit is not None:
            purse, price_of = self._limit
            upto = min(purse.limit, purse.taken + _step(purse))
            self._allowed = max(self._allowed, upto)
            account = replace(account, ahead=max(NOTHING, self._allowed - account.most(price_of)))
        pauses = self._pauses
        self._store.note(account, pauses)
        self._noted = pauses

    def allow(self) -> None:
        """Let it go as far as was written."""
        if self._limit is not None:
            self._client.may_spend(self._allowed)

    def close(self) -> None:
        """Write down what it was in the end."""
        with self._writing:
            self._store.note(replace(self.account, at_work=False), _still(self._pauses))


def _still(pauses: Mapping[str, float]) -> dict[str, float]:
    """Those that are not over."""
    now = time.time()
    return {model: until for model, until in pauses.items() if until > now}


def _step(purse: Purse) -> Decimal:
    return max(purse.limit / PART, ATTEMPTS * purse.largest)
