"""The gate of rate limits: it reserves one request and its estimated tokens, and settles the real usage afterwards.

A call leaves when it fits into every limit: the configured ones (`Bucket`) and those in the server's headers
(`ReportedLimit`). The first call in the queue waits for its own estimate; smaller calls do not overtake it, or large
ones would never leave.

What an attempt has reserved, by its outcome:

- nothing was sent, or there was no connection: request and tokens are refunded
- an answer with its usage: the request counts, and the usage
- an answer without, or something that may have been processed: the request counts, and the estimate
- anything else, refused and not served: the request counts, the tokens are refunded
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Protocol, TypeAlias

from stormbreak.core.checks import check_types, require_at_least, require_positive
from stormbreak.core.gate import READY
from stormbreak.types import Call, Outcome, RateLimitStatus, Verdict

LEARNING = 0.1  # weight of the newest answer in the usual number of tokens
RECENT = 1.0  # seconds since a limit held calls
MINUTE = 60.0  # what a limit is per, where the server does not say
MIN_SPEED = 1e-9  # per second
SLACK = 1.0  # seconds; resets are rounded
_NOT_SENT = frozenset({Verdict.CONNECT_FAILED, Verdict.REJECTED})

Reserved: TypeAlias = tuple[int, float, float, float]
"""What one attempt took: its tokens, and the receipts of `rpm` and of the reported limits of requests and tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitPolicy:
    """At most `rpm` requests and `tpm` tokens per minute, per process and target. None: without a limit.

    After a pause, `burst_seconds` seconds of them may leave at once (at least one request). With `learn_from_headers`,
    what the headers of answers say of such limits is obeyed, too.
    """

    rpm: float | None = None
    tpm: float | None = None
    burst_seconds: float = 1.0
    learn_from_headers: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        require_positive(self, "rpm", "tpm")
        require_at_least(self, 0, "burst_seconds")

    @property
    def acts(self) -> bool:
        """Whether there is anything to do."""
        return self.learn_from_headers or self.rpm is not None or self.tpm is not None


