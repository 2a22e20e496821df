"""How long to wait before a retry, where the server named no time.

`delay(retry, uniform, previous)` answers in seconds; `retry` counts from 1, `uniform` is a chance in [0, 1),
`previous` is the delay before the attempt that failed (0 where there was none). The rules have no memory of
their own: one rule serves every call. Jitter is applied after the cap: before it, every delay at the cap
would be the same, and clients that failed together would return together. Sources: AWS Architecture Blog,
"Exponential Backoff And Jitter" (full, equal and decorrelated jitter); the founding article (proportional
jitter, +-30 %).
"""

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from stormbreak.core.checks import check_types, require


class BackoffRule(Protocol):
    """Anything that can say how long to wait."""

    def delay(self, retry: int, uniform: float, previous: float = 0.0) -> float:
        """Seconds to wait before retry number `retry` (1 is the first); `previous` is the delay before that."""
        ...


def _grown(base: float, factor: float, cap: float, retry: int) -> float:
    """Return base * factor ** (retry - 1), at most cap; no overflow however large `retry` is."""
    try:
        return min(cap, base * factor ** (retry - 1))
    except OverflowError:
        return cap


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """The same delay each time."""

    kind: Literal["constant"] = "constant"
    initial_delay: float = 1.0

    def __post_init__(self) -> None:
        check_types(self)
        require(self.initial_delay >= 0, "initial_delay must not be negative", self.initial_delay)

    def delay(self, retry: int, uniform: float, previous: float = 0.0) -> float:  # noqa: ARG002
        """`initial_delay`."""
        return self.initial_delay


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """base, 2 base, 3 base, ... up to cap."""

    kind: Literal["linear"] = "linear"
    initial_delay: float = 1.0
    max_delay: float = 60.0

    def __post_init__(self) -> None:
        check_types(self)
        _require_growth(self.initial_delay, self.max_delay)

    def delay(self, retry: int, uniform: float, previous: float = 0.0) -> float:  # noqa: ARG002
        """min(cap, base * retry)."""
        return min(self.max_delay, self.initial_delay * retry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponential:
    """base, base * factor, base * factor ** 2, ... up to cap."""

    kind: Literal["exponential"] = "exponential"
    initial_delay: float = 1.0
    factor: float = 2.0
    max_delay: float = 60.0

    def __post_init__(self) -> None:
        check_types(self)
        _require_growth(self.initial_delay, self.max_delay, self.factor)

    def delay(self, retry: int, uniform: float, previous: float = 0.0) -> float:  # noqa: ARG002
        """min(cap, base * factor ** (retry - 1))."""
        return _grown(self.initial_delay, self.factor, self.max_delay, retry)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProportionalJitter:
    """Exponential, then moved by up to +-share of itself, but never below min_delay."""

    kind: Literal["proportional_jitter"] = "proportional_jitter"
    initial_delay: float = 1.0
    factor: float = 2.0
    max_delay: float = 60.0
    jitter: float = 0.3
    min_delay: float = 0.1

    def __post_init__(self) -> None:
        check_types(self)
        _require_growth(self.initial_delay, self.max_delay, self.factor)
        require(0 <= self.jitter <= 1, "jitter must lie in [0, 1]", self.jitter)
        require(self.min_delay >= 0, "min_delay must not be negative", self.min_delay)

    def delay(self, retry: int, uniform: float, previous: float = 0.0) -> float:  # noqa: ARG002
        """max(floor, d * (1 + share * (2 * uniform - 1))) with d the capped exponential."""
        capped = _grown(self.initial_delay, self.factor, self.max_delay, retry)
        return max(self.min_delay, capped * (1 + self.jitter * (2 * uniform - 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class FullJitter:
    """Anything between nothing and the capped exponential: the widest spread, the least contention."""

    kind: Literal["full_jitter"] = "full_jitter"
    initial_delay: float = 1.0
    factor: float = 2.0
    max_delay: float = 60.0

    def __post_init__(self) -> None:
        check_types(self)
        _require_growth(self.initial_delay, self.max_delay, self.factor)

    def delay(self, retry: int, uniform: float, previous: float = 0.0) -> float:  # noqa: ARG002
        """Return uniform * min(cap, base * factor ** (retry - 1))."""
        return uniform * _grown(self.initial_delay, self.factor, self.max_delay, retry)


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualJitter:
    """Half of the capped exponential for certain, the other half by chance: never a very short delay."""

    kind: Literal["equal_jitter"] = "equal_jitter"
    initial_delay: float = 1.0
    factor: float = 2.0
    max_delay: float = 60.0

    def __post_init__(self) -> None:
        check_types(self)
        _require_growth(self.initial_delay, self.max_delay, self.factor)

    def delay(self, retry: int, uniform: float, previous: float = 0.0) -> float:  # noqa: ARG002
        """Return (1 + uniform) / 2 * min(cap, base * factor ** (retry - 1))."""
        return (1 + uniform) / 2 * _grown(self.initial_delay, self.factor, self.max_delay, retry)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecorrelatedJitter:
    """Anything between base and `factor` times the delay before: calls that failed together drift apart.

    The published formula cuts what chance has drawn: min(cap, uniform(base, 3 * previous)). Here the cap cuts
    the range that chance draws from, so that delays at the cap still differ.
    """

    kind: Literal["decorrelated_jitter"] = "decorrelated_jitter"
    initial_delay: float = 1.0
    factor: float = 3.0
    max_delay: float = 60.0

    def __post_init__(self) -> None:
        check_types(self)
        _require_growth(self.initial_delay, self.max_delay)
        require(self.factor >= 1, "factor must be at least 1", self.factor)

    def delay(self, retry: int, uniform: float, previous: float = 0.0) -> float:  # noqa: ARG002
        """Return base + uniform * (min(cap, growth * max(base, previous)) - base)."""
        longest = min(self.max_delay, self.factor * max(self.initial_delay, previous))
        return self.initial_delay + uniform * (longest - self.initial_delay)


Backoff: TypeAlias = (
    Constant
    | Linear
    | Exponential
    | ProportionalJitter
    | FullJitter
    | EqualJitter
    | DecorrelatedJitter
)


def _require_growth(base: float, cap: float, factor: float = 1.0) -> None:
    require(base > 0, "initial_delay must be positive", base)
    require(cap >= base, "max_delay must not be below initial_delay", cap)
    require(factor >= 1, "factor must be at least 1", factor)
