"""Defaults of policies: a change here changes the behaviour for users."""

import pytest
from table_test import table_test

from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy, State
from stormbreak.core.circuit_snapshot import CircuitSnapshot
from stormbreak.core.concurrency_limit import AimdLimit, FixedLimit
from stormbreak.core.fallback_policy import CachePolicy, Place, ToTargets
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.policy import Policy
from stormbreak.core.queue_order import QueuePolicy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.core.shadow import ShadowPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.tenant import TenantLimits
from stormbreak.core.trip import ConsecutiveFailures, FailureRate, SlowRate
from stormbreak.errors import ConfigurationError
from stormbreak.types import Verdict

MINUTE, DAY = 60.0, 86_400.0


@table_test(
    ("policy", "defaults"),
    [
        (
            Policy(),
            {"deadline": 10 * MINUTE, "patience": 20.0, "attempt_timeout": 10 * MINUTE, "idle_timeout": None,
             "stall_timeout": 2 * MINUTE, "fail_fast": False, "cooldown": True, "adaptive_rate": True,
             "process_share": 1.0, "hedge": None, "shadow": None, "failures": (), "ignored": ()},
        ),
        (
            RetryPolicy(),
            {"max_attempts": 6, "min_time_left": 0.5, "max_wait": 15 * MINUTE, "retry_after_jitter": 0.5},
        ),
        (
            Backoff(),
            {"kind": "full_jitter", "initial_delay": 1.0, "max_delay": MINUTE, "jitter": 0.3, "min_delay": 0.1},
        ),
        (
            BudgetPolicy(),
            {"ratio": 0.1, "capacity": 10.0, "decay_time": MINUTE, "low_traffic_calls": 10,
             "low_traffic_window": 30.0, "low_traffic_retries": 2, "no_free_retries": False},
        ),
        (
            BreakerPolicy(),
            {"open_duration": 0.75, "open_duration_jitter": 0.25, "open_duration_factor": 1.1,
             "max_open_duration": 5.0, "respect_retry_after": True, "probes": 3, "max_concurrent_probes": 3,
             "success_ratio": 0.33, "reopen_on_any_failure": False, "probe_lease": MINUTE,
             "max_half_open_duration": 15 * MINUTE},
        ),
        (ConsecutiveFailures(), {"failure_threshold": 5}),
        (FailureRate(), {"ratio": 0.8, "min_calls": 10}),
        (SlowRate(), {"ratio": 0.8, "slow_call_threshold": MINUTE, "min_calls": 10}),
        (AutomaticLimit(), {"max_in_flight": 256, "headroom_factor": 1.5, "headroom": 2.0}),
        (
            AimdLimit(),
            {"initial_in_flight": 20, "increase": 4.0, "decrease_factor": 0.8, "min_in_flight": 1,
             "max_in_flight": 256, "slow_call_threshold": None},
        ),
        (FixedLimit(), {"max_in_flight": 256}),
        (QueuePolicy(), {"max_size": 10_000, "max_pause": 15 * MINUTE, "min_share": 0.05}),
        (
            RateLimitPolicy(),
            {"rpm": None, "tpm": None, "burst_seconds": 1.0, "learn_from_headers": False, "acts": False},
        ),
        (SpendPolicy(), {"max_usd": None, "period": None, "acts": False}),
        (HedgePolicy(), {"delay": None, "percentile": 0.95, "max_hedges": 1}),
        (ShadowPolicy(), {"adaptive_rate": False}),
        (Place(model="small"), {"weight": 1.0}),
        (ToTargets(targets=(Place(model="small"),)), {"max_wait": 2.0}),
        (CachePolicy(), {"max_age": DAY, "max_bytes": 268_435_456}),
        (
            FleetPolicy(),
            {"url": None, "name": "default", "fallback": "share", "on_store_loss": "reject", "spend": True,
             "acts": False},
        ),
    ],
)  # fmt: skip
def test_each_policy_has_its_defaults(policy, defaults):
    assert {name: getattr(policy, name) for name in defaults} == defaults


@table_test(
    ("policy", "values"),
    [
        (Policy, {"patience": "long"}),
        (Policy, {"process_share": 0.0}),
        (Policy, {"process_share": 1.5}),
        (Policy, {"failures": (Verdict.THROTTLED,), "ignored": (Verdict.THROTTLED,)}),
        (RetryPolicy, {"max_attempts": "six"}),
        (FixedLimit, {"max_in_flight": "all"}),
        (AutomaticLimit, {"max_in_flight": "all"}),
        (SpendPolicy, {"max_usd": "much"}),
        (SpendPolicy, {"max_usd": 0.0}),
        (SpendPolicy, {"period": 0.0}),
        (SpendPolicy, {"max_output_tokens": 0}),
        (TenantLimits, {"rpm": "many"}),
        (TenantLimits, {"rpm": 0.0}),
        (TenantLimits, {"rpm": 1e-9}),
        (FleetPolicy, {"spend": "some"}),
        (FleetPolicy, {"name": ""}),
        (FleetPolicy, {"name": "a/b"}),
        (FleetPolicy, {"name": "a\n"}),
        (FleetPolicy, {"url": "redis://:secret@host"}),
        (FleetPolicy, {"url": "redis://host?password=secret"}),
        (CircuitSnapshot, {"state": State.OPEN, "open_left": "long", "open_for": 1.0}),
    ],
)
def test_an_invalid_value_is_rejected_at_once(policy, values):
    with pytest.raises(ConfigurationError):
        policy(**values)


def test_extreme_values_are_valid():
    assert SpendPolicy(max_output_tokens=1).max_output_tokens == 1
    assert Policy(process_share=1.0).process_share == 1.0
    assert SpendPolicy(max_usd=1.0).acts


def test_a_policy_knows_whether_it_reserves_tokens_or_money():
    assert not Policy().reserves
    assert Policy(rate_limit=RateLimitPolicy(tpm=60.0)).reserves
    assert Policy(spend=SpendPolicy(max_usd=1.0)).reserves


def test_a_place_maps_models_of_a_call_to_its_own():
    models = {"large": "theirs"}
    place = Place(base_url="https://other.example/v1", models=models)
    models["small"] = "later"
    assert (place.model_for("large"), place.model_for("small")) == ("theirs", None)
    assert Place(provider="openai").model_for("large") == "large"
    assert Place(model="one").model_for("large") == "one"
