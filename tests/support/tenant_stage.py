"""A stage with limits for tenants."""

from decimal import Decimal

from metering import price_of, usage
from stage import Stage, policy

from stormbreak.core.backoff import Backoff
from stormbreak.core.engine import Engine
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.tenant import TenantLimits
from stormbreak.cost.spend_gate import SpendAccounts
from stormbreak.types import Outcome, Verdict

RETRIES = RetryPolicy(max_attempts=3, backoff=Backoff(kind="constant", initial_delay=1.0))
DOLLAR = usage(into=1_000_000)  # at a large model
CENT = usage(into=10_000)
COMMITTED = Outcome(Verdict.OK, committed=True)


def limited(of=None, /, **tenants):
    """A stage with these limits for its tenants."""
    stage = Stage(of or policy(retry=RETRIES, patience=20.0))
    noon = 12 * 3600.0  # unix epoch seconds: no call waits for the next calendar day
    accounts = SpendAccounts(price_of, wall=lambda: noon)
    stage.engine = Engine(stage.engine.policy, accounts, tenants=tenants)
    return stage


def spending(usd, **more):
    return TenantLimits(spend=SpendPolicy(max_usd=usd, **more))


def shown(stage, name="acme"):
    return stage.engine.snapshot(stage.now)["tenants"][name]


def spent(stage, name="acme"):
    account = shown(stage, name)["spend"]
    return Decimal(account["spent"]), Decimal(account["reserved"])


def usd(spent, reserved):
    return Decimal(spent), Decimal(reserved)
