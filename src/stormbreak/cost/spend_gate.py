"""The spend limit: reserve the maximum cost of an attempt before it is sent, and settle the real cost afterwards.

`SpendAccounts` holds the accounts of one engine, one for each limit; all targets under the same limit share its
account. `SpendGate` is the gate of one target. Spent and reserved amounts together never exceed the limit, as long as
no attempt costs more than its bound. A limit may be per period, and the cost of an attempt belongs to the period in
which it was sent. Periods of a number of seconds begin with the first attempt. Calendar periods follow the wall clock
(UTC), which is read when one ends; if the clock was set back meanwhile, the period continues.

| outcome of the attempt | spent |
|---|---|
| its usage arrived | the cost of the usage |
| an answer without usage, or an attempt that may have been processed | the whole reservation |
| anything else: refused, never sent | nothing |
"""

import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from math import inf
from typing import NamedTuple

from stormbreak.core.engine import Engine
from stormbreak.core.fleet_lease import SpendLease
from stormbreak.core.gate import NEVER, READY
from stormbreak.core.policy import Policy
from stormbreak.core.spend_policy import (
    COST,
    MICRO,
    SpendPolicy,
    bounded_end,
    period_end,
    restored_end,
    time_left,
)
from stormbreak.cost.price_source import (
    EXACT,
    NOTHING,
    PriceOf,
    RememberedPrices,
    known_cost,
    known_max_cost,
)
from stormbreak.events import Event, SpendReached
from stormbreak.types import Call, Outcome, Rejection, Target, Verdict

ALERTS = (50, 80, 100)  # percentages of the limit that are reported when they are reached
ALL = ALERTS[-1]

INFINITE = Decimal("inf")
PART = 50  # share of a limit that is written ahead at a time, before it is spent ...
ATTEMPTS = 4  # ... or the cost of four attempts, if that is more
COMES_BACK = 5.0  # seconds until a call that a lost store rejected may try again


