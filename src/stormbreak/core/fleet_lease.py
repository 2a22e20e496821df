"""The leases of one process: its part of the limits of a fleet. The gates of a target read them instead of own limits.

Package `fleet` renews leases in the background. No call waits for that longer than PATIENCE: a call that finds no lease
waits in the queue, and the next answer of the store wakes it.

| the store | rates | slots in flight | money |
|---|---|---|---|
| answers | leased units | leased cap | leased allowance |
| is late | or this process's share | or this process's share | leased allowance |
| is lost: a report has failed, and LOSS seconds | this process's share | this process's share | the same, then the policy decides |
"""

from collections import deque
from collections.abc import Callable
from math import floor, inf

from stormbreak.core.concurrency_limit import FixedLimit, FixedLimiter
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.gate import NEVER, READY
from stormbreak.core.rate_limit_gate import Bucket
from stormbreak.types import Outcome

PATIENCE = 0.035  # seconds that a call waits for the store
PARENT_PATIENCE = 1.0  # and for a parent process: it is only busy, since its children end with it
LOSS = 1.0  # seconds after it was late until a failed store counts as lost
LAPSE = 1.0  # seconds for which a unit may be used after its time
HALF = 0.5


class Lease:
    """Whether the store answers, for one target or one spend limit."""

    def __init__(self, policy: FleetPolicy, share: float, wake: Callable[[], None]) -> None:
        """`wake` makes the fleet ask the store soon. Until it answers, this process has `share` of each limit."""
        self.policy = policy
        self.is_known = False  # whether the store has ever answered
        self.members = 0  # as the store last reported
        # There are so many members that each gives back unused leases at once.
        self.is_crowded = False
        self.late_at = inf  # when calls stop waiting for an answer; inf: no answer is due
        self.lost_at = inf  # when a silent store counts as lost; inf: no report has failed
        self.rests = False  # give the lease back as soon as no call needs it
        self.report_soon = wake
        is_parent = policy.url is not None and policy.url.startswith("parent:")
        self.patience = PARENT_PATIENCE if is_parent else PATIENCE
        self.set_share(share)

    def set_share(self, share: float) -> None:
        """Use this share of each limit while the store does not answer."""
        self.share = share * (HALF if self.policy.fallback == "half" else 1.0)

    def wake(self) -> None:
        """Ask the store soon."""
        self.rests = False
        self.report_soon()

    def rest(self) -> None:
        """Give the lease back soon, until it is woken again."""
        self.rests = True
        self.report_soon()

    def ask(self, now: float) -> None:
        """Ask the store soon, for a call that waits."""
        if self.rests or self.late_at == inf:
            self.late_at = min(self.late_at, now + self.patience)
            self.wake()

    @property
    def is_sharing(self) -> bool:
        """Whether the store has answered the last report."""
        return self.is_known and self.lost_at == inf

    def answered(self, late_at: float) -> None:
        """Record an answer of the store; calls that still wait do so until `late_at` (inf: none waits)."""
        self.is_known = True
        self.late_at, self.lost_at = late_at, inf

    def failed(self, now: float) -> None:
        """Record a missing answer: calls no longer wait, and soon the store counts as lost."""
        self.late_at = min(self.late_at, now)
        self.lost_at = min(self.lost_at, max(now, self.late_at + LOSS))


# ---------------------------------------------------------------- rates


class Ramp:
    """`count` leased units, the first usable at `first`, then one every `spacing` seconds. Received at `got`.

    None has lapsed before `whole_until`.
    """

    __slots__ = ("count", "first", "got", "spacing", "whole_until")

    def __init__(self, first: float, spacing: float, count: float, got: float) -> None:
        self.first = first
        self.spacing = spacing
        self.count = count
        self.got = got
        self.whole_until = got + LAPSE


