"""What a batch may cost: checked before anything is sent, and counted from run to run."""

from stormbreak.batch.plain import path_of
from stormbreak.batch.rows import Rows
from stormbreak.batch.spent import Account
from stormbreak.core.spend import PriceOf
from stormbreak.errors import ConfigurationError
from stormbreak.http.asking import NO_BOUND, Asking
from stormbreak.http.client import AsyncClient


def check_costs(rows: Rows, client: AsyncClient) -> None:
    """Look whether the first row can be held to a limit: others are refused one by one.

    Raises:
        ConfigurationError: it has no bound, or its model no price.
    """
    row = rows.row_at(0)
    asking = Asking(row.endpoint, row.body)
    target = client.target(asking.wanted.model)
    asking.bind(client.policy.spend.longest_answer, target.provider)
    where = f"{path_of(rows.path)}: row {row.custom_id!r}"
    if asking.bound() is None:
        why = asking.unbounded()
        hint = "; --longest-answer does for such rows" if why == NO_BOUND else ""
        raise ConfigurationError(f"{where}: {why}{hint}")
    prices = client.engine.payers.price_of and client.engine.payers.price_of(
        target.provider, target.model
    )
    if prices is None:
        raise ConfigurationError(
            f"{where}: no price is known of {target.model} at {target.provider}; --prices takes a file"
        )


def spent_before(client: AsyncClient, account: Account, price_of: PriceOf) -> None:
    """Let the limit of spending count what earlier runs can have cost at the most.

    Raises:
        ConfigurationError: a price is not known.
    """
    purse = client.engine.payers.purse(client.policy)
    if purse is not None:
        purse.spend(account.most(price_of))
