"""Which machine counts the slots, by the policy."""

from collections.abc import Callable
from typing import TypeAlias, assert_never

from stormbreak.core.aimd import AimdConcurrency, AimdLimit
from stormbreak.core.automatic import AutomaticConcurrency, AutomaticLimit
from stormbreak.core.concurrency import Concurrency, FixedLimit

Limit: TypeAlias = FixedLimit | AimdLimit | AutomaticLimit
Limiter: TypeAlias = Concurrency | AimdConcurrency | AutomaticConcurrency


def limiter(policy: Limit, *, paused: Callable[[float], bool]) -> Limiter:
    """Make the machine. `paused(now)` says whether the target asked to be left alone."""
    match policy:
        case FixedLimit():
            return Concurrency(policy)
        case AimdLimit():
            return AimdConcurrency(policy)
        case AutomaticLimit():
            return AutomaticConcurrency(policy, paused=paused)
        case _:
            assert_never(policy)