class LeasedRate:
    """Leased units of a rate limit, each usable from its time until LAPSE seconds later. Used like a `Bucket`.

    While the store is late, a bucket with this process's share replaces it. `owed` counts the units used from that
    bucket, less those given back.
    """

    def __init__(self, rate: float, depth: float, lease: Lease) -> None:
        self.rate = rate  # of the fleet, per second
        self.depth = depth
        self.owed = 0.0
        self.used = 0.0  # in total
        self.full_at = -inf  # when another gate may replace it: all debt has been reported
        self._lease = lease
        self._ramps: deque[Ramp] = deque()
        self._own: tuple[float, Bucket] | None = None  # this process's share, and its bucket

    def add(self, ramp: Ramp) -> None:
        if ramp.count > 0:
            self._ramps.append(ramp)

    def held(self, now: float) -> float:
        """Return the number of units held, usable now or later."""
        self._drop_lapsed(now)
        return sum(ramp.count for ramp in self._ramps)

    def ready_at(self, amount: float, now: float) -> float:
        """READY, the time at which `amount` may be taken, or NEVER if only the store knows."""
        if self._usable(amount, now) is not None:
            return READY
        at = self._held_at(amount, now)
        if at <= now:
            return READY
        late_at = self._lease.late_at
        return at if late_at == inf else min(at, max(late_at, self._bucket(now).ready_at(amount)))

    def turn_at(self, ahead: float, now: float) -> float:
        return now + max(0.0, ahead - self.held(now)) / self.rate

    def take(self, amount: float, now: float) -> float:
        """Take `amount`; return the time at which it would have lapsed, as a receipt for `refund`."""
        self.used += amount
        self.full_at = now + MEMORY
        usable = self._usable(amount, now)
        if usable is not None:
            usable.count -= amount
            usable.first += amount * usable.spacing
            return max(usable.first - usable.spacing + LAPSE, usable.whole_until)
        if self._held_at(amount, now) > now:
            self._bucket(now).take(amount, now)
            self.owed += amount
            return -inf
        lapses_at = inf
        while amount > 0 and self._ramps:
            ramp = self._ramps[0]
            part = min(amount, ramp.count)
            lapses_at = max(ramp.first + (part - 1) * ramp.spacing, ramp.got) + LAPSE
            amount -= part
            ramp.count -= part
            ramp.first += part * ramp.spacing
            if not ramp.count:
                self._ramps.popleft()
        return lapses_at

    def refund(self, amount: float, receipt: float, now: float) -> None:
        """Give back an unused amount, unless it would have lapsed."""
        self.used -= amount
        if receipt == -inf:
            self.owed -= amount
            self._bucket(now).settle(amount)
        elif receipt > now:
            self._ramps.appendleft(Ramp(receipt - LAPSE, 0.0, amount, receipt - LAPSE))

    def settle(self, amount: float, *, latest: float = inf) -> None:  # noqa: ARG002 - as a Bucket
        """Give `amount` back to the fleet; a negative amount was used in addition."""
        self.owed -= amount

    def _bucket(self, now: float) -> Bucket:
        """Return the bucket of this process's share. Without a store from the start, it holds one unit at first."""
        before, share = self._own, self._lease.share
        if before is not None and before[0] == share:
            return before[1]
        own = Bucket(self.rate * share, self.depth)
        self._own = share, own
        if before is not None:
            own.full_at = before[1].full_at
        elif not self._lease.is_known:
            own.take(max(0.0, self.rate * share * self.depth - 1), now)
        return own

    def _usable(self, amount: float, now: float) -> Ramp | None:
        """Return the first units if more than `amount` of them are usable now: the usual case of every call."""
        if self._ramps:
            ramp = self._ramps[0]
            if (
                amount < ramp.count
                and now < ramp.whole_until
                and ramp.first + (amount - 1) * ramp.spacing <= now
            ):
                return ramp
        return None

    def _held_at(self, amount: float, now: float) -> float:
        """Return when `amount` held units are usable; NEVER if fewer are held."""
        self._drop_lapsed(now)
        at = READY
        for ramp in self._ramps:
            if amount <= 0:
                break
            part = min(amount, ramp.count)
            at = max(at, ramp.first + (part - 1) * ramp.spacing)
            amount -= part
        return at if amount <= 0 else NEVER

    def _drop_lapsed(self, now: float) -> None:
        ramps, lapsed = self._ramps, now - LAPSE
        while ramps:
            ramp = ramps[0]
            if ramp.got > lapsed or ramp.first > lapsed:
                return
            gone = ramp.count
            if ramp.spacing:
                gone = min(gone, floor((lapsed - ramp.first) / ramp.spacing) + 1)
            ramp.count -= gone
            ramp.first += gone * ramp.spacing
            if ramp.count:
                return
            ramps.popleft()


MEMORY = 10.0  # seconds for which a rate remembers its last use


# ---------------------------------------------------------------- slots in flight