class SpendAccount:
    """The spent and reserved amounts under one limit. Its period ends at `ends_at`; inf: never, or none has begun.

    Reservations stay within the amount `allowed` so far, if that is below the limit: a batch first records what it may
    spend. `largest` is the largest bound of any attempt so far. With a `lease`, the limit belongs to a fleet: its store
    decides when periods begin, and grants amounts to its members part by part.
    """

    def __init__(self, policy: SpendPolicy, wall: Callable[[], float] = time.time) -> None:
        """`wall` returns unix epoch seconds, for calendar periods."""
        self.period = policy.period
        self.ends_at = inf
        self._wall = wall
        self._boundary = -inf  # the end of a calendar period, by that clock
        self._period = 0
        self.spent = NOTHING
        """Maximum US dollars in the latest period."""
        self._reserved = NOTHING
        self._reported = 0  # in percent
        self._limit_reported = False
        self.allowed = INFINITE
        self.lease: SpendLease | None = None
        self.largest = NOTHING
        self.used_at = -inf  # the last time that something was reserved or settled
        self.change_limit(policy)

    def change_limit(self, policy: SpendPolicy) -> None:
        """Use a new limit for the same period from now on; percentages of it that are not yet reached are reported."""
        assert policy.max_usd is not None, "there is a limit"
        self.limit = Decimal(str(policy.max_usd))
        self._reported = min(self._reported, self._reached())
        self._limit_reported = self._reported == ALL

    def branch(self, policy: SpendPolicy) -> "SpendAccount":
        """Make an account with another limit for the same period and the same spent amount."""
        account = SpendAccount(policy, self._wall)
        account.ends_at, account._period, account.spent = self.ends_at, self._period, self.spent
        account._boundary = self._boundary
        account._reported = account._reached()
        account._limit_reported = account._reported == ALL
        return account

    def ready_at(self, bound: Decimal, now: float) -> float:
        """READY; the end of the period; or NEVER, if other attempts may give back enough."""
        self._follow_calendar(now)
        taken = self.taken_at(now)
        allowed = self.allowed if self.lease is None else self._allowed_by(self.lease, now)
        if EXACT.add(taken, bound) <= min(self.limit, allowed):
            return READY
        return self.ends_at if self._lacks(bound, now) else NEVER

    def _allowed_by(self, lease: SpendLease, now: float) -> Decimal:
        if lease.is_lenient and lease.is_lost(now):
            return self.allowed
        if now >= self.ends_at or (self.is_periodic and self.ends_at == inf):
            return NOTHING  # the allowed amount is for the last period: the store begins a new one
        return min(self.allowed, EXACT.multiply(lease.allowance, MICRO))

    def lacks(self, bound: Decimal, now: float) -> bool:
        """Whether `bound` cannot be reserved in this period, even if other attempts give back all."""
        self._follow_calendar(now)
        return bound > self.limit or self._lacks(bound, now)

    def _lacks(self, bound: Decimal, now: float) -> bool:
        return now < self.ends_at and EXACT.add(self._spent_by_all, bound) > self.limit

    @property
    def _spent_by_all(self) -> Decimal:
        """The certain spending in the period, by all members of a fleet."""
        if self.lease is None:
            return self.spent
        return EXACT.add(self.spent, EXACT.multiply(self.lease.elsewhere, MICRO))

    @property
    def taken(self) -> Decimal:
        """The spent and reserved amounts of the latest period."""
        return EXACT.add(self.spent, self._reserved)

    def taken_at(self, now: float) -> Decimal:
        """The same, but zero once that period is over."""
        return NOTHING if now >= self.ends_at else self.taken

    @property
    def room(self) -> Decimal:
        """The amount that may still be reserved in it now."""
        return EXACT.subtract(min(self.limit, self.allowed), self.taken)

    @property
    def step(self) -> Decimal:
        """US dollars to write ahead at a time."""
        return max(EXACT.divide(self.limit, PART), EXACT.multiply(ATTEMPTS, self.largest))

    @property
    def is_periodic(self) -> bool:
        return self.period is not None

    def is_in_period(self, now: float) -> bool:
        """Whether its period has begun and is not over; always, if it has no periods."""
        self._follow_calendar(now)
        return not self.is_periodic or now < self.ends_at < inf

    def reserve(self, bound: Decimal, now: float) -> int:
        """Reserve `bound`; return the number of the period that it belongs to."""
        self.used_at = now
        self._roll(now)
        if self.ends_at == inf and self.is_periodic:
            self.ends_at = now + time_left(self.period, self._wall())
        self._reserved = EXACT.add(self._reserved, bound)
        return self._period

    def is_present(self, period: int, now: float) -> bool:
        """Whether the period with this number is not over."""
        self._roll(now)
        return period == self._period

    def settle(self, bound: Decimal, cost: Decimal, period: int, now: float) -> None:
        """Spend `cost` of the `bound` that was reserved in `period`."""
        self.used_at = now
        self._roll(now)
        if period == self._period:
            self._reserved = EXACT.subtract(self._reserved, bound)
            self.spend(cost)

    def spend(self, cost: Decimal) -> None:
        """Add spending without a reservation, or from before this account existed."""
        self.spent = EXACT.add(self.spent, cost)

    def next_alert(self, *, rejected: bool = False) -> int | None:
        """Return the next of the `ALERTS` once it is reached; the last one also after a rejection for lack of money.

        Each is returned once. Lower ones may follow the last one after such a rejection: smaller calls may still have
        much left.
        """
        before, self._reported = self._reported, max(self._reported, self._reached())
        if (rejected or self._reported == ALL) and not self._limit_reported:
            self._limit_reported = True
            return ALL
        return self._reported if before < self._reported < ALL else None

    def _reached(self) -> int:
        percent = EXACT.divide(EXACT.multiply(100, self.spent), self.limit)
        return max((alert for alert in ALERTS if alert <= percent), default=0)

    def snapshot(self, now: float) -> dict[str, str | float | None]:
        """US dollars as text, and seconds until the period ends; without reservations of other members of a fleet."""
        over = now >= self.ends_at
        ends = None if over or self.ends_at == inf else self.ends_at - now
        if ends is None and isinstance(self.period, str):
            ends = self.time_left(now)
        return {
            "limit": str(self.limit),
            "spent": str(NOTHING if over else self._spent_by_all),
            "reserved": str(NOTHING if over else self._reserved),
            "ends": ends,
        }

    def _roll(self, now: float) -> None:
        """Begin a new period if the last one is over."""
        self._follow_calendar(now)
        if now >= self.ends_at:
            self.begin_period()

    def _follow_calendar(self, now: float) -> None:
        """Begin a new hour, day or month if the last one is over here and by the wall clock; a store has its own."""
        calendar = self.period
        if now < self.ends_at < inf or not isinstance(calendar, str) or self.lease is not None:
            return
        wall = self._wall()
        if wall >= self._boundary:
            self.begin_period()
            self._boundary = period_end(calendar, wall)
        self._boundary = bounded_end(calendar, self._boundary, wall)
        self.ends_at = now + (self._boundary - wall)

    def time_left(self, now: float) -> float:
        """Return the seconds until its period ends, or would end if it began now, by the clock with the later end."""
        wall = self._wall()
        if not now < self.ends_at < inf:
            return time_left(self.period, wall)
        return max(self.ends_at - now, self._boundary - wall)

    def restore(self, usd: Decimal, ends_in: float | None, now: float) -> None:
        """Continue a period of an earlier process, in which `usd` may have been spent."""
        if ends_in is not None and self.period is not None:
            wall = self._wall()
            end = restored_end(self.period, wall + ends_in, wall)
            if end <= wall:
                return
            self._boundary, self.ends_at = end, now + (end - wall)
        self.spend(usd)

    def begin_period(self) -> None:
        """Begin a new period whose end is not yet known; existing reservations belong to the last one."""
        self._period += 1
        self.ends_at = inf
        self.spent = self._reserved = NOTHING
        self._reported = 0
        self._limit_reported = False


