"""What one process knows of a target: its gates in their order, and the queue in front of them.

The order: cooldown, pace, send rate, rate limits, spending, slots, circuit, shadow; the diagnosis settles before all that ask it.
"""

from collections.abc import Callable, Iterator
from math import inf
from typing import Any, Protocol

from stormbreak.core.admission import TargetQueue
from stormbreak.core.breaker import Breaker
from stormbreak.core.circuit import BreakerPolicy, State
from stormbreak.core.circuit_snapshot import CircuitSnapshot
from stormbreak.core.concurrency_limit import limiter
from stormbreak.core.cooldown import Cooldown, Pace
from stormbreak.core.diagnosis import Diagnosis
from stormbreak.core.gate import OPEN, Gate
from stormbreak.core.hedge import HedgeTimer
from stormbreak.core.policy import Policy
from stormbreak.core.rate_limit_gate import RateLimitGate
from stormbreak.core.retry_budget import Load
from stormbreak.core.send_rate import AdaptiveSendRate
from stormbreak.core.shadow import ShadowGate, ShadowPolicy
from stormbreak.core.shared_budgets import SharedBudgets
from stormbreak.core.spend_account import Share
from stormbreak.core.spending import Spending
from stormbreak.core.tally import tallied
from stormbreak.core.telling import call_all
from stormbreak.core.ticket import Ticket
from stormbreak.core.trip import Counts
from stormbreak.events import CircuitChanged, CooldownStarted, Event, SpendReached, WouldHave
from stormbreak.types import Outcome, Target

PACED = 0.5  # after a pause of t seconds the queue leaves within PACED * t ...
PACED_BOUNDS = (0.1, 5.0)  # ... but within these seconds
REFUSED = 10.0  # seconds since the budget refused a retry
PACED_CIRCUIT = 1.0  # after a circuit closed
FRESH = 60.0  # seconds for which a failure counts, in the windows of circuits and rates

Listener = Callable[[Event], None]


class Shared(Protocol):
    """What the states of all targets share: the engine."""

    events: list[Event]
    listeners: list[Listener]
    payers: SharedBudgets

    def policy_of(self, target: Target) -> Policy:
        """Return the policy of a target."""
        ...

    def is_gone(self, target: Target) -> bool:
        """Whether no call may go there any more."""
        ...

    def wake(self, ticket: Ticket) -> None:
        """Let the driver go on with a call that waits."""
        ...