class LeasedLimiter(FixedLimiter):
    """The gate that counts slots, under a cap from the store. `cap_until` is the end of the lease."""

    def __init__(self, policy: FixedLimit, lease: Lease) -> None:
        super().__init__(policy)
        self._lease = lease
        self.cap = 0
        self.cap_until = -inf
        self.fresh_until = inf  # the end of the time after a recent report
        self.whole = policy.max_in_flight  # of the fleet
        self.limit = max(1, int(self.whole * lease.share))

    def resize(self, max_in_flight: int, share: float) -> None:  # noqa: ARG002 - the store divides it
        """Change the limit of the fleet; the cap follows with the next answer of the store."""
        self.whole = max_in_flight
        self._lease.wake()

    @property
    def max_limit(self) -> float:
        return self.whole

    def set_cap(self, cap: int, until: float) -> None:
        """Set another cap, until its lease ends."""
        self.cap, self.cap_until = cap, until
        self.limit = max(1, cap)  # never 0, since it is a divisor

    def known_cap(self, now: float) -> int:
        """Return the cap, or 0 if its lease has ended."""
        return self.cap if now < self.cap_until else 0

    def cap_at(self, now: float) -> int:
        """Return the number of attempts that may be in flight."""
        lease = self._lease
        cap = self.known_cap(now)
        if now < lease.late_at:
            return cap
        share = max(1, int(self.whole * lease.share))
        return share if now >= lease.lost_at else max(cap, share)

    def settle(self, _token: None, _outcome: Outcome, now: float, _uniform: float, /) -> None:
        """Free the slot. The last one goes back to the fleet at once, unless a report was recent."""
        self.in_flight -= 1
        if self.in_flight:
            return
        lease = self._lease
        if (now >= self.fresh_until or lease.is_crowded) and lease.is_sharing:
            lease.report_soon()

    on_success = settle  # the base class refers to its own `settle`

    def ready_at(self, _call: object, now: float) -> float:
        """READY while a slot is free; else the time at which the store is late, or NEVER."""
        if self.in_flight < self.cap and now < self.cap_until and now < self._lease.late_at:
            return READY  # the usual case
        if self.in_flight < self.cap_at(now):
            return READY
        late_at = self._lease.late_at
        return late_at if now < late_at else NEVER


# ---------------------------------------------------------------- one target


class TargetLease(Lease):
    """The leases of one target: requests, tokens and slots, if its policy has such limits."""

    def __init__(self, policy: FleetPolicy, share: float, wake: Callable[[], None]) -> None:
        super().__init__(policy, share, wake)
        self.requests: LeasedRate | None = None
        self.tokens: LeasedRate | None = None
        self.slots: LeasedLimiter | None = None
        self.news: object = None  # the last news of its cooldown for which the fleet was woken

    def report_news(self, news: object) -> None:
        """Report news of a cooldown soon."""
        if news is not self.news:
            self.news = news
            self.report_soon()

    @property
    def only_gossips(self) -> bool:
        """Whether the policy has no limit to lease, so that only cooldowns are shared."""
        return self.requests is None and self.tokens is None and self.slots is None

    def rate(self, kind: str, rate: float, depth: float) -> LeasedRate:
        """Make the lease of `requests` or `tokens`; the fleet may use `rate` per second."""
        leased = LeasedRate(rate, depth, self)
        setattr(self, kind, leased)
        return leased

    def limiter(self, policy: FixedLimit) -> LeasedLimiter:
        self.slots = LeasedLimiter(policy, self)
        return self.slots


# ---------------------------------------------------------------- one spend limit


class SpendLease(Lease):
    """The allowance of one account in the period that began at `started` (0: none has), in micro-dollars.

    `granted` and `returned` never decrease in a period. `elsewhere` is the known spending of other members, and `noted`
    the spending here that the store knows.
    """

    def __init__(self, policy: FleetPolicy, share: float, wake: Callable[[], None]) -> None:
        super().__init__(policy, share, wake)
        self.begin(0.0)

    def begin(self, started: float) -> None:
        """Begin a period, without an allowance."""
        self.started = started
        self.granted = self.returned = 0
        self.elsewhere = self.noted = 0
        self.withholds = False  # money is left, but the store does not grant it yet

    @property
    def allowance(self) -> int:
        """The money that may be spent in the period."""
        return self.granted - self.returned

    def is_lost(self, now: float) -> bool:
        """Whether the store has been silent for too long to wait for it."""
        return now >= self.lost_at

    @property
    def is_lenient(self) -> bool:
        """Whether the whole limit may be spent while the store is lost."""
        return self.policy.on_store_loss == "allow"