class Reservation(NamedTuple):
    """The reservation of one attempt, and its period."""

    bound: Decimal
    period: int


class SpendGate:
    """The gate of one target, with an account that it shares with other targets.

    It emits an event when the next percentage of the limit is reached. `on_settled(now, self)` is called when an
    attempt is settled, so that calls queued at other targets are checked; calls queued here are checked anyway.
    """

    name = "spend"
    takes = True

    def __init__(
        self,
        account: SpendAccount,
        target: Target,
        price_of: PriceOf,
        emit: Callable[[Event], None],
        on_settled: Callable[[float, "SpendGate"], None],
    ) -> None:
        self.account = account
        self._target = target
        self._prices = RememberedPrices(price_of)
        self._emit = emit
        self._on_settled = on_settled
        self._priced: tuple[object, Decimal | None] = (None, None)  # the last bound and its cost

    def veto(self, call: Call, now: float) -> Rejection | None:
        """Why `call` can never be sent; None if it can."""
        account, bound = self.account, self.max_cost(call)
        if bound is None:
            return Rejection(COST, self._unknown(call))
        if not account.lacks(bound, now):
            return self._veto_without_store(bound, now)
        if bound > account.limit:
            reason = f"it may cost {bound:.6f} USD, and the limit is {account.limit} USD"
            return Rejection(COST, reason)
        self._alert(now, rejected=True)
        if account.is_periodic:
            return None
        return Rejection(
            self.name, f"the rest of the limit of {account.limit} USD is less than {bound:.6f} USD"
        )

    def _veto_without_store(self, bound: Decimal, now: float) -> Rejection | None:
        lease = self.account.lease
        if lease is None or not lease.is_lost(now) or self.account.ready_at(bound, now) <= now:
            return None
        reason = "the store of the fleet does not answer, and only it can grant more money"
        return Rejection(self.name, reason, now + COMES_BACK)

    def ask_fleet(self, call: Call, now: float) -> None:
        """Ask the fleet for the money that `call` lacks."""
        lease = self.account.lease
        if lease is not None and self.ready_at(call, now) == NEVER:
            lease.ask(now)

    def ready_at(self, call: Call, now: float) -> float:
        """READY, the time when the call may be sent, or NEVER."""
        bound = self.max_cost(call)
        return NEVER if bound is None else self.account.ready_at(bound, now)

    def take(self, call: Call, now: float) -> Reservation:
        bound = self.max_cost(call)
        assert bound is not None, "the gate was ready"
        return Reservation(bound, self.account.reserve(bound, now))

    def is_current(self, token: Reservation, now: float) -> bool:
        return self.account.is_present(token.period, now)

    def settle(self, token: Reservation, outcome: Outcome, now: float, _uniform: float) -> None:
        """Spend the cost of the attempt, and give back the rest."""
        bound, period = token
        usage = outcome.usage
        cost = None if usage is None else known_cost(self._prices.at(self._target), usage)
        if cost is None:
            billed = outcome.verdict is Verdict.OK or outcome.maybe_processed
            cost = bound if billed or usage is not None else NOTHING
        self.account.settle(bound, cost, period, now)
        self._alert(now)
        self._on_settled(now, self)

    on_success = settle

    def recheck_at(self) -> float:
        """When a new period begins, regardless of reservations in this one, or when a late store counts as lost."""
        lease = self.account.lease
        return self.account.ends_at if lease is None else min(self.account.ends_at, lease.lost_at)

    def max_cost(self, call: Call) -> Decimal | None:
        """Return the maximum cost of an attempt of `call`; None if unknown. It caches the last one."""
        if call.bound is None:
            return None
        known, cost = self._priced
        if call.bound is not known:
            cost = known_max_cost(self._prices.at(self._target), call.bound)
            self._priced = call.bound, cost
            if cost is not None and cost > self.account.largest:
                self.account.largest = cost
        return cost

    def _unknown(self, call: Call) -> str:
        if call.bound is None:
            return call.unbounded or "its cost has no bound"
        return f"no price is known for {call.target.model} at {call.target.provider}; pass prices, or set no [spend]"

    def _alert(self, now: float, *, rejected: bool = False) -> None:
        percent, account = self.account.next_alert(rejected=rejected), self.account
        if percent is not None:
            until = None if account.ends_at == inf else account.ends_at
            event = SpendReached(now, self._target, percent, account.spent, account.limit, until)
            self._emit(event)


