"""The limits of client keys and tenants that make calls wait: `rpm`, `tpm`, `max_in_flight`.

Each holder of limits is a target of a separate engine, whose gates and queue do the waiting; an attempt there is a
whole call. If the file has a fleet, its members also lease parts of these limits.
"""

from collections.abc import Iterable
from functools import partial
from typing import TypeAlias

from stormbreak.core.engine import Engine
from stormbreak.core.gate import Permit
from stormbreak.core.policy import Policy
from stormbreak.core.tenant import counted
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.delivery import CallerDriven
from stormbreak.fleet.shared_limits import SharedLimits
from stormbreak.fleet.store_thread import shared_limits
from stormbreak.gateway.errors import RefusedError
from stormbreak.gateway.keys import LimitHolder
from stormbreak.types import Call, CallResult, Outcome

_UNIFORM = 0.5  # the random number: these limits do not need one

Place: TypeAlias = CallerDriven | Permit
"""The hold of a call on the limits of a key or a tenant: a flow if the call has waited."""


class ClientQueues:
    """The queues of keys and tenants with limits. After a reload, a holder with the same limits keeps its queue.

    Calls in flight also count for a new `max_in_flight` if they had a limit of any kind when they began.
    """

    def __init__(self) -> None:
        self.fleet: SharedLimits | None = None
        self.engine = Engine(Policy())
        self.driver = AsyncioDriver(self.engine)

    def apply(self, holders: Iterable[LimitHolder], of_file: Policy) -> None:
        """Use these limits from now on, with the patience and the fleet of the file's policy.

        Raises ConfigurationError if the package of a store is missing.
        """
        share = of_file.process_share if of_file.fleet.acts else 1.0
        policies = {
            holder.target: holder.limits.queue_policy(of_file, share)
            for holder in holders
            if holder.target is not None
        }
        if self.fleet is None and of_file.fleet.url is not None:
            self.fleet = shared_limits([of_file.fleet.url])

        def apply(engine: Engine, now: float) -> None:
            engine.fleet = self.fleet
            engine.govern(engine.policy, policies, now, shares_slots=True)

        self.driver.between_steps(apply)

    async def enter(self, holder: LimitHolder, *, tokens: int, deadline_at: float | None) -> Place:
        """Wait until these limits let a call begin. The caller must end it with `leave` in any case.

        Raises RefusedError if the call cannot begin in time.
        """
        engine, target = self.engine, holder.target
        assert target is not None, "it has limits"
        call = Call(engine.number(), target, deadline_at=deadline_at, tokens=tokens)
        permit = self.driver.between_steps(partial(_enter_at_once, call))
        if permit is not None:
            return permit
        patience = engine.policy_of(target).patience
        begun = self.driver.begin(call._replace(patience=patience))
        if await self.driver.wait_to_send(begun) is not None:
            return begun
        ended = begun.command
        assert isinstance(ended, CallResult)
        raise _too_many(holder.title, ended, self.driver.clock())

    def leave(self, place: Place, outcome: Outcome | None, *, sent: bool = True) -> None:
        """End a call: with its outcome, which has its usage, or without one if it was cancelled.

        A call without a `sent` attempt does not count for rates; upstream failures are not failures of the key.
        """
        learned = counted(outcome, sent=sent)
        if isinstance(place, Permit):
            self.driver.between_steps(partial(_leave, place, learned))
        else:
            place.answer(learned)


def _enter_at_once(call: Call, engine: Engine, now: float) -> Permit | None:
    """Let a call begin that need not wait, like nearly all calls: a flow would take twice as long."""
    if call.deadline_at is not None and now >= call.deadline_at:
        return None
    engine.make_room(now)
    permit = engine.target_state(call.target).admission.try_enter(call, now)
    if permit is not None:
        engine.lent.add(permit)
    return permit


def _leave(permit: Permit, outcome: Outcome, engine: Engine, now: float) -> None:
    engine.lent.discard(permit)
    permit.settle(outcome, now, _UNIFORM)


def _too_many(title: str, ended: CallResult, now: float) -> RefusedError:
    rejection = ended.outcome.rejection
    at = None if rejection is None else rejection.retry_at
    reason = "its limit is reached" if rejection is None else rejection.reason
    message = f"{title}: {reason}"
    wait = 1.0 if at is None else at - now
    return RefusedError(429, "key_limit", message, retry_after=wait, final=False)
