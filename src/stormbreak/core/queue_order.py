"""Who is next of all that wait for one target: by priority, then by fair shares between tenants.

The more urgent go first, but no priority is starved: while it has calls waiting, each gets at least
`min_share` of what is served. Every call served elsewhere brings a priority that waits so much credit; a
whole credit is a turn. Whoever does not wait earns none.

A full queue makes room for a call that is more urgent than some that wait, and for one of a tenant that has
less waiting, by its weight, than another of the same priority has: one tenant cannot fill the queue for all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from stormbreak.core.checks import check_types, require
from stormbreak.core.priority_queue import Line
from stormbreak.core.ticket import Ticket
from stormbreak.types import Call, Priority

ROUNDING = 1e-9  # of a credit


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePolicy:
    """At most `max_size` calls wait for one target; a pause named for longer than `max_pause` s rejects.

    Every priority that waits gets `min_share` of what is served, at least. `tenant_weights` are calls of a tenant
    that are served for one of a tenant that is not named; they hold within a priority.
    """

    max_size: int = 10_000
    max_pause: float = 900.0
    min_share: float = 0.05
    tenant_weights: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_types(self)
        require(self.max_size >= 0, "max_size must not be negative", self.max_size)
        require(self.max_pause > 0, "max_pause must be positive", self.max_pause)
        most = 1 / len(Priority)
        require(0 <= self.min_share <= most, "min_share must lie in [0, 1/3]", self.min_share)
        for tenant, weight in self.tenant_weights.items():
            require(
                tenant.isprintable(), "names in tenant_weights must be printable", ascii(tenant)
            )
            require(weight > 0, f"tenant_weights.{tenant} must be positive", weight)
        object.__setattr__(
            self, "tenant_weights", dict(self.tenant_weights)
        )  # the caller's own may change


class Queue:
    """Lines by priority, the most urgent first. `size` is how many wait."""

    __slots__ = ("_least_share", "_lines", "size")

    def __init__(self, policy: QueuePolicy) -> None:
        self._least_share = policy.min_share
        self._lines = {priority: Line(policy.tenant_weights) for priority in Priority}
        self.size = 0

    def __iter__(self) -> Iterator[Ticket]:
        """All, the more urgent first, then the older."""
        for line in self._lines.values():
            yield from line

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._lines[ticket.call.priority]

    def push(self, ticket: Ticket) -> None:
        """Wait."""
        self._lines[ticket.call.priority].push(ticket)
        self.size += 1

    def peek(self, *, stands: bool) -> Ticket:
        """Who is next. Of a queue that `stands`, it is the newest interactive call. Somebody must wait."""
        priority = self._turn()
        return self._lines[priority].peek(newest_first=_newest_first(priority, stands=stands))

    def serve(self, ticket: Ticket) -> None:
        """Remove who is next, as served."""
        served = ticket.call.priority
        if self.size > len(self._lines[served]):  # others wait, too
            self._add_credit(served)
        self._remove(ticket, as_served=True)

    def discard(self, ticket: Ticket) -> None:
        """Remove somebody who was not served."""
        self._remove(ticket, as_served=False)

    def oldest_at(self) -> float:
        """Since when the one that has waited the longest does. Somebody must wait."""
        return min(next(iter(line)).queued_at for line in self._lines.values() if line)

    def ahead_of(self, call: Call) -> float:
        """About how many are served before `call`, were it to wait, too."""
        own = self._lines[call.priority].ahead_of(call.tenant)
        urgent = sum(len(line) for p, line in self._lines.items() if p < call.priority)
        if not urgent or not self._least_share:
            return urgent + own
        return min(urgent + own, (own + 1) / self._least_share - 1)

    def victim_for(self, call: Call, *, stands: bool) -> Ticket | None:
        """Who would have to make room for `call`, if anybody."""
        least = next((p for p in reversed(self._lines) if self._lines[p]), None)
        if least is None or least < call.priority:
            return None
        line = self._lines[least]
        heaviest = line.heaviest()
        if least == call.priority and line.load_of(call.tenant, more=1) >= line.load_of(heaviest):
            return None
        return line.last_of(heaviest, newest_first=_newest_first(least, stands=stands))

    def _turn(self) -> Priority:
        waiting = [priority for priority, line in self._lines.items() if line]
        for priority in waiting[1:]:
            if self._lines[priority].credit + self._least_share >= 1 - ROUNDING:
                return priority
        return waiting[0]

    def _add_credit(self, served: Priority) -> None:
        urgent = True  # nobody more urgent waits
        for priority, line in self._lines.items():
            if not line:
                continue
            if urgent:
                line.credit = 0.0
            else:
                line.credit += self._least_share - (priority is served)
            urgent = False

    def _remove(self, ticket: Ticket, *, as_served: bool) -> None:
        line = self._lines[ticket.call.priority]
        (line.serve if as_served else line.discard)(ticket)
        self.size -= 1
        if not line:
            line.credit = 0.0


def _newest_first(priority: Priority, *, stands: bool) -> bool:
    return stands and priority is Priority.INTERACTIVE
