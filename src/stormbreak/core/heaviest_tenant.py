"""Which tenant has the most waiting, by its weight: the one of which a full queue drops a call.

A heap of loads, made when first asked for: most queues are never full. A load that grows is added to it; one that has
shrunk is put right when it comes up. So whoever asks does not look at every tenant, of which there may be thousands, at
the very moment when everything comes at once. Of two that have as much, it is the one that had it first.
"""

from collections.abc import Callable, Collection
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count

MANY = 64  # loads of before that are worth making the heap anew


class HeaviestTenant:
    """Finds it. `tenants` are those that wait, at any time; `load_of(tenant)` is 0 for all others."""

    __slots__ = ("_heap", "_load_of", "_order", "_tenants")

    def __init__(self, tenants: Collection[str], load_of: Callable[[str], float]) -> None:
        self._tenants = tenants
        self._load_of = load_of
        self._order = count()
        self._heap: list[tuple[float, int, str]] | None = None

    def grew(self, tenant: str) -> None:
        """One more call of this tenant waits."""
        heap = self._heap
        if heap is None:
            return
        if len(heap) > MANY + 2 * len(self._tenants):
            self._heap = None
        else:
            heappush(heap, self._entry(tenant))

    def find(self) -> str:
        """The tenant. Somebody must wait."""
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
