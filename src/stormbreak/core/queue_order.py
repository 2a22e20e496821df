"""The order of calls that wait for one target: by priority, then by fair shares between tenants.

`admission` decides whether a call may leave or is rejected; this module decides which call is next, and which makes
room.

More urgent calls go first, but no priority starves: while it has waiting calls, each priority gets at least `min_share`
of the service. Every call served from another priority adds `min_share` of a credit to a waiting priority; a whole
credit is a turn. A priority without waiting calls earns no credit.

A full queue makes room for a call that is more urgent than a waiting one. It also makes room for a call of a tenant
that has fewer waiting calls, by its weight, than another tenant of the same priority: no tenant can fill the queue.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import TypeAlias

import msgspec

from stormbreak.core.checks import check_types, require, require_at_least, require_positive
from stormbreak.core.gate import Permit
from stormbreak.types import Call, Outcome, Priority, Rejection

ROUNDING = 1e-9  # tolerance of a credit
CLEANUP_SIZE = 64  # minimum outdated heap entries for a cleanup
_INTERACTIVE = Priority.INTERACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePolicy:
    """At most `max_size` calls wait for one target; a named pause longer than `max_pause` s rejects them.

    Every waiting priority gets at least `min_share` of the service. `tenant_weights` are relative to the weight 1 of
    other tenants, within a priority.
    """

    max_size: int = 10_000
    max_pause: float = 900.0
    min_share: float = 0.05
    tenant_weights: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_types(self)
        require_at_least(self, 0, "max_size")
        require_positive(self, "max_pause")
        most = 1 / len(Priority)
        require(0 <= self.min_share <= most, "min_share must be within [0, 1/3]", self.min_share)
        for tenant, weight in self.tenant_weights.items():
            require(
                tenant.isprintable(), "names in tenant_weights must be printable", ascii(tenant)
            )
            require(weight > 0, f"tenant_weights.{tenant} must be positive", weight)
        weights = dict(self.tenant_weights)  # the caller's dict may change
        object.__setattr__(self, "tenant_weights", weights)


# ---------------------------------------------------------------- ticket

Withdraw: TypeAlias = Callable[["Ticket", float], None]


class Ticket(msgspec.Struct, eq=False):
    """The place of one call in the queue of its target.

    The queue sets a `permit` or a `rejection`, never both; until then its owner waits, at the latest until `wake_at`.
    `due` means that the owner should be woken, and `waker` wakes it. Both belong to the driver, which uses them only
    under the engine's lock.
    """

    _withdraw: Withdraw
    call: Call
    queued_at: float
    expires_at: float
    check_at: float | None = None  # set only for the timekeeper of its queue
    permit: Permit | None = None
    rejection: Rejection | None = None
    due: bool = False
    waker: Callable[[], None] | None = None

    @property
    def decided(self) -> bool:
        """Whether the queue has decided."""
        return self.permit is not None or self.rejection is not None

    @property
    def issuer(self) -> object:
        return getattr(self._withdraw, "__self__", None)

    def settle(self, outcome: Outcome, now: float, uniform: float) -> None:
        """Give back the permit, or the place in the queue; a second time does nothing."""
        if self.permit is not None:
            self.permit.settle(outcome, now, uniform)
        elif self.rejection is None:
            self._withdraw(self, now)

    @property
    def wake_at(self) -> float:
        """The latest time at which the owner should check again."""
        return self.expires_at if self.check_at is None else min(self.check_at, self.expires_at)


# ---------------------------------------------------------------- priorities


class Queue:
    """One `TenantQueue` per priority, the most urgent first. `size` is the number of waiting calls."""

    __slots__ = ("_min_share", "_queues", "size")

    def __init__(self, policy: QueuePolicy) -> None:
        self._min_share = policy.min_share
        self._queues = {priority: TenantQueue(policy.tenant_weights) for priority in Priority}
        self.size = 0

    def __iter__(self) -> Iterator[Ticket]:
        """Iterate over all tickets: the more urgent first, then the older."""
        for queue in self._queues.values():
            yield from queue

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._queues[ticket.call.priority]

    def push(self, ticket: Ticket) -> None:
        self._queues[ticket.call.priority].push(ticket)
        self.size += 1

    def peek(self, *, newest_first: bool) -> Ticket:
        """Return the next ticket; `newest_first` applies to interactive calls. The queue must not be empty."""
        priority = self._next_priority()
        return self._queues[priority].peek(newest_first=newest_first and priority is _INTERACTIVE)

    def serve(self, ticket: Ticket) -> None:
        served = ticket.call.priority
        if self.size > len(self._queues[served]):  # calls of other priorities wait, too
            self._add_credit(served)
        self._remove(ticket, as_served=True)

    def discard(self, ticket: Ticket) -> None:
        self._remove(ticket, as_served=False)

    def oldest_at(self) -> float:
        """Return the time at which the longest waiting call was queued. The queue must not be empty."""
        if self.size == len(self._queues[_INTERACTIVE].tickets):
            return next(iter(self._queues[_INTERACTIVE].tickets)).queued_at
        waiting = [queue.tickets for queue in self._queues.values() if queue.tickets]
        return min([next(iter(tickets)).queued_at for tickets in waiting])

    def first(self) -> Ticket:
        """Return the oldest of the most urgent tickets. The queue must not be empty."""
        return next(iter(self._queues[_INTERACTIVE].tickets or self))

    def ahead_of(self, call: Call) -> float:
        """Estimate the number of calls that would be served before `call`, if it waited."""
        own = self._queues[call.priority].ahead_of(call.tenant)
        urgent = sum(len(queue.tickets) for p, queue in self._queues.items() if p < call.priority)
        if not urgent or not self._min_share:
            return urgent + own
        return min(urgent + own, (own + 1) / self._min_share - 1)

    def victim_for(self, call: Call, *, newest_first: bool) -> Ticket | None:
        """Return the ticket that would have to make room for `call`, if any."""
        least = next((p for p in reversed(self._queues) if self._queues[p]), None)
        if least is None or least < call.priority:
            return None
        queue = self._queues[least]
        heaviest = queue.heaviest()
        if least == call.priority and queue.load_of(call.tenant, more=1) >= queue.load_of(heaviest):
            return None
        return queue.last_of(heaviest, newest_first=newest_first and least is _INTERACTIVE)

    def _next_priority(self) -> Priority:
        if self.size == len(self._queues[_INTERACTIVE].tickets):  # no other priority waits
            return _INTERACTIVE
        waiting = [each for each in self._queues.items() if each[1].tickets]
        for priority, queue in waiting[1:]:
            if queue.credit + self._min_share >= 1 - ROUNDING:
                return priority
        return waiting[0][0]

    def _add_credit(self, served: Priority) -> None:
        most_urgent = True  # of the priorities with waiting calls
        for priority, queue in self._queues.items():
            if not queue.tickets:
                continue
            if most_urgent:
                queue.credit = 0.0
            else:
                queue.credit += self._min_share - (priority is served)
            most_urgent = False

    def _remove(self, ticket: Ticket, *, as_served: bool) -> None:
        queue = self._queues[ticket.call.priority]
        (queue.serve if as_served else queue.discard)(ticket)
        self.size -= 1
        if not queue:
            queue.credit = 0.0


# ---------------------------------------------------------------- tenants


class TenantQueue:
    """The waiting calls of one priority, by tenant, in order of arrival.

    The oldest of `tickets` is first. `credit` belongs to the `Queue`.
    """

    __slots__ = ("_by_tenant", "_heaviest", "_shares", "credit", "tickets")

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.tickets: OrderedDict[Ticket, None] = OrderedDict()
        self._by_tenant: dict[str, OrderedDict[Ticket, None]] = {}
        self._shares = FairShares(weights)
        self._heaviest = HeaviestTenant(self._by_tenant.keys(), self.load_of)
        self.credit = 0.0

    def __len__(self) -> int:
        return len(self.tickets)

    def __iter__(self) -> Iterator[Ticket]:
        """Iterate over all tickets, the oldest first."""
        return iter(self.tickets)

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self.tickets

    def push(self, ticket: Ticket) -> None:
        """Add a ticket behind the others of its tenant."""
        tenant = ticket.call.tenant
        calls = self._by_tenant.get(tenant)
        if calls is None:
            calls = self._by_tenant[tenant] = OrderedDict()
            self._shares.enter(tenant)
        calls[ticket] = None
        self.tickets[ticket] = None
        self._heaviest.on_growth(tenant)

    def peek(self, *, newest_first: bool) -> Ticket:
        """Return the oldest, or the newest, ticket of the tenant whose turn it is."""
        calls = self._by_tenant[self._shares.next()]
        return next(reversed(calls) if newest_first else iter(calls))

    def serve(self, ticket: Ticket) -> None:
        """Remove the next ticket; its tenant has had its turn."""
        self._shares.served()
        self.discard(ticket)

    def discard(self, ticket: Ticket) -> None:
        """Remove a ticket that was not served: its tenant keeps its turn."""
        tenant = ticket.call.tenant
        calls = self._by_tenant[tenant]
        del calls[ticket]
        del self.tickets[ticket]
        if not calls:
            del self._by_tenant[tenant]
            self._shares.leave(tenant)

    def ahead_of(self, tenant: str) -> float:
        """Estimate the number of calls that are served before a further call of `tenant`; at most all that wait.

        Meanwhile other tenants are served in proportion to their weights.
        """
        own = len(self._by_tenant.get(tenant, ()))
        if own == len(self.tickets):  # no other tenant waits
            return own
        weight = self._shares.weight(tenant)
        others = self._shares.total - (weight if own else 0.0)
        return min(len(self.tickets), own + (own + 1) * others / weight)

    def load_of(self, tenant: str, *, more: int = 0) -> float:
        """Return the waiting calls of `tenant` plus `more`, divided by its weight."""
        return (len(self._by_tenant.get(tenant, ())) + more) / self._shares.weight(tenant)

    def heaviest(self) -> str:
        return self._heaviest.find()

    def last_of(self, tenant: str, *, newest_first: bool) -> Ticket:
        """Return the ticket of a tenant that would be served last."""
        calls = self._by_tenant[tenant]
        return next(iter(calls) if newest_first else reversed(calls))


class FairShares:
    """The turns of tenants with waiting calls. `weights` names those whose weight is not 1.

    Self-clocked fair queueing (Golestani, "A Self-Clocked Fair Queueing Scheme for Broadband Applications", 1994).
    A virtual clock is at the finish time of the call served last. A tenant that begins to wait gets a finish time of
    1 / weight after the clock, and again that much later after each of its served calls. The earliest finish time is
    next. So two waiting tenants never differ by more than one call each, by weight, and an idle tenant gains no credit.
    Only waiting tenants are remembered. Each call counts as one, however long it takes.
    """

    __slots__ = ("_clock", "_order", "_turns", "_valid_order", "_weights", "total")

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._clock = 0.0
        self._order = count()  # to break ties
        self._turns: list[tuple[float, int, str]] = []  # a heap with outdated entries
        self._valid_order: dict[str, int] = {}  # by tenant: the order of its valid entry
        self.total = 0.0  # weight of all waiting tenants

    def weight(self, tenant: str) -> float:
        """Return the weight of a tenant, relative to the weight 1 of a tenant that is not named."""
        return self._weights.get(tenant, 1.0)

    def enter(self, tenant: str) -> None:
        """Add a tenant with its first waiting call."""
        self._schedule(tenant)
        self.total += self.weight(tenant)

    def leave(self, tenant: str) -> None:
        """Remove a tenant without waiting calls."""
        del self._valid_order[tenant]
        self.total -= self.weight(tenant)
        if not self._valid_order:
            self._turns.clear()
            self._clock = self.total = 0.0
        elif len(self._turns) > CLEANUP_SIZE + 2 * len(self._valid_order):
            self._turns = [turn for turn in self._turns if self._is_valid(turn)]
            heapify(self._turns)

    def next(self) -> str:
        """Return the tenant whose turn it is. At least one must wait."""
        while not self._is_valid(self._turns[0]):
            heappop(self._turns)
        return self._turns[0][2]

    def served(self) -> None:
        """Record that a call of the tenant `next` is served, and schedule that tenant's next turn."""
        tenant = self.next()
        self._clock = heappop(self._turns)[0]
        self._schedule(tenant)

    def _schedule(self, tenant: str) -> None:
        order = self._valid_order[tenant] = next(self._order)
        heappush(self._turns, (self._clock + 1 / self.weight(tenant), order, tenant))

    def _is_valid(self, turn: tuple[float, int, str]) -> bool:
        return self._valid_order.get(turn[2]) == turn[1]


