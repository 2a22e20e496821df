"""A stage with a meter and simple prices: 1 dollar per million tokens of input, 10 of output."""

from decimal import Decimal

from stage import Stage, policy

from stormbreak.core.backoff import Backoff
from stormbreak.core.retry import RetryPolicy
from stormbreak.cost.meter import Meter
from stormbreak.cost.token_prices import Prices, Rate, Rates, Source
from stormbreak.types import Outcome, Usage, Verdict

RETRIES = RetryPolicy(max_attempts=3, backoff=Backoff(kind="constant", initial_delay=0.1))


def prices(provider, model, *, into="1", out="10", cached="0.1", written=None, hour=None):
    """The prices of `provider`."""
    rates = Rates(
        input=Rate(Decimal(into)),
        output=Rate(Decimal(out)),
        cached_input=Rate(Decimal(cached)),
        cache_write=Rate(Decimal(written)) if written else None,
        cache_write_1h=Rate(Decimal(hour)) if hour else None,
    )
    return Prices(
        provider=provider, model=model, standard=rates, listed_as=model, source=Source(name="test")
    )


def price_of(provider, model):
    """The price of a target: `small` costs a tenth, `secret` has no price."""
    if model == "secret":
        return None
    if model == "small":
        return prices(provider, model, into="0.1", out="1", cached="0.01")
    return prices(provider, model)


def usage(into=0, out=0, cached=0, written=0, hour=0):
    return Usage(
        input_tokens=into,
        output_tokens=out,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=hour,
    )


def answer(into=0, out=0, cached=0):
    return Outcome(Verdict.OK, usage=usage(into, out, cached))


def usd(text):
    return Decimal(text)


def metered(**changes):
    """A stage and its meter."""
    stage = Stage(policy(**{"retry": RETRIES, **changes}))
    meter = Meter(price_of)
    stage.engine.listeners.append(meter)
    return stage, meter