class RateLimitGate:
    """One request and some tokens for every attempt."""

    name = "quota"
    takes = True

    def __init__(
        self,
        policy: RateLimitPolicy,
        *,
        max_wait: float,
        share: float = 1.0,
        rate_for: Callable[[str, float, float], "Rate"] | None = None,
    ) -> None:
        """No report closes a limit for longer than `max_wait` seconds. Of all limits, `share` is for this process.

        `rate_for("requests" or "tokens", per second, seconds of a burst)` makes what counts a configured limit instead.
        """
        self._max_wait = max_wait

        def bucket(_: str, rate: float, depth: float) -> Rate:
            return Bucket(share * rate, depth)

        make, burst = rate_for or bucket, policy.burst_seconds
        self._rpm = None if policy.rpm is None else make("requests", policy.rpm / 60, burst)
        self._tpm = None if policy.tpm is None else make("tokens", policy.tpm / 60, burst)
        self._reported = (
            (ReportedLimit(max_wait, share), ReportedLimit(max_wait, share))
            if policy.learn_from_headers
            else None
        )
        self._typical_tokens = 0.0  # tokens of a call that was answered; 0 while unknown

    def go_on(self, before: "RateLimitGate") -> None:
        """Go on with the buckets of an earlier gate where the limit is the same: what was taken counts."""
        rpm, tpm = before.configured
        self._rpm, self._tpm = _kept(self._rpm, rpm), _kept(self._tpm, tpm)

    @property
    def configured(self) -> "tuple[Rate | None, Rate | None]":
        """What counts the configured limits of requests and of tokens."""
        return self._rpm, self._tpm

    def ready_at(self, call: Call, now: float) -> float:
        ready_at = READY
        if self._rpm is not None:
            ready_at = self._rpm.ready_at(1, now)
        if self._tpm is not None:
            ready_at = max(ready_at, self._tpm.ready_at(call.tokens, now))
        if self._reported is not None:
            requests, tokens = self._reported
            reported = requests.ready_at(1, now), tokens.ready_at(call.tokens, now)
            ready_at = max(ready_at, *reported)
        return ready_at if ready_at > now else READY

    def scarcer(self, call: Call, now: float) -> str | None:
        """Return what `call` waits for the max_wait: "requests" or "tokens"; None: it may leave."""
        ready_at = self.ready_at(call, now)
        if ready_at <= now:
            return None
        requests = [] if self._rpm is None else [self._rpm.ready_at(1, now)]
        if self._reported is not None:
            requests.append(self._reported[0].ready_at(1, now))
        return "requests" if ready_at in requests else "tokens"

    def is_needed(self, now: float) -> bool:
        """Whether some of a configured limit is used, or much of a reported one: a new gate would start with all of it."""
        buckets = (self._rpm, self._tpm)
        return any(bucket is not None and bucket.full_at > now for bucket in buckets) or any(
            limit.is_scarce(now) for limit in self._reported or ()
        )

    def paces(self, call: Call, now: float) -> bool:
        """Whether a configured limit holds calls like this one, or did a moment ago."""
        since = now - RECENT
        return (self._rpm is not None and self._rpm.ready_at(1, now) > since) or (
            self._tpm is not None and self._tpm.ready_at(call.tokens, now) > since
        )

    def time_to_send(self, sends: float, now: float) -> float:
        """Seconds until `count` more calls are sent, by the configured requests alone."""
        return 0.0 if self._rpm is None else max(0.0, self._rpm.turn_at(sends - 1, now) - now)

    def set_reported_share(self, share: float) -> None:
        """Use `share` of what later reports say."""
        for limit in self._reported or ():
            limit.share = share

    def take(self, call: Call, now: float) -> Reserved:
        reserved = call.tokens
        rpm = 0.0 if self._rpm is None else self._rpm.take(1, now)
        if self._tpm is not None:
            self._tpm.take(reserved, now)
        if self._reported is None:
            return reserved, rpm, 0.0, 0.0
        requests, tokens = self._reported
        return reserved, rpm, requests.take(1, now), tokens.take(reserved, now)

    def is_what_lacks(self, outcome: Outcome) -> bool:
        """Whether it was tokens that were wanting, and what remains would do for a usual call.

        Then the heavy one has to wait, and others need not. Where less remains, all have to: what a server says of
        its limit is not enough to send by while it refuses, since a window that is reported as if it flowed would be
        met too early again and again (goodput 75 to 82 instead of 93 in `tokens`).
        """
        report = outcome.rate_limits
        if (
            self._reported is None
            or not self._typical_tokens
            or report is None
            or report.requests is None
            or report.tokens is None
        ):
            return False
        return (
            bool(report.requests.remaining)
            and (report.tokens.remaining or 0.0) >= self._typical_tokens
        )

    def settle(self, token: Reserved, outcome: Outcome, now: float, _uniform: float) -> None:
        """Refund what was reserved too much, and learn the reported limits."""
        reserved, rpm, requests_receipt, _ = token
        used = _used(outcome, reserved)
        served = outcome.verdict is Verdict.OK
        if served:
            self._typical_tokens += (used - self._typical_tokens) * (
                LEARNING if self._typical_tokens else 1.0
            )
        if not served and not _was_sent(outcome):
            if self._rpm is not None:
                self._rpm.refund(1, rpm, now)
            if self._reported is not None:
                self._reported[0].settle(1, requests_receipt, now)
        left = reserved - used
        if left and self._tpm is not None:
            self._tpm.settle(left, latest=now + self._max_wait)
        if self._reported is not None:
            self._settle_reported(self._reported, token, left, outcome, now)

    on_success = settle

    def _settle_reported(
        self,
        limits: tuple["ReportedLimit", "ReportedLimit"],
        token: Reserved,
        left: float,
        outcome: Outcome,
        now: float,
    ) -> None:
        """Refund the reported limits, and learn what this answer reports."""
        _, _, *receipts = token
        if left:
            limits[1].settle(left, receipts[1], now)
        if outcome.rate_limits is None:
            return
        served = outcome.verdict is Verdict.OK
        for limit, report, receipt in zip(limits, outcome.rate_limits, receipts, strict=True):
            if report is not None:
                limit.update(report, receipt, now, served=served)


