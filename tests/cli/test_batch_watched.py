"""What a batch that is looked at says of its cost."""

from decimal import Decimal

from stormbreak.batch.spent import Account, Spent, Tokens
from stormbreak.cli.batch_watched import _cost_of
from stormbreak.errors import ConfigurationError
from stormbreak.telemetry.state import CostState
from stormbreak.types import Usage

PRICED = Spent(
    provider="p",
    model="m",
    useful=Tokens(attempts=2, input_tokens=200, output_tokens=20),
    wasted=Tokens(attempts=1, input_tokens=50),
    useful_open=Tokens(attempts=1, input_tokens=10),
    wasted_open=Tokens(attempts=4, input_tokens=400),
)


class PerToken:
    def cost_of(self, usage: Usage) -> Decimal:
        return Decimal(usage.input_tokens + usage.output_tokens) / 100


def price_of(provider, model):
    return PerToken() if (provider, model) == ("p", "m") else None


def test_what_is_known_and_what_it_can_be():
    unpriced = Spent(provider="p", model="n", useful=Tokens(attempts=7))
    account = Account(spent=(PRICED, unpriced), lost=Decimal("0.5"))
    assert _cost_of(lambda: account, price_of) == CostState(least=2.7, most=7.3, unpriced=7)


def test_without_a_price_list_nobody_knows():
    def refuse(*_):
        raise ConfigurationError("no price list")

    assert _cost_of(lambda: Account(spent=(PRICED,)), refuse) is None
