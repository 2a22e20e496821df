"""Whose turn it is, among tenants that have calls waiting.

Self-clocked fair queueing (Golestani, "A Self-Clocked Fair Queueing Scheme for Broadband Applications",
1994). A virtual clock stands at the finish of the call served last. Whoever begins to wait finishes
1 / weight after it, and again so much later after each call served; the earliest finish is next. So two
tenants that both have calls waiting are never further apart than one call each, by weight, and one that was
idle comes back at the clock as it stands: it has gained no credit. Only tenants that wait are remembered.

A call counts one, however long it takes.
"""

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from itertools import count

MANY = 64  # turns given up that are worth a clearance


class FairShares:
    """The turns of those who wait. `weights` says whose is not 1."""

    __slots__ = ("_clock", "_order", "_turns", "_weights", "_with_turn", "total")

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._clock = 0.0
        self._order = count()  # of two that finish together, who asked first
        self._turns: list[tuple[float, int, str]] = []  # a heap; some may have been given up
        self._with_turn: dict[str, int] = {}  # the order of the turn that counts
        self.total = 0.0  # weight of all who wait

    def weight(self, tenant: str) -> float:
        """How many calls of this tenant are served for one of a tenant that nobody spoke of."""
        return self._weights.get(tenant, 1.0)

    def enter(self, tenant: str) -> None:
        """Begin to wait: the first call of a tenant that had none here."""
        self._ask(tenant)
        self.total += self.weight(tenant)

    def leave(self, tenant: str) -> None:
        """Wait no longer."""
        del self._with_turn[tenant]
        self.total -= self.weight(tenant)
        if not self._with_turn:
            self._turns.clear()
            self._clock = self.total = 0.0
        elif len(self._turns) > MANY + 2 * len(self._with_turn):
            self._turns = [turn for turn in self._turns if self._counts(turn)]
            heapify(self._turns)

    def next(self) -> str:
        """Whose turn it is. Somebody must wait."""
        while not self._counts(self._turns[0]):
            heappop(self._turns)
        return self._turns[0][2]

    def served(self) -> None:
        """Note that a call of `next` is served. It asks for another turn, until it leaves."""
        tenant = self.next()
        self._clock = heappop(self._turns)[0]
        self._ask(tenant)

    def _ask(self, tenant: str) -> None:
        order = self._with_turn[tenant] = next(self._order)
        heappush(self._turns, (self._clock + 1 / self.weight(tenant), order, tenant))

    def _counts(self, turn: tuple[float, int, str]) -> bool:
        return self._with_turn.get(turn[2]) == turn[1]
