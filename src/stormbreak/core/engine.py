"""What the calls of one process share: the queue and gates of each target, the budget, the events.

Pure and without locks: a driver holds its lock during each step and afterwards takes away what the step left
behind, the tickets to wake (`woken`) and the events to deliver (`events`).
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from decimal import Decimal
from itertools import count
from math import inf
from typing import Any

from stormbreak.core.admission import TargetQueue
from stormbreak.core.breaker import Breaker
from stormbreak.core.circuit import BreakerPolicy, Mode, State
from stormbreak.core.circuit_snapshot import CircuitSnapshot
from stormbreak.core.concurrency_limit import limiter
from stormbreak.core.context_listener import ContextListener
from stormbreak.core.cooldown import Cooldown, Pace
from stormbreak.core.counting import Counts
from stormbreak.core.diagnosis import Diagnosis
from stormbreak.core.gate import OPEN, Gate
from stormbreak.core.hedge import HedgeTimer
from stormbreak.core.policy import Policy
from stormbreak.core.rate_limit_gate import RateLimitGate
from stormbreak.core.retry_budget import Budget, Load
from stormbreak.core.send_rate import AdaptiveSendRate
from stormbreak.core.shadow import ShadowGate, ShadowPolicy
from stormbreak.core.shared_budgets import SharedBudgets
from stormbreak.core.spend_account import Share
from stormbreak.core.spend_policy import PriceOf
from stormbreak.core.spending import Spending
from stormbreak.core.tally import tallied
from stormbreak.core.telling import call_all
from stormbreak.core.ticket import Ticket
from stormbreak.events import CircuitChanged, CooldownStarted, Event, SpendReached, WouldHave
from stormbreak.types import Outcome, Target

PACED = 0.5  # after a pause of t seconds the queue leaves within PACED * t ...
PACED_BOUNDS = (0.1, 5.0)  # ... but within these seconds
REFUSED = 10.0  # seconds since the budget refused a retry
PACED_CIRCUIT = 1.0  # after a circuit closed

MOST_LANES = 256  # targets that are remembered, besides those with something in force
EVICTION_CHECKS = (
    4  # at lanes per call, while there are more: each call brings one more at the most
)
FRESH = 60.0  # seconds for which a failure counts, in the windows of circuits and rates

Listener = Callable[[Event], None]


class Lane:
    """One target: its gates, and the queue in front of them."""

    __slots__ = (
        "_closing_until", "_engine", "admission", "backing_off", "breaker", "budget", "cooldown", "diagnosis", "earn", "failed_at",
        "failed_in_a_row", "gone", "hedging", "openings", "pace", "policy", "quota", "rate", "recently_used", "refused_at", "shadow",
        "shadow_budget", "slots", "spending", "target", "treatments",
    )  # fmt: skip

    def __init__(self, engine: "Engine", target: Target) -> None:
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
            longest=policy.retry.longest_wait,
            spread=policy.retry.spread,
            spared=self._is_spared,
        )
        self.diagnosis = Diagnosis(
            self.treatments,
            limited=policy.limit.finds_itself,
            is_random=self.is_random,
        )
        self.rate = (
            AdaptiveSendRate(on_random=self._on_random_refusals) if policy.learn_rate else None
        )
        self.slots = limiter(
            policy.limit,
            self.diagnosis,
            paused=lambda now: self.cooldown.until > now,
            share=policy.share,
        )
        self.breaker = None if policy.breaker is None else self._breaker(policy.breaker)
        self.hedging = None if policy.hedge is None else HedgeTimer(policy.hedge)
        self.quota = self._quota(policy) if policy.quota.acts else None
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
            well=self.diagnosis.is_well(now),
            ill=self.diagnosis.is_ill(now),
            heeds_429s=self._heeds_429s(now),
            overtaken=self.diagnosis.is_overtaken(sent_at),
        )

    def _heeds_429s(self, now: float) -> bool:
        learns = self.rate is not None or self.slots.learned(now)
        return learns or self.diagnosis.refuses_randomly

    def taken(self, now: float) -> float:
        """Which share of the room is taken, by those in flight and in the queue; 1 and more where nobody may leave."""
        shut = any(
            gate is not None and gate.ready_at(now) > now for gate in (self.cooldown, self.breaker)
        )
        return shut + (self.slots.in_flight + self.admission.queued) / max(1, self.slots.limit)

    def _breaker(self, policy: BreakerPolicy) -> Breaker:
        spread = self.policy.retry.spread
        return Breaker(
            policy, self.treatments, self._on_circuit, spread=spread, diagnosis=self.diagnosis
        )

    def _quota(self, policy: Policy) -> RateLimitGate:
        return RateLimitGate(policy.quota, longest=policy.retry.longest_wait, share=policy.share)

    def _call_aware_gates(self) -> Iterator[RateLimitGate | Spending]:
        shadow = None if self.shadow is None else self.shadow.quota
        for gate in (self.quota, self.spending, shadow):
            if gate is not None:
                yield gate

    def _shadow(self, policy: ShadowPolicy) -> ShadowGate:
        real = self.policy
        failures = real.failures if policy.failures is None else policy.failures
        uncounted = real.uncounted if policy.uncounted is None else policy.uncounted
        return ShadowGate(
            policy,
            tallied(failures, uncounted),
            self._on_shadow,
            fail_fast=real.fail_fast if policy.fail_fast is None else policy.fail_fast,
            retry=real.retry,
            share=real.share,
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


class Engine:
    """The shared state under one policy, and under those of targets that have their own.

    Policies that say the same of who pays share one that does, across targets.
    """

    def __init__(self, policy: Policy, price_of: PriceOf | None = None) -> None:
        """`price_of` is asked where a policy has a limit of spending."""
        self.policy = policy
        self._price_of = price_of
        self.races = policy.hedge is not None  # some attempts may get others beside them
        self._accounts: Mapping[Target, Policy] = {}
        self._past: Mapping[Target, Policy] = {}  # those before
        self.listeners: list[Listener] = []
        self.companion: ContextListener | None = None
        self.look: Callable[[], Callable[..., dict[str, Any]] | None] = _nobody  # of who steps it
        self._numbers = count(1)
        self.start_over()

    def start_over(self) -> None:
        """Forget all that was learned, and all that is under way: in a child process it will never end."""
        self.payers = SharedBudgets(self._on_freed, self._price_of)
        self.events: list[Event] = []
        self.woken: list[Ticket] = []
        self._lanes: OrderedDict[Target, Lane] = OrderedDict()
        self.crowded = False  # whether there are more lanes than MOST_LANES
        self._former: list[Lane] = []  # others have taken their place, but calls still wait in them

    @property
    def budget(self) -> Budget | None:
        """That of its own policy."""
        return self.payers.budgets(self.policy)[0]

    def policy_of(self, target: Target) -> Policy:
        """What the lane of `target` goes by, if it is made now."""
        if not target.name:
            return self.policy
        account = target.account
        return self._accounts.get(account) or self._past.get(account, self.policy)

    def is_gone(self, target: Target) -> bool:
        """Whether a target was named once, and is no longer: only who began before can ask for it."""
        return bool(target.name) and target.account not in self._accounts

    def _on_freed(self, now: float, gate: Spending | None = None) -> None:
        """Money went through that gate: who waits for some at other targets may leave, or never will."""
        for lane in (*self._lanes.values(), *self._former):
            if lane.spending not in (None, gate) and lane.admission.queued:
                lane.admission.pump(now)

    def may_spend(self, policy: Policy, most: Decimal, now: float) -> None:
        """Let what is spent under `policy` go up to so much by now, within its limit; whoever waited for it leaves."""
        purse = self.payers.purse(policy)
        if purse is not None:
            purse.allowed = most
            self._on_freed(now)

    def govern(
        self,
        policy: Policy,
        accounts: Mapping[Target, Policy],
        now: float,
        *,
        anew: Collection[Target] = (),
    ) -> None:
        """Go by other policies from now on; `accounts` are the named targets without their models.

        A lane whose policy stays as it was stays. Another one makes way for a new lane, to which it leaves its
        circuit; whoever is in it ends there. So does whoever is in the lane of a target that is gone. The accounts
        `anew` know nothing of what was before.
        """
        past = {**self._past, **self._accounts}
        changes = [(past[account], accounts[account]) for account in accounts if account in past]
        self.payers.succeed([(self.policy, policy), *changes])
        self.policy, self._accounts, self._past = policy, accounts, self._accounts
        self.races = any(each.hedge is not None for each in (policy, *accounts.values()))
        before = (*self._former, *self._lanes.values())
        for target, lane in list(self._lanes.items()):
            lane.gone = self.is_gone(target)
            if (lane.gone and lane.idle) or target.account in anew:
                del self._lanes[target]
            elif not lane.gone and lane.policy != self.policy_of(target):
                self._lanes[target] = self._succeed(lane, now)
        here = self._lanes.values()
        self._former = [it for it in before if it.admission.queued and it not in here]
        self._on_freed(now)  # a limit may have been raised

    def _succeed(self, lane: Lane, now: float) -> Lane:
        new = Lane(self, lane.target)
        if lane.breaker is not None:
            saved = lane.breaker.save(now)
            if saved.state is not State.CLOSED:
                new.restore(saved, now, elapsed=0.0)
            if new.breaker is not None:
                new.breaker.trips = lane.breaker.trips
        new.openings = lane.openings  # what was restored did not open once more
        breaker = new.policy.breaker  # calls in the lane of before go by its mode, too
        for former in self._states_of(lane.target):
            former.force(breaker is not None and breaker.mode is Mode.FORCED_OPEN, now)
        return new

    def _states_of(self, target: Target) -> list[Lane]:
        """Return the lane of `target`, where there is one, and those of before in which calls still wait."""
        former = [lane for lane in self._former if lane.target == target]
        return [*former, self._lanes[target]] if target in self._lanes else former

    def isolate(self, target: Target, now: float, *, duration: float | None = None) -> None:
        """Open the circuit of `target` by hand, until `reset` or for so many seconds."""
        self.lane(target)
        for lane in self._states_of(target):
            lane.isolate(now, duration=duration)

    def reset(self, target: Target, now: float) -> None:
        """Close the circuit of `target` by hand, and lift its cooldown."""
        self.lane(target)
        for lane in self._states_of(target):
            lane.reset(now)

    def pause(self, target: Target, seconds: float, now: float) -> None:
        """Send nothing to `target` for so many seconds."""
        self.lane(target)
        for lane in self._states_of(target):
            lane.cooldown.hold(now + seconds, now)

    def lane(self, target: Target) -> Lane:
        """The lane of `target`, made when first asked for."""
        lane = self._lanes.get(target)
        if lane is None:
            lane = self._lanes[target] = Lane(self, target)
            self.crowded = len(self._lanes) > MOST_LANES
        lane.recently_used = True
        return lane

    def is_open(self, target: Target, now: float) -> bool:
        """Whether the circuit of `target` lets nobody pass now; makes no lane."""
        lane = self._lanes.get(target)
        return lane is not None and lane.is_open(now)

    def make_room(self, now: float) -> None:
        """Forget lanes beyond MOST_LANES, of those that are not needed the one that was not used for longest first.

        Looks at a few of them only: a lane that was used since the last look goes to the end (a clock, as of pages in memory).
        """
        lanes = self._lanes
        for _ in range(EVICTION_CHECKS):
            if len(lanes) <= MOST_LANES:
                break
            target, lane = next(iter(lanes.items()))
            if lane.recently_used or lane.is_needed(now):
                lane.recently_used = False
                lanes.move_to_end(target)
            else:
                del lanes[target]
        self.crowded = len(lanes) > MOST_LANES

    def forget(self, targets: Iterable[Target], now: float) -> bool:
        """Drop all that is known of `targets`, unless one of them is still needed: whether it is gone."""
        lanes = [self._lanes[target] for target in targets if target in self._lanes]
        if any(lane.is_needed(now) for lane in lanes):
            return False
        for lane in lanes:
            del self._lanes[lane.target]
        return True

    def number(self) -> int:
        """A number for a new call."""
        return next(self._numbers)

    def wake(self, ticket: Ticket) -> None:
        """Ask the driver to wake the owner of `ticket` after this step."""
        ticket.due = True
        self.woken.append(ticket)

    def save_circuits(self, now: float) -> dict[Target, CircuitSnapshot]:
        """What is worth keeping over a restart of every circuit that is not closed."""
        saved = {
            target: lane.breaker.save(now)
            for target, lane in self._lanes.items()
            if lane.breaker is not None
        }
        return {
            target: circuit
            for target, circuit in saved.items()
            if circuit.state is not State.CLOSED
        }

    def restore_circuits(
        self, saved: Mapping[Target, CircuitSnapshot], now: float, elapsed: float
    ) -> None:
        """Take up what was saved `elapsed` seconds ago; other circuits stay as they are."""
        for target, circuit in saved.items():
            self.lane(target)
            for lane in self._states_of(target):
                lane.restore(circuit, now, elapsed=elapsed)

    def snapshot(self, now: float | None = None, *, pending: bool = True) -> dict[str, Any]:
        """Every target's state, and the retries that could be paid; without `now` also what each `pending` call waits for.

        That is for users, from any thread: whoever steps the engine is asked, and looks between two steps.
        """
        if now is None:
            look = self.look()
            if look is None:
                raise RuntimeError("nobody steps this engine: it has no time of its own")
            return look(pending=pending)
        return {
            "budget": None if self.budget is None else self.budget.balance(now),
            "targets": {
                str(target): lane.snapshot(now)
                for target, lane in self._lanes.items()
                if not (lane.gone and lane.idle)
            },
            **self.payers.snapshot(now),
        }


def _nobody() -> None:
    return None


def _finite(number: float) -> float | None:
    return None if number == inf else number
