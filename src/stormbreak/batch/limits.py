"""Whether a batch can be held to a limit of spending: checked before anything is sent."""

from stormbreak.batch.plain import path_of
from stormbreak.batch.rows import Rows
from stormbreak.errors import ConfigurationError
from stormbreak.http.asking import NO_BOUND, Asking
from stormbreak.http.client import AsyncClient


def check_cost(rows: Rows, index: int, client: AsyncClient) -> None:
    """Look whether a row, the first that will be sent, can be held to a limit: others are refused one by one.

    Raises:
        ConfigurationError: it has no bound, or its model no price.
    """
    row = rows.row_at(index)
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
