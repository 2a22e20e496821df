"""The delay before a retry without Retry-After.

Jitter is applied after the cap: before it, every delay at the cap would be the same, and clients that failed
together would return together. Sources: AWS Architecture Blog, "Exponential Backoff And Jitter" (full, equal and
decorrelated jitter); the founding article (proportional jitter, +-30 %).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from stormbreak.core.checks import (
    check_types,
    check_unused,
    require,
    require_at_least,
    require_positive,
)

Kind: TypeAlias = Literal[
    "constant",
    "linear",
    "exponential",
    "proportional_jitter",
    "full_jitter",
    "equal_jitter",
    "decorrelated_jitter",
]
_GROWTH = ("initial_delay", "factor", "max_delay")

FIELDS: Mapping[str, tuple[str, ...]] = {
    "constant": ("initial_delay",),
    "linear": ("initial_delay", "max_delay"),
    "exponential": _GROWTH,
    "proportional_jitter": (*_GROWTH, "jitter", "min_delay"),
    "full_jitter": _GROWTH,
    "equal_jitter": _GROWTH,
    "decorrelated_jitter": _GROWTH,
}
"""The fields of each kind, besides `kind`; other fields must keep their defaults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Seconds before a retry. Let d be min(max_delay, initial_delay * factor ** (retry - 1)).

    - constant: `initial_delay` each time
    - linear: initial_delay * retry, at most `max_delay`
    - exponential: d
    - proportional_jitter: d, plus or minus a random share of up to `jitter`, at least `min_delay`
    - full_jitter: random from 0 to d: the widest spread, the least contention
    - equal_jitter: random from d / 2 to d: never a very short delay
    - decorrelated_jitter: random from `initial_delay` to `factor` times the delay before, at most `max_delay`

    `factor` is 2 by default, 3 for decorrelated_jitter. The published decorrelated jitter caps the drawn
    delay at `max_delay`; here `max_delay` caps the range of the draw, so that delays at the cap differ.
    """

    kind: Kind = "full_jitter"
    initial_delay: float = 1.0
    factor: float | None = None
    max_delay: float = 60.0
    jitter: float = 0.3
    min_delay: float = 0.1
    fields_by_kind = FIELDS

    def __post_init__(self) -> None:
        check_types(self)
        used = check_unused(self)
        if "factor" in used and self.factor is None:
            factor = 3.0 if self.kind == "decorrelated_jitter" else 2.0
            object.__setattr__(self, "factor", factor)
        first = self.initial_delay
        if self.kind == "constant":
            require_at_least(self, 0, "initial_delay")
            return
        require_positive(self, "initial_delay")
        require(
            self.max_delay >= first, "max_delay must not be below initial_delay", self.max_delay
        )
        require_at_least(self, 1, "factor")
        require(0 <= self.jitter <= 1, "jitter must lie in [0, 1]", self.jitter)
        require_at_least(self, 0, "min_delay")

    def delay(self, retry: int, uniform: float, previous: float = 0.0) -> float:
        """Return the seconds before retry number `retry`, from 1.

        `uniform` is a random number in [0, 1); `previous` is the delay before the failed attempt, 0 without one.
        """
        kind, first, cap = self.kind, self.initial_delay, self.max_delay
        if kind == "constant":
            return first
        if kind == "linear":
            return min(cap, first * retry)
        assert self.factor is not None
        if kind == "decorrelated_jitter":
            longest = min(cap, self.factor * max(first, previous))
            return first + uniform * (longest - first)
        try:
            grown = min(cap, first * self.factor ** (retry - 1))
        except OverflowError:
            grown = cap
        if kind == "full_jitter":
            grown = uniform * grown
        elif kind == "equal_jitter":
            grown = (1 + uniform) / 2 * grown
        elif kind == "proportional_jitter":
            grown = max(self.min_delay, grown * (1 + self.jitter * (2 * uniform - 1)))
        return grown
