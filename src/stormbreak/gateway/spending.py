"""The spend limits of client keys and tenants: what an attempt may cost is reserved before it leaves, and settled after it.

It is the gate of the spend limit of a policy, with an account for each holder. With a ledger, an account may spend no
more than the ledger says. In a fleet the store of it says so instead, and an attempt waits for its answer, for WAIT at
most.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from decimal import Decimal
from functools import partial
from itertools import islice
from math import inf
from typing import TypeVar

from stormbreak.core.flow import Send
from stormbreak.core.gate import NEVER, READY
from stormbreak.core.policy import Policy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.cost.price_source import EXACT, PriceOf, known_prices
from stormbreak.cost.spend_gate import COMES_BACK, NOTHING, Reservation, SpendAccount, SpendGate
from stormbreak.drivers.asyncio_driver import Sender
from stormbreak.fleet.shared_limits import client_spend
from stormbreak.gateway.keys import LimitHolder
from stormbreak.gateway.limits import ClientQueues
from stormbreak.gateway.settled_sender import SettledSender
from stormbreak.gateway.spend_ledger import (
    LOWER_AFTER,
    MARGIN,
    PARTS,
    LedgerError,
    SpendLedger,
    Spent,
)
from stormbreak.types import Call, Outcome, Rejection, Target, Verdict

R = TypeVar("R")

ATTEMPTS = 4  # that are written ahead, where they cost more than a part of the limit
TRIES = 3  # to write ahead; more than one if a period ends meanwhile
SLOW = 5.0  # seconds that a write may take before a period begins
WAIT = 2.0  # seconds that an attempt may wait for the store of a fleet; a lost one is known sooner
REFRESH = 0.1  # seconds that a question about the whole fleet may wait
_SPEND = "spend"
_FLEET = "fleet"
_WITHHELD = "the store of the fleet grants no money at present"
MAX_GATES = 1024  # that are remembered; they hold nothing


class ClientBudgets:
    """What keys and tenants with a spend limit have spent. With a ledger, it is written there before it is spent.

    Where the file has a fleet that shares spend limits, its store grants them; the engine of `queues` carries that.
    """

    def __init__(
        self,
        price_of: PriceOf,
        queues: ClientQueues,
        ledger: SpendLedger | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._price_of = price_of
        self._wall = wall
        self._queues = queues
        self._ledger = ledger
        self.clock = clock
        self._accounts: dict[str, SpendAccount] = {}
        self._gates: dict[tuple[SpendAccount, Target], SpendGate] = {}
        self._writing: dict[str, asyncio.Lock] = {}
        self._row_ends: dict[str, float] = {}
        self._writes: set[asyncio.Task[None]] = set()
        self._lowering: dict[str, asyncio.TimerHandle] = {}
        self._waiting: dict[SpendAccount, dict[Callable[[], object], Decimal]] = {}

    def apply(self, holders: Iterable[LimitHolder], of_file: Policy) -> None:
        """Use these limits from now on; what was spent in a period counts under another limit for it."""
        before, self._accounts, self._gates = self._accounts, {}, {}
        shares = of_file.fleet.acts and of_file.fleet.spend
        for holder in holders:
            title, policy = holder.title, holder.limits.spend
            account = before.get(title)
            if not policy.acts:
                continue
            if account is None or account.period != policy.period:
                account = self._opened(title, policy, None if shares else self._ledger)
            else:
                account.change_limit(policy)
                del before[title]
            self._accounts[title] = account
            if shares:
                self._share(holder, account, of_file)
        for account in before.values():
            if account.lease is not None and self._queues.fleet is not None:
                self._queues.fleet.end_account(account)

    def _share(self, holder: LimitHolder, account: SpendAccount, of_file: Policy) -> None:
        fleet, limit = self._queues.fleet, holder.limits.spend
        assert fleet is not None, "the file has a fleet"
        fleet.share_account(
            self._queues.engine,
            of_file,
            client_spend(holder.title, limit),
            account,
            limit,
            bounds=partial(self._bounds, account),
            on_change=partial(self._on_change, account),
        )

    def account(self, holder: LimitHolder) -> SpendAccount | None:
        """Return the account of a holder; None if it has no spend limit."""
        return self._accounts.get(holder.title)

    def gate(self, account: SpendAccount, target: Target) -> SpendGate:
        """Return the gate of an account for attempts at a target."""
        gate = self._gates.get((account, target))
        if gate is None:
            prices = known_prices(self._price_of, target.provider, target.model)
            gate = SpendGate(account, target, prices, _ignore, _ignore)
            if len(self._gates) >= MAX_GATES:  # clients may choose the names of models
                self._gates.clear()
            self._gates[account, target] = gate
        return gate

    def spent(self) -> dict[str, tuple[str, str]]:
        """Return the dollars that keys and tenants have spent or reserved, and their limits, by title."""
        accounts, now = tuple(self._accounts.items()), self.clock()
        return {name: (str(each.taken_at(now)), str(each.limit)) for name, each in accounts}

    async def allow(self, account: SpendAccount, title: str, bound: Decimal) -> None:
        """Write ahead, if need be, so that `bound` can be reserved; call `take` before anything is awaited.

        Raises:
            LedgerError: it cannot be written.
        """
        ledger = self._ledger
        for _ in range(TRIES):
            if ledger is None or self.covers(account, title, bound, self.clock()):
                return
            # Not cancelled with its caller: a row that is still being written may be lower than the next one.
            await asyncio.shield(self._write(self._raise(ledger, account, title, bound)))

    async def _raise(
        self, ledger: SpendLedger, account: SpendAccount, title: str, bound: Decimal
    ) -> None:
        async with self._writing.setdefault(title, asyncio.Lock()):
            now = self.clock()
            if self.covers(account, title, bound, now):  # another call has written meanwhile
                return
            begins = not account.is_in_period(now)
            taken = NOTHING if begins else account.taken
            needed = EXACT.add(taken, bound)
            if needed > account.limit:
                return
            upto = min(account.limit, EXACT.add(needed, _step(account)))
            ends_in = account.time_left(now) + (SLOW if begins else 0.0) + MARGIN
            row = Spent(upto, ends_in if account.is_periodic else None)
            self._row_ends[title] = min(now + ends_in, self._row_ends.get(title, 0.0))
            await asyncio.to_thread(ledger.write, title, row)
            account.allowed, self._row_ends[title] = upto, now + ends_in

    def covers(self, account: SpendAccount, title: str, bound: Decimal, now: float) -> bool:
        """Whether `bound` may be reserved now as far as the ledger goes: its row holds for the whole period."""
        if self._ledger is None or account.lease is not None:
            return True
        if not self._has_row(account, title, now):
            return False
        return EXACT.add(account.taken_at(now), bound) <= account.allowed

    def _has_row(self, account: SpendAccount, title: str, now: float) -> bool:
        """Whether the row holds until the end of the period, or of one that begins now."""
        if not account.is_periodic:
            return True
        begun = account.is_in_period(now)
        ends_at = account.ends_at if begun else now + account.time_left(now)
        return ends_at <= self._row_ends.get(title, 0.0)

    def settled(self, account: SpendAccount, title: str) -> None:
        """Write soon that less may be spent, if a kill would leave much more as spent than is taken by now."""
        if self._ledger is None or account.lease is not None or title in self._lowering:
            return
        if self._is_far_ahead(account, title):
            write, loop = (
                partial(self._write_less, self._ledger, account, title),
                asyncio.get_running_loop(),
            )
            self._lowering[title] = loop.call_later(LOWER_AFTER, write)

    def _write_less(self, ledger: SpendLedger, account: SpendAccount, title: str) -> None:
        del self._lowering[title]
        self._write(self._lower(ledger, account, title))

    async def _lower(self, ledger: SpendLedger, account: SpendAccount, title: str) -> None:
        async with self._writing.setdefault(title, asyncio.Lock()):
            if self._accounts.get(title) is not account or not self._is_far_ahead(account, title):
                return
            upto = max(account.taken, min(account.limit, EXACT.add(account.taken, _step(account))))
            now = self.clock()
            ends_in = account.time_left(now) + MARGIN
            row = Spent(upto, ends_in if account.is_periodic else None)
            # Before the file says so: until then it says more.
            account.allowed, self._row_ends[title] = upto, now + ends_in
            with suppress(LedgerError):
                await asyncio.to_thread(ledger.write, title, row)

    def _is_far_ahead(self, account: SpendAccount, title: str) -> bool:
        now = self.clock()
        if not (account.is_in_period(now) and self._has_row(account, title, now)):
            return False
        return account.allowed > EXACT.add(account.taken, 2 * _step(account))

    def _write(self, writing: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(writing)
        self._writes.add(task)  # the loop holds only a weak reference
        task.add_done_callback(self._writes.discard)
        return task

    def turn(self, account: SpendAccount, do: Callable[[float], R]) -> R:
        """Change an account at the present time; in a fleet, between two steps of the engine that carries for it."""
        if account.lease is None:
            return do(self.clock())
        return self._queues.driver.between_steps(lambda _, now: do(now))

    async def granted(
        self, account: SpendAccount, gate: SpendGate, call: Call, attempt: float | None
    ) -> None:
        """Wait until the store of the fleet has granted what `call` may cost, or it is known that it does not.

        At most half of the seconds of an `attempt` are for that.
        """
        wait = WAIT if attempt is None else min(WAIT, attempt / 2)
        until = self.clock() + wait

        def ask(now: float) -> float:
            """Ask the store, if there is hope; return the seconds to wait for its answer."""
            if gate.ready_at(call, now) != NEVER or gate.veto(call, now) is not None:
                return 0.0
            gate.asks_fleet(call, now)
            return min(until, gate.recheck_at()) - now

        if self.turn(account, lambda now: gate.ready_at(call, now)) > READY:
            await self._answers(account, gate.max_cost(call) or NOTHING, ask)

    async def refresh(self, account: SpendAccount) -> None:
        """Hear from the store of the fleet what others have spent, if it answers soon."""
        lease = account.lease
        if lease is not None:
            pauses = iter((REFRESH, 0.0))

            def ask(_: float) -> float:
                lease.wake()
                return next(pauses)

            await self._answers(account, NOTHING, ask)

    async def _answers(
        self, account: SpendAccount, bound: Decimal, ask: Callable[[float], float]
    ) -> None:
        """Wait for answers of the store, as long as `ask` returns more than 0 s. `bound` is what the caller needs."""
        answered, loop = asyncio.Event(), asyncio.get_running_loop()
        waiter = partial(loop.call_soon_threadsafe, answered.set)
        self.turn(account, lambda _: self._waiting.setdefault(account, {}).update({waiter: bound}))
        try:
            while (seconds := self.turn(account, ask)) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await answered.wait()
                answered.clear()
        finally:
            self.turn(account, lambda _: self._waiting[account].pop(waiter))

    def _bounds(self, account: SpendAccount, _now: float) -> Iterator[Decimal]:
        """Yield what the call needs that has waited longest."""
        return islice(self._waiting.get(account, {}).values(), 1)

    def _on_change(self, account: SpendAccount, _now: float) -> None:
        """Wake those who wait; on the thread of the fleet store."""
        for wake in self._waiting.get(account, ()):
            with suppress(RuntimeError):  # its loop has ended
                wake()

    def close(self) -> None:
        """Write what was spent exactly, and close the ledger."""
        if self._ledger is None:
            return
        for timer in self._lowering.values():
            timer.cancel()
        now = self.clock()
        for title, account in self._accounts.items():
            if account.lease is not None:
                continue
            if account.is_in_period(now):
                left = account.time_left(now) if account.is_periodic else None
                with suppress(LedgerError):  # more than that is written already
                    self._ledger.write(title, Spent(account.taken, left))
        self._ledger.close()

    def _opened(self, title: str, policy: SpendPolicy, ledger: SpendLedger | None) -> SpendAccount:
        account = SpendAccount(policy, self._wall)
        if ledger is not None:
            account.allowed = NOTHING
            found = ledger.read(title)
            if found is not None and (found.ends_in is None) != account.is_periodic:
                account.restore(found.usd, found.ends_in, self.clock())
        return account


def _step(account: SpendAccount) -> Decimal:
    """Return the US dollars that are written ahead at a time."""
    return max(account.limit / PARTS, ATTEMPTS * account.largest)


def _ignore(*_: object) -> None:
    """Nobody waits for an account of a client."""


class SpendingSender(SettledSender[tuple[SpendGate, Reservation]]):
    """Reserves, in the account of a key or a tenant, what each attempt may cost, before `sender` makes it."""

    def __init__(
        self, sender: Sender, budgets: ClientBudgets, account: SpendAccount, title: str, call: Call
    ) -> None:
        """`title` is that of the holder; its account may outlive it in the settings."""
        super().__init__(sender)
        self._budgets = budgets
        self._account = account
        self._title = title
        self._call = call

    async def __call__(self, command: Send) -> Outcome:
        """Send once, if the account can pay."""
        gate = self._budgets.gate(self._account, command.target)
        call = self._call._replace(target=command.target)
        bound, budgets, account = gate.max_cost(call), self._budgets, self._account
        if bound is not None and account.lease is not None:
            await budgets.granted(account, gate, call, command.timeout)
        elif bound is not None:
            try:
                await budgets.allow(account, self._title, bound)
            except LedgerError:
                return self._refused(
                    Rejection(_SPEND, "the ledger of the gateway cannot be written")
                )
        reserved = budgets.turn(account, partial(self._reserved, gate, call))
        if isinstance(reserved, Rejection):
            return self._refused(reserved)
        return await self._send(command, (gate, reserved))

    def _refused(self, rejection: Rejection) -> Outcome:
        self.unsent += 1
        return Outcome(Verdict.REJECTED, rejection=rejection)

    def _reserved(self, gate: SpendGate, call: Call, now: float) -> Reservation | Rejection:
        account, bound = self._account, gate.max_cost(call) or NOTHING
        covered = self._budgets.covers(account, self._title, bound, now)
        if covered and gate.ready_at(call, now) <= now:
            return gate.take(call, now)
        rejection = gate.veto(call, now)
        if rejection is not None:  # one with a time is that of a lost store
            return rejection if rejection.retry_at is None else rejection._replace(policy=_FLEET)
        lease = account.lease
        if lease is not None and (lease.withholds or not lease.is_sharing):
            return Rejection(_FLEET, _WITHHELD, now + COMES_BACK)
        until = gate.recheck_at()
        at = now + 1 if until == inf else until
        return Rejection(_SPEND, f"the spend limit of {self._title}", at)

    def _settle(self, taken: tuple[SpendGate, Reservation], outcome: Outcome) -> None:
        gate, reserved = taken
        self._budgets.turn(self._account, lambda now: gate.settle(reserved, outcome, now, 0.0))
        self._budgets.settled(self._account, self._title)
