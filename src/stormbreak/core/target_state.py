"""The state of one target: its gates in order, the queue before them, and their wiring.

The order of the gates: cooldown, pace, send rate, quota, spend limit, slots, circuit, shadow, diagnosis. An outcome
reaches them in reverse: the diagnosis, which lets every call pass, is last so that it learns of an outcome before the
gates that ask it.
"""

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any, Protocol

from stormbreak.core.admission import TargetQueue
from stormbreak.core.breaker import Breaker
from stormbreak.core.breaker_policy import CLOSED, BreakerPolicy, State, tallied
from stormbreak.core.circuit_snapshot import CircuitSnapshot
from stormbreak.core.concurrency_limit import FixedLimit, FixedLimiter, Limit, Limiter, limiter
from stormbreak.core.cooldown import Cooldown, Pace
from stormbreak.core.diagnosis import Diagnosis
from stormbreak.core.fleet_lease import TargetLease
from stormbreak.core.gate import NEVER, READY, Gate, SpendingGate
from stormbreak.core.hedge import HedgeTimer
from stormbreak.core.policy import Policy
from stormbreak.core.queue_order import Ticket
from stormbreak.core.rate_limit_gate import RateLimitGate
from stormbreak.core.retry_budget import Budget, Load
from stormbreak.core.send_rate import AdaptiveSendRate
from stormbreak.core.shadow import ShadowGate, ShadowPolicy
from stormbreak.core.stalls import Stalls
from stormbreak.core.trip import Counts
from stormbreak.events import CircuitChanged, CooldownStarted, Event, WouldHave
from stormbreak.types import VERDICT_OK, Call, Outcome, Tally, Target

PACED = 0.5  # after a pause of t seconds the queue leaves within PACED * t ...
PACED_BOUNDS = (0.1, 5.0)  # ... limited to this range of seconds
REFUSED = 10.0  # seconds since the budget refused a retry
PACED_CIRCUIT = 1.0  # the same time after a circuit closed
FRESH = 60.0  # seconds for which a failure counts, in the windows of circuits and rates

Listener = Callable[[Event], None]


class Shared(Protocol):
    """The part of the engine that all target states share."""

    stalls: Stalls

    def policy_of(self, target: Target) -> Policy:
        """Return the policy of a target."""

    def is_gone(self, target: Target) -> bool:
        """Whether no new call may go to a target."""

    def budgets(self, policy: Policy) -> tuple[Budget | None, Budget | None]:
        """Return the retry budget of a policy, and that of its shadow."""

    def spend_gate(self, policy: Policy, target: Target) -> SpendingGate | None:
        """Make the spend gate of a target; None where its policy has no spend limit."""

    def lease(self, state: "TargetState") -> TargetLease | None:
        """Make the leases of a target; None where its policy shares nothing with a fleet."""

    def wake(self, ticket: Ticket) -> None:
        """Ask the driver to resume a waiting call."""

    def emit(self, event: Event) -> None:
        """Queue an event for the listeners."""


