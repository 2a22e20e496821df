"""What a batch has cost so far, worked out beside the run that spends it."""

import logging

from stormbreak.batch.ledger import Ledger
from stormbreak.batch.token_ledger import Cost, Limit
from stormbreak.cost.price_table import PriceOf
from stormbreak.cost.spend_gate import spend_accounts
from stormbreak.drivers.locks import new_lock
from stormbreak.http.client import AsyncClient

_log = logging.getLogger("stormbreak")


class LiveCost:
    """The `cost` of all runs on OUTPUT at the client's prices, and the `limit` that it has, as they were at the last look."""

    def __init__(self, client: AsyncClient, ledger: Ledger) -> None:
        accounts = spend_accounts(client.engine)
        self.cost = Cost()
        self.limit: Limit | None = None
        self._ledger = ledger
        self._price_of: PriceOf = accounts.price_of
        self._spend_account = accounts.account(client.policy.spend)
        # Without it an earlier look, which took long, might have the last word.
        self._looking = new_lock()

    def look(self) -> None:
        """Work it out. Blocks: price lists take long to load."""
        account = self._spend_account
        with self._looking:
            self.limit = None if account is None else Limit(account.limit, account.spent)
            try:
                self.cost = self._ledger.account.cost(self._price_of)
            except Exception:  # noqa: BLE001 - such as a price list that is broken
                _log.warning("what it costs cannot be told", exc_info=True)
                self._price_of = _nobody_knows


def _nobody_knows(_provider: str, _model: str) -> None:
    """Price nothing."""
