"""What the calls of one process share: the queue and gates of each target, the budget, the events.

Pure and without locks: a driver holds its lock during each step and afterwards takes away what the step left
behind, the tickets to wake (`woken`) and the events to deliver (`events`).
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from decimal import Decimal
from itertools import count
from typing import Any

from stormbreak.core.circuit import Mode, State
from stormbreak.core.circuit_snapshot import CircuitSnapshot
from stormbreak.core.context_listener import ContextListener
from stormbreak.core.policy import Policy
from stormbreak.core.retry_budget import Budget
from stormbreak.core.shared_budgets import SharedBudgets
from stormbreak.core.spend_policy import PriceOf
from stormbreak.core.spending import Spending
from stormbreak.core.target_state import Listener, TargetState
from stormbreak.core.ticket import Ticket
from stormbreak.events import Event
from stormbreak.types import Target

MAX_TARGETS = 256  # targets that are remembered, besides those with something in force
EVICTION_CHECKS = (
    4  # at lanes per call, while there are more: each call brings one more at the most
)


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
        self._lanes: OrderedDict[Target, TargetState] = OrderedDict()
        self.crowded = False  # whether there are more lanes than MAX_TARGETS
        self._former: list[
            TargetState
        ] = []  # others have taken their place, but calls still wait in them

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

    def _succeed(self, lane: TargetState, now: float) -> TargetState:
        new = TargetState(self, lane.target)
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

    def _states_of(self, target: Target) -> list[TargetState]:
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

    def lane(self, target: Target) -> TargetState:
        """The lane of `target`, made when first asked for."""
        lane = self._lanes.get(target)
        if lane is None:
            lane = self._lanes[target] = TargetState(self, target)
            self.crowded = len(self._lanes) > MAX_TARGETS
        lane.recently_used = True
        return lane

    def is_open(self, target: Target, now: float) -> bool:
        """Whether the circuit of `target` lets nobody pass now; makes no lane."""
        lane = self._lanes.get(target)
        return lane is not None and lane.is_open(now)

    def make_room(self, now: float) -> None:
        """Forget lanes beyond MAX_TARGETS, of those that are not needed the one that was not used for longest first.

        Looks at a few of them only: a lane that was used since the last look goes to the end (a clock, as of pages in memory).
        """
        lanes = self._lanes
        for _ in range(EVICTION_CHECKS):
            if len(lanes) <= MAX_TARGETS:
                break
            target, lane = next(iter(lanes.items()))
            if lane.recently_used or lane.is_needed(now):
                lane.recently_used = False
                lanes.move_to_end(target)
            else:
                del lanes[target]
        self.crowded = len(lanes) > MAX_TARGETS

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
