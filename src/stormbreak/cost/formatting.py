"""Short forms of counts, times and dollars."""

from decimal import Decimal

from stormbreak.cost.accounts import Cost, SpendLimit
from stormbreak.cost.money import USD, between


def short(count: int) -> str:
    """Format a large count in about four characters."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)


def span(seconds: float) -> str:
    """Format seconds as minutes and seconds, or as hours, minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


_NOTHING = USD.shown(Decimal(0))


def dollars(low: str, high: str, *, unpriced: int, unbounded: int) -> str:
    """Format the bounds of a cost, given as text, and the attempts that are not in them."""
    text = f"{between(low, high)} USD" + (" or more" if unbounded else "")
    if not unpriced:
        return text
    more = f"{short(unpriced)} attempts without a known price"
    return more if high == _NOTHING else f"{text}, and {more}"


def format_cost(cost: Cost, limit: SpendLimit | None) -> str:
    """Format the cost of a batch, and the share of its limit; leave out unknown parts."""
    parts = []
    if cost.is_known:
        low, high = USD.shown(cost.min_usd), USD.shown(cost.max_usd)
        parts.append(dollars(low, high, unpriced=cost.unpriced, unbounded=cost.unbounded))
    if limit is not None:
        share = int(100 * limit.spent / limit.usd)
        parts.append(f"{share} % of the {USD.exact(limit.usd)} USD that it may cost")
    return "; ".join(parts)