class HeaviestTenant:
    """Finds the tenant with the most waiting calls, by its weight: a full queue rejects one of its calls.

    A heap of loads, built on first use, since most queues are never full. A load that grows is pushed. A load that has
    shrunk is corrected when it reaches the top, so `find` does not examine thousands of tenants. Of two equal loads the
    older wins. `tenants` are those that wait at the moment; `load_of(tenant)` is 0 for all others.
    """

    __slots__ = ("_heap", "_load_of", "_order", "_tenants")

    def __init__(self, tenants: Collection[str], load_of: Callable[[str], float]) -> None:
        self._tenants = tenants
        self._load_of = load_of
        self._order = count()
        self._heap: list[tuple[float, int, str]] | None = None

    def on_growth(self, tenant: str) -> None:
        """Record that one more call of this tenant waits."""
        heap = self._heap
        if heap is None:
            return
        if len(heap) > CLEANUP_SIZE + 2 * len(self._tenants):
            self._heap = None
        else:
            heappush(heap, self._entry(tenant))

    def find(self) -> str:
        """Return the tenant. At least one must wait."""
        if self._heap is None:
            self._heap = [self._entry(tenant) for tenant in self._tenants]
            heapify(self._heap)
        heap = self._heap
        while True:
            load, _, tenant = heap[0]
            if self._load_of(tenant) == -load:
                return tenant
            if tenant in self._tenants:
                heapreplace(heap, self._entry(tenant))
            else:
                heappop(heap)

    def _entry(self, tenant: str) -> tuple[float, int, str]:
        return -self._load_of(tenant), next(self._order), tenant
