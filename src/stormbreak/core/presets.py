"""Policies by name.

`interactive` is the default, with automatic limits; `batch` is the same without a deadline; `article` has
the numbers of the founding article without its mistakes; `off` sends once and limits nothing.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.queue_order import QueuePolicy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.types import Priority, Verdict

INTERACTIVE = Policy()

BATCH = Policy(
    deadline=None,
    patience=None,
    priority=Priority.BATCH,
    rate_limit=RateLimitPolicy(learn_from_headers=True),
    queue=QueuePolicy(max_size=1_000_000),
)

ARTICLE = Policy(
    deadline=None,
    patience=300.0,
    attempt_timeout=30.0,
    fail_fast=True,
    failures=(Verdict.THROTTLED,),
    retry=RetryPolicy(
        max_attempts=6,
        backoff=Backoff(
            kind="proportional_jitter",
            initial_delay=1.0,
            factor=2.0,
            max_delay=60.0,
            jitter=0.3,
            min_delay=0.1,
        ),
        longer_backoff_on=(504,),
    ),
    retry_budget=None,
    breaker=BreakerPolicy(
        trip=ConsecutiveFailures(failure_threshold=5),
        open_duration=30.0,
        open_duration_jitter=0.0,
        open_duration_factor=1.0,
        probes=3,
        max_concurrent_probes=3,
        success_ratio=0.5,
        reopen_on_any_failure=True,
    ),
    limit=FixedLimit(max_in_flight=10),
    adaptive_rate=False,
)

ARTICLE_BODY: Mapping[str, float] = {"temperature": 0.7, "max_tokens": 1000}
"""The fields of the article's batch; the values of a row take precedence."""

OFF = Policy(
    deadline=None,
    patience=None,
    attempt_timeout=None,
    stall_timeout=None,
    cooldown=False,
    retry=RetryPolicy(max_attempts=1),
    retry_budget=None,
    breaker=None,
    limit=FixedLimit(max_in_flight=1_000_000_000),
    adaptive_rate=False,
)

PRESETS: Mapping[str, Policy] = {
    "interactive": INTERACTIVE,
    "batch": BATCH,
    "article": ARTICLE,
    "off": OFF,
}


def for_batch(policy: Policy) -> Policy:
    """Return the policy for a batch: it waits instead of failing fast (the article: 60 s per attempt)."""
    timeout = 60.0 if policy == ARTICLE else policy.attempt_timeout
    return replace(policy, fail_fast=False, patience=None, attempt_timeout=timeout)


def body_defaults(policy: Policy) -> Mapping[str, float]:
    """Return default fields of batch bodies under `policy`: empty except for the article's."""
    return ARTICLE_BODY if policy == ARTICLE else MappingProxyType({})


def is_off(policy: Policy) -> bool:
    """Whether this is `off`, with any time bounds and limits."""
    bare = replace(
        policy,
        deadline=None,
        attempt_timeout=None,
        idle_timeout=None,
        stall_timeout=None,
        limit=OFF.limit,
        rate_limit=OFF.rate_limit,
        spend=OFF.spend,
        fleet=OFF.fleet,
        process_share=OFF.process_share,
    )
    return bare == OFF
