"""Policies to compare: today's common practice as policies of the same engine; and finding a policy by name.

The baselines `none` to `decorrelated` ignore Retry-After, like the code that they represent. No policy of the engine
can ignore it, so the simulator hides it from them. The deadline of the call bounds every baseline.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from os.path import exists
from pathlib import Path

from stormbreak.config import resolve_policy
from stormbreak.core.backoff import Backoff
from stormbreak.core.concurrency_limit import AimdLimit, FixedLimit
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.policy import Policy
from stormbreak.core.presets import ARTICLE, OFF, PRESETS
from stormbreak.core.queue_order import QueuePolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.errors import ConfigurationError, errors_at
from stormbreak.hidden_keys import quoted
from stormbreak.provider.scenario import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPolicy:
    """A policy with a name."""

    name: str
    policy: Policy
    ignores_retry_after: bool = False  # the simulator hides it
    reschedules: bool = True  # sends failed rows of a batch again later, as `batch run` does
    own_times: bool = False  # keeps a deadline and patience shorter than the scenario's


def _retries(retries: int, backoff: Backoff) -> Policy:
    """Retries and nothing else."""
    rule = RetryPolicy(
        max_attempts=1 + retries, backoff=backoff, min_time_left=0.0, retry_after_jitter=0.0
    )
    return replace(OFF, retry=rule)


def _loop(backoff: Backoff) -> Policy:
    return replace(
        _retries(9, backoff),
        limit=FixedLimit(max_in_flight=64),
        queue=QueuePolicy(max_size=1_000_000),
    )


# 0.5 s, doubled up to 8 s, minus up to a random quarter: 7/8 of that, plus or minus an eighth
_SDK = Backoff(
    kind="proportional_jitter",
    initial_delay=0.5 * 7 / 8,
    factor=2.0,
    max_delay=8.0 * 7 / 8,
    jitter=1 / 7,
    min_delay=0.0,
)

# Retries with a budget of a tenth of the calls, as in service meshes
_BUDGET = replace(
    _retries(5, Backoff()),
    retry_budget=BudgetPolicy(ratio=0.1, capacity=10.0, no_free_retries=True),
)

# The limit of Netflix' concurrency-limits, before retries: additive increase, multiplicative decrease
_AIMD = replace(_retries(5, Backoff()), limit=AimdLimit(), cooldown=True, queue=QueuePolicy())

# Baselines of a batch: a row is sent until it is answered, at most ten times, 64 rows at a time
_LOOPS: Mapping[str, Policy] = {
    "loop_naive": _loop(Backoff(kind="constant", initial_delay=0.0)),
    "loop_exponential": _loop(Backoff(kind="exponential")),
    "loop_full_jitter": _loop(Backoff()),
}

_IGNORING: Mapping[str, Policy] = {
    "none": OFF,
    "naive": _retries(5, Backoff(kind="constant", initial_delay=0.0)),
    "naive_x10": _retries(10, Backoff(kind="constant", initial_delay=0.0)),
    "fixed": _retries(5, Backoff(kind="constant", initial_delay=1.0)),
    "exponential": _retries(5, Backoff(kind="exponential")),
    "full_jitter": _retries(5, Backoff()),
    "decorrelated": _retries(5, Backoff(kind="decorrelated_jitter")),
}

_RESPECTING: Mapping[str, Policy] = {
    "openai_sdk": _retries(2, _SDK),
    **_LOOPS,
    "budget": _BUDGET,
    "aimd": _AIMD,
    "article": ARTICLE,
}

BASELINES: Mapping[str, NamedPolicy] = {
    name: NamedPolicy(
        name=name, policy=policy, ignores_retry_after=name in _IGNORING, reschedules=False
    )
    for name, policy in {**_IGNORING, **_RESPECTING}.items()
}
"""The baselines by name."""

DISPLAY_NAMES: Mapping[str, str] = {
    "interactive": "stormbreak",
    "batch": "stormbreak, batch",
    "article": "the article's policy",
    "none": "no retries",
    "naive": "immediate retries",
    "openai_sdk": "the SDK's retries",
}
"""Names on pictures, for readers who do not know ours. The other names need no explanation."""


def in_fleet(named: NamedPolicy) -> NamedPolicy:
    """Let the simulated processes of a policy share a store; keep a store that the policy names."""
    if named.policy.fleet.acts:
        return named
    store = FleetPolicy(url="parent:///in-virtual-time")
    return replace(named, policy=replace(named.policy, fleet=store))


# ---------------------------------------------------------------- find a policy


def find(name: str) -> NamedPolicy:
    """Return the policy of that name or file; raise ConfigurationError if there is none, or the file is invalid."""
    if name in BASELINES:
        return BASELINES[name]
    is_file = "/" in name or name.endswith(".toml") or exists(name)  # noqa: PTH110 - never raises
    if name not in PRESETS and not is_file:
        known = list(dict.fromkeys([*PRESETS, *BASELINES]))
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigurationError(
            f"no policy or file is named {quoted(name)}; {hint}policies: {', '.join(known)}"
        )
    return NamedPolicy(name=name, policy=resolve_policy(name))


def own(scenario: Scenario, *, source: str) -> NamedPolicy:
    """Return the policy that the scenario names; `source` is the user's name of the scenario. Raises ConfigurationError."""
    with errors_at(f"{source}: load.preset"):
        return find(scenario.load.preset if scenario.load else "interactive")


def given(policy: str | Path | Policy | NamedPolicy) -> NamedPolicy:
    """Return a named policy from a name, a path or a value; raise ConfigurationError."""
    if isinstance(policy, NamedPolicy):
        return policy
    if isinstance(policy, Policy):
        return NamedPolicy(name="the policy", policy=policy)
    return find(str(policy))
