"""Request limits: a fixed window and a token bucket.

Each answers the one question `take(now)`: None, or the seconds until asking again makes sense.
"""

import math
from typing import Protocol

from stormbreak.provider.scenario import Limit, LimitKind


class RequestLimit(Protocol):
    """Counts requests."""

    def take(self, now: float) -> float | None:
        """Take one request; where none is left, charge the reject and return the seconds to wait."""


class FixedWindow:
    """So many requests in each window; windows begin at multiples of their length."""

    __slots__ = ("_cost", "_limit", "_per", "_used", "_window")

    def __init__(self, limit: Limit) -> None:
        self._limit = limit.requests
        self._per = limit.per
        self._cost = limit.reject_cost
        self._window = 0
        self._used = 0.0

    def take(self, now: float) -> float | None:
        """Take one request, or return the seconds to the window's end."""
        window = math.floor(now / self._per)
        if window != self._window:
            self._window, self._used = window, 0.0
        if self._used + 1 <= self._limit:
            self._used += 1
            return None
        self._used += self._cost
        return (window + 1) * self._per - now


class TokenBucket:
    """Tokens flow in at a steady rate up to `burst`; rejects drain what is there, never below zero."""

    __slots__ = ("_at", "_burst", "_cost", "_rate", "_tokens")

    def __init__(self, limit: Limit) -> None:
        self._rate = limit.requests / limit.per
        self._burst = limit.requests if limit.burst is None else limit.burst
        self._cost = limit.reject_cost
        self._tokens = self._burst
        self._at = 0.0

    def take(self, now: float) -> float | None:
        """Take one token, or return the seconds until there will be one if nobody else asks."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens >= 1 - 1e-9:
            self._tokens -= 1
            return None
        self._tokens = max(0.0, self._tokens - self._cost)
        return (1 - self._tokens) / self._rate


def limit_of(limit: Limit | None) -> RequestLimit | None:
    """Build the machine for what a scenario says."""
    if limit is None:
        return None
    return FixedWindow(limit) if limit.kind is LimitKind.WINDOW else TokenBucket(limit)
