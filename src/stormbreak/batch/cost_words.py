"""What a batch has cost, for eyes."""

from decimal import Decimal

from stormbreak.batch.figures import short
from stormbreak.batch.spent import Cost, Limit
from stormbreak.cost.money import USD, between

_NOTHING = USD.shown(Decimal(0))


def dollars(least: str, most: str, *, unpriced: int, unbounded: int) -> str:
    """Write what is known and what it can be at the most, both as they are shown, and what is in neither."""
    said = f"{between(least, most)} USD" + (" or more" if unbounded else "")
    if not unpriced:
        return said
    besides = f"{short(unpriced)} attempts without a known price"
    return besides if most == _NOTHING else f"{said}, and {besides}"


def format_cost(cost: Cost, limit: Limit | None) -> str:
    """Write what a batch has cost, and how much of its limit that is; nothing of what is not known."""
    said = []
    if cost.is_known:
        least, most = USD.shown(cost.least), USD.shown(cost.most)
        said.append(dollars(least, most, unpriced=cost.unpriced, unbounded=cost.unbounded))
    if limit is not None:
        share = int(100 * limit.spent / limit.usd)
        said.append(f"{share} % of the {USD.exact(limit.usd)} USD that it may cost")
    return "; ".join(said)
