"""Renew the leases of one target or one spend limit: write reports and apply answers. Pure; `store_thread` sends them.

| a member whose state is | reports again after |
|---|---|
| a call waits for an answer | at once |
| it wants more than it got | 0.05 to 0.25 s, as the store decides |
| its last attempt ended, and it holds slots | at once, if its last report is older than BUSY, or in a CROWD |
| it has used its lease since its last report | BUSY; money: UNUSED seconds after its last use or last report |
| in use at all | LEASED, or HELD with slots; money, and cooldowns alone: CALM |
| any of these, among more than CROWD members | longer in proportion |
| not used for IDLE seconds, and it holds nothing | never: the next waiting call wakes it |
| its engine was closed, and no call needs it | never: the next call wakes it; a spend limit after FORGOTTEN / 2 |
| another report is sent, and a quarter of this time is over | at once: one call to the store serves all of them |
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from decimal import ROUND_CEILING, Decimal
from math import exp, inf
from typing import Protocol
from weakref import ref

from stormbreak.core.fleet_lease import (
    Lease,
    LeasedLimiter,
    LeasedRate,
    Ramp,
    SpendLease,
    TargetLease,
)
from stormbreak.core.spend_policy import CALENDARS, MICRO, SpendPolicy
from stormbreak.core.target_state import TargetState
from stormbreak.fleet.messages import (
    HOLD,
    LIFT,
    NONE,
    Answer,
    CooldownReport,
    RateLease,
    RateReport,
    Report,
    SlotReport,
    SpendReport,
)
from stormbreak.fleet.store_rules import CHUNK, FORGOTTEN, LEASE, QUIET

BUSY = 0.25  # seconds
CALM = QUIET * 0.8  # soon enough for a store that was restarted empty
HELD = LEASE / 2  # a report may be lost
LEASED = LEASE * 0.75  # a report may be lost, and repeated a little later
SOON = 1.0  # seconds; a report due later than this may go early with another report, ...
EARLY = 0.25  # ... after this part of its time
IDLE = 10.0
CROWD = 100  # members; above this number each reports less often, to spare the store ...
MAX_GAP = 3.0  # ... but in time to keep its leases
SHORT = 0.1  # seconds until a member asks again for slots or money held by others
FETCHED = 2 * BUSY  # seconds of recent use to lease ahead: until the report after the next
MIN_GAP = 0.01  # seconds between two beats
WORTH_IT = 2.0  # per second; members that use less are calm
USE_MEMORY = 1.0  # time constant of the average use, in seconds
ROUNDING = 0.05  # seconds
UNUSED = 1.0  # seconds after which granted, unused money is given back


class Membership(ABC):
    """One member of one scope. It reports at `next_at`, by the clock of its engine."""

    lease: Lease
    away_for = inf  # seconds until the next report while it is away
    _gives_back_early = False  # it may give something back whenever another report is sent

    def __init__(self, scope: str, name: str) -> None:
        self.scope, self.name = scope, name
        self.epoch = 0.0
        self.members = 0
        self.next_at = inf  # when to check for something to report
        self.along_at = inf  # when to check if another report is sent anyway
        self._due_at = -inf  # when to report even without news ...
        self._early_at = inf  # ... and when, if another report is sent anyway
        self._reported_at = -inf
        self._has_left = False  # the last report gave all leases back
        self.restarts = 0  # how often the store has lost the scope

    @property
    @abstractmethod
    def is_gone(self) -> bool:
        """Whether nothing uses it any more."""

    @property
    def is_away(self) -> bool:
        """Whether it has given back its lease, until it is woken."""
        return self._has_left and self.lease.rests

    def due_report(self, now: float, *, along: bool = False) -> Report | None:
        """Return a report; None if nothing is new. `along`: another report is sent anyway."""
        due_at = self._early_at if along else self._due_at
        is_due = self.next_at == -inf or now >= due_at
        self.next_at = now + LEASE  # unless an answer or a call changes it before
        look_at = None if is_due else self._look_again_at(now)
        if look_at is None:
            self.along_at = inf
            return self.report(now)
        self.next_at = min(look_at, self._due_at)
        return None

    @abstractmethod
    def _look_again_at(self, now: float) -> float | None:
        """Return when to check again if nothing is new; None if there is something to report."""

    @abstractmethod
    def report(self, now: float, *, leaves: bool = False) -> Report:
        """Return a report."""

    def _begin_report(self, now: float, *, holds: bool) -> None:
        """Forget the epoch after a long silence: the store drops unused scopes, and that is not a loss of data.

        `holds`: the member knows something that the store must not lose.
        """
        if not holds and now - self._reported_at >= FORGOTTEN / 2:
            self.epoch = 0.0
        self._reported_at = now

    @abstractmethod
    def _apply(self, answer: Answer, sent_at: float, now: float) -> tuple[float, float]:
        """Take over the leases. Return the seconds until the next check for news and until the next report.

        The first is negative if not all was granted. The report goes out even without news.
        """

    @abstractmethod
    def pump(self, now: float) -> None:
        """Start calls that waited for the answer."""

    def apply(self, answer: Answer, sent_at: float, now: float) -> None:
        """Take over an answer to the report of `sent_at`, and start waiting calls."""
        woken = self.next_at == -inf  # since the report: the answer does not cover it
        if self.epoch not in (0.0, answer.epoch):
            self.restarts += 1
        self.epoch, self.members = answer.epoch, int(answer.members)
        self.lease.members = self.members
        self.lease.is_crowded = self.members > CROWD
        self.lease.set_share(1 / max(1, self.members))
        after, due = self._apply(answer, sent_at, now)
        self.next_at, gap = now + self._gap(abs(after)), self._gap(due)
        self._due_at = -inf if woken else now + gap
        self._early_at = now + (gap * EARLY if gap >= SOON else inf)
        self.along_at = now if self._gives_back_early else self._early_at
        self.lease.answered(self.next_at + self.lease.patience if after < 0 else inf)
        self.pump(now)
        if woken:
            self.next_at = min(self.next_at, now + MIN_GAP)

    def _gap(self, after: float) -> float:
        """Return the seconds until the next report; `after` are those of a member without a crowd."""
        if self.is_away:
            return self.away_for
        if self.lease.rests:
            return min(after, BUSY)
        if after == inf or self.members <= CROWD:
            return after
        return max(after, min(after * self.members / CROWD, MAX_GAP))

    def fail(self, now: float, retry_after: float) -> None:
        """Handle a missing answer: calls do not wait for the next one. Leases that were given back end by time."""
        self.lease.failed(now)
        self._due_at = -inf  # the report is still news
        self.next_at = now + (self.away_for if self.is_away else retry_after)
        self.pump(now)


# ---------------------------------------------------------------- a target


class _Use:
    """The recent use of a rate, per second."""

    def __init__(self) -> None:
        self.per_second = 0.0
        self._used, self._at = 0.0, -inf

    def learn(self, used: float, now: float) -> bool:
        """Record the total use; return whether it has grown."""
        span, more = now - self._at, used - self._used
        if span > 0:
            weight = 1 - exp(-span / USE_MEMORY)
            self.per_second += (more / span - self.per_second) * weight
            self._used, self._at = used, now
        return more > 0

    @property
    def ahead(self) -> int:
        return int(self.per_second * FETCHED)


class TargetMembership(Membership):
    """The leases of one target. `chance` spreads the ends of cooldowns."""

    lease: TargetLease

    def __init__(
        self, scope: str, name: str, state: TargetState, chance: Callable[[], float]
    ) -> None:
        super().__init__(scope, name)
        self._state = ref(state)
        self._chance = chance
        self.used_at = -inf
        self._requests, self._tokens = _Use(), _Use()
        self._reported: object = None  # the last reported news of a cooldown
        self._shared_until = -inf  # the end of a cooldown that the store knows
        self._asked: tuple[float, float, float] = (0.0, 0.0, 0.0)  # requests, tokens, slots

    @property
    def is_gone(self) -> bool:
        """Whether the target was forgotten, or has another state."""
        return self._state() is None

    def pump(self, now: float) -> None:
        state = self._state()
        if state is not None and state.admission.queued:
            state.admission.pump(now)

    def report(self, now: float, *, leaves: bool = False) -> Report:
        """Report the use of the target, the wants of its queue, and news of its cooldown."""
        self._begin_report(now, holds=False)
        state, lease = self._state(), self.lease
        self._has_left = leaves = leaves or state is None or (lease.rests and state.idle)
        queued, tokens = (0, 0) if state is None or leaves else _waiting(state, now)
        ahead = not leaves
        requests = _rate_report(lease.requests, ahead * self._requests.ahead, queued, 1, now)
        money = _rate_report(lease.tokens, ahead * self._tokens.ahead, queued, tokens, now)
        slots = SlotReport() if state is None or leaves else self._slots(queued, now)
        self._asked = requests.want, money.want, slots.want
        rates = ((lease.requests, self._requests), (lease.tokens, self._tokens))
        learnt = [use.learn(rate.used, now) for rate, use in rates if rate is not None]
        if queued or slots.in_flight or any(learnt):
            self.used_at = now
        news = CooldownReport() if state is None else self._news(state, now)
        return Report(self.epoch, float(leaves), requests, money, slots, news)

    def _slots(self, queued: int, now: float) -> SlotReport:
        slots = self.lease.slots
        if slots is None:
            return SlotReport()
        want = self._slots_wanted(slots, queued, now)
        if want < slots.cap:  # another member may get the rest before the answer comes
            slots.set_cap(want, slots.cap_until)
        known = float(slots.known_cap(now))
        return SlotReport(float(slots.whole), float(slots.in_flight), float(want), known)

    def _slots_wanted(self, slots: LeasedLimiter, queued: int, now: float) -> int:
        spare = now - self.used_at < BUSY and not self.lease.is_crowded
        return min(slots.whole, slots.in_flight + queued + spare)

    def _look_again_at(self, now: float) -> float | None:
        """Check early only for slots: the member may hold unused slots, or more than the store knows."""
        slots = self.lease.slots
        if slots is None or self._state() is None:
            return None
        is_known = self._slots_wanted(slots, 0, now) == self._asked[2] == slots.known_cap(now)
        return inf if is_known else None

    def _news(self, state: TargetState, now: float) -> CooldownReport:
        news = state.cooldown.news
        if news is None or news is self._reported:
            return CooldownReport()
        self._reported, age = news, now - news.sent_at
        if news.until is None:
            return CooldownReport(LIFT, age)
        self._shared_until = state.cooldown.until
        return CooldownReport(HOLD, age, max(0.0, news.until - now))

    def _apply(self, answer: Answer, sent_at: float, now: float) -> tuple[float, float]:
        state, lease = self._state(), self.lease
        if state is None:
            return inf, inf
        if state.quota is not None:
            state.quota.set_reported_share(1 / max(1, self.members))
        _lease(lease.requests, answer.requests, now)
        _lease(lease.tokens, answer.tokens, now)
        self._apply_cooldown(state, answer.cooldown, now)
        requests, tokens, slots = self._asked
        denied = [
            rate.again
            for rate, want in ((answer.requests, requests), (answer.tokens, tokens))
            if rate.lump + rate.units < want
        ]
        changed = lease.slots is not None and lease.slots.cap != answer.cap
        if lease.slots is not None:
            lease.slots.fresh_until = now + BUSY
            lease.slots.set_cap(int(answer.cap), sent_at + LEASE)
            if answer.cap < slots and state.admission.queued:
                denied.append(SHORT)
        if denied and state.admission.queued:
            return -min(denied), min(denied)
        rates = (self._requests, self._tokens)
        if any(use.per_second >= WORTH_IT for use in rates):
            return BUSY, BUSY
        if lease.only_gossips:
            return CALM, CALM
        calm = HELD if self._holds_slots else LEASED
        if changed:
            return BUSY, calm
        return (inf, inf) if self._is_idle(now) else (calm, calm)

    def fail(self, now: float, retry_after: float) -> None:
        """Handle a missing answer: calls do not wait for the next one, and news is reported again."""
        self._reported = None
        super().fail(now, retry_after)

    def _is_idle(self, now: float) -> bool:
        lease = self.lease
        rates = [rate for rate in (lease.requests, lease.tokens) if rate is not None]
        holds = self._holds_slots or any(rate.held(now) for rate in rates)
        return now - self.used_at > IDLE and not holds

    @property
    def _holds_slots(self) -> bool:
        slots = self.lease.slots
        return slots is not None and bool(slots.cap or slots.in_flight)

    def _apply_cooldown(self, state: TargetState, left: float, now: float) -> None:
        cooldown = state.cooldown
        if not state.policy.cooldown:
            return
        if left > 0:
            if cooldown.until < now + left - ROUNDING:
                spread = state.policy.retry.retry_after_jitter
                cooldown.hold(now + left * (1 + spread * self._chance()), now)
                self._shared_until = cooldown.until
        elif cooldown.until > now and cooldown.until == self._shared_until:
            cooldown.lift(now)


def _waiting(state: TargetState, now: float) -> tuple[int, int]:
    """Return the number of calls that wait for leases, and the tokens of the first."""
    queued = state.admission.queued
    if not queued or state.blocked_until(now) > now:
        return 0, 0
    call = state.admission.observed_call()
    free = state.slots.max_limit - state.slots.in_flight
    return int(min(queued, max(1, free))), 0 if call is None else call.tokens


def _rate_report(
    rate: LeasedRate | None, ahead: int, calls: int, each: int, now: float
) -> RateReport:
    if rate is None:
        return RateReport()
    want = max(0.0, calls * each + ahead - rate.held(now))
    least = float(each if calls else min(1, want))
    return RateReport(
        rate.rate * 60, rate.depth, max(want, least if want else 0.0), least, rate.owed
    )


def _lease(rate: LeasedRate | None, lease: RateLease, now: float) -> None:
    if rate is not None:
        rate.add(Ramp(now + lease.lump_in, 0.0, lease.lump, now))
        rate.add(Ramp(now + lease.first_in, lease.spacing, lease.units, now))


# ---------------------------------------------------------------- a spend limit


class Account(Protocol):
    """The part of a spend account that a fleet needs (`cost.spend_gate.SpendAccount`)."""

    limit: Decimal
    ends_at: float
    spent: Decimal
    used_at: float
    lease: SpendLease | None

    @property
    def taken(self) -> Decimal:
        """US dollars spent or reserved in the period."""

    def begin_period(self) -> None:
        """Begin another period."""


class SpendMembership(Membership):
    """The allowance of one account. `bounds` yields the costs of calls that wait for it; `on_change` starts them."""

    lease: SpendLease
    # The store must not forget which member has the money, or it would count it twice.
    away_for = FORGOTTEN / 2

    def __init__(
        self,
        scope: str,
        name: str,
        account: Account,
        policy: SpendPolicy,
        *,
        bounds: Callable[[float], Iterable[Decimal]],
        on_change: Callable[[float], None],
    ) -> None:
        super().__init__(scope, name)
        self._account = account
        self._max_usd = policy.max_usd
        period = policy.period or 0.0
        self._period = -1.0 - CALENDARS.index(period) if isinstance(period, str) else period
        self._bounds = bounds
        self._on_change = on_change
        self._over = NONE  # the period that has ended here, but perhaps not yet in the store
        self._needed = 0
        self._spent = 0  # as last reported
        self._chunk = 0  # the amount that the store grants at once
        self._denied = False
        self.ended = False  # nothing uses the account any more

    @property
    def is_gone(self) -> bool:
        """Whether the account has ended; otherwise it lives as long as its engine."""
        return self.ended

    def change_limit(self, policy: SpendPolicy) -> None:
        """Change the limit. If it is lower, give back unreserved money, which was granted under the higher limit."""
        before, self._max_usd = self._max_usd, policy.max_usd
        if before is not None and policy.max_usd is not None and policy.max_usd < before:
            lease = self.lease
            taken = micro_dollars(self._account.taken)
            lease.returned = max(lease.returned, lease.granted - taken)
            lease.wake()

    def pump(self, now: float) -> None:
        self._on_change(now)

    def _look_again_at(self, now: float) -> float | None:
        """Report spent and returned money once no call has run for UNUSED seconds, or regularly if calls never stop."""
        account = self._account
        if now >= account.ends_at:
            return None
        spent, taken = micro_dollars(account.spent), micro_dollars(account.taken)
        if taken == spent and not self._is_unused(now) and now < self._reported_at + 2 * UNUSED:
            return account.used_at + UNUSED
        if spent != self._spent or (taken == spent < self.lease.allowance):
            return None
        return inf if taken == spent else now + UNUSED

    def _is_unused(self, now: float) -> bool:
        """Whether it may give back unreserved money: a process with few calls does not need it."""
        return self._gives_back_early or now >= self._account.used_at + UNUSED

    def report(self, now: float, *, leaves: bool = False) -> Report:
        """Report the granted, returned and spent money, and the money needed."""
        account, lease = self._account, self.lease
        # Settling a late call may have begun another period of the account.
        is_rolled = lease.started > 0 and self._period != 0 and account.ends_at == inf
        if now >= account.ends_at or is_rolled:
            account.begin_period()
            self._over = lease.started
            lease.begin(0.0)
        spent, taken = micro_dollars(account.spent), micro_dollars(account.taken)
        self._begin_report(now, holds=bool(lease.granted or taken))
        leaves = leaves or self.is_gone
        bounds = [] if leaves else list(self._bounds(now))
        self._has_left = leaves = leaves or (lease.rests and taken == spent and not bounds)
        self._needed = taken + micro_dollars(min(bounds)) if bounds else 0
        if bounds:
            self._gives_back_early = now >= account.used_at + UNUSED
        unused = not bounds and taken == spent and self._is_unused(now)
        if unused or leaves or self._denied:  # other members may need it
            lease.returned = max(lease.returned, lease.granted - taken)
        elif not bounds:  # less money is in use than before
            spare = max(taken - spent, spent - self._spent, self._chunk)
            lease.returned = max(lease.returned, lease.granted - taken - spare)
        self._spent = spent
        ends_in = NONE if account.ends_at == inf else account.ends_at - now
        spend = SpendReport(
            limit=float(int(account.limit / MICRO)),
            period=self._period,
            started=lease.started,
            ends_in=ends_in,
            granted=float(lease.granted),
            returned=float(lease.returned),
            spent=float(spent),
            needed=float(self._needed),
            noted=float(lease.noted),
            elsewhere=float(lease.elsewhere),
        )
        return Report(self.epoch, float(leaves), spend=spend)

    def _apply(self, answer: Answer, sent_at: float, now: float) -> tuple[float, float]:  # noqa: ARG002 - as above
        account, lease, spend = self._account, self.lease, answer.spend
        if spend.started == self._over:  # the store's period ends slightly later
            return (-SHORT, SHORT) if self._needed else (BUSY, BUSY)
        if spend.started > 0:
            if spend.started == lease.started:
                lease.noted = self._spent
            else:
                if lease.started:
                    account.begin_period()
                lease.begin(spend.started)
            account.ends_at = inf if spend.ends_in == NONE else sent_at + spend.ends_in
            lease.granted = max(lease.granted, int(spend.granted))
            lease.elsewhere = int(spend.elsewhere)
        self._chunk = int(spend.left / CHUNK)
        lack = self._needed - lease.allowance
        self._denied = lack > 0
        lease.withholds = self._denied and spend.left >= lack
        if self._denied:
            return -SHORT, SHORT
        # If the store loses its data, only this process knows its own spending.
        due = CALM if lease.granted or account.spent else inf
        return min(UNUSED, due), due


def micro_dollars(usd: Decimal) -> int:
    """Round up to whole micro-dollars."""
    return int((usd / MICRO).to_integral_value(ROUND_CEILING))


def dollars(micro: float) -> Decimal:
    return Decimal(micro) / 1_000_000