def _kept(rate: "Rate | None", before: "Rate | None") -> "Rate | None":
    """Return the bucket before if another is equal to it but for what was taken."""
    if isinstance(rate, Bucket) and isinstance(before, Bucket) and rate.size == before.size:
        return before
    return rate


def _was_sent(outcome: Outcome) -> bool:
    if outcome.verdict is Verdict.CANCELLED:
        return outcome.maybe_processed
    return outcome.verdict not in _NOT_SENT


def _used(outcome: Outcome, reserved: int) -> int:
    if outcome.used is not None:
        return outcome.used
    counts = outcome.verdict is Verdict.OK or outcome.maybe_processed
    return reserved if counts else 0


# ---------------------------------------------------------------- configured limits


class Rate(Protocol):
    """What counts a configured limit: a `Bucket`, or leases (`core.fleet_lease.LeasedRate`)."""

    full_at: float

    def ready_at(self, amount: float, now: float, /) -> float:
        """Return the time from which `amount` may be taken without refunds."""

    def turn_at(self, ahead: float, now: float, /) -> float:
        """Return the time from which one may be taken after `ahead` others."""

    def take(self, amount: float, now: float) -> float:
        """Take `amount`, and return a receipt for `refund`."""

    def settle(self, amount: float, *, latest: float) -> None:
        """Give back `amount` that was not used; a negative one was used beyond what was taken."""

    def refund(self, amount: float, receipt: float, now: float) -> None:
        """Give back an amount that was taken for nothing."""


class Bucket:
    """A bucket that holds `depth` seconds of a flow of `rate` per second, by virtual scheduling. It begins full.

    Nothing is counted. What was taken is a time: `full_at`, when the bucket would be full again without further takes.
    Taking moves it by what the amount is worth in seconds; an amount may be taken when it would leave `full_at` no
    further ahead than the bucket is deep. This is the generic cell rate algorithm (ITU-T I.371, 1993) with a weight. An
    amount larger than the whole bucket may be taken when the bucket is full, and is then paid off.

    So of takes that are never given back, at most `depth * rate + rate * t` lie within any t seconds (or the largest
    take, if that is more). `settle` gives back what was reserved too much: averages are kept, and a window holds more
    than it should by at most what was given back in it. `refund` is for an attempt that never happened, and keeps the
    bound for every window: of the time that the amount was worth, only the part still ahead is given back.
    """

    def __init__(self, rate: float, depth: float) -> None:
        self._seconds = 1 / rate  # that one is worth
        self._depth = max(depth, self._seconds)
        self.full_at = 0.0  # when it is full again, if nobody takes any more
        self._returned_unused = 0.0  # seconds, ever

    @property
    def size(self) -> tuple[float, float]:
        """The seconds that one is worth, and those that it holds."""
        return self._seconds, self._depth

    def ready_at(self, amount: float, _now: float = 0.0) -> float:
        spare = self._depth - amount * self._seconds
        return self.full_at - spare if spare > 0 else self.full_at

    def turn_at(self, ahead: float, _now: float = 0.0) -> float:
        return self.ready_at(1) + ahead * self._seconds

    def take(self, amount: float, now: float) -> float:
        full_at = max(self.full_at, now) + amount * self._seconds
        self.full_at = full_at
        return full_at + self._returned_unused

    def settle(self, amount: float, *, latest: float = inf) -> None:
        """Give back `amount` that was not used; a negative one was used beyond what was taken.

        The debt that makes is paid off at `latest`, whatever it is: one wrong count closes nothing for ever.
        """
        full_at = self.full_at - amount * self._seconds
        self.full_at = min(full_at, max(self.full_at, latest))

    def refund(self, amount: float, receipt: float, now: float) -> None:
        """Give back an amount that was taken for nothing, as far as its time has not gone by.

        What others got back meanwhile has moved that time; it is taken for earlier than it may be, never for later.
        """
        ahead = receipt - self._returned_unused - now
        seconds = min(amount * self._seconds, max(0.0, ahead))
        self.full_at -= seconds
        self._returned_unused += seconds