class TargetState:
    """One target: its gates, and the queue before them."""

    def __init__(self, engine: Shared, target: Target, slots: Limiter | None = None) -> None:
        """Take over the `slots` of an earlier state, if both limits are fixed and not leased."""
        self.policy = policy = engine.policy_of(target)
        self.treatments = policy.treatments
        self.budget, self.shadow_budget = engine.budgets(policy)
        self._emit = engine.emit
        self.target = target
        self.gone = engine.is_gone(target)
        self.openings = 0  # how often the circuit opened
        self.failed_in_a_row = 0  # calls that fell back from or to here
        self.failed_at = -inf  # the last retryable failure
        self.refused_at = -inf  # when the budget last refused a retry
        self.backing_off = 0  # calls between two attempts
        self.recently_used = True  # since the engine last searched for targets to forget
        self._closing_until = -inf  # end of the pace that a closing circuit started

        retry = policy.retry
        self.cooldown = Cooldown(
            self.treatments,
            self._on_cooldown,
            max_wait=retry.max_wait,
            spread=retry.retry_after_jitter,
            affects_one_call=self._affects_one_call,
        )
        self.pace = Pace()
        self.rate: AdaptiveSendRate | None = None
        if policy.adaptive_rate:
            self.rate = AdaptiveSendRate(
                lambda: self.diagnosis.run.answered_sent_at, self._on_random_refusals
            )
        self.lease = lease = engine.lease(self)
        self.quota = (
            RateLimitGate(
                policy.rate_limit,
                max_wait=retry.max_wait,
                share=policy.process_share,
                rate_for=None if lease is None else lease.rate,
            )
            if policy.rate_limit.acts
            else None
        )
        self.spending = engine.spend_gate(policy, target)
        self.diagnosis = self._diagnosis(engine.stalls)
        self.slots = limiter(
            policy.limit,
            self.diagnosis,
            paused=self._is_paused,
            share=policy.process_share,
            fixed=self._fixed_limiter(slots),
        )
        self.breaker = None if policy.breaker is None else self._breaker(policy.breaker)
        self.shadow = None if policy.shadow is None else self._shadow(policy.shadow, engine.stalls)
        self.admission = self._queue(engine)
        self._depends_on_call = (
            self.quota is not None
            or self.spending is not None
            or (lease is not None and lease.slots is not None)
        )
        self.hedging = None if policy.hedge is None else HedgeTimer(policy.hedge)

    def _fixed_limiter(self, slots: Limiter | None) -> Callable[[FixedLimit], FixedLimiter] | None:
        if self.lease is not None:
            return self.lease.limiter
        if type(slots) is not FixedLimiter:
            return None
        known, share = slots, self.policy.process_share

        def resized(policy: FixedLimit) -> FixedLimiter:
            known.resize(policy.max_in_flight, share)
            return known

        return resized

    def _diagnosis(self, stalls: Stalls) -> Diagnosis:
        return Diagnosis(
            self.treatments,
            limited=self.policy.limit.finds_itself,
            is_random=self.is_random,
            stalls=stalls,
        )

    def _breaker(self, policy: BreakerPolicy) -> Breaker:
        return Breaker(
            policy,
            self.treatments,
            self._on_circuit,
            spread=self.policy.retry.retry_after_jitter,
            diagnosis=self.diagnosis,
        )

    def _queue(self, engine: Shared) -> TargetQueue:
        """Order the gates, and create the queue before them."""
        gates: tuple[Gate | None, ...] = (
            self.cooldown, self.pace, self.rate, self.quota, self.spending, self.slots, self.breaker, self.shadow,
            self.diagnosis,
        )  # fmt: skip
        return TargetQueue(
            [gate for gate in gates if gate is not None],
            self.slots,
            self.diagnosis,
            self.policy.queue,
            engine.wake,
            pacing=[gate for gate in (self.rate, self.quota) if gate is not None],
            circuit=self.breaker,
            spending=self.spending,
            is_calm=self._is_calm,
            ask_fleet=self._ask_fleet if self.policy.fleet.acts else None,
        )

    def go_on(self, before: "TargetState", now: float) -> None:
        """Replace an earlier state: use of the same rate limits and slots still counts."""
        if self.quota is not None and before.quota is not None:
            self.quota.go_on(before.quota)
        if self.slots is before.slots:
            self.admission.share_slots(before.admission)
            self.admission.pump_all(now)

    def resize(self, limit: Limit, now: float) -> None:
        """Change the limit if both are fixed; queued calls stay."""
        if isinstance(limit, FixedLimit) and isinstance(self.slots, FixedLimiter):
            self.policy = replace(self.policy, limit=limit)
            self.slots.resize(limit.max_in_flight, self.policy.process_share)
            self.admission.pump(now)

    def _is_calm(self, now: float) -> bool:
        """Whether all gates except the slots stay ready until a failure or a change of circuit, cooldown or pace."""
        rate, breaker = self.rate, self.breaker
        return (
            not self._depends_on_call
            and self.cooldown.until <= now
            and self.pace.ends_at <= now
            and (rate is None or rate.ends_at <= now)
            and (breaker is None or breaker.state is CLOSED)
        )

    def _ask_fleet(self, call: Call, now: float) -> float:
        """Ask the fleet for missing leases of `call`, and return NEVER; or return until when another gate holds it."""
        blocked_until = self.blocked_until(now)
        if blocked_until > now:
            return blocked_until
        gates = (self.quota, self.slots)
        if self.lease is not None and any(
            gate is not None and gate.ready_at(call, now) == NEVER for gate in gates
        ):
            self.lease.ask(now)
        if self.spending is not None:
            self.spending.ask_fleet(call, now)
        return NEVER

    def blocked_until(self, now: float) -> float:
        """Return until when gates that are not shared hold calls here; READY if they do not."""
        local = () if self.lease is None or self.lease.slots is not None else (self.slots,)
        gates = (self.cooldown, self.pace, self.breaker, *local)
        return max(READY if gate is None else gate.ready_at(None, now) for gate in gates)

    # ------------------------------------------------------------ how gates inform each other

    def _on_cooldown(self, *, now: float, until: float | None) -> None:
        if self.lease is not None:
            self.lease.report_news(self.cooldown.news)
        self.admission.end_calm()
        if until is None:
            self.pace.stop()
            if now < self._closing_until:
                self.pace.start(now, self._closing_until - now, self.slots.limit)
            return
        shortest, longest = PACED_BOUNDS
        seconds = min(max((until - now) * PACED, shortest), longest)
        self.pace.start(until, seconds, self.slots.limit)
        self.admission.sweep(now)
        self._emit(CooldownStarted(now, self.target, until))

    def _is_paused(self, now: float) -> bool:
        return self.cooldown.until > now

    def _affects_one_call(self, outcome: Outcome, now: float) -> bool:
        """Whether only the refused call has to wait: refusals are random, or only this call needs that many tokens."""
        return (
            self.is_random(now)
            or self.diagnosis.refusals.are_random
            or (self.quota is not None and self.quota.is_what_lacks(outcome))
        )

    def _on_random_refusals(self, now: float) -> None:
        self.cooldown.lift(now)
        self.diagnosis.throttled_at = -inf

    def _on_circuit(self, before: State, after: State, *, now: float, until: float | None) -> None:
        self.admission.end_calm()
        if after is State.CLOSED:
            self._closing_until = now + PACED_CIRCUIT
            if self.rate is not None:
                self.rate.restart(now)
            self.pace.start(now, PACED_CIRCUIT, self.slots.limit)
        elif after in (State.OPEN, State.ISOLATED):
            self.openings += after is State.OPEN
            self.admission.sweep(now)
        self._emit(CircuitChanged(now, self.target, before, after, until))

    def _shadow(self, policy: ShadowPolicy, stalls: Stalls) -> ShadowGate:
        real = self.policy
        failures = real.failures if policy.failures is None else policy.failures
        ignored = real.ignored if policy.ignored is None else policy.ignored
        limited = policy.limit is not None and policy.limit.finds_itself
        return ShadowGate(
            policy,
            Diagnosis(tallied(failures, ignored), limited=limited, stalls=stalls),
            self._on_shadow,
            fail_fast=real.fail_fast if policy.fail_fast is None else policy.fail_fast,
            retry=real.retry,
            share=real.process_share,
            paused=self._is_paused,
            budget=self.shadow_budget,
        )

    def _on_shadow(self, now: float, mechanism: str, decision: str, until: float | None) -> None:
        self._emit(WouldHave(now, self.target, mechanism, decision, until))

    def as_evidence(self, misfit: Outcome) -> Outcome:
        """Return the gates' outcome of an answer that misses its schema: a success, unless the policy counts it."""
        if self.treatments[misfit.verdict].tally is not Tally.SUCCESS:
            return misfit
        return misfit._replace(verdict=VERDICT_OK, repair=None)

    # ------------------------------------------------------------ state of the gates

    def is_random(self, now: float) -> bool:
        return self.rate is not None and self.rate.is_random(now)

    @property
    def idle(self) -> bool:
        return not (self.slots.in_flight or self.admission.queued)

    def is_needed(self, now: float) -> bool:
        """Whether a call is in progress here, or a new state would let calls pass that this one holds back."""
        return (
            not self.idle
            or self.backing_off > 0
            or now - self.failed_at < FRESH
            or self.cooldown.until > now
            or self.pace.ready_at(None, now) > now
            or (self.breaker is not None and self.breaker.is_needed(now))
            or (self.rate is not None and (self.rate.in_force(now) or self.rate.is_random(now)))
            or (self.quota is not None and self.quota.is_needed(now))
            or self.slots.learned(now)
        )

    def is_open(self, now: float) -> bool:
        """Whether the circuit lets no call pass now: it is open, isolated, or has sent all its probes."""
        return self.breaker is not None and self.breaker.ready_at(None, now) > now

    def load(self, now: float, sent_at: float = -inf) -> Load:
        """Return the gates' evidence about the target's load, for an attempt that left at `sent_at`."""
        waits = self.admission.queued > 0 or self.slots.in_flight >= self.slots.limit
        spaced = self.rate is not None and self.rate.in_force(now)
        circuit = self.breaker is not None and self.breaker.state is not State.CLOSED
        learned = self.slots.learned(now)
        return Load(
            gated=waits or spaced or circuit,
            adaptive=spaced or (waits and learned),
            healthy=self.diagnosis.is_healthy(now),
            in_trouble=self.diagnosis.is_in_trouble(now),
            slowed_by_429s=self.rate is not None or learned or self.diagnosis.refusals.are_random,
            timeouts_are_luck=self.diagnosis.is_overtaken(sent_at)
            or self.diagnosis.timeouts.are_luck(now),
            busy=not self.idle,
            new=self.policy.limit.finds_itself and self.diagnosis.is_new(now),
            limited=learned and not self.diagnosis.is_dead(now),
        )

    def is_straggler(self, now: float, sent_at: float, *, alone: bool) -> bool:
        """Whether an attempt that left at `sent_at` and takes far too long is lost, while another may be answered.

        That is so if an attempt that left later was answered, under any load. With `alone` (no other attempt will be
        sent), it is so if answers are on time.
        """
        diagnosis = self.diagnosis
        if diagnosis.is_dead(now):
            return False
        return diagnosis.is_passed(sent_at) or (alone and not diagnosis.is_in_trouble(now))

    def utilization(self, now: float) -> float:
        """Return the share of slots in use by calls in flight and queued; 1 or more if none may leave."""
        shut = self.cooldown.until > now or self.is_open(now)
        return shut + (self.slots.in_flight + self.admission.queued) / max(1, self.slots.limit)

    # ------------------------------------------------------------ manual control

    def isolate(self, now: float, *, duration: float | None = None) -> None:
        """Isolate the circuit, until `reset` or for a time; calls that fail fast leave the queue."""
        if self.breaker is not None:
            self.breaker.isolate(now, duration=duration)
            self.admission.pump(now)

    def force(self, forced_open: bool, now: float) -> None:  # noqa: FBT001
        """Apply a new policy that forces the breaker open, or no longer does."""
        if self.breaker is not None:
            self.breaker.force(forced_open, now)
            self.admission.pump(now)

    def reset(self, now: float) -> None:
        """Close the circuit, and end cooldown and pace; calls that waited for them leave."""
        if self.breaker is not None:
            self.breaker.reset(now)
        self.cooldown.lift(now)
        self.pace.stop()
        self._closing_until = -inf
        self.admission.pump(now)

    def restore(self, saved: CircuitSnapshot, now: float, *, elapsed: float) -> None:
        """Restore a circuit that was saved `elapsed` seconds ago; calls that may no longer wait leave the queue."""
        if self.breaker is not None:
            self.breaker.restore(saved, now, elapsed=elapsed)
            self.admission.pump(now)

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return the state of every gate as plain values; times are seconds from `now`."""
        breaker, until = self.breaker, self.cooldown.until
        counts = Counts() if breaker is None else breaker.counts(now)
        call = self.admission.observed_call()
        rate = None if self.rate is None else self.rate.rate_at(now)
        return {
            "place": self.target.place,
            "in_flight": self.slots.in_flight,
            "limit": self.slots.limit,
            **self.admission.snapshot(now),
            "quota": None if self.quota is None or call is None else self.quota.scarcer(call, now),
            "rate": None if rate == inf else rate,
            "limit_learned": self.slots.learned(now),
            "diagnosis": self.diagnosis.cause(now).value,
            "circuit": None if breaker is None else breaker.state_at(now).value,
            "next_probe": None if breaker is None else breaker.next_probe(now),
            "trips": 0 if breaker is None else breaker.trips,
            "failure_rate": counts.failure_rate,
            "slow_call_rate": counts.slow_call_rate,
            "cooldown": max(0.0, until - now),
            "cooldown_asked": self.cooldown.asked if until > now else 0.0,
            "service": self.admission.service,
            "budget": None if self.budget is None else self.budget.balance(now),
            "sharing": None if self.lease is None else float(self.lease.is_sharing),
            "members": None if self.lease is None else self.lease.members,
            "retries_refused": now - self.refused_at < REFUSED,
            **({} if self.shadow is None else {"shadow": self.shadow.snapshot()}),
        }
