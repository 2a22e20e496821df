"""The latency baseline of a target: the usual duration of its answers.

Attempts are grouped in the order in which they were *sent*, sixteen to a block. A block counts when all of them have
ended. The order of sending matters: in a burst the shortest answers come first and the longest last, so an estimate in
the order of completion would be biased. Blocks that overlap evidence of congestion are dropped, or congestion would
become usual. `restart` makes given samples usual at once, until `roll_back`.

A block keeps samples, not attempts: a hanging attempt delays only its own block.
"""

from collections import deque
from itertools import chain
from math import fsum, inf
from typing import NamedTuple

from stormbreak.core.gate import ANSWERED, Completion, InFlight

BLOCK = 16  # attempts
MIN_SAMPLES = 8  # samples that make a block worth keeping
KEPT = 16  # blocks
ENOUGH = 20  # minimum samples for an estimate
CLEAR = 5.0  # seconds by which evidence must be older than a block
EVERY = 0.25  # minimum seconds between two estimates
TOTAL_QUANTILE, FIRST_QUANTILE = 0.75, 0.90  # of the samples: the longest usual duration
TIMES, PLUS = 1.3, 0.25  # but at least TIMES the median, and the median plus PLUS seconds


class _Block:
    """Attempts that were sent one after another."""

    __slots__ = ("ended", "opened_at", "samples", "sent", "totals")

    def __init__(self, opened_at: float, *, streams: bool) -> None:
        self.opened_at = opened_at
        self.sent = 0
        self.ended = 0
        self.samples: list[float] = []
        self.totals: list[float] = [] if streams else self.samples


class _Kept(NamedTuple):
    samples: list[float]
    total: float  # sum of seconds


class LatencyBaseline:
    """Learns `usual`, above which an answer is late, and `mean`, both in seconds; None while unknown.

    For a first `mean` one block is enough, even one that overlaps evidence.

    With `streams`, `usual` is that of first outputs; `mean` is always that of whole answers.
    """

    def __init__(self, *, streams: bool = False) -> None:
        self._filling = _Block(0.0, streams=streams)
        self._filling.sent = BLOCK  # the first attempt opens one
        self._kept: deque[_Kept] = deque(maxlen=KEPT)
        self._former: tuple[list[_Kept], list[float], float | None] = [], [], None
        self._learned_at = -inf
        self.streams = streams
        self.usual: float | None = None
        self.samples: list[float] = []  # sorted; known if `usual` is
        self.median = 0.0  # of the samples
        self.mean: float | None = None

    def on_send(self, flight: InFlight) -> None:
        block = self._filling
        if block.sent == BLOCK:
            block = self._filling = _Block(flight.sent_at, streams=self.streams)
        block.sent += 1
        flight.block = block

    def on_completion(self, flight: InFlight, now: float, evidence_at: float) -> None:
        """Record the end of an attempt; `evidence_at` is the last sign of congestion."""
        block: _Block = flight.block
        if flight.completion is ANSWERED or flight.completion is Completion.LATE:
            total = now - flight.sent_at
            block.totals.append(total)
            if self.streams:
                first = flight.first_output_at
                block.samples.append(total if first is None else first - flight.sent_at)
        block.ended += 1
        if block.ended == BLOCK:
            self._close(block, now, evidence_at)

    def restart(self, samples: list[float]) -> None:
        """Set all samples aside, and learn from these instead, the shortest first."""
        self._former = [*self._kept], self.samples, self.mean
        self._kept.clear()
        # The next blocks to end have short answers, so they must not soon replace all samples: spread these over
        # blocks.
        parts = max(1, len(samples) // BLOCK)
        mean = self.mean if self.streams else None  # with streams, samples are not whole answers
        for mixed in (samples[first::parts] for first in range(parts)):
            self._kept.append(_Kept(mixed, fsum(mixed) if mean is None else mean * len(mixed)))
        self._opine(samples)
        if not self.streams:
            self.mean = fsum(samples) / len(samples)

    def roll_back(self) -> None:
        """Restore the samples from before `restart`, and drop later ones."""
        kept, samples, self.mean = self._former
        self._kept.clear()
        self._kept.extend(kept)
        self._opine(samples)

    def _close(self, block: _Block, now: float, evidence_at: float) -> None:
        if len(block.samples) < MIN_SAMPLES:
            return
        if self.mean is None and block.totals:
            self.mean = fsum(block.totals) / len(block.totals)
        if evidence_at >= block.opened_at - CLEAR:
            return
        block.samples.sort()
        self._kept.append(_Kept(block.samples, fsum(block.totals)))
        if self.usual is None or now - self._learned_at >= EVERY:
            self._learned_at = now
            self._learn()

    def _learn(self) -> None:
        pooled = sorted(chain.from_iterable([block.samples for block in self._kept]))
        if len(pooled) < ENOUGH:
            return
        self._opine(pooled)
        self.mean = fsum([block.total for block in self._kept]) / len(pooled)

    def _opine(self, pooled: list[float]) -> None:
        self.samples = pooled
        count = len(pooled)
        middle = self.median = pooled[count // 2]
        quantile = FIRST_QUANTILE if self.streams else TOTAL_QUANTILE
        high = pooled[int(quantile * count)]
        self.usual = max(high, TIMES * middle, middle + PLUS)
