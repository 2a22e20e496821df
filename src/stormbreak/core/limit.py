"""Which machine counts the slots, by the policy."""

from collections.abc import Callable
from typing import TypeAlias, assert_never

from stormbreak.core.aimd import AimdLimit, AimdLimiter
from stormbreak.core.automatic import AutomaticLimit, AutomaticLimiter
from stormbreak.core.concurrency import FixedLimit, FixedLimiter
from stormbreak.core.diagnosis import Diagnosis

Limit: TypeAlias = FixedLimit | AimdLimit | AutomaticLimit
Limiter: TypeAlias = FixedLimiter | AimdLimiter | AutomaticLimiter


def limiter(
    policy: Limit, diagnosis: Diagnosis, *, paused: Callable[[float], bool], share: float = 1.0
) -> Limiter:
    """Make the machine. `paused(now)` says whether the target asked to be left alone.

    Of a fixed limit it gets its `share`, rounded down, and one slot at least; the others find their own.
    """
    match policy:
        case FixedLimit():
            return FixedLimiter(FixedLimit(in_flight=max(1, int(policy.in_flight * share))))
        case AimdLimit():
            return AimdLimiter(policy)
        case AutomaticLimit():
            return AutomaticLimiter(policy, diagnosis, paused=paused)
        case _:
            assert_never(policy)
