"""The limits of tenants: calls wait for `rpm`, `tpm` and `max_in_flight`; attempts wait for money.

Each tenant has separate queues, so a tenant at its limit delays no other. A call first passes the queue `calls`. It
holds that permit to its end, over all attempts, so it counts as one request. Each of its attempts then passes the queue
of its target in `targets`, which reserves the maximum cost of the attempt; all targets share one account. These queues
are target states without retries, circuit or learned limits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from stormbreak.core.checks import check_types, require_positive
from stormbreak.core.concurrency_limit import AimdLimit, FixedLimit
from stormbreak.core.fleet_lease import TargetLease
from stormbreak.core.gate import Permit, SpendingGate, SpendLimits
from stormbreak.core.policy import Policy, check_magnitudes
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.target_state import Shared, TargetState
from stormbreak.errors import ConfigurationError
from stormbreak.events import Event, SpendReached
from stormbreak.hidden_keys import quoted
from stormbreak.types import CANCELLED, CANCELLED_AFTER_SEND, VERDICT_OK, Outcome, Target, Verdict

MAX_PAYERS = 256  # maximum remembered targets of one tenant, besides those with calls
_MANY = 1_000_000  # calls in flight
_UNLIMITED = AimdLimit(initial_in_flight=_MANY, max_in_flight=_MANY)
_SHOWN = ("in_flight", "limit", "queued", "queue_age", "held_by", "held_for", "quota")


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantLimits:
    """The limits of a tenant, or of one client key of a gateway. None: no limit.

    `rpm`, `tpm` and `max_in_flight` make calls wait; a call counts once, with all its attempts. `spend` bounds the cost
    of all attempts.
    """

    rpm: float | None = None
    tpm: float | None = None
    max_in_flight: int | None = None
    spend: SpendPolicy = field(default_factory=SpendPolicy)

    def __post_init__(self) -> None:
        check_types(self)
        require_positive(self, "rpm", "tpm", "max_in_flight")
        check_magnitudes(self)

    @property
    def waits(self) -> bool:
        """Whether calls may have to wait."""
        return any(limit is not None for limit in (self.rpm, self.tpm, self.max_in_flight))

    @property
    def acts(self) -> bool:
        """Whether there is any limit."""
        return self.waits or self.spend.acts

    @property
    def reserves(self) -> bool:
        """Whether tokens, or their cost, are reserved before a call is sent."""
        return self.tpm is not None or self.spend.acts

    def queue_policy(self, of: Policy, process_share: float) -> Policy:
        """Return the policy of the queue of calls, with the patience and the fleet of the policy `of`."""
        most = self.max_in_flight
        return Policy(
            deadline=None,
            patience=of.patience,
            attempt_timeout=None,
            retry=RetryPolicy(max_attempts=1),
            retry_budget=None,
            breaker=None,
            adaptive_rate=False,
            rate_limit=RateLimitPolicy(rpm=self.rpm, tpm=self.tpm),
            limit=_UNLIMITED
            if most is None and of.fleet.acts  # which would lease a fixed limit
            else FixedLimit(max_in_flight=most or _MANY),
            fleet=of.fleet,
            process_share=process_share,
        )


def check_tenants(tenants: object) -> None:
    """Reject anything but a mapping of names to limits.

    Raises:
        ConfigurationError: names the wrong entry.
    """
    if not isinstance(tenants, Mapping):
        raise ConfigurationError(
            f"tenants must be a mapping of names to limits, got {type(tenants).__name__}"
        )
    for name, limits in tenants.items():
        if not isinstance(name, str) or not name or not name.isprintable():
            raise ConfigurationError(
                f"the name of a tenant must be printable text, got {quoted(str(name))}"
            )
        if not isinstance(limits, TenantLimits):
            raise ConfigurationError(
                f"tenants.{name} must be TenantLimits, got {type(limits).__name__}"
            )


class Host(Shared, Protocol):
    """The part of the engine that tenants need."""

    policy: Policy
    spending: SpendLimits | None

    def share_spending(
        self, policy: Policy, gate: SpendingGate, tenant: "Tenant | None" = None
    ) -> None:
        """Share the account of a gate with the fleet, if there is one."""


class Tenant:
    """One tenant with its limits, `calls` and `targets`. It takes the place of the engine for its target states.

    `permits` are held by its calls over several commands of their flows.
    """

    def __init__(self, name: str, host: Host, limits: TenantLimits) -> None:
        self.name = name
        self.permits: set[Permit] = set()
        self.calls: TargetState | None = None  # None: no call waits
        self.targets: dict[Target, TargetState] = {}
        self.sent = self.tokens = 0  # calls that have ended, and their tokens
        self.stalls = host.stalls
        self.wake = host.wake
        self._host = host
        self._target = Target("client", "", name=self.title)
        self._spending: SpendLimits | None = None
        self._replaced: list[TargetState] = []  # replaced states with calls in them
        self.govern(limits, 0.0)  # no call is in progress yet

    def govern(self, limits: TenantLimits, now: float) -> None:
        """Apply other limits, or the same under another policy of the engine.

        Waiting calls keep their limits. Calls that have begun also count for the new limits, if there are any.
        """
        self.limits = limits
        of = self._host.policy
        policy = limits.queue_policy(of, of.process_share)
        if self.calls is None or self.calls.policy != policy:
            self._policy = policy
            self._replace_calls(limits, now)
        self._change_spend(limits.spend)
        slots = None if self.calls is None else self.calls.slots
        self._replaced = [
            state
            for state in self._replaced
            if state.admission.queued or (state.slots is not slots and not state.idle)
        ]

    def _replace_calls(self, limits: TenantLimits, now: float) -> None:
        old, self.calls = self.calls, None
        if old is not None:
            self._replaced.append(old)
        if not limits.waits:
            return
        new = self.calls = TargetState(self, self._target, None if old is None else old.slots)
        if old is not None:
            new.go_on(old, now)

    def _change_spend(self, new: SpendPolicy) -> None:
        before, self._spending = self._spending, self._account_for(new)
        if self._spending is before:
            for payer in self.targets.values():
                self._share(payer.spending)
        else:
            self._replaced += self.targets.values()
            self.targets = {}

    def _account_for(self, limit: SpendPolicy) -> SpendLimits | None:
        if not limit.acts:
            return None
        if self._host.spending is None:
            raise ConfigurationError(
                f"tenants.{self.name}.spend.max_usd needs an engine that knows prices"
            )
        return self._host.spending.of_tenant(self.name, limit)

    @property
    def title(self) -> str:
        """The tenant's name in a fleet."""
        return f"tenant {self.name}"

    @property
    def states(self) -> tuple[TargetState, ...]:
        calls = () if self.calls is None else (self.calls,)
        return (*calls, *self.targets.values(), *self._replaced)

    @property
    def idle(self) -> bool:
        return all(state.idle for state in self.states)

    def payer(self, target: Target) -> TargetState | None:
        """Return the queue of attempts at a target for the money of the tenant; None without a spend limit."""
        payer = self.targets.get(target)
        if payer is None and self._spending is not None:
            if len(self.targets) >= MAX_PAYERS:  # callers may choose the names of models
                self.targets = {each: it for each, it in self.targets.items() if not it.idle}
            payer = self.targets[target] = TargetState(self, target)
        return payer

    def on_spend_settled(self, now: float, gate: SpendingGate | None = None) -> None:
        """Let attempts that waited for money leave, or reject them if too little is left."""
        for state in (*self.targets.values(), *self._replaced):
            if state.spending not in (None, gate) and state.admission.queued:
                state.admission.pump(now)

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return the queue and the account as plain values; times are seconds from `now`.

        `sent`: calls that have ended; `tokens`: the tokens that they used.

        `short_of_money`: calls that wait until reserved money comes back.
        """
        calls, spending = self.calls, self._spending
        queue = {} if calls is None else calls.snapshot(now)
        if self.limits.max_in_flight is None:
            queue.pop("limit", None)
        return {
            **{name: queue[name] for name in _SHOWN if name in queue},
            "rpm": self.limits.rpm,
            "tpm": self.limits.tpm,
            "sent": self.sent,
            "tokens": self.tokens,
            "spend": None if spending is None else spending.snapshot(now)[0],
            "short_of_money": sum(payer.admission.queued for payer in self.targets.values()),
        }

    # ------------------------------------------------------------ what its target states share

    def policy_of(self, target: Target) -> Policy:
        """Return the policy of the queue of calls, or of a queue for money."""
        if target is self._target:
            return self._policy
        return replace(self._policy, rate_limit=RateLimitPolicy(), limit=_UNLIMITED)

    def is_gone(self, _target: Target) -> bool:
        """Return False: a tenant exists as long as it has calls."""
        return False

    def budgets(self, _policy: Policy) -> tuple[None, None]:
        """Return no budgets: these queues retry nothing."""
        return None, None

    def spend_gate(self, _policy: Policy, target: Target) -> SpendingGate | None:
        """Make the gate of a target on the tenant's account; None for the queue of calls."""
        if target is self._target or self._spending is None:
            return None
        gate = self._spending.gate(self.limits.spend, target, self.emit, self.on_spend_settled)
        self._share(gate)
        return gate

    def _share(self, gate: SpendingGate | None) -> None:
        if gate is not None:
            policy = replace(self._policy, spend=self.limits.spend)
            self._host.share_spending(policy, gate, self)

    def lease(self, state: TargetState) -> TargetLease | None:
        """Make the leases of the queue of calls."""
        return self._host.lease(state) if state.target is self._target else None

    def emit(self, event: Event) -> None:
        """Queue an event of the account for the listeners; drop other events."""
        if isinstance(event, SpendReached):
            self._host.emit(event._replace(of_tenant=True))


def counted(outcome: Outcome | None, *, sent: bool) -> Outcome:
    """Return the outcome for the queues of a tenant: whether something was sent, and its usage. Failures do not count.

    Without an `outcome`, the call was cancelled.
    """
    if outcome is None:
        return CANCELLED_AFTER_SEND if sent else CANCELLED
    if outcome.verdict is VERDICT_OK:
        return Outcome(VERDICT_OK, usage=outcome.usage)
    verdict = Verdict.INVALID if sent else Verdict.CANCELLED
    return Outcome(verdict, usage=outcome.usage, maybe_processed=outcome.maybe_processed)