class SpendAccounts:
    """The spend accounts of one engine, by limit. `price_of` gives the prices of a model, and `wall` unix epoch seconds."""

    def __init__(self, price_of: PriceOf, wall: Callable[[], float] = time.time) -> None:
        self.price_of = price_of
        self._wall = wall
        self.start_over()

    def start_over(self) -> None:
        """Forget all spending, as in a forked child."""
        self._accounts: dict[SpendPolicy, SpendAccount] = {}
        self._of_tenants: dict[tuple[str, object], SpendAccounts] = {}  # by name and period
        # the last limit for each period, of a target, or of all (None)
        self._earlier: dict[tuple[Target | None, object], SpendPolicy] = {}

    def of_tenant(self, name: str, policy: SpendPolicy) -> "SpendAccounts":
        """Return the account of a tenant, which is not shared; spending in a period also counts under a new limit."""
        accounts = self._of_tenants.get((name, policy.period))
        if accounts is None:
            accounts = self._of_tenants[name, policy.period] = SpendAccounts(
                self.price_of, self._wall
            )
        else:
            accounts.replace([(None, before, policy) for before in accounts._accounts])
        accounts.account(policy)
        return accounts

    def account(self, policy: SpendPolicy) -> SpendAccount | None:
        if not policy.acts:
            return None
        account = self._accounts.get(policy)
        if account is None:
            account = self._accounts[policy] = SpendAccount(policy, self._wall)
        return account

    def gate(
        self,
        policy: SpendPolicy,
        target: Target,
        emit: Callable[[Event], None],
        on_settled: Callable[[float, SpendGate], None],
    ) -> SpendGate | None:
        account = self.account(policy)
        if account is None:
            return None
        return SpendGate(account, target, self.price_of, emit, on_settled)

    def replace(self, changes: Sequence[tuple[Target | None, SpendPolicy, SpendPolicy]]) -> None:
        """Replace limits: of a target (None: of all), the old limit by a new one.

        Spending in a period also counts under a new limit for that period, even if there was no limit, or one for
        another period, in between. Targets that keep the old limit keep its account: a target that leaves it starts
        with all spending under it. Targets that leave it for different limits each start with that spending.
        """
        before, earlier = dict(self._accounts), self._earlier
        kept = {new for _, _, new in changes}
        for target, last, new in changes:
            if last.acts:
                earlier[target, last.period] = last
            if not new.acts:
                continue
            old = earlier.get((target, new.period))
            earlier[target, new.period] = new
            if old not in before or new in self._accounts:
                continue
            account = before[old]
            if old in kept or old not in self._accounts:
                self._accounts[new] = account.branch(new)
            else:
                account.change_limit(new)
                self._accounts[new] = self._accounts.pop(old)
                for key in [key for key, each in earlier.items() if each == old]:
                    earlier[key] = new

    def taken(self, now: float) -> dict[SpendPolicy, tuple[Decimal, Decimal]]:
        """Return the spent or reserved dollars under each limit, and the limit. Call it from any thread."""
        accounts = tuple(self._accounts.items())
        return {policy: (each.taken_at(now), each.limit) for policy, each in accounts}

    def snapshot(self, now: float) -> list[dict[str, str | float | None]]:
        return [account.snapshot(now) for account in self._accounts.values()]


def spend_accounts(engine: Engine) -> SpendAccounts:
    """Return the accounts of an engine that has them."""
    assert isinstance(engine.spending, SpendAccounts), "the engine was made with prices"
    return engine.spending


def allow_spending(engine: Engine, policy: Policy, amount: Decimal, now: float) -> None:
    """Allow spending of up to `amount` under `policy`, within its limit; send calls that waited for it."""
    account = spend_accounts(engine).account(policy.spend)
    if account is not None:
        account.allowed = amount
        engine.on_spend_settled(now)
