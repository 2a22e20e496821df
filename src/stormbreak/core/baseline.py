"""What is usual for a target: how long its answers take when nothing is wrong.

Attempts are grouped in the order they were *sent*, sixteen to a block, and a block counts when all of them
have ended. The order of sending matters: of a burst, the shortest answers come first and the longest last,
so any estimate in the order of completion is fooled. Blocks that overlap evidence of congestion are dropped,
or congestion would become the new usual; unless nothing else has come for two minutes, for then it is.
"""

from collections import deque
from statistics import median

from stormbreak.core.flight import Flight, Landing

BLOCK = 16  # attempts
LEAST = 8  # samples that make a block worth keeping
KEPT = 16  # blocks
ENOUGH = 20  # samples for an opinion
TRIM = 2.0  # a block is odd when its median is this many times the low ones'
REBASE = 120.0  # seconds without a clean block after which a dirty one counts
CLEAR = 5.0  # seconds that evidence must be older than a block


class _Block:
    __slots__ = ("flights", "opened_at")

    def __init__(self, opened_at: float) -> None:
        self.opened_at = opened_at
        self.flights: list[Flight] = []


class Baseline:
    """Learns `usual`, beyond which an answer is late, and `mean`, both in seconds; None while unknown.

    `quantile` is that of the samples which is still usual.
    """

    __slots__ = ("_blocks", "_clean_at", "_open", "_quantile", "mean", "streams", "usual")

    def __init__(self, quantile_total: float = 0.75, quantile_first: float = 0.90) -> None:
        self._quantile = (quantile_total, quantile_first)
        self._open: deque[_Block] = deque()
        self._blocks: deque[tuple[list[float], list[float]]] = deque(maxlen=KEPT)
        self._clean_at = 0.0
        self.streams = False  # first outputs are known
        self.usual: float | None = None
        self.mean: float | None = None

    def sent(self, flight: Flight) -> None:
        """Take in an attempt that leaves."""
        if not self._open or len(self._open[-1].flights) == BLOCK:
            self._open.append(_Block(flight.sent_at))
        self._open[-1].flights.append(flight)

    def landed(self, now: float, evidence_at: float) -> None:
        """Take in the blocks whose attempts have all ended; `evidence_at` is the last sign of congestion."""
        blocks = self._open
        for block in [block for block in blocks if _is_over(block)]:
            blocks.remove(block)
            self._close(block, now, evidence_at)

    def forget_first(self) -> None:
        """Start anew: from now on first outputs are known, and they are what counts."""
        self.streams = True
        self._blocks.clear()
        self._open.clear()
        self.usual = self.mean = None

    def _close(self, block: _Block, now: float, evidence_at: float) -> None:
        timed = [f for f in block.flights if f.landing in (Landing.ANSWERED, Landing.LATE)]
        if len(timed) < LEAST:
            return
        clean = evidence_at < block.opened_at - CLEAR
        if not clean and now - self._clean_at < REBASE:
            return
        if clean:
            self._clean_at = now
        totals = [(f.ended_at or now) - f.sent_at for f in timed]
        samples = totals
        if self.streams:
            ends = [f.ended_at or now if f.first_at is None else f.first_at for f in timed]
            samples = [end - f.sent_at for end, f in zip(ends, timed, strict=True)]
        self._blocks.append((sorted(samples), totals))
        self._learn()

    def _learn(self) -> None:
        medians = sorted(median(samples) for samples, _ in self._blocks)
        odd = TRIM * medians[int(0.2 * (len(medians) - 1))]
        kept = [block for block in self._blocks if median(block[0]) <= odd]
        pooled = sorted(sample for samples, _ in kept for sample in samples)
        if len(pooled) < ENOUGH:
            return
        middle = pooled[len(pooled) // 2]
        high = pooled[min(len(pooled) - 1, int(self._quantile[self.streams] * len(pooled)))]
        self.usual = max(high, 1.3 * middle, middle + 0.25)
        totals = [total for _, totals in kept for total in totals]
        self.mean = sum(totals) / len(totals)


def _is_over(block: _Block) -> bool:
    return len(block.flights) == BLOCK and all(f.landing is not None for f in block.flights)