class TargetState:
    """One target: its gates, and the queue in front of them."""

    __slots__ = (
        "_closing_until", "_engine", "admission", "backing_off", "breaker", "budget", "cooldown", "diagnosis", "earn", "failed_at",
        "failed_in_a_row", "gone", "hedging", "openings", "pace", "policy", "quota", "rate", "recently_used", "refused_at", "shadow",
        "shadow_budget", "slots", "spending", "target", "treatments",
    )  # fmt: skip

    def __init__(self, engine: Shared, target: Target) -> None:
        self.policy = policy = engine.policy_of(target)
        self.treatments = policy.treatments
        self.budget, self.shadow_budget = budgets = engine.payers.budgets(policy)
        self.earn = call_all(budget.earn for budget in budgets if budget is not None)
        self._engine = engine
        self.target = target
        self.gone = engine.is_gone(target)
        self.openings = 0  # how often the circuit opened
        self.failed_in_a_row = 0  # calls that fell back from here, or to here
        self.failed_at = self.refused_at = OPEN  # a retry might mend it; the budget paid for none
        self.backing_off = 0  # calls between two attempts
        self.recently_used = True  # since the engine last looked for lanes to forget
        self.pace = Pace()
        self._closing_until = OPEN  # end of the pace that a closing circuit started
        self.cooldown = Cooldown(
            self.treatments,
            self._on_cooldown,
            longest=policy.retry.max_wait,
            spread=policy.retry.retry_after_jitter,
            spared=self._is_spared,
        )
        self.diagnosis = Diagnosis(
            self.treatments,
            limited=policy.limit.finds_itself,
            is_random=self.is_random,
        )
        self.rate = (
            AdaptiveSendRate(on_random=self._on_random_refusals) if policy.adaptive_rate else None
        )
        self.slots = limiter(
            policy.limit,
            self.diagnosis,
            paused=lambda now: self.cooldown.until > now,
            share=policy.process_share,
        )
        self.breaker = None if policy.breaker is None else self._breaker(policy.breaker)
        self.hedging = None if policy.hedge is None else HedgeTimer(policy.hedge)
        self.quota = self._quota(policy) if policy.rate_limit.acts else None
        self.spending = engine.payers.spending(policy, target, self._on_spend)
        self.shadow = None if policy.shadow is None else self._shadow(policy.shadow)
        spacings = (self.rate, self.quota)
        # the diagnosis settles first, before all that asks it
        gates: tuple[Gate | None, ...] = (
            self.cooldown, self.pace, *spacings, self.spending, self.slots, self.breaker, self.shadow, self.diagnosis,
        )  # fmt: skip
        self.admission = TargetQueue(
            [gate for gate in gates if gate is not None],
            self.slots,
            self.diagnosis,
            policy.queue,
            engine.wake,
            spacings=[spacing for spacing in spacings if spacing is not None],
            circuit=self.breaker,
            weigh=call_all(gate.weigh for gate in self._call_aware_gates()),
            spending=self.spending,
        )

    def is_spaced(self, now: float) -> bool:
        """Whether a learned send rate is in force."""
        return self.rate is not None and self.rate.in_force(now)

    def is_random(self, now: float) -> bool:
        """Whether refusals are bad luck here."""
        return self.rate is not None and self.rate.is_random(now)

    def _is_spared(self, outcome: Outcome, now: float) -> bool:
        """Whether others need not wait with the call that was told to: bad luck, or tokens that only it needs."""
        return (
            self.is_random(now)
            or self.diagnosis.refuses_randomly
            or (self.quota is not None and self.quota.is_what_lacks(outcome))
        )

    @property
    def idle(self) -> bool:
        """Whether nobody is in flight or waits."""
        return not (self.slots.in_flight or self.admission.queued)

    def is_needed(self, now: float) -> bool:
        """Whether a call is under way here, or a new lane would let pass what this one holds back."""
        return (
            not self.idle
            or self.backing_off > 0
            or now - self.failed_at < FRESH
            or max(self.cooldown.ready_at(now), self.pace.ready_at(now)) > now
            or (self.breaker is not None and self.breaker.is_needed(now))
            or (self.rate is not None and (self.rate.in_force(now) or self.rate.is_random(now)))
            or (self.quota is not None and self.quota.is_needed(now))
            or self.slots.learned(now)
        )

    def is_open(self, now: float) -> bool:
        """Whether the circuit lets nobody pass now: it is open, isolated, or has sent all its probes."""
        return self.breaker is not None and self.breaker.ready_at(now) > now

    def load(self, now: float, sent_at: float = OPEN) -> Load:
        """What the gates know of the load on this target."""
        waits = self.admission.queued > 0 or self.slots.in_flight >= self.slots.limit
        spaced = self.is_spaced(now)
        circuit = self.breaker is not None and self.breaker.state is not State.CLOSED
        follows = spaced or (waits and self.slots.learned(now))
        return Load(
            gated=waits or spaced or circuit,
            followed=follows,
            well=self.diagnosis.is_healthy(now),
            ill=self.diagnosis.is_unhealthy(now),
            slowed_by_429s=self._slowed_by_429s(now),
            overtaken=self.diagnosis.is_overtaken(sent_at),
        )

    def _slowed_by_429s(self, now: float) -> bool:
        learns = self.rate is not None or self.slots.learned(now)
        return learns or self.diagnosis.refuses_randomly

    def taken(self, now: float) -> float:
        """Which share of the room is taken, by those in flight and in the queue; 1 and more where nobody may leave."""
        shut = any(
            gate is not None and gate.ready_at(now) > now for gate in (self.cooldown, self.breaker)
        )
        return shut + (self.slots.in_flight + self.admission.queued) / max(1, self.slots.limit)

    def _breaker(self, policy: BreakerPolicy) -> Breaker:
        spread = self.policy.retry.retry_after_jitter
        return Breaker(
            policy, self.treatments, self._on_circuit, spread=spread, diagnosis=self.diagnosis
        )

    def _quota(self, policy: Policy) -> RateLimitGate:
        return RateLimitGate(
            policy.rate_limit, longest=policy.retry.max_wait, share=policy.process_share
        )

    def _call_aware_gates(self) -> Iterator[RateLimitGate | Spending]:
        shadow = None if self.shadow is None else self.shadow.quota
        for gate in (self.quota, self.spending, shadow):
            if gate is not None:
                yield gate

    def _shadow(self, policy: ShadowPolicy) -> ShadowGate:
        real = self.policy
        failures = real.failures if policy.failures is None else policy.failures
        ignored = real.ignored if policy.ignored is None else policy.ignored
        return ShadowGate(
            policy,
            tallied(failures, ignored),
            self._on_shadow,
            fail_fast=real.fail_fast if policy.fail_fast is None else policy.fail_fast,
            retry=real.retry,
            share=real.process_share,
            paused=lambda now: self.cooldown.until > now,
            budget=self.shadow_budget,
        )

    def _on_shadow(self, now: float, mechanism: str, what: str, until: float | None) -> None:
        if self._engine.listeners:
            self._engine.events.append(WouldHave(now, self.target, mechanism, what, until))

    def _on_cooldown(self, *, now: float, until: float | None) -> None:
        if until is None:
            self.pace.stop()
            if now < self._closing_until:
                self.pace.start(now, self._closing_until - now, self.slots.limit)
            return
        shortest, longest = PACED_BOUNDS
        seconds = min(max((until - now) * PACED, shortest), longest)
        self.pace.start(until, seconds, self.slots.limit)
        self.admission.sweep(now)
        if self._engine.listeners:
            self._engine.events.append(CooldownStarted(now, self.target, until))

    def _on_random_refusals(self, now: float) -> None:
        self.cooldown.lift(now)
        self.diagnosis.throttled_at = -inf

    def _on_spend(self, now: float, share: Share) -> None:
        """Tell that a further part of the limit of spending is reached."""
        if self._engine.listeners:
            self._engine.events.append(SpendReached(now, self.target, *share))

    def _on_circuit(self, before: State, after: State, *, now: float, until: float | None) -> None:
        if after is State.CLOSED:
            self._closing_until = now + PACED_CIRCUIT
            self.pace.start(now, PACED_CIRCUIT, self.slots.limit)
        elif after in (State.OPEN, State.ISOLATED):
            self.openings += after is State.OPEN
            self.admission.sweep(now)
        if self._engine.listeners:
            self._engine.events.append(CircuitChanged(now, self.target, before, after, until))

    def isolate(self, now: float, *, duration: float | None = None) -> None:
        """Open the circuit by hand, until `reset` or for a time; calls that fail fast leave the queue."""
        if self.breaker is not None:
            self.breaker.isolate(now, duration=duration)
            self.admission.pump(now)

    def force(self, forced_open: bool, now: float) -> None:  # noqa: FBT001
        """Follow a newer policy whose breaker is forced open, or no longer."""
        if self.breaker is not None:
            self.breaker.force(forced_open, now)
            self.admission.pump(now)

    def reset(self, now: float) -> None:
        """Close the circuit and lift cooldown and pace, by hand; whoever waited for them leaves."""
        if self.breaker is not None:
            self.breaker.reset(now)
        self.cooldown.lift(now)
        self.pace.stop()
        self._closing_until = OPEN
        self.admission.pump(now)

    def restore(self, saved: CircuitSnapshot, now: float, *, elapsed: float) -> None:
        """Take up a circuit that was saved `elapsed` seconds ago; who may no longer wait leaves the queue."""
        if self.breaker is not None:
            self.breaker.restore(saved, now, elapsed=elapsed)
            self.admission.pump(now)

    def snapshot(self, now: float) -> dict[str, Any]:
        """What stands where, in plain values; times are seconds from `now`."""
        breaker, until = self.breaker, self.cooldown.ready_at(now)
        counts = Counts() if breaker is None else breaker.counts(now)
        shadow = {} if self.shadow is None else {"shadow": self.shadow.snapshot()}
        return {
            "place": self.target.place,
            "in_flight": self.slots.in_flight,
            "limit": self.slots.limit,
            **self.admission.snapshot(now),
            "quota": None if self.quota is None else self.quota.scarcer(now),
            "rate": None if self.rate is None else _finite(self.rate.rate_at(now)),
            "limit_learned": self.slots.learned(now),
            "trouble": self.diagnosis.cause(now).value,
            "circuit": None if breaker is None else breaker.state_at(now).value,
            "next_probe": None if breaker is None else breaker.next_probe(now),
            "trips": 0 if breaker is None else breaker.trips,
            "failure_rate": counts.failure_rate,
            "slow_call_rate": counts.slow_call_rate,
            "cooldown": max(0.0, until - now),
            "cooldown_asked": self.cooldown.asked if until > now else 0.0,
            "service": self.admission.service,
            "budget": None if self.budget is None else self.budget.balance(now),
            "retries_refused": now - self.refused_at < REFUSED,
            **shadow,
        }


def _finite(number: float) -> float | None:
    return None if number == inf else number
