"""The spend limits of client keys: what an attempt may cost is reserved before it leaves, and settled after it.

It is the gate of the spend limit of a policy, with an account for each key. With a ledger, an account may spend no more
than the ledger says.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from decimal import Decimal
from math import inf

from stormbreak.core.flow import Send
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.cost.price_table import EXACT, PriceOf
from stormbreak.cost.spend_gate import NOTHING, Reservation, SpendAccount, SpendGate
from stormbreak.drivers.asyncio_driver import Sender
from stormbreak.drivers.timeouts import AnsweredError
from stormbreak.gateway.keys import ClientKey
from stormbreak.gateway.ledger import LedgerError, SpendLedger, Spent
from stormbreak.types import CANCELLED_AFTER_SEND, Call, Outcome, Rejection, Target, Verdict

PARTS = 50  # of a limit are written ahead at a time ...
ATTEMPTS = 4  # ... or the cost of four attempts, where that is more
_MARGIN = 1.0  # seconds that a period may end later than was written
_SPEND = "spend"
MAX_GATES = 1024  # that are remembered; they hold nothing


class KeyBudgets:
    """What keys with a spend limit have spent. With a ledger, it is written there before it is spent."""

    def __init__(
        self,
        price_of: PriceOf,
        ledger: SpendLedger | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._price_of = price_of
        self._ledger = ledger
        self.clock = clock
        self._accounts: dict[str, SpendAccount] = {}
        self._gates: dict[tuple[SpendAccount, Target], SpendGate] = {}
        self._writing: dict[str, asyncio.Lock] = {}

    def apply(self, keys: Iterable[ClientKey]) -> None:
        """Use the limits of these keys from now on; what was spent in a period counts under another limit for it."""
        before, self._accounts, self._gates = self._accounts, {}, {}
        for key in keys:
            policy, account = key.settings.spend, before.get(key.name)
            if not policy.acts:
                continue
            if account is None or account.per != (policy.period or inf):
                account = self._opened(key.name, policy)
            else:
                account.change_limit(policy)
            self._accounts[key.name] = account

    def account(self, key: ClientKey) -> SpendAccount | None:
        """Return the account of a key; None if it has no spend limit."""
        return self._accounts.get(key.name)

    def gate(self, account: SpendAccount, target: Target) -> SpendGate:
        """Return the gate of an account for attempts at a target."""
        gate = self._gates.get((account, target))
        if gate is None:
            prices = self._price_of(target.provider, target.model)
            gate = SpendGate(account, target, prices, _ignore, _ignore)
            if len(self._gates) >= MAX_GATES:  # clients may choose the names of models
                self._gates.clear()
            self._gates[account, target] = gate
        return gate

    def spent(self) -> dict[str, tuple[str, str]]:
        """Return the dollars that keys have spent or reserved, and their limits."""
        accounts, now = tuple(self._accounts.items()), self.clock()
        return {name: (str(each.taken_at(now)), str(each.limit)) for name, each in accounts}

    async def allow(self, account: SpendAccount, name: str, bound: Decimal) -> None:
        """Write ahead, if need be, so that `bound` can be reserved; call `take` before anything is awaited.

        Raises:
            LedgerError: it cannot be written.
        """
        if self._ledger is None or self._is_allowed(account, bound):
            return
        async with self._writing.setdefault(name, asyncio.Lock()):
            if self._is_allowed(account, bound):  # another call has written meanwhile
                return
            now = self.clock()
            begins = account.is_periodic and not now < account.ends_at < inf
            taken = NOTHING if begins else account.taken
            needed = EXACT.add(taken, bound)
            if needed > account.limit:
                return
            step = max(account.limit / PARTS, ATTEMPTS * account.largest)
            upto = min(account.limit, EXACT.add(needed, step))
            ends_in = (account.per if begins else account.ends_at - now) + _MARGIN
            row = Spent(upto, ends_in if account.is_periodic else None)
            await asyncio.to_thread(self._ledger.write, name, row)
            account.allowed = upto

    def close(self) -> None:
        """Write what was spent exactly, and close the ledger."""
        if self._ledger is None:
            return
        now = self.clock()
        for name, account in self._accounts.items():
            if not account.is_periodic or now < account.ends_at < inf:
                left = account.ends_at - now if account.is_periodic else None
                with suppress(LedgerError):  # more than that is written already
                    self._ledger.write(name, Spent(account.taken, left))
        self._ledger.close()

    def _opened(self, name: str, policy: SpendPolicy) -> SpendAccount:
        account = SpendAccount(policy)
        if self._ledger is not None:
            account.allowed = NOTHING
            found = self._ledger.read(name)
            if found is not None and (found.ends_in is None) != account.is_periodic:
                account.spend(found.usd)
                if found.ends_in is not None:
                    account.ends_at = self.clock() + min(found.ends_in, account.per)
        return account

    def _is_allowed(self, account: SpendAccount, bound: Decimal) -> bool:
        now = self.clock()
        if account.is_periodic and not now < account.ends_at < inf:
            account.allowed = NOTHING  # another period begins, of which nothing is written
        return EXACT.add(account.taken, bound) <= account.allowed


def _ignore(*_: object) -> None:
    """Nobody waits for an account of a key."""


class SpendingSender:
    """Reserves, in the account of a key, what each attempt may cost, before `sender` makes it."""

    def __init__(
        self, sender: Sender, budgets: KeyBudgets, account: SpendAccount, name: str, call: Call
    ) -> None:
        """`name` is that of the key; its account may outlive the key in the settings."""
        self._sender = sender
        self._budgets = budgets
        self._account = account
        self._name = name
        self._call = call
        self._clock = budgets.clock
        self._open: list[tuple[SpendGate, Reservation]] = []  # of streams that go on

    async def __call__(self, command: Send) -> Outcome:
        """Send once, if the key can pay."""
        gate = self._budgets.gate(self._account, command.target)
        call = self._call._replace(target=command.target)
        bound = gate.max_cost(call)
        if bound is not None:
            try:
                await self._budgets.allow(self._account, self._name, bound)
            except LedgerError:
                unwritten = Rejection(_SPEND, "the ledger of the gateway cannot be written")
                return Outcome(Verdict.REJECTED, rejection=unwritten)
        now = self._clock()
        if gate.ready_at(call, now) > now:
            rejection = gate.veto(call, now)
            if rejection is None:
                until = gate.recheck_at()
                at = now + 1 if until == inf else until
                rejection = Rejection(_SPEND, f"the spend limit of key {self._name}", at)
            return Outcome(Verdict.REJECTED, rejection=rejection)
        reserved = gate.take(call, now)
        outcome = CANCELLED_AFTER_SEND
        try:
            outcome = await self._sender(command)
        except AnsweredError as answered:
            outcome = answered.outcome
            raise
        finally:
            if outcome.committed:
                self._open.append((gate, reserved))
            else:
                gate.settle(reserved, outcome, self._clock(), 0.0)
        return outcome

    def end(self, outcome: Outcome | None) -> None:
        """Settle streams that went on, with the outcome of the one that was read; None: it was cancelled."""
        opened, self._open = self._open, []
        for gate, reserved in opened:
            gate.settle(reserved, outcome or CANCELLED_AFTER_SEND, self._clock(), 0.0)
