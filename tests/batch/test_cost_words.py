"""The text for the cost of a batch."""

from decimal import Decimal

from table_test import table_test

from stormbreak.cost.accounts import Cost, SpendLimit
from stormbreak.cost.formatting import format_cost


def cost(low="0", high="0", **changes):
    counts = {"priced": 5, "unpriced": 0, "unbounded": 0} | changes
    return Cost(min_usd=Decimal(low), max_usd=Decimal(high), **counts)


LIMIT = SpendLimit(Decimal(20), Decimal("4.5"))


@table_test(
    ("cost", "limit", "text"),
    [
        (Cost(), None, ""),
        (cost(priced=0), None, ""),
        (cost(priced=0, unpriced=9), None, ""),
        (cost("1.5", "1.5"), None, "1.50 USD"),
        (cost("0.001", "0.004"), None, "<0.01 USD"),
        (cost("1234.5", "2345.674"), None, "1,234.50 to 2,345.67 USD"),
        (cost("1", "2", unbounded=3), None, "1.00 to 2.00 USD or more"),
        (cost("1", "1", unpriced=1_500), None, "1.00 USD, and 1.5 k attempts without a known price"),
        (cost("0", "0", unpriced=2), None, "2 attempts without a known price"),
        (cost("4", "4.5"), LIMIT, "4.00 to 4.50 USD; 22 % of the 20.00 USD that it may cost"),
        (cost(priced=0), LIMIT, "22 % of the 20.00 USD that it may cost"),
        (Cost(), SpendLimit(Decimal("0.5"), Decimal(0)), "0 % of the 0.50 USD that it may cost"),
    ],
)  # fmt: skip
def test_format_cost_shows_amount_limit_and_attempts_without_a_price(cost, limit, text):
    assert format_cost(cost, limit) == text
