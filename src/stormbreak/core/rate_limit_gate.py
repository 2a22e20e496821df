"""The gate of rate limits: it reserves one request and its estimated tokens, and settles the real usage afterwards.

A call leaves when it fits into every limit: the configured ones (`Bucket`) and those in the server's headers
(`ReportedLimit`). The first call in the queue waits until its own estimate fits. Smaller calls do not overtake it, or
large calls would never leave.

The reservation of an attempt, by its outcome:

- nothing was sent, or there was no connection: request and tokens are refunded
- an answer with usage: the request and the usage count
- an answer without usage, or a failure that may have been processed: the request and the estimate count
- anything else (refused and not served): the request counts, the tokens are refunded
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
MINUTE = 60.0  # period of a limit if the server does not state it
MIN_SPEED = 1e-9  # per second
SLACK = 1.0  # seconds; resets are rounded
_NOT_SENT = frozenset({Verdict.CONNECT_FAILED, Verdict.REJECTED})

Reserved: TypeAlias = tuple[int, float, float, float]
"""The reservation of an attempt: its tokens, and the receipts of `rpm` and of the reported request and token limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitPolicy:
    """At most `rpm` requests and `tpm` tokens per minute, per process and target. None: no limit.

    After a pause, `burst_seconds` seconds' worth of them may leave at once (at least one request). With
    `learn_from_headers`, limits in the headers of answers are respected, too.
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
        """Whether there is any limit to apply."""
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
        """No report closes a limit for longer than `max_wait` seconds. This process has `share` of all limits.

        `rate_for("requests" or "tokens", per second, seconds of a burst)` makes the counter of a configured limit; the
        default is a `Bucket`.
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
        self._typical_tokens = 0.0  # tokens of an answered call; 0 while unknown

    def go_on(self, before: "RateLimitGate") -> None:
        """Take over the buckets of an earlier gate if the limit is the same: earlier use counts."""
        rpm, tpm = before.configured
        self._rpm, self._tpm = _kept(self._rpm, rpm), _kept(self._tpm, tpm)

    @property
    def configured(self) -> "tuple[Rate | None, Rate | None]":
        """The counters of the configured limits of requests and of tokens."""
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
        """Return the limit for which `call` waits longest: "requests" or "tokens"; None: it may leave."""
        ready_at = self.ready_at(call, now)
        if ready_at <= now:
            return None
        requests = [] if self._rpm is None else [self._rpm.ready_at(1, now)]
        if self._reported is not None:
            requests.append(self._reported[0].ready_at(1, now))
        return "requests" if ready_at in requests else "tokens"

    def is_needed(self, now: float) -> bool:
        """Whether a configured limit is partly used, or a reported one mostly: a new gate would start with all."""
        buckets = (self._rpm, self._tpm)
        return any(bucket is not None and bucket.full_at > now for bucket in buckets) or any(
            limit.is_scarce(now) for limit in self._reported or ()
        )

    def paces(self, call: Call, now: float) -> bool:
        """Whether a configured limit holds calls like this one, or recently did."""
        since = now - RECENT
        return (self._rpm is not None and self._rpm.ready_at(1, now) > since) or (
            self._tpm is not None and self._tpm.ready_at(call.tokens, now) > since
        )

    def time_to_send(self, sends: float, now: float) -> float:
        """Return the seconds until `sends` more calls are sent, by the configured request limit alone."""
        return 0.0 if self._rpm is None else max(0.0, self._rpm.turn_at(sends - 1, now) - now)

    def set_reported_share(self, share: float) -> None:
        """Use `share` of limits in later reports."""
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
        """Whether the attempt lacked tokens, and enough tokens remain for a usual call.

        Then only the heavy call has to wait. If less remains, all calls have to. While a server refuses, its reported
        limit is not enough to send by: calls would come too early again and again if a fixed window is reported as if
        it flowed (goodput 75 to 82 instead of 93 in `tokens`).
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
        """Refund the excess of the reservation, and learn the reported limits."""
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
        """Refund the reported limits, and learn from the report of this answer."""
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
    """Return the bucket before if the new one has the same rate and depth."""
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
    """The counter of a configured limit: a `Bucket`, or leases (`core.fleet_lease.LeasedRate`)."""

    full_at: float

    def ready_at(self, amount: float, now: float, /) -> float:
        """Return the time from which `amount` may be taken without refunds."""

    def turn_at(self, ahead: float, now: float, /) -> float:
        """Return the time from which one may be taken after `ahead` others."""

    def take(self, amount: float, now: float) -> float:
        """Take `amount`, and return a receipt for `refund`."""

    def settle(self, amount: float, *, latest: float) -> None:
        """Give back an unused `amount`; a negative amount was used in addition."""

    def refund(self, amount: float, receipt: float, now: float) -> None:
        """Give back an amount for an attempt that never happened."""


class Bucket:
    """A bucket that holds `depth` seconds of a flow of `rate` per second, by virtual scheduling. It begins full.

    The state is one time: `full_at`, when the bucket would be full again without further takes. Taking an amount moves
    it by amount / rate seconds. An amount may be taken if `full_at` is then at most `depth` seconds ahead. This is the
    generic cell rate algorithm (ITU-T I.371, 1993) with a weight. An amount larger than the whole bucket may be taken
    when the bucket is full, and is then paid off.

    So without refunds, at most `depth * rate + rate * t` is taken within any t seconds (or the largest take, if that is
    more). `settle` gives back an excess reservation: averages hold, and a window exceeds the bound by at most the
    amount given back in it. `refund` is for an attempt that never happened, and keeps the bound in every window: it
    gives back only the part of the amount's time that is still ahead.
    """

    def __init__(self, rate: float, depth: float) -> None:
        self._seconds = 1 / rate  # of one unit
        self._depth = max(depth, self._seconds)
        self.full_at = 0.0  # when it is full again without further takes
        self._returned_unused = 0.0  # seconds in total

    @property
    def size(self) -> tuple[float, float]:
        """The seconds of one unit, and the depth in seconds."""
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
        """Give back an unused `amount`; a negative amount was used in addition.

        A debt is paid off at `latest`, whatever its size, so that one wrong count cannot close the limit forever.
        """
        full_at = self.full_at - amount * self._seconds
        self.full_at = min(full_at, max(self.full_at, latest))

    def refund(self, amount: float, receipt: float, now: float) -> None:
        """Give back an amount for an attempt that never happened, as far as its time is still ahead.

        Other amounts that were given back meanwhile have moved that time. It may be estimated too early, never too
        late.
        """
        ahead = receipt - self._returned_unused - now
        seconds = min(amount * self._seconds, max(0.0, ahead))
        self.full_at -= seconds
        self._returned_unused += seconds


# ---------------------------------------------------------------- reported limits


class ReportedLimit:
    """A limit of requests or of tokens, as last reported by the server and extrapolated. At first everything passes.

    Servers report how much of a limit remains, and when it is full again. A limit that *flows* refills evenly until its
    reset, at (limit - remaining) / reset per second. Any other limit refills at its reset, not earlier.

    A report describes the moment in which the server counted that attempt. It does not include attempts that left
    later, so they are subtracted. A report on an attempt that left before the last reported attempt is outdated.

    A limit that does not flow can be used up only once until its reset. If a server serves two attempts and reports
    after both that nothing remains, its reports are wrong and are ignored from then on: some gateways send 0 if they
    know no number.

    A report of 0 without a reset time is ignored. No report holds for longer than `max_wait` seconds: after that, an
    attempt has to find out.
    """

    def __init__(self, max_wait: float, share: float = 1.0) -> None:
        """No report holds for longer than `max_wait` seconds; this process has `share` of a reported limit."""
        self._max_wait = max_wait
        self.share = share
        self._limit = inf
        self._remaining = inf  # at `_at`
        self._at = 0.0
        self._flow = 0.0  # per second, from `_at` on
        self.until = READY  # the end of the report; later, everything passes
        self._taken = 0.0  # in total
        self._believed = True
        self._empty_until = -inf  # the reset of a limit that a served answer reported as used up
        self._reported_receipt = -1.0  # receipt of the last reported attempt

    def ready_at(self, amount: float, now: float) -> float:
        """Return READY, or when `amount` remains. An amount above the limit may leave when the limit is full."""
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
        """Whether less than half of the limit remains; if the limit is unknown, whether nothing remains."""
        if now >= self.until:
            return False
        remains = self._remaining + (now - self._at) * self._flow
        return remains < (1 if self._limit == inf else self._limit / 2)

    def take(self, amount: float, now: float) -> float:
        """Take `amount`, and return a receipt, by which a report shows whether it includes the amount."""
        self._taken += amount
        if now < self.until:
            self._advance_window(now)
            self._remaining -= amount
        return self._taken

    def settle(self, amount: float, receipt: float, now: float) -> None:
        """Give back an unused `amount`; a negative amount was used in addition.

        An amount that the last report includes is not corrected: the server knows better.
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
        # A flowing limit that is full again is still bounded by its flow.
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
