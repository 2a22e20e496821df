"""The shared state of the calls of one process: targets, retry budgets, spend limits, events.

Pure and without locks: a driver holds its lock during each step and then collects
the tickets to wake (`woken`) and the events to deliver (`events`).
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import count
from types import MappingProxyType
from typing import Any, Protocol

from stormbreak.core.breaker_policy import Mode, State
from stormbreak.core.circuit_snapshot import CircuitSnapshot
from stormbreak.core.concurrency_limit import Limit
from stormbreak.core.fleet_lease import TargetLease
from stormbreak.core.flow import Command, Send, WaitFor, held
from stormbreak.core.gate import Permit, SpendingGate, SpendLimits
from stormbreak.core.policy import Policy
from stormbreak.core.queue_order import Ticket
from stormbreak.core.retry_budget import Budget, BudgetPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.stalls import Stalls
from stormbreak.core.target_state import Listener, TargetState
from stormbreak.core.tenant import Tenant, TenantLimits, check_tenants
from stormbreak.errors import ConfigurationError
from stormbreak.events import Event
from stormbreak.types import Call, Target

MAX_TARGETS = 256  # maximum remembered targets, besides those with state in force
EVICTION_CHECKS = 4  # targets checked per call, while there are too many: a call adds at most one


class ContextListener(Protocol):
    """Runs in the context of the caller: a trace begins its spans under the span that is current there.

    It gets every call before the call's first event, on the thread and in the context of the caller.
    """

    def begins(self, call: Call, now: float) -> None:
        """Handle the start of `call`. An exception is logged once, and fails no call."""

    def around(self, number: int, sent: Send) -> AbstractContextManager[object]:
        """Return the context of one attempt of that call: entered before it is sent, left when its sender is done.

        It must not raise.
        """


class Fleet(Protocol):
    """The limits that an engine shares with others through a store. Package `fleet` supplies it."""

    def start_over(self) -> None:
        """Forget all leases, as in a forked child."""

    def lease(self, engine: "Engine", state: TargetState) -> TargetLease:
        """Make the leases of a target, and renew them as long as its state lives."""

    def share_spending(
        self, engine: "Engine", policy: Policy, gate: SpendingGate, tenant: Tenant | None = None
    ) -> None:
        """Share the spend limit of a target, or of a tenant at it, once for each account."""

    def rest(self) -> None:
        """Give all leases back soon, until a call needs them again."""

    def snapshot(self, now: float) -> Sequence[Mapping[str, Any]]:
        """Return whether each store answers, and since when."""


class Engine:
    """The shared state under one policy, and under the policies of targets that have their own.

    Across targets, equal budget policies share one budget, and equal spend limits share one account. `tenants` are
    those with limits, by name; any thread may read them.
    """

    def __init__(
        self,
        policy: Policy,
        spending: SpendLimits | None = None,
        fleet: Fleet | None = None,
        tenants: Mapping[str, TenantLimits] = MappingProxyType({}),
    ) -> None:
        """Policies and tenants with a spend limit need `spending`. Without `fleet`, nothing is shared with other processes."""
        check_tenants(tenants)
        self.policy = policy
        self.spending = spending
        self.fleet = fleet
        self.stalls = Stalls()
        self.races = policy.hedge is not None  # some attempts may be hedged
        self._policies: Mapping[Target, Policy] = {}  # of targets with a policy of their own
        self._earlier_policies: Mapping[Target, Policy] = {}
        self._tenant_limits: Mapping[str, TenantLimits] = dict(tenants)
        self.listeners: list[Listener] = []
        self.context_listener: ContextListener | None = None
        # Returns the `snapshot` of the stepper, since only the stepper knows the time; None while no driver runs the
        # engine.
        self.weak_snapshot: Callable[[], Callable[..., dict[str, Any]] | None] = lambda: None
        self.number: Callable[[], int] = count(1).__next__  # returns the number of a new call
        self.start_over()

    def start_over(self) -> None:
        """Reset all learned state and active calls in a forked child, where those calls never end."""
        self.stalls.rest()
        if self.spending is not None:
            self.spending.start_over()
        if self.fleet is not None:
            self.fleet.start_over()
        self._budgets: dict[tuple[str, BudgetPolicy], Budget] = {}
        self.events: list[Event] = []
        self.woken: list[Ticket] = []
        self.targets: OrderedDict[Target, TargetState] = OrderedDict()
        self._replaced: list[TargetState] = []  # replaced states in which calls still wait
        self.lent: set[Permit] = set()  # permits that no flow holds
        limits = self._tenant_limits.items()
        self.tenants = {name: Tenant(name, self, each) for name, each in limits if each.acts}

    # ------------------------------------------------------------ policies, budgets, spend limits

    def policy_of(self, target: Target) -> Policy:
        if not target.name:
            return self.policy
        account = target.account
        return self._policies.get(account) or self._earlier_policies.get(account, self.policy)

    def is_gone(self, target: Target) -> bool:
        """Whether a target is no longer configured: only earlier calls can use it."""
        return bool(target.name) and target.account not in self._policies

    @property
    def budget(self) -> Budget | None:
        """The retry budget of the engine's own policy."""
        return self.budgets(self.policy)[0]

    def budgets(self, policy: Policy) -> tuple[Budget | None, Budget | None]:
        """Return the retry budgets of `policy` and of its shadow."""
        shadow = None if policy.shadow is None else policy.shadow.retry_budget
        return self._budget("real", policy.retry_budget), self._budget("shadow", shadow)

    def _budget(self, kind: str, policy: BudgetPolicy | None) -> Budget | None:
        if policy is None:
            return None
        budget = self._budgets.get((kind, policy))
        if budget is None:
            budget = self._budgets[kind, policy] = Budget(policy)
        return budget

    def spend_gate(self, policy: Policy, target: Target) -> SpendingGate | None:
        """Make the spend gate of a target; None if its policy has no spend limit."""
        if self.spending is None:
            if policy.spend.acts:
                raise ConfigurationError("spend.max_usd needs an engine that knows prices")
            return None
        gate = self.spending.gate(policy.spend, target, self.emit, self.on_spend_settled)
        if gate is not None:
            self.share_spending(policy, gate)
        return gate

    def share_spending(
        self, policy: Policy, gate: SpendingGate, tenant: Tenant | None = None
    ) -> None:
        if self.fleet is not None and policy.fleet.acts and policy.fleet.spend:
            self.fleet.share_spending(self, policy, gate, tenant)

    def lease(self, state: TargetState) -> TargetLease | None:
        """Make the leases of a target; None if its policy shares nothing with a fleet."""
        if self.fleet is None or not state.policy.fleet.acts:
            return None
        return self.fleet.lease(self, state)

    def on_spend_settled(self, now: float, gate: SpendingGate | None = None) -> None:
        """Let calls that waited for the spend limit leave, or reject them if too little is left."""
        for target_state in self.states:
            if target_state.spending not in (None, gate) and target_state.admission.queued:
                target_state.admission.pump(now)

    def govern(
        self,
        policy: Policy,
        policies: Mapping[Target, Policy],
        now: float,
        *,
        moved: Collection[Target] = (),
        shares_slots: bool = False,
        tenants: Mapping[str, TenantLimits] | None = None,
    ) -> None:
        """Apply new policies; `policies` are those of the named targets, without their models.

        A target with an unchanged policy keeps its state. Any other target gets a new state, which takes over the
        circuit; calls in the old state, or at a removed target, end there. Targets that have `moved` to another address
        lose all state. With `shares_slots`, calls in an old state still count for a fixed limit. The limits of
        `tenants` replace the former ones; None: keep them.
        """
        known = {**self._earlier_policies, **self._policies}
        if self.spending is not None:
            changes: list[tuple[Target | None, SpendPolicy, SpendPolicy]] = [
                (target, known[target].spend if target in known else SpendPolicy(), new.spend)
                for target, new in policies.items()
            ]
            self.spending.replace([(None, self.policy.spend, policy.spend), *changes])
        self.policy, self._policies, self._earlier_policies = policy, policies, self._policies
        self.races = any(each.hedge is not None for each in (policy, *policies.values()))
        before = (*self._replaced, *self.targets.values())
        for target, target_state in list(self.targets.items()):
            target_state.gone = self.is_gone(target)
            if (target_state.gone and target_state.idle) or target.account in moved:
                del self.targets[target]
            elif not target_state.gone and target_state.policy != self.policy_of(target):
                self.targets[target] = self._replace(target_state, now, shares_slots=shares_slots)
        current = self.targets.values()
        self._replaced = [each for each in before if each.admission.queued and each not in current]
        self.on_spend_settled(now)  # a limit may have been raised
        self._govern_tenants(self._tenant_limits if tenants is None else tenants, now)

    def _govern_tenants(self, limits: Mapping[str, TenantLimits], now: float) -> None:
        self._tenant_limits = limits
        for name, tenant in list(self.tenants.items()):
            tenant.govern(limits.get(name, TenantLimits()), now)
            tenant.on_spend_settled(now)
            if not tenant.limits.acts and tenant.idle:
                del self.tenants[name]
        for name, each in limits.items():
            if each.acts and name not in self.tenants:
                self.tenants[name] = Tenant(name, self, each)

    def change_limit(self, limit: Limit, now: float) -> None:
        """Replace the concurrency limit of every policy. Between fixed limits, targets keep their state."""
        for target_state in self.states:
            target_state.resize(limit, now)
        policies = {key: replace(each, limit=limit) for key, each in self._policies.items()}
        self.govern(replace(self.policy, limit=limit), policies, now)

    def _replace(self, old: TargetState, now: float, *, shares_slots: bool) -> TargetState:
        new = TargetState(self, old.target, old.slots if shares_slots else None)
        if old.breaker is not None:
            saved = old.breaker.save(now)
            if saved.state is not State.CLOSED:
                new.restore(saved, now, elapsed=0.0)
            if new.breaker is not None:
                new.breaker.trips = old.breaker.trips
        new.openings = old.openings  # a restored circuit does not count as opened
        breaker = new.policy.breaker  # its mode also applies to calls in the old state
        for target_state in self._states_of(old.target):
            target_state.force(breaker is not None and breaker.mode is Mode.FORCED_OPEN, now)
        if shares_slots:
            new.go_on(old, now)
        return new

    # ------------------------------------------------------------ targets

    def target_state(self, target: Target) -> TargetState:
        """Return the state of `target`, made on first use."""
        target_state = self.targets.get(target)
        if target_state is None:
            target_state = self.targets[target] = TargetState(self, target)
        target_state.recently_used = True
        lease = target_state.lease
        if lease is not None and lease.rests:
            lease.wake()
        return target_state

    @property
    def states(self) -> tuple[TargetState, ...]:
        """Return the states of all targets, and replaced states in which calls still wait."""
        return (*self.targets.values(), *self._replaced)

    def _states_of(self, target: Target) -> list[TargetState]:
        """Return the state of `target`, if any, and replaced states in which calls still wait."""
        replaced = [each for each in self._replaced if each.target == target]
        return [*replaced, self.targets[target]] if target in self.targets else replaced

    def isolate(self, target: Target, now: float, *, duration: float | None = None) -> None:
        """Isolate the circuit of `target`, until `reset` or for `duration` seconds."""
        self.target_state(target)
        for target_state in self._states_of(target):
            target_state.isolate(now, duration=duration)

    def reset(self, target: Target, now: float) -> None:
        self.target_state(target)  # so that a snapshot shows the target
        for target_state in self._states_of(target):
            target_state.reset(now)

    def pause(self, target: Target, seconds: float, now: float) -> None:
        self.target_state(target)
        for target_state in self._states_of(target):
            target_state.cooldown.hold(now + seconds, now)

    def is_open(self, target: Target, now: float) -> bool:
        """Whether the circuit of `target` lets no call pass now; creates no state."""
        target_state = self.targets.get(target)
        return target_state is not None and target_state.is_open(now)

    def make_room(self, now: float) -> None:
        """Forget targets beyond MAX_TARGETS: the least recently used of those not needed.

        Each call checks only a few targets. A target that was used since its last check moves to the end (the clock
        algorithm of page caches).
        """
        for _ in range(EVICTION_CHECKS):
            if len(self.targets) <= MAX_TARGETS:
                break
            target, target_state = next(iter(self.targets.items()))
            if target_state.recently_used or target_state.is_needed(now):
                target_state.recently_used = False
                self.targets.move_to_end(target)
            else:
                del self.targets[target]

    def forget(self, targets: Iterable[Target], now: float) -> bool:
        """Remove the states of `targets`, unless one is still needed; return whether they are removed."""
        known = [self.targets[target] for target in targets if target in self.targets]
        if any(target_state.is_needed(now) for target_state in known):
            return False
        for target_state in known:
            del self.targets[target_state.target]
        return True

    # ------------------------------------------------------------ calls, events, snapshots

    def wake(self, ticket: Ticket) -> None:
        """Ask the driver to wake the owner of `ticket` after this step."""
        ticket.due = True
        self.woken.append(ticket)

    def recover(self, commands: Iterable[Command], now: float) -> None:
        """Repair the state after an interrupt in the middle of a step; the running flows execute `commands`."""
        commands = list(commands)
        for command in commands:
            if isinstance(command, WaitFor) and command.ticket.decided:
                self.wake(command.ticket)  # it may have been woken already
        holdings = [*self.lent, *(each for command in commands for each in held(command))]
        of_tenants = [state for tenant in self.tenants.values() for state in tenant.states]
        holdings += [permit for tenant in self.tenants.values() for permit in tenant.permits]
        for target_state in (*self.states, *of_tenants):
            admission = target_state.admission
            waiting = [
                each
                for each in holdings
                if isinstance(each, Ticket) and each.issuer is admission and not each.decided
            ]
            # A ticket has a permit if a queue has granted it before.
            permits = (each.permit if isinstance(each, Ticket) else each for each in holdings)
            taken = [each for each in permits if each and each.issuer.slots is admission.slots]
            admission.recover(waiting, len(taken), now)

    def emit(self, event: Event) -> None:
        if self.listeners:
            self.events.append(event)

    def save_circuits(self, now: float) -> dict[Target, CircuitSnapshot]:
        """Return the state of every circuit that is not closed, to keep it over a restart."""
        saved = {
            target: target_state.breaker.save(now)
            for target, target_state in self.targets.items()
            if target_state.breaker is not None
        }
        return {target: each for target, each in saved.items() if each.state is not State.CLOSED}

    def restore_circuits(
        self, saved: Mapping[Target, CircuitSnapshot], now: float, elapsed: float
    ) -> None:
        """Restore circuits that were saved `elapsed` seconds ago; other circuits stay as they are."""
        for target, circuit in saved.items():
            self.target_state(target)
            for target_state in self._states_of(target):
                target_state.restore(circuit, now, elapsed=elapsed)

    def snapshot(self, now: float | None = None, *, pending: bool = True) -> dict[str, Any]:
        """Return every target's state and the budget; without `now` also the wait of each `pending` call.

        Users call it without `now`, from any thread: the stepper runs it between two steps.
        """
        if now is None:
            snapshot = self.weak_snapshot()
            if snapshot is None:
                raise RuntimeError("no driver runs this engine, so it has no clock")
            return snapshot(pending=pending)
        fleet = [] if self.fleet is None else list(self.fleet.snapshot(now))
        spend = [] if self.spending is None else list(self.spending.snapshot(now))
        tenants = {name: tenant.snapshot(now) for name, tenant in self.tenants.items()}
        return {
            "budget": None if self.budget is None else self.budget.balance(now),
            "targets": {
                str(target): target_state.snapshot(now)
                for target, target_state in self.targets.items()
                if not (target_state.gone and target_state.idle)
            },
            **({"spend": spend} if spend else {}),
            **({"tenants": tenants} if tenants else {}),
            **({"fleet": fleet} if fleet else {}),
        }
