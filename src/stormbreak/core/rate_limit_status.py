"""What a server told of a limit, carried on from there.

Servers say how much remains of a limit, and when it is whole again. Two kinds are told apart. What *flows* comes back
evenly, so that it is whole at the reset: at (limit - remaining) / reset per second. What does not is whole at the reset
and not before.

What was said is true of the moment in which the server counted that attempt. Attempts that left later are
not in it yet, so they are subtracted; news from an attempt that left before the one heard last is no news.

What does not flow is down to nothing once until its reset. A server that serves two attempts and says after both that
nothing remains does not mean it, and is not believed again: some gateways say 0 for want of a number.

Where nothing remains and no time is named, nothing is known. Nothing that was told holds for longer than `longest`
seconds: then one has to ask again.
"""

from math import inf

from stormbreak.core.gate import READY
from stormbreak.types import RateLimitStatus

MINUTE = 60.0  # what a limit is per, where nothing else is known
MIN_SPEED = 1e-9  # per second
SLACK = 1.0  # seconds; resets are rounded


class Told:
    """One limit, of requests or of tokens. Until something is heard it lets everything pass."""

    def __init__(self, longest: float, share: float = 1.0) -> None:
        """Nothing holds for longer than `longest` seconds; of what is told to all, `share` is for this process."""
        self._longest = longest
        self._share = share
        self._limit = inf
        self._remaining = inf  # at `_at`
        self._at = 0.0
        self._flow = 0.0  # per second, from then on
        self.until = READY  # the end of what is known; later, everything passes
        self._taken = 0.0  # in all
        self._believed = True
        self._empty_until = -inf  # the end of what it said was used up, after it had served
        self._heard = -1.0  # of the news heard last: what had been taken

    def ready_at(self, amount: float, now: float) -> float:
        """READY, or when `amount` remains. More than the limit may leave when all of it is there."""
        if now >= self.until:
            return READY
        lacks = min(amount, self._limit) - self._remaining
        if lacks <= 0:
            return READY
        if not self._flow:
            return self.until
        ready_at = min(self._at + lacks / self._flow, self.until)
        return ready_at if ready_at > now else READY

    def is_scarce(self, now: float) -> bool:
        """Whether less than half of the limit is known to remain, or, where that is not known, nothing."""
        if now >= self.until:
            return False
        remains = self._remaining + (now - self._at) * self._flow
        return remains < (1 if self._limit == inf else self._limit / 2)

    def take(self, amount: float, now: float) -> float:
        """Take `amount`, and return a receipt: news from before it was taken do not know of it."""
        self._taken += amount
        if now < self.until:
            self._advance_window(now)
            self._remaining -= amount
        return self._taken

    def settle(self, amount: float, receipt: float, now: float) -> None:
        """Give back `amount` of what was taken; a negative one was used beyond it.

        What the server had counted when it was heard last is not corrected: it knew better.
        """
        if now < self.until and receipt > self._heard:
            self._advance_window(now)
            self._remaining = min(self._limit, self._remaining + amount)

    def hear(self, said: RateLimitStatus, receipt: float, now: float, *, served: bool) -> None:
        """Believe what the answer to the attempt with that receipt said; `served` if it was no refusal."""
        if said.remaining is None or not self._believed:
            return
        remaining = self._share * said.remaining
        limit = inf if said.limit is None else max(self._share * said.limit, remaining)
        missing = limit - remaining
        reset = said.reset
        if reset is None:
            if said.window is None or limit in (0.0, inf):
                return
            reset = said.window * (missing / limit if said.flows else 1.0)
        flow = self._refill_rate(said, limit, missing, reset)
        if served and not flow and not said.remaining:
            self._on_exhausted(now, reset)
        if receipt < self._heard or not self._believed:
            return
        self._heard = receipt
        self._limit = limit
        self._remaining = remaining - (self._taken - receipt)
        self._at = now
        self._flow = flow
        # Once it is whole again, what flows is still bounded by how it flows.
        self.until = now + (self._longest if self._flow else min(reset, self._longest))

    def _on_exhausted(self, now: float, reset: float) -> None:
        if now + SLACK < self._empty_until:
            self._believed, self.until = False, READY
        self._empty_until = now + reset

    def _refill_rate(
        self, said: RateLimitStatus, limit: float, missing: float, reset: float
    ) -> float:
        if not said.flows or limit == inf:
            return 0.0
        if missing and reset > 0:
            return max(MIN_SPEED, missing / reset)
        return limit / (said.window or MINUTE)

    def _advance_window(self, now: float) -> None:
        self._remaining = min(self._limit, self._remaining + (now - self._at) * self._flow)
        self._at = now
