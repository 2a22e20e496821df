"""The limits of client keys: calls wait for `rpm`, `tpm` and `max_in_flight`, and are rejected over `spend`.

A key is a target of an engine of its own, whose gates and queue do the waiting; an attempt there is a whole call. What is
spent is reserved before each upstream attempt, and settled after it, by the same gate as the spend limit of a policy.
"""

from collections.abc import Iterable
from math import inf

from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.core.flow import Send
from stormbreak.core.policy import Policy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.cost.price_table import PriceOf
from stormbreak.cost.spend_gate import Reservation, SpendAccount, SpendGate
from stormbreak.drivers.asyncio_driver import AsyncioDriver, Sender
from stormbreak.drivers.delivery import CallerDriven
from stormbreak.drivers.timeouts import AnsweredError
from stormbreak.gateway.errors import RefusedError
from stormbreak.gateway.keys import ClientKey
from stormbreak.types import (
    CANCELLED,
    CANCELLED_AFTER_SEND,
    Call,
    CallResult,
    Outcome,
    Rejection,
    Target,
    Verdict,
)

_UNLIMITED = 1_000_000  # calls in flight
_SPEND = "spend"

# ---------------------------------------------------------------- waiting


def _target(key: ClientKey) -> Target:
    return Target("key", "", name=key.name)


def _policy(key: ClientKey, patience: float | None) -> Policy:
    settings = key.settings
    return Policy(
        deadline=None,
        patience=patience,
        attempt_timeout=None,
        retry=RetryPolicy(max_attempts=1),
        retry_budget=None,
        breaker=None,
        adaptive_rate=False,
        rate_limit=RateLimitPolicy(rpm=settings.rpm, tpm=settings.tpm),
        limit=FixedLimit(max_in_flight=settings.max_in_flight or _UNLIMITED),
    )


class KeyQueues:
    """The queues of keys with limits. A key with the same limits after a reload keeps its queue."""

    def __init__(self) -> None:
        self._engine = Engine(Policy())
        self._driver = AsyncioDriver(self._engine)

    def apply(self, keys: Iterable[ClientKey], patience: float | None) -> None:
        """Use the limits of these keys from now on."""
        policies = {_target(key): _policy(key, patience) for key in keys if key.settings.paced}
        self._driver.between_steps(
            lambda engine, now: engine.govern(engine.policy, policies, now)  # calls in it go on
        )

    async def enter(
        self, key: ClientKey, *, tokens: int, deadline_at: float | None
    ) -> CallerDriven:
        """Wait until a call of a key with such limits may begin. It is ended with `leave`.

        Raises:
            RefusedError: it cannot begin in time.
        """
        target = _target(key)
        patience = self._engine.policy_of(target).patience
        call = Call(
            self._engine.number(), target, deadline_at=deadline_at, patience=patience, tokens=tokens
        )
        begun = self._driver.begin(call)
        if await self._driver.wait_to_send(begun) is not None:
            return begun
        ended = begun.command
        assert isinstance(ended, CallResult)
        raise _too_many(key, ended, self._driver.clock())

    @staticmethod
    def leave(begun: CallerDriven, outcome: Outcome | None) -> None:
        """End a call: with its outcome, which says what it used, or without one if it was cancelled."""
        if outcome is None:
            begun.answer(CANCELLED_AFTER_SEND)
        elif outcome.verdict is Verdict.OK:
            begun.answer(Outcome(Verdict.OK, usage=outcome.usage))
        else:  # no failure upstream is that of the key
            begun.answer(CANCELLED_AFTER_SEND if outcome.maybe_processed else CANCELLED)


def _too_many(key: ClientKey, ended: CallResult, now: float) -> RefusedError:
    rejection = ended.outcome.rejection
    at = None if rejection is None else rejection.retry_at
    reason = "its limit is reached" if rejection is None else rejection.reason
    message = f"key {key.name}: {reason}"
    wait = 1.0 if at is None else at - now
    return RefusedError(429, "key_limit", message, retry_after=wait, final=False)


# ---------------------------------------------------------------- spending


class KeyBudgets:
    """What keys with a spend limit have spent, since the process began."""

    def __init__(self, price_of: PriceOf) -> None:
        self._price_of = price_of
        self._accounts: dict[str, SpendAccount] = {}
        self._gates: dict[tuple[str, Target], SpendGate] = {}

    def apply(self, keys: Iterable[ClientKey]) -> None:
        """Use the limits of these keys from now on; what was spent in a period counts under another limit for it."""
        before, self._accounts, self._gates = self._accounts, {}, {}
        for key in keys:
            policy, account = key.settings.spend, before.get(key.name)
            if not policy.acts:
                continue
            if account is None or account.per != (policy.period or inf):
                account = SpendAccount(policy)
            else:
                account.change_limit(policy)
            self._accounts[key.name] = account

    def spent(self) -> dict[str, tuple[str, str]]:
        """Return the dollars that keys have spent or reserved, and their limits."""
        accounts = tuple(self._accounts.items())
        return {name: (str(each.taken), str(each.limit)) for name, each in accounts}

    def account(self, key: ClientKey) -> SpendAccount | None:
        """Return the account of a key; None if it has no spend limit."""
        return self._accounts.get(key.name)

    def gate(self, key: ClientKey, target: Target) -> SpendGate:
        """Return the gate of a key with a spend limit, for attempts at a target."""
        gate = self._gates.get((key.name, target))
        if gate is None:
            prices = self._price_of(target.provider, target.model)
            gate = SpendGate(self._accounts[key.name], target, prices, _ignore, _ignore)
            self._gates[key.name, target] = gate
        return gate


def _ignore(*_: object) -> None:
    """Nobody waits for an account of a key."""


class SpendingSender:
    """Reserves, in the account of a key, what each attempt may cost, before `sender` makes it."""

    def __init__(
        self, sender: Sender, budgets: KeyBudgets, key: ClientKey, call: Call, driver: AsyncioDriver
    ) -> None:
        self._sender = sender
        self._budgets = budgets
        self._key = key
        self._call = call
        self._clock = driver.clock
        self._open: list[tuple[SpendGate, Reservation]] = []  # of streams that go on

    async def __call__(self, command: Send) -> Outcome:
        """Send once, if the key can pay."""
        gate = self._budgets.gate(self._key, command.target)
        now, call = self._clock(), self._call._replace(target=command.target)
        if gate.ready_at(call, now) > now:
            rejection = gate.veto(call, now)
            if rejection is None:
                until = gate.recheck_at()
                at = now + 1 if until == inf else until
                rejection = Rejection(_SPEND, f"the spend limit of key {self._key.name}", at)
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
