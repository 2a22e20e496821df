"""The automatic in-flight limit: does no harm, and holds when it must.

Without evidence of congestion it does not bind, up to a ceiling: a calm burst from idle is sent at once, and
long and short answers side by side are no congestion. With evidence (`evidence`), the limit is a little above
what was just proven to be served (`proven`), less so while answers are late, and not below the floor of the
`guard`. For `HOLD` seconds after the last evidence it goes on following what is proven, so in silence it falls. Then it
doubles every `DOUBLING`, from what it was when that evidence came (or from what is proven by now, where that is
more): silence has proven nothing. After `FADE` it is gone. It is at least 1 and can always grow again.

Attempts that stream tell more than others: when they begin to put out. They and the others have baselines of
their own; those that stream are the judges of lateness as soon as enough is known of them, and until none has left for
`JUDGED`. The others then have no vote, or their whole answers would look late beside first outputs.

`limit` is as of the last `tick`; while all is quiet, a tick hardly looks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import floor, inf, log2
from typing import Literal

from stormbreak.core.baseline import Baseline
from stormbreak.core.checks import check_types, require
from stormbreak.core.evidence import Evidence
from stormbreak.core.flight import Flight, Landing
from stormbreak.core.gate import OPEN, UNTIL_EVENT
from stormbreak.core.guard import Guard
from stormbreak.core.proven import ProvenByFirst, ProvenByRate
from stormbreak.types import Outcome

HOLD = 5.0  # seconds
DOUBLING = 20.0  # seconds
FADE = 120.0  # seconds
FRESH = 1.0  # seconds since answers were late: until then the target has a queue of its own ...
TIGHT = (
    1.2  # ... and the gain is no more than this, since a larger one only makes that queue longer
)
FAILING = 10.0  # seconds since failures stood out
LEAST = 2.0  # while there is evidence, before fading
LOOK = 1.0  # seconds between two looks while all is quiet
AGAIN = 0.05  # seconds; nobody asks again sooner
JUDGED = 120.0  # seconds since an attempt that streams left


@dataclass(frozen=True, slots=True, kw_only=True)
class AutomaticLimit:
    """Found by itself: `gain` times what was proven, and `plus`; without evidence, `ceiling`."""

    kind: Literal["automatic"] = "automatic"
    ceiling: int = 256
    gain: float = 1.5
    plus: float = 2.0

    def __post_init__(self) -> None:
        check_types(self)
        require(self.ceiling >= 1, "ceiling must be at least 1", self.ceiling)
        require(self.gain >= 1, "gain must be at least 1", self.gain)
        require(self.plus >= 0, "plus must not be negative", self.plus)


class AutomaticConcurrency:
    """The gate that counts slots, as many as seem good. The token is the attempt's flight."""

    __slots__ = (
        "_answers", "_by_first", "_by_rate", "_control", "_evidence", "_guard", "_held", "_held_at", "_judge", "_look_at",
        "_paused", "_plain", "_policy", "_streamed", "_streamed_at", "in_flight", "limit", "most",
    )  # fmt: skip
    name = "limit"
    minds_success = True

    def __init__(self, policy: AutomaticLimit, *, paused: Callable[[float], bool]) -> None:
        """`paused(now)` says whether the target asked to be left alone: then silence is no sign."""
        self._policy = policy
        self._paused = paused
        self._judge = self._plain = Baseline()
        self._streamed = Baseline(streams=True)
        self._streamed_at = -inf  # when an attempt that streams last left
        self._evidence = Evidence()
        self._by_first = ProvenByFirst()
        self._by_rate = ProvenByRate()
        self._guard = Guard(policy.ceiling)
        self._answers = 0  # since the guard was last fed
        self._look_at = -inf  # before this, and without new evidence, there is nothing to see
        self._control = LEAST  # what evidence would make of the limit, at the last look
        self._held = LEAST  # the same when the last evidence came
        self._held_at = -inf
        self.most: float = policy.ceiling  # the ceiling, raised by what was proven
        self.in_flight = 0
        self.limit = policy.ceiling

    @property
    def late_at(self) -> float:
        """When lateness was last evidence of congestion."""
        return self._evidence.late_at

    def binds(self, now: float) -> bool:
        """Whether there is a limit but the ceiling."""
        return now - self._evidence.at < HOLD + FADE

    learned = binds

    def ready_at(self, now: float) -> float:
        """OPEN while a slot is free; else when time alone may free one (an answer may come sooner)."""
        if self.in_flight < self.limit:
            return OPEN
        if not self.binds(now) or self.in_flight >= self.most:
            return UNTIL_EVENT
        base = max(self._control, self._held)
        growth = DOUBLING * log2(max(1.0, (self.in_flight + 1) / base))
        return max(now + AGAIN, self._evidence.at + HOLD + min(growth, FADE))

    def tick(self, now: float, waited: float) -> None:
        """Look at the time: let attempts vote, and a queue stand whose oldest call has `waited` so long."""
        evidence, judge = self._evidence, self._judge
        if evidence.votes_at <= now and judge.usual is not None:
            evidence.vote(now, judge.usual, streams=judge.streams)
        if waited:
            evidence.waited(waited, now)
        if now >= self._look_at or self.in_flight >= self.limit or evidence.at > self._held_at:
            self._look(now)

    def take(self, now: float) -> Flight:
        """Occupy a slot."""
        return self._leave(Flight(now), self._plain)

    def take_streamed(self, now: float) -> Flight:
        """Occupy a slot, for an attempt whose first output will be told."""
        self._streamed_at = now
        return self._leave(Flight(now, streams=True), self._streamed)

    def _leave(self, flight: Flight, baseline: Baseline) -> Flight:
        self.in_flight += 1
        baseline.sent(flight)
        usual = self._judge.usual
        if baseline is self._judge or usual is None:
            self._evidence.sent(flight, usual)
        return flight

    def first(self, token: Flight, now: float) -> None:
        """The first output of an attempt has come."""
        if not token.streams or token.first_at is not None or token.landing is not None:
            return
        token.first_at = now
        self._by_first.first(now)

    def settle(self, token: Flight, outcome: Outcome, now: float, uniform: float) -> None:  # noqa: ARG002
        """Free the slot, and learn. The limit follows at the next tick, in the same step."""
        self.in_flight -= 1
        landing = token.land(outcome, now)
        if token.first_at is not None:
            self._by_first.ended(now)
        if landing is Landing.ANSWERED:
            self._answers += 1
            if token.first_at is None:
                self._by_rate.answered(now, now - token.sent_at, self._judge.mean)
        self._evidence.landed(token, now)
        baseline = self._streamed if token.streams else self._plain
        baseline.landed(token, now, self._evidence.at)

    @property
    def _mean(self) -> float | None:
        """Of whole answers, which take as long whether they are streamed or not."""
        mean = self._judge.mean
        return self._streamed.mean if mean is None else mean

    def _choose_judge(self, now: float) -> None:
        known = self._streamed.usual is not None and now - self._streamed_at < JUDGED
        judge = self._streamed if known else self._plain
        if judge is not self._judge:
            self._judge = judge
            self._evidence.start_over()

    def _look(self, now: float) -> None:
        self._choose_judge(now)
        policy = self._policy
        self._look_at = now if self.binds(now) else now + LOOK
        late = now - self._evidence.late_at < FRESH
        if late:
            self._by_first.forget(now)
        proven = self._proven(now)
        gain = min(TIGHT, policy.gain) if late else policy.gain
        self._control = max(LEAST, gain * proven + policy.plus)
        self.most = max(policy.ceiling, self._control) if proven else policy.ceiling
        evidence_at = self._evidence.at
        if evidence_at > self._held_at:
            self._held, self._held_at = self._control, evidence_at
        floor_ = 0.0 if self._judge.streams else self._floor(now)
        self.limit = max(1, floor(min(self.most, self._limit(now - evidence_at - HOLD, floor_))))

    def _proven(self, now: float) -> float:
        """Attempts past their first output, counted, and of all the others those that the answers tell of."""
        return self._by_first.at(now) + self._by_rate.at(now, self._mean)

    def _limit(self, quiet: float, floor_: float) -> float:
        """The limit when the last evidence is HOLD + `quiet` old."""
        if quiet >= FADE:
            return self.most
        if quiet <= 0:
            return max(self._control, floor_)
        return max(max(self._control, self._held) * 2 ** (quiet / DOUBLING), floor_)

    def _floor(self, now: float) -> float:
        answers, self._answers = self._answers, 0
        if not self.binds(now):
            self._guard.quiet(now, answers, self.in_flight)
            return 0.0
        failing = now - self._evidence.errors_at < FAILING or self._paused(now)
        return self._guard.floor(now, answers, self._mean or 0.0, failing=failing)