# ---------------------------------------------------------------- reported limits


class ReportedLimit:
    """A limit of requests or of tokens as the server reported it, carried on from there. At first everything passes.

    Servers report how much remains of a limit, and when it is full again. One that *flows* comes back
    evenly until its reset: at (limit - remaining) / reset per second. Any other is full at its reset and not before.

    A report is true of the moment in which the server counted that attempt. Attempts that left later are
    not in it yet, so they are subtracted; a report on an attempt that left before the one reported last is outdated.

    A limit that does not flow is used up once until its reset. A server that serves two attempts and reports after both
    that nothing remains does not mean it, and is not believed again: some gateways send 0 for want of a number.

    Where nothing remains and no time is named, nothing is known. No report holds for longer than `max_wait`
    seconds: then an attempt has to find out.
    """

    def __init__(self, max_wait: float, share: float = 1.0) -> None:
        """No report holds for longer than `max_wait` seconds; `share` of what is reported is for this process."""
        self._max_wait = max_wait
        self.share = share
        self._limit = inf
        self._remaining = inf  # at `_at`
        self._at = 0.0
        self._flow = 0.0  # per second, from then on
        self.until = READY  # the end of what is known; later, everything passes
        self._taken = 0.0  # in all
        self._believed = True
        self._empty_until = -inf  # the end of what it reports as used up, after it had served
        self._reported_receipt = -1.0  # of the news heard last: what had been taken

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
        if now < self.until and receipt > self._reported_receipt:
            self._advance_window(now)
            self._remaining = min(self._limit, self._remaining + amount)

    def update(self, report: RateLimitStatus, receipt: float, now: float, *, served: bool) -> None:
        """Apply the report of the answer to the attempt with that receipt; `served`: it was not refused."""
        if report.remaining is None or not self._believed:
            return
        remaining = self.share * report.remaining
        limit = inf if report.limit is None else max(self.share * report.limit, remaining)
        missing = limit - remaining
        reset = report.reset
        if reset is None:
            if report.window is None or limit in (0.0, inf):
                return
            reset = report.window * (missing / limit if report.flows else 1.0)
        flow = self._refill_rate(report, limit, missing, reset)
        if served and not flow and not report.remaining:
            self._on_exhausted(now, reset)
        if receipt < self._reported_receipt or not self._believed:
            return
        self._reported_receipt = receipt
        self._limit = limit
        self._remaining = remaining - (self._taken - receipt)
        self._at = now
        self._flow = flow
        # Once it is whole again, what flows is still bounded by how it flows.
        self.until = now + (self._max_wait if self._flow else min(reset, self._max_wait))

    def _on_exhausted(self, now: float, reset: float) -> None:
        if now + SLACK < self._empty_until:
            self._believed, self.until = False, READY
        self._empty_until = now + reset

    def _refill_rate(
        self, report: RateLimitStatus, limit: float, missing: float, reset: float
    ) -> float:
        if not report.flows or limit == inf:
            return 0.0
        if missing and reset > 0:
            return max(MIN_SPEED, missing / reset)
        return limit / (report.window or MINUTE)

    def _advance_window(self, now: float) -> None:
        self._remaining = min(self._limit, self._remaining + (now - self._at) * self._flow)
        self._at = now
