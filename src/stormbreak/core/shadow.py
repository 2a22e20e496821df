"""Shadow policies: they decide next to the real policy, and are not applied.

A shadow sees only real attempts and their outcomes. It changes and delays no call, and draws
no random numbers. Its decisions are counted, and emitted as events.

Each mechanism is separate. It ignores the outcome of an attempt that it would have held back, since it would not have
seen that outcome. So a circuit that is open in the shadow learns only from probes. A shadow cannot know the outcome of
a call that it would have sent later, or once more: it shows how often a policy would act, not the benefit. Use the
simulator for that.

The gate of a shadow is always READY. It is among the gates of a target only if there is a shadow.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stormbreak.core.breaker import Breaker
from stormbreak.core.breaker_policy import BreakerPolicy, State, check_verdict_lists
from stormbreak.core.checks import check_types
from stormbreak.core.concurrency_limit import Limit, Limiter, limiter
from stormbreak.core.diagnosis import Diagnosis
from stormbreak.core.gate import NEVER, READY, Gate
from stormbreak.core.rate_limit_gate import RateLimitGate, RateLimitPolicy
from stormbreak.core.retry import NoRetry, Retry, RetryPolicy
from stormbreak.core.retry_budget import Budget, BudgetPolicy
from stormbreak.core.send_rate import AdaptiveSendRate
from stormbreak.types import Call, Outcome, Verdict

DIFFERENT = 0.001  # seconds; two retry times differ if they are further apart


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowPolicy:
    """The mechanisms that decide next to the real ones; None: no shadow of that mechanism.

    `failures`, `ignored` and `fail_fast` are those of the real policy if None. Other parts of a policy have no
    shadow: deadline, patience, timeouts, the queue, the cooldown, the priority.
    """

    failures: tuple[Verdict, ...] | None = None
    ignored: tuple[Verdict, ...] | None = None
    fail_fast: bool | None = None
    retry: RetryPolicy | None = None
    retry_budget: BudgetPolicy | None = None
    breaker: BreakerPolicy | None = None
    limit: Limit | None = None
    adaptive_rate: bool = False
    rate_limit: RateLimitPolicy | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_verdict_lists(self.failures or (), self.ignored or ())

    @property
    def retries(self) -> bool:
        """Whether it decides about retries."""
        return self.retry is not None or self.retry_budget is not None


Report = Callable[[float, str, str, float | None], None]
"""Gets the time, the mechanism, its decision, and the end of the decision (None: unknown)."""

_CIRCUIT = {State.OPEN: "open", State.HALF_OPEN: "probe", State.CLOSED: "close"}


class ShadowGate:
    """The shadow of one target's gates. The token holds those of the mechanisms that let the attempt pass."""

    name = "shadow"
    takes = True

    def __init__(
        self,
        policy: ShadowPolicy,
        diagnosis: Diagnosis,
        report: Report,
        *,
        fail_fast: bool,
        paused: Callable[[float], bool],
        budget: Budget | None,
        retry: RetryPolicy,
        share: float,
    ) -> None:
        """`paused`, `retry`, `share`: as for the real gates. Each shadow has a `diagnosis`; all share the `budget`."""
        self.counts: Counter[str] = Counter()
        self.budget = budget
        self.slots: Limiter | None = None
        self.breaker: Breaker | None = None
        self.quota: RateLimitGate | None = None
        self._report = report
        self._refusal = "refuse" if fail_fast else "wait"
        self._gates: list[Gate] = []
        if policy.adaptive_rate:
            self._gates.append(AdaptiveSendRate(lambda: diagnosis.run.answered_sent_at))
        if policy.rate_limit is not None:
            self.quota = RateLimitGate(policy.rate_limit, max_wait=retry.max_wait, share=share)
            self._gates.append(self.quota)
        if policy.limit is not None:
            self.slots = limiter(policy.limit, diagnosis, paused=paused, share=share)
            self._gates.append(self.slots)
        if policy.breaker is not None:
            self.breaker = Breaker(
                policy.breaker,
                diagnosis.treatments,
                self._on_circuit,
                spread=retry.retry_after_jitter,
                diagnosis=diagnosis,
            )
            self._gates.append(self.breaker)
        self._gates.append(diagnosis)  # settles before the gates that ask it

    def ready_at(self, _call: object, _now: float) -> float:
        """Always READY: a shadow delays no call."""
        return READY

    def take(self, call: Call, now: float) -> list[tuple[Gate, Any]]:
        """Count the mechanisms that would have held an attempt, and let the others take it."""
        self._tick(now)
        passed = []
        for gate in self._gates:
            ready_at = gate.ready_at(call, now)
            if ready_at <= now:
                passed.append((gate, gate.take(call, now)))
            else:
                would = self._refusal if gate is self.breaker else "wait"
                self.would(now, gate.name, would, ready_at)
        return passed

    def settle(
        self, token: list[tuple[Gate, Any]], outcome: Outcome, now: float, uniform: float
    ) -> None:
        """Settle the mechanisms that would have let the attempt pass."""
        for gate, passed in reversed(token):
            gate.settle(passed, outcome, now, uniform)
        if self.budget is not None and not outcome.own_deadline:
            self.budget.record(outcome, now)
        self._tick(now)

    on_success = settle

    def compare(self, now: float, real: Retry | NoRetry, shadow: Retry | NoRetry) -> None:
        """After a failure, count a different decision about a retry."""
        if isinstance(shadow, NoRetry):
            if isinstance(real, Retry):
                self.would(now, shadow.gate, "not_retry", None)
        elif isinstance(real, NoRetry):
            self.would(now, "retry", "retry", shadow.until)
        elif abs(shadow.until - real.until) > DIFFERENT:
            later = shadow.until > real.until
            self.would(now, "retry", "retry_later" if later else "retry_sooner", shadow.until)

    def would(self, now: float, mechanism: str, what: str, until: float | None) -> None:
        self.counts[f"{mechanism}.{what}"] += 1
        self._report(now, mechanism, what, None if until == NEVER else until)

    def snapshot(self) -> dict[str, Any]:
        """Return the state of the shadow, and how often it would have intervened."""
        return {
            "circuit": None if self.breaker is None else self.breaker.state.value,
            "limit": None if self.slots is None else self.slots.limit,
            "would": dict(self.counts),
        }

    def _tick(self, now: float) -> None:
        if self.slots is not None:
            self.slots.tick(now, 0.0)

    def _on_circuit(self, before: State, after: State, *, now: float, until: float | None) -> None:  # noqa: ARG002
        self.would(now, "breaker", _CIRCUIT.get(after, after.value), until)
