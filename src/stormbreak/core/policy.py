"""A policy: the whole configuration of how calls are treated, as one frozen value."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.breaker_policy import BreakerPolicy, check_verdict_lists, tallied
from stormbreak.core.checks import check_types, require, require_positive
from stormbreak.core.concurrency_limit import Limit
from stormbreak.core.fallback_policy import CachePolicy, Fallback
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.queue_order import QueuePolicy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.core.shadow import ShadowPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.types import Priority, Treatment, Verdict

# ---------------------------------------------------------------- bounds of numbers
# Windows are cut into slices, and rates become seconds: with 1e-310 the quotient overflows, and 1e300 plus a time does
# not change. So a number other than 0 must be within bounds that no sensible value exceeds.

SMALLEST = 1e-6
LARGEST = 1e12


def check_magnitudes(part: Any, path: str = "") -> None:
    """Raise ConfigurationError for the first number in `part`, at any depth, that is out of bounds; names its path."""
    if isinstance(part, int | float):
        if part and not SMALLEST <= abs(part) <= LARGEST:
            rule = f"must be at least {SMALLEST:g} and at most {LARGEST:g}"
            require(False, f"{path.removeprefix('.')} {rule}", part)
    elif isinstance(part, tuple):
        for place, below in enumerate(part):
            check_magnitudes(below, f"{path}[{place}]")
    elif is_dataclass(part):
        for each in fields(part):
            check_magnitudes(getattr(part, each.name), f"{path}.{each.name}")
    elif isinstance(part, Mapping):
        for key, below in part.items():
            check_magnitudes(below, f"{path}.{key}")


# ---------------------------------------------------------------- policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How calls are treated. Durations are seconds; None means unbounded, or absent for a part.

    Parts (`retry`, `breaker`, `limit`, ...) are values with their own docstrings; docs/policies.md shows
    all, and `dataclasses.replace(policy, patience=5.0)` changes one. Invalid values raise ConfigurationError.

    `deadline` bounds a call over all attempts and waits; `patience` bounds the time that it waits unserved.
    `attempt_timeout` bounds one attempt, `idle_timeout` the silence within it, `stall_timeout` the silence of a stream
    after its first output. An open circuit rejects `fail_fast` calls; other calls wait for it. With `cooldown`, a
    Retry-After holds every call to the target, not only the one that got it. `failures` are further verdicts that the
    breaker counts as failures, `ignored` those that it does not count. With `adaptive_rate`, repeated 429s limit the
    send rate. `process_share` is this process's share of `rate_limit`, of reported limits and of a fixed `limit`;
    adaptive limits need none. `spend` bounds the cost of all attempts. Processes of one `fleet` share these limits
    through a store. With `hedge`, another attempt is sent beside a slow one. `shadow` is a policy that is reported but
    not applied. `fallback` lists rules, tried in order, for calls that their target cannot answer; `cache` configures
    the cache for rules that give cached answers.
    """

    deadline: float | None = 600.0
    patience: float | None = 20.0
    attempt_timeout: float | None = 600.0
    idle_timeout: float | None = None
    stall_timeout: float | None = 120.0
    fail_fast: bool = False
    cooldown: bool = True
    priority: Priority = Priority.INTERACTIVE
    failures: tuple[Verdict, ...] = ()
    ignored: tuple[Verdict, ...] = ()
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    retry_budget: BudgetPolicy | None = field(default_factory=BudgetPolicy)
    breaker: BreakerPolicy | None = field(default_factory=BreakerPolicy)
    limit: Limit = field(default_factory=AutomaticLimit)
    adaptive_rate: bool = True
    rate_limit: RateLimitPolicy = field(default_factory=RateLimitPolicy)
    process_share: float = 1.0
    spend: SpendPolicy = field(default_factory=SpendPolicy)
    fleet: FleetPolicy = field(default_factory=FleetPolicy)
    queue: QueuePolicy = field(default_factory=QueuePolicy)
    hedge: HedgePolicy | None = None
    fallback: tuple[Fallback, ...] = ()
    cache: CachePolicy = field(default_factory=CachePolicy)
    shadow: ShadowPolicy | None = None

    def __post_init__(self) -> None:
        check_types(self)
        spans = ("deadline", "patience", "attempt_timeout", "idle_timeout", "stall_timeout")
        require_positive(self, *spans)
        require(
            0 < self.process_share <= 1,
            "process_share must be above 0 and at most 1",
            self.process_share,
        )
        urgency = self.priority
        require(isinstance(urgency, Priority), "priority must be a Priority", repr(urgency))
        check_magnitudes(self)
        check_verdict_lists(self.failures, self.ignored)

    def shadow_overrides(self) -> ShadowPolicy:
        """Return the parts of this policy that a shadow can decide; `ShadowPolicy` lists the others."""
        return ShadowPolicy(
            failures=self.failures,
            ignored=self.ignored,
            fail_fast=self.fail_fast,
            retry=self.retry,
            retry_budget=self.retry_budget,
            breaker=self.breaker,
            limit=self.limit,
            adaptive_rate=self.adaptive_rate,
            rate_limit=self.rate_limit if self.rate_limit.acts else None,
        )

    @property
    def reserves(self) -> bool:
        """Whether tokens, or their cost, are reserved before a call is sent."""
        return self.rate_limit.acts or self.spend.acts

    @property
    def treatments(self) -> Mapping[Verdict, Treatment]:
        """The verdict table under this policy."""
        table = tallied(self.failures, self.ignored)
        if self.cooldown:
            return table
        return {verdict: row._replace(cools=False) for verdict, row in table.items()}
