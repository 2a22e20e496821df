"""The spend limits of client keys and tenants: reserve the maximum cost of an attempt before it, settle it after.

It uses the gate of a policy's spend limit, with an account for each holder. With a ledger, an account may spend only
the amount written there. In a fleet the store decides instead, and an attempt waits for its answer, for at most WAIT.
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
from stormbreak.cost.price_source import EXACT, NOTHING, PriceOf
from stormbreak.cost.spend_gate import COMES_BACK, Reservation, SpendAccount, SpendGate
from stormbreak.drivers.asyncio_driver import Sender
from stormbreak.fleet.shared_limits import client_spend
from stormbreak.gateway.keys import LimitHolder
from stormbreak.gateway.limits import ClientQueues
from stormbreak.gateway.settled_sender import SettledSender
from stormbreak.gateway.spend_ledger import (
    LOWER_AFTER,
    MARGIN,
    LedgerError,
    SpendLedger,
    Spent,
)
from stormbreak.types import Call, Outcome, Rejection, Target, Verdict

R = TypeVar("R")

TRIES = 3  # attempts to write ahead; more than one if a period ends meanwhile
SLOW = 5.0  # seconds that a write may take before a period begins
WAIT = 2.0  # seconds that an attempt may wait for the store of a fleet; a lost store is detected sooner
REFRESH = 0.1  # seconds that a question about the whole fleet may wait
_SPEND = "spend"
_FLEET = "fleet"
_WITHHELD = "the store of the fleet grants no money at present"
MAX_GATES = 1024  # gates that are remembered; they hold no reservations


class ClientAccount(SpendAccount):
    """The account of a key or a tenant for one period, and its row in the ledger, which is valid until `row_ends`."""

    def __init__(self, title: str, policy: SpendPolicy, wall: Callable[[], float]) -> None:
        super().__init__(policy, wall)
        self.title = title
        self.per = policy.per
        self.row_ends = 0.0
        self.writing = asyncio.Lock()
        self.lowering: asyncio.TimerHandle | None = None
        self.waiting: dict[Callable[[], object], Decimal] = {}
        """The waiters for the store of a fleet, and the cost that they wait for."""


class ClientBudgets:
    """The spending of keys and tenants with a spend limit. With a ledger, it is written there before it is spent.

    If the file has a fleet that shares spend limits, its store grants them, through the engine of `queues`.
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
        self._accounts: dict[str, ClientAccount] = {}
        self._known: dict[tuple[str, str], ClientAccount] = {}  # also of earlier periods
        self._gates: dict[tuple[ClientAccount, Target], SpendGate] = {}
        self._writes: set[asyncio.Task[None]] = set()

    def apply(self, holders: Iterable[LimitHolder], of_file: Policy) -> None:
        """Use these limits from now on; spending in a period also counts under later limits for that period."""
        before, self._accounts, self._gates = self._accounts, {}, {}
        shares = of_file.fleet.acts and of_file.fleet.spend
        for holder in holders:
            title, policy = holder.title, holder.limits.spend
            if not policy.acts:
                continue
            account = self._known.get((title, policy.per))
            if account is None:
                account = self._opened(title, policy, None if shares else self._ledger)
                self._known[title, policy.per] = account
            else:
                account.change_limit(policy)
            self._accounts[title] = account
            if shares:
                self._share(holder, account, of_file)
        for account in before.values():
            if account.lease is not None and self._accounts.get(account.title) is not account:
                assert self._queues.fleet is not None, "it made the lease"
                self._queues.fleet.end_account(account)
                del self._known[account.title, account.per]  # the store knows its spending

    def _share(self, holder: LimitHolder, account: ClientAccount, of_file: Policy) -> None:
        fleet, limit = self._queues.fleet, holder.limits.spend
        assert fleet is not None, "the file has a fleet"
        fleet.share_account(
            self._queues.engine,
            of_file,
            client_spend(holder.title, limit),
            account,
            limit,
            bounds=partial(_bounds, account),
            on_change=partial(_on_change, account),
        )

    def account(self, holder: LimitHolder) -> ClientAccount | None:
        return self._accounts.get(holder.title)

    def gate(self, account: ClientAccount, target: Target) -> SpendGate:
        gate = self._gates.get((account, target))
        if gate is None:
            gate = SpendGate(account, target, self._price_of, _ignore, _ignore)
            if len(self._gates) >= MAX_GATES:  # clients may choose the names of models
                self._gates.clear()
            self._gates[account, target] = gate
        return gate

    def spent(self) -> dict[str, tuple[str, str]]:
        """Return the dollars that keys and tenants have spent or reserved, and their limits, by title."""
        accounts, now = tuple(self._accounts.items()), self.clock()
        return {name: (str(each.taken_at(now)), str(each.limit)) for name, each in accounts}

    async def allow(self, account: ClientAccount, bound: Decimal) -> None:
        """Write ahead, if needed, so that `bound` can be reserved; call `take` before the next await.

        Raises LedgerError if it cannot be written.
        """
        ledger = self._ledger
        for _ in range(TRIES):
            if ledger is None or self.covers(account, bound, self.clock()):
                return
            # Do not cancel it with its caller: a write in progress may be lower than the next one.
            await asyncio.shield(self._write(self._raise(ledger, account, bound)))

    async def _raise(self, ledger: SpendLedger, account: ClientAccount, bound: Decimal) -> None:
        async with account.writing:
            now = self.clock()
            if self.covers(account, bound, now):  # another call wrote meanwhile
                return
            begins = not account.is_in_period(now)
            taken = NOTHING if begins else account.taken
            needed = EXACT.add(taken, bound)
            if needed > account.limit:
                return
            upto = min(account.limit, EXACT.add(needed, account.step))
            ends_in = account.time_left(now) + (SLOW if begins else 0.0) + MARGIN
            row = Spent(upto, ends_in if account.is_periodic else None)
            account.row_ends = min(now + ends_in, account.row_ends)
            await asyncio.to_thread(ledger.write, account.title, account.per, row)
            account.allowed, account.row_ends = upto, now + ends_in

    def covers(self, account: ClientAccount, bound: Decimal, now: float) -> bool:
        """Whether the ledger allows `bound` to be reserved now: its row is valid for the whole period."""
        if self._ledger is None or account.lease is not None:
            return True
        if not _has_row(account, now):
            return False
        return EXACT.add(account.taken_at(now), bound) <= account.allowed

    def settled(self, account: ClientAccount) -> None:
        """Lower the row soon, if a kill would count much more as spent than is taken by now."""
        if self._ledger is None or account.lease is not None or account.lowering is not None:
            return
        if self._is_far_ahead(account):
            loop = asyncio.get_running_loop()
            account.lowering = loop.call_later(LOWER_AFTER, self._write_less, self._ledger, account)

    def _write_less(self, ledger: SpendLedger, account: ClientAccount) -> None:
        account.lowering = None
        self._write(self._lower(ledger, account))

    async def _lower(self, ledger: SpendLedger, account: ClientAccount) -> None:
        async with account.writing:
            if not self._is_far_ahead(account):
                return
            upto = max(account.taken, min(account.limit, EXACT.add(account.taken, account.step)))
            now = self.clock()
            ends_in = account.time_left(now) + MARGIN
            row = Spent(upto, ends_in if account.is_periodic else None)
            # Before the write: until then the file has a higher amount.
            account.allowed, account.row_ends = upto, now + ends_in
            with suppress(LedgerError):
                await asyncio.to_thread(ledger.write, account.title, account.per, row)

    def _is_far_ahead(self, account: ClientAccount) -> bool:
        now = self.clock()
        if not (account.is_in_period(now) and _has_row(account, now)):
            return False
        return account.allowed > EXACT.add(account.taken, 2 * account.step)

    def _write(self, writing: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(writing)
        self._writes.add(task)  # the event loop holds only a weak reference
        task.add_done_callback(self._writes.discard)
        return task

    def turn(self, account: ClientAccount, do: Callable[[float], R]) -> R:
        """Change an account at the current time; in a fleet, between two steps of the engine that it uses."""
        if account.lease is None:
            return do(self.clock())
        return self._queues.driver.between_steps(lambda _, now: do(now))

    async def granted(
        self, account: ClientAccount, gate: SpendGate, call: Call, attempt: float | None
    ) -> None:
        """Wait until the store of the fleet grants the maximum cost of `call`, or certainly does not.

        This takes at most half of the seconds of an `attempt`.
        """
        wait = WAIT if attempt is None else min(WAIT, attempt / 2)
        until = self.clock() + wait

        def ask(now: float) -> float:
            """Ask the store, if it can still grant the cost; return the seconds to wait for its answer."""
            if gate.ready_at(call, now) != NEVER or gate.veto(call, now) is not None:
                return 0.0
            gate.ask_fleet(call, now)
            return min(until, gate.recheck_at()) - now

        if self.turn(account, lambda now: gate.ready_at(call, now)) > READY:
            await self._answers(account, gate.max_cost(call) or NOTHING, ask)

    async def refresh(self, account: ClientAccount) -> None:
        """Get the spending of others from the store of the fleet, if it answers soon."""
        lease = account.lease
        if lease is not None:
            pauses = iter((REFRESH, 0.0))

            def ask(_: float) -> float:
                lease.wake()
                return next(pauses)

            await self._answers(account, NOTHING, ask)

    async def _answers(
        self, account: ClientAccount, bound: Decimal, ask: Callable[[float], float]
    ) -> None:
        """Wait for answers of the store while `ask` returns more than 0 s. `bound` is the amount that is needed."""
        answered, loop = asyncio.Event(), asyncio.get_running_loop()
        waiter = partial(loop.call_soon_threadsafe, answered.set)
        self.turn(account, lambda _: account.waiting.update({waiter: bound}))
        try:
            while (seconds := self.turn(account, ask)) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await answered.wait()
                answered.clear()
        finally:
            self.turn(account, lambda _: account.waiting.pop(waiter))

    def close(self) -> None:
        """Write the exact spending, and close the ledger."""
        if self._ledger is None:
            return
        now = self.clock()
        for account in self._known.values():
            if account.lowering is not None:
                account.lowering.cancel()
            if account.lease is None and account.is_in_period(now):
                left = account.time_left(now) if account.is_periodic else None
                with suppress(LedgerError):  # a higher amount is already written
                    self._ledger.write(account.title, account.per, Spent(account.taken, left))
        self._ledger.close()

    def _opened(self, title: str, policy: SpendPolicy, ledger: SpendLedger | None) -> ClientAccount:
        account = ClientAccount(title, policy, self._wall)
        if ledger is not None:
            account.allowed = NOTHING
            found = ledger.read(title, policy.per)
            if found is not None:
                account.restore(found.usd, found.ends_in, self.clock())
        return account


def _has_row(account: ClientAccount, now: float) -> bool:
    """Whether its row is valid until the end of the period, or of one that begins now."""
    if not account.is_periodic:
        return True
    begun = account.is_in_period(now)
    ends_at = account.ends_at if begun else now + account.time_left(now)
    return ends_at <= account.row_ends


def _bounds(account: ClientAccount, _now: float) -> Iterator[Decimal]:
    """Yield the amount that the longest-waiting call needs."""
    return islice(account.waiting.values(), 1)


def _on_change(account: ClientAccount, _now: float) -> None:
    """Wake the waiters; runs on the thread of the fleet store."""
    for wake in account.waiting:
        with suppress(RuntimeError):  # its loop has ended
            wake()


def _ignore(*_: object) -> None:
    """Do nothing: no call waits for the account of a client."""


class SpendingSender(SettledSender[tuple[SpendGate, Reservation]]):
    """Reserves the maximum cost of each attempt in the account of a key or a tenant, before `sender` makes it."""

    def __init__(
        self, sender: Sender, budgets: ClientBudgets, account: ClientAccount, call: Call
    ) -> None:
        super().__init__(sender)
        self._budgets = budgets
        self._account = account
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
                await budgets.allow(account, bound)
            except LedgerError:
                why = "the ledger of the gateway cannot be written"
                return self._refused(Rejection(_SPEND, why))
        reserved = budgets.turn(account, partial(self._reserved, gate, call))
        if isinstance(reserved, Rejection):
            return self._refused(reserved)
        return await self._send(command, (gate, reserved))

    def _refused(self, rejection: Rejection) -> Outcome:
        self.unsent += 1
        return Outcome(Verdict.REJECTED, rejection=rejection)

    def _reserved(self, gate: SpendGate, call: Call, now: float) -> Reservation | Rejection:
        account, bound = self._account, gate.max_cost(call) or NOTHING
        covered = self._budgets.covers(account, bound, now)
        if covered and gate.ready_at(call, now) <= now:
            return gate.take(call, now)
        rejection = gate.veto(call, now)
        if rejection is not None:  # a rejection with a time comes from a lost store
            return rejection if rejection.retry_at is None else rejection._replace(policy=_FLEET)
        lease = account.lease
        if lease is not None and (lease.withholds or not lease.is_sharing):
            return Rejection(_FLEET, _WITHHELD, now + COMES_BACK)
        until = gate.recheck_at()
        at = now + 1 if until == inf else until
        return Rejection(_SPEND, f"the spend limit of {account.title}", at)

    def _settle(self, taken: tuple[SpendGate, Reservation], outcome: Outcome) -> None:
        gate, reserved = taken
        self._budgets.turn(self._account, lambda now: gate.settle(reserved, outcome, now, 0.0))
        self._budgets.settled(self._account)
