"""Chance without state: every draw is a pure function of a seed and a key.

Draws are keyed by request, not by arrival order, so the interleaving of concurrent clients hardly
changes a run. The same seed gives the same numbers on every version of Python, which `random` does not promise.
The generator is the finaliser of splitmix64.
"""

import math
from dataclasses import dataclass
from typing import Self

_MASK = (1 << 64) - 1
_HALF = 0xFFFFFFFF


def mix(value: int) -> int:
    """Scatter any integer over 64 bits; neighbours land far apart."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def uniform(bits: int) -> float:
    """Read 64 bits as a number in [0, 1)."""
    return (bits >> 11) * 2.0**-53


def exponential(bits: int) -> float:
    """Read 64 bits as an exponential number of mean 1."""
    return -math.log(1.0 - uniform(bits))


def normal(bits: int) -> float:
    """Read 64 bits as a standard normal number (Box and Muller, one half of the bits for each)."""
    radius = math.sqrt(-2.0 * math.log(((bits >> 32) + 0.5) / 2.0**32))
    return radius * math.cos(math.tau * (bits & _HALF) / 2.0**32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lognormal:
    """A lognormal distribution cut to [minimum, maximum]; `sigma` 0 makes it a constant."""

    mu: float
    sigma: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, *, mean: float, cv: float, minimum: float = 0.0, maximum: float = math.inf) -> Self:
        """Choose the distribution by its mean and its coefficient of variation, before the cut."""
        variance = math.log(1.0 + cv * cv)
        mu = math.log(mean) - variance / 2 if mean > 0 else -math.inf
        return cls(mu=mu, sigma=math.sqrt(variance), minimum=minimum, maximum=maximum)

    def draw(self, bits: int) -> float:
        """Read 64 bits as one number of this distribution."""
        value = math.exp(self.mu + self.sigma * normal(bits) if self.sigma else self.mu)
        return min(max(value, self.minimum), self.maximum)
