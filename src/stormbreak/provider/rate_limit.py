"""Limits of requests and tokens: fixed windows and token buckets.

`take(now, tokens)` returns None, or the seconds until a retry makes sense.
"""

import math
from typing import NamedTuple, Protocol

from stormbreak.provider.scenario import Limit, LimitKind


class LimitState(NamedTuple):
    """The state of one limit: `remaining` of `limit` now, all of it in `reset` seconds."""

    tokens: bool  # else requests
    limit: float
    remaining: float
    reset: float


class Meter(Protocol):
    """Counts one thing."""

    limit: float

    def wait(self, amount: float, now: float) -> float | None:
        """Return the seconds until `amount` would fit without other requests; None if it fits."""

    def charge(self, amount: float) -> None:
        """Take `amount`, or what remains of it."""

    def state(self, now: float) -> tuple[float, float]:
        """Return what remains, and the seconds until all of it is available."""


class _Window:
    """A fixed window; windows begin at multiples of their length."""

    __slots__ = ("_per", "_used", "_window", "limit")

    def __init__(self, limit: float, per: float) -> None:
        self.limit = limit
        self._per = per
        self._window = 0
        self._used = 0.0

    def wait(self, amount: float, now: float) -> float | None:
        self._turn(now)
        if self._used + amount <= self.limit:
            return None
        return (self._window + 1) * self._per - now

    def charge(self, amount: float) -> None:
        self._used += amount

    def state(self, now: float) -> tuple[float, float]:
        self._turn(now)
        return max(0.0, self.limit - self._used), (self._window + 1) * self._per - now

    def _turn(self, now: float) -> None:
        window = math.floor(now / self._per)
        if window != self._window:
            self._window, self._used = window, 0.0


class _Bucket:
    """A token bucket: it refills at a steady rate up to `limit`, and never falls below zero."""

    __slots__ = ("_at", "_left", "_rate", "limit")

    def __init__(self, limit: float, rate: float) -> None:
        self.limit = limit
        self._rate = rate
        self._left = limit
        self._at = 0.0

    def wait(self, amount: float, now: float) -> float | None:
        self._flow(now)
        lacks = amount - self._left
        return None if lacks <= 1e-9 else lacks / self._rate

    def charge(self, amount: float) -> None:
        self._left = max(0.0, self._left - amount)

    def state(self, now: float) -> tuple[float, float]:
        self._flow(now)
        return self._left, (self.limit - self._left) / self._rate

    def _flow(self, now: float) -> None:
        self._left = min(self.limit, self._left + (now - self._at) * self._rate)
        self._at = now


class RequestLimit:
    """Counts requests, tokens, or both. A rejected request costs `reject_cost` of one, and no tokens."""

    def __init__(self, limit: Limit) -> None:
        self._cost = limit.reject_cost
        self._requests = meter_of(limit, limit.requests, limit.burst)
        self._tokens = meter_of(limit, limit.tokens, None)

    def take(self, now: float, tokens: int = 0) -> float | None:
        """Take one request; if it does not fit, charge the reject cost and return the seconds to wait."""
        both = ((self._requests, 1.0), (self._tokens, float(tokens)))
        wanted = [(meter, amount) for meter, amount in both if meter is not None]
        waits = [meter.wait(amount, now) for meter, amount in wanted]
        if all(wait is None for wait in waits):
            for meter, amount in wanted:
                meter.charge(amount)
            return None
        if self._requests is not None and self._cost:
            self._requests.charge(self._cost)
            waits[0] = self._requests.wait(1, now)
        return max(wait for wait in waits if wait is not None)

    def limit_states(self, now: float) -> list[LimitState]:
        return [
            LimitState(meter is self._tokens, meter.limit, *meter.state(now))
            for meter in (self._requests, self._tokens)
            if meter is not None
        ]


def meter_of(limit: Limit, amount: float | None, burst: float | None) -> Meter | None:
    """Make the meter of `amount` in each period of a limit; None: it has no such limit."""
    if amount is None:
        return None
    if limit.kind is LimitKind.WINDOW:
        return _Window(amount, limit.period)
    return _Bucket(amount if burst is None else burst, amount / limit.period)
