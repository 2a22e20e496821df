"""The gate that counts requests and tokens: an estimate reserved before, the usage settled after.

It is the only gate that asks how heavy a call is, so the queue tells it (`weigh`) before it asks when it opens. A
call leaves when one request and its estimate of tokens fit into every limit, the configured ones and those that
the server told. The first in the queue waits for its own estimate; lighter ones do not overtake it, or the heavy
would never leave.

What becomes of a reservation:

| what came of the attempt | request | tokens |
|---|---|---|
| nothing was sent, or there was no connection | refunded | refunded |
| an answer with its usage | counts | usage counts |
| an answer without, or something that may have been processed | counts | estimate counts |
| anything else: refused, not served | counts | refunded |
"""

from typing import TypeAlias

from stormbreak.core.bucket import Bucket
from stormbreak.core.gate import OPEN
from stormbreak.core.rate_limit_policy import RateLimitPolicy
from stormbreak.core.rate_limit_status import Told
from stormbreak.types import Call, Outcome, RateLimits, Verdict

LEARNING = 0.1  # weight of the newest answer in what is usual
RECENT = 1.0  # seconds since it held somebody
_NOT_SENT = frozenset({Verdict.CONNECT_FAILED, Verdict.REJECTED})


Reserved: TypeAlias = tuple[int, float, float, float]
"""What one attempt took: its tokens, and the receipts of `rpm` and of what was told of requests and tokens."""


class RateLimitGate:
    """One request and some tokens for every attempt."""

    __slots__ = ("_longest", "_rpm", "_tokens", "_told", "_tpm", "_typical_tokens")
    name = "quota"
    settles_success = True

    def __init__(self, policy: RateLimitPolicy, *, longest: float, share: float = 1.0) -> None:
        """What the server told, or counted, closes a limit for `longest` seconds at the most. All limits count by their `share`."""
        self._longest = longest
        self._rpm = (
            None if policy.rpm is None else Bucket(share * policy.rpm / 60, policy.burst_seconds)
        )
        self._tpm = (
            None if policy.tpm is None else Bucket(share * policy.tpm / 60, policy.burst_seconds)
        )
        self._told = (
            (Told(longest, share), Told(longest, share)) if policy.learn_from_headers else None
        )
        self._typical_tokens = 0.0  # tokens of a call that was answered; 0 while unknown
        self._tokens = 0  # of the call that is asked about

    def weigh(self, call: Call) -> None:
        """The next questions are about `call`."""
        self._tokens = call.tokens

    def ready_at(self, now: float) -> float:
        """OPEN, or when the call fits into every limit."""
        ready_at = OPEN
        if self._rpm is not None:
            ready_at = self._rpm.ready_at(1)
        if self._tpm is not None:
            ready_at = max(ready_at, self._tpm.ready_at(self._tokens))
        if self._told is not None:
            requests, tokens = self._told
            if now < requests.until:
                ready_at = max(ready_at, requests.ready_at(1, now))
            if now < tokens.until:
                ready_at = max(ready_at, tokens.ready_at(self._tokens, now))
        return ready_at if ready_at > now else OPEN

    def scarcer(self, now: float) -> str | None:
        """Return what the call that was asked about last waits for the longest: "requests" or "tokens"; None: it may leave."""
        ready_at = self.ready_at(now)
        if ready_at <= now:
            return None
        requests = [] if self._rpm is None else [self._rpm.ready_at(1)]
        if self._told is not None:
            requests.append(self._told[0].ready_at(1, now))
        return "requests" if ready_at in requests else "tokens"

    def is_needed(self, now: float) -> bool:
        """Whether some of a configured limit is taken, or much of one that was told: a new gate would begin with all of it."""
        buckets = (self._rpm, self._tpm)
        return any(bucket is not None and bucket.full_at > now for bucket in buckets) or any(
            told.is_scarce(now) for told in self._told or ()
        )

    def in_force(self, now: float) -> bool:
        """Whether a configured limit holds calls, or did a moment ago."""
        since = now - RECENT
        return (self._rpm is not None and self._rpm.ready_at(1) > since) or (
            self._tpm is not None and self._tpm.ready_at(self._tokens) > since
        )

    def time_to_send(self, sends: float, now: float) -> float:
        """Seconds until so many more have been sent, by the configured requests alone."""
        return 0.0 if self._rpm is None else max(0.0, self._rpm.turn_at(sends - 1) - now)

    def take(self, now: float) -> Reserved:
        """Reserve for one attempt."""
        reserved = self._tokens
        rpm = 0.0 if self._rpm is None else self._rpm.take(1, now)
        if self._tpm is not None:
            self._tpm.take(reserved, now)
        if self._told is None:
            return reserved, rpm, 0.0, 0.0
        requests, tokens = self._told
        return reserved, rpm, requests.take(1, now), tokens.take(reserved, now)

    def is_what_lacks(self, outcome: Outcome) -> bool:
        """Whether it was tokens that were wanting, and what remains would do for a usual call.

        Then the heavy one has to wait, and others need not. Where less remains, all have to: what a server says of
        its limit is not enough to send by while it refuses, since a window that is told as if it flowed would be
        met too early again and again (goodput 75 to 82 instead of 93 in `tokens`).
        """
        said = outcome.told
        if (
            self._told is None
            or not self._typical_tokens
            or said is None
            or said.requests is None
            or said.tokens is None
        ):
            return False
        return (
            bool(said.requests.remaining) and (said.tokens.remaining or 0.0) >= self._typical_tokens
        )

    def settle(self, token: Reserved, outcome: Outcome, now: float, uniform: float) -> None:  # noqa: ARG002
        """Give back what was reserved too much, and hear what the server said."""
        reserved, rpm, requests_receipt, tokens_receipt = token
        used = _used(outcome, reserved)
        served = outcome.verdict is Verdict.OK
        if served:
            self._typical_tokens += (used - self._typical_tokens) * (
                LEARNING if self._typical_tokens else 1.0
            )
        if not served and not _was_sent(outcome):
            if self._rpm is not None:
                self._rpm.refund(1, rpm, now)
            if self._told is not None:
                self._told[0].settle(1, requests_receipt, now)
        left = reserved - used
        if left and self._tpm is not None:
            self._tpm.settle(left, latest=now + self._longest)
        if self._told is None:
            return
        _, tokens = self._told
        if left and now < tokens.until:
            tokens.settle(left, tokens_receipt, now)
        if outcome.told is not None:
            receipts = requests_receipt, tokens_receipt
            _hear(self._told, outcome.told, receipts, now, served=served)


def _hear(
    told: tuple[Told, Told],
    said: RateLimits,
    receipts: tuple[float, float],
    now: float,
    *,
    served: bool,
) -> None:
    for limit, allowance, receipt in zip(told, said, receipts, strict=True):
        if allowance is not None:
            limit.hear(allowance, receipt, now, served=served)


def _was_sent(outcome: Outcome) -> bool:
    if outcome.verdict is Verdict.CANCELLED:
        return outcome.maybe_processed
    return outcome.verdict not in _NOT_SENT


def _used(outcome: Outcome, reserved: int) -> int:
    if outcome.used is not None:
        return outcome.used
    counts = outcome.verdict is Verdict.OK or outcome.maybe_processed
    return reserved if counts else 0
