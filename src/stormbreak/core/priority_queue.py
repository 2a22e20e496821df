"""One priority's line: who waits, each tenant's calls in the order in which they came.

Which tenant is next is a matter of fair shares; which of its calls, the oldest or the newest, whoever serves
the line says.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping

from stormbreak.core.fair_share import FairShares
from stormbreak.core.heaviest_tenant import HeaviestTenant
from stormbreak.core.ticket import Ticket


class Line:
    """Tickets by tenant. `credit` belongs to the queue."""

    __slots__ = ("_all", "_by_tenant", "_heaviest", "_shares", "credit")

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._all: OrderedDict[Ticket, None] = OrderedDict()
        self._by_tenant: dict[str, OrderedDict[Ticket, None]] = {}
        self._shares = FairShares(weights)
        self._heaviest = HeaviestTenant(self._by_tenant.keys(), self.load_of)
        self.credit = 0.0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Ticket]:
        """The oldest first, whoever's."""
        return iter(self._all)

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._all

    def push(self, ticket: Ticket) -> None:
        """Wait behind all of the same tenant."""
        tenant = ticket.call.tenant
        calls = self._by_tenant.get(tenant)
        if calls is None:
            calls = self._by_tenant[tenant] = OrderedDict()
            self._shares.enter(tenant)
        calls[ticket] = None
        self._all[ticket] = None
        self._heaviest.grew(tenant)

    def peek(self, *, newest_first: bool) -> Ticket:
        """Who is next: the oldest, or the newest, of the tenant whose turn it is."""
        calls = self._by_tenant[self._shares.next()]
        return next(reversed(calls) if newest_first else iter(calls))

    def serve(self, ticket: Ticket) -> None:
        """Remove who is next; its tenant has had this turn."""
        self._shares.served()
        self.discard(ticket)

    def discard(self, ticket: Ticket) -> None:
        """Remove somebody who was not served: no turn is lost."""
        tenant = ticket.call.tenant
        calls = self._by_tenant[tenant]
        del calls[ticket]
        del self._all[ticket]
        if not calls:
            del self._by_tenant[tenant]
            self._shares.leave(tenant)

    def ahead_of(self, tenant: str) -> float:
        """About how many are served before a further call of `tenant`; never more than wait.

        While its own calls are served, others get as many as their weights say.
        """
        own = len(self._by_tenant.get(tenant, ()))
        if own == len(self._all):  # nobody else waits
            return own
        weight = self._shares.weight(tenant)
        others = self._shares.total - (weight if own else 0.0)
        return min(len(self._all), own + (own + 1) * others / weight)

    def load_of(self, tenant: str, *, more: int = 0) -> float:
        """How many calls of `tenant` wait, and `more`, by its weight."""
        return (len(self._by_tenant.get(tenant, ())) + more) / self._shares.weight(tenant)

    def heaviest(self) -> str:
        """The tenant that has the most waiting, by its weight. Somebody must wait."""
        return self._heaviest.find()

    def last_of(self, tenant: str, *, newest_first: bool) -> Ticket:
        """Whom of a tenant's calls it would be the turn of last."""
        calls = self._by_tenant[tenant]
        return next(iter(calls) if newest_first else reversed(calls))
