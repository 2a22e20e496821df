"""What people use today, as policies of the same engine; and contenders: a policy with a name.

Of the baselines only `openai_sdk` and `article` heed a time named by the server. The others are deaf, as the code is
that they stand for; the simulator keeps the time from them, since no policy of the engine could disobey it. Every one
is bounded by the deadline of the call. The article's also has its limit of ten in flight and its breaker.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from stormbreak.core.backoff import (
    Backoff,
    Constant,
    DecorrelatedJitter,
    Exponential,
    FullJitter,
    ProportionalJitter,
)
from stormbreak.core.policy import Policy
from stormbreak.core.presets import ARTICLE, OFF
from stormbreak.core.retry import RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A policy with a name. A `deaf` one does not hear when the server says to come back."""

    name: str
    policy: Policy
    deaf: bool = False


def _retries(retries: int, backoff: Backoff) -> Policy:
    """Retries and nothing else."""
    rule = RetryPolicy(attempts=1 + retries, backoff=backoff, min_useful=0.0, spread=0.0)
    return replace(OFF, retry=rule)


# 0.5 s, doubled up to 8 s, less up to a quarter by chance: 7/8 of that, and an eighth of it up or down
_SDK = ProportionalJitter(base=0.5 * 7 / 8, factor=2.0, cap=8.0 * 7 / 8, share=1 / 7, floor=0.0)

_DEAF: Mapping[str, Policy] = MappingProxyType(
    {
        "none": OFF,
        "naive": _retries(5, Constant(seconds=0.0)),
        "naive_x10": _retries(10, Constant(seconds=0.0)),
        "fixed": _retries(5, Constant(seconds=1.0)),
        "exponential": _retries(5, Exponential()),
        "full_jitter": _retries(5, FullJitter()),
        "decorrelated": _retries(5, DecorrelatedJitter()),
    }
)

BASELINES: Mapping[str, Contender] = MappingProxyType(
    {
        **{name: Contender(name=name, policy=policy, deaf=True) for name, policy in _DEAF.items()},
        "openai_sdk": Contender(name="openai_sdk", policy=_retries(2, _SDK)),
        "article": Contender(name="article", policy=ARTICLE),
    }
)
"""The baselines by name."""
