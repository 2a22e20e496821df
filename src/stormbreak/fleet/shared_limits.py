"""The shared limits of one engine: a membership for each shared target and spend limit.

`SharedLimits` is the fleet of one engine. Real ones use the `store_thread` of their process, simulated ones a timeline.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from secrets import token_hex
from typing import Any, Protocol
from weakref import ref

from stormbreak.core.engine import Engine
from stormbreak.core.fleet_lease import SpendLease, TargetLease
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.gate import SpendingGate
from stormbreak.core.policy import Policy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.target_state import TargetState
from stormbreak.core.tenant import Tenant
from stormbreak.drivers.locks import LiveSet
from stormbreak.fleet.lease_renewal import (
    Account,
    Membership,
    SpendMembership,
    TargetMembership,
    micro_dollars,
)


class Carrier(Protocol):
    """Carries reports and answers between memberships and one store. Thread-safe, also within a step of an engine."""

    def add(self, engine: Engine, membership: Membership) -> None:
        """Begin to carry for a membership."""

    def remove(self, membership: Membership) -> None:
        """Stop carrying for a membership."""

    def wake(self, membership: Membership) -> None:
        """Make a membership report at once."""

    def snapshot(self) -> Mapping[str, Any]:
        """Return whether the store answers, and since when."""


class SharedLimits:
    """The fleet of one engine."""

    def __init__(
        self,
        carrier_for: Callable[[FleetPolicy], Carrier],
        chance: Callable[[], float],
        new_name: Callable[[], str] = lambda: token_hex(6),
    ) -> None:
        """`carrier_for` gives the carrier of a policy; `chance` and `new_name` are random, or reproducible."""
        self._carrier_for = carrier_for
        self._chance = chance
        self._new_name = new_name
        self.start_over()

    def start_over(self) -> None:
        """Forget all leases, as in a forked child: the memberships belong to the parent."""
        self._carriers: dict[FleetPolicy, Carrier] = {}
        self._targets: LiveSet[TargetMembership] = LiveSet()
        self._members: dict[int, SpendMembership] = {}  # by the id of their account

    def lease(self, engine: Engine, state: TargetState) -> TargetLease:
        """Make the leases of a target, and renew them as long as its state lives."""
        policy = state.policy
        carrier = self._carrier(policy.fleet)
        scope = scope_of(policy, f"target {state.target.place}")
        member = TargetMembership(scope, self._new_name(), state, self._chance)
        member.lease = TargetLease(policy.fleet, policy.process_share, lambda: carrier.wake(member))
        self._targets.add(member)
        carrier.add(engine, member)
        return member.lease

    def share_spending(
        self, engine: Engine, policy: Policy, gate: SpendingGate, tenant: Tenant | None = None
    ) -> None:
        """Share the spend limit of a target, or of a tenant at it, once for each account and after each replacement."""
        account: Any = gate.account
        limit, name = policy.spend, None
        what = f"spend {limit.max_usd:.6f} USD {limit.per} {limit.max_output_tokens or ''}"
        if tenant is not None:
            what, name = client_spend(tenant.title, limit), tenant.name
        known, account_of = ref(engine), ref(account)

        def holder() -> Engine | Tenant | None:
            """Return the holder of the calls; a tenant may have gone and come back."""
            alive = known()
            return alive if alive is None or name is None else alive.tenants.get(name)

        def bounds(now: float) -> Iterator[Decimal]:
            found = holder()
            return iter(()) if found is None else _bounds(found.states, account_of, now)

        def on_change(now: float) -> None:
            found = holder()
            if found is not None:
                found.on_spend_settled(now)

        self.share_account(
            engine, policy, what.strip(), account, limit, bounds=bounds, on_change=on_change
        )

    def share_account(
        self,
        engine: Engine,
        policy: Policy,
        what: str,
        account: Account,
        limit: SpendPolicy,
        *,
        bounds: Callable[[float], Iterable[Decimal]],
        on_change: Callable[[float], None],
    ) -> None:
        """Share an account as `what` in the fleet of `policy`. If it had another name, its spending moves along.

        `bounds` yields the costs of calls that wait for it. `on_change` is called after each answer of the store,
        within a step of the engine.
        """
        scope = scope_of(policy, what)
        before = self._members.get(id(account)) if account.lease is not None else None
        if before is not None and before.scope == scope:
            before.change_limit(limit)
            return
        carrier, name = self._carrier(policy.fleet), self._new_name()
        member = SpendMembership(scope, name, account, limit, bounds=bounds, on_change=on_change)
        lease = SpendLease(policy.fleet, policy.process_share, lambda: carrier.wake(member))
        member.lease = lease
        if before is not None:  # the spending moves along
            carrier.remove(before)
            lease.begin(before.lease.started)
            lease.granted = micro_dollars(account.taken)
        account.lease = lease
        self._members[id(account)] = member
        carrier.add(engine, member)

    def end_account(self, account: Account) -> None:
        """Give back the granted and unspent money of an account in which nothing is reserved any more."""
        member = self._members.pop(id(account), None)
        if member is not None:
            member.ended = True
            member.lease.wake()

    def rest(self) -> None:
        """Give all leases back as soon as no call holds them, until another call needs them."""
        for member in (*self._targets, *self._members.values()):
            member.lease.rest()

    def snapshot(self, _now: float) -> Sequence[Mapping[str, Any]]:
        return [carrier.snapshot() for carrier in dict.fromkeys(self._carriers.values())]

    def _carrier(self, policy: FleetPolicy) -> Carrier:
        carrier = self._carriers.get(policy)
        if carrier is None:
            carrier = self._carriers[policy] = self._carrier_for(policy)
        return carrier


def client_spend(title: str, limit: SpendPolicy) -> str:
    """Name the spend limit of a tenant, or of a client key of a gateway, in its fleet: its amount may change, its period not."""
    return f"spend of {title} {limit.per}"


def scope_of(policy: Policy, what: str) -> str:
    """Name a scope in the fleet of a policy; braces would end the hash tag of its key."""
    return f"{policy.fleet.name}/{what}".replace("{", "(").replace("}", ")")


def _bounds(states: Iterable[TargetState], account: "ref[Any]", now: float) -> Iterator[Decimal]:
    """Yield, for each queue, the bound on the cost of the first call that waits for this account."""
    for state in states:
        gate: Any = state.spending
        if gate is None or gate.account is not account() or not state.admission.queued:
            continue
        call = state.admission.observed_call()
        bound = None if call is None or state.blocked_until(now) > now else gate.max_cost(call)
        if bound is not None:
            yield bound
