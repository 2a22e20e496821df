"""The automatic in-flight limit, and the floor that keeps it from throttling a target that is only slow.

Without evidence that sending less helps, the limit does not bind, up to a ceiling: a calm burst from idle is
sent at once. Long and short answers side by side are not congestion, nor are failures beside answers
on time. Evidence is the `diagnosis` (answers are late, or nothing is answered), a standing queue
unless the target is certainly healthy, and 429s without a time that pile up while no slot is free: a refusal
frees its slot at once, so a batch would ask a full target hundreds of times a second. In a cold start, timeouts that
pile up are evidence, too: the first burst may be more than is served in time. A queue is evidence there only if it waits
for slots: one behind a cooldown would turn the throughput of the first few calls into a limit.

With evidence, an episode begins. Its phases:

- *hold*, for `HOLD` seconds after the last evidence: the limit is `_control`, a little above the proven throughput
  (`throughput_estimate`), less so while answers are late, one if nothing is answered. In silence it falls.
- *growth*, until `FADE`: `_control`, or `_held` (what it was at that evidence) if that is more, doubled every `DOUBLING`
  seconds.
- *quiet*, until new evidence: the ceiling.

While nothing is answered, the limit falls to one. The first answer on time brings back what was proven before
(`_Recovery`): else it would have to be proven anew, from one, each time a target returns.

The limit is never below the `LimitFloor`, is at least 1 and can always grow again. Lost attempts hold no slot: overdue
and overtaken while answers are on time, or overdue while the circuit lets only probes pass.

`limit` is as of the last `tick`; while all is quiet, and where nothing has changed since, a tick costs little.
"""

# ruff: noqa: FURB136, PLR1730 - `max` takes ten times as long, and this is asked several times for each call

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, floor, inf, log2
from typing import Literal

from stormbreak.core.checks import check_types, require_at_least
from stormbreak.core.diagnosis import LOOK, RECENTLY, Diagnosis
from stormbreak.core.gate import NEVER, READY, SlotGate
from stormbreak.core.window import DecayingMean
from stormbreak.types import Outcome, Verdict

# ---------------------------------------------------------------- limit floor
# Detects that our limit throttles the target. With total times only, a queue and a slower target look alike: both are
# late. A stale mean then makes the limit too small, which lowers the proven throughput, and so on. The diagnosis tells
# the two apart after some answers (`late_answers`); the floor bridges them. The yield distinguishes them: late and as
# many answers as before means a queue; late, without failures and with *fewer* answers means that we may throttle
# ourselves. Then a floor under the limit grows until the answers are back.

TAU = 30.0  # seconds; weight of the usual rate of answers and in-flight count
# Of all weight: that of `TAU` seconds. In a younger process, what is missing counts as idle.
ENOUGH = 1 - exp(-1.0)
STEP = 10.0  # seconds in which the floor doubles or halves
PROBE_BELOW = 0.75  # of the usual answers per second
GRACE = 10.0  # seconds before the floor moves, at least; and without a floor since failures stood out, or a 429
GRACE_TIMES = 3.0  # ... and so many times the usual time of an answer
GAIN, PLUS = 1.25, 2.0  # the floor at first, beside what was usually in flight


class LimitFloor:
    """The floor. It is updated while all is quiet, and during an episode."""

    def __init__(self, max_floor: float) -> None:
        self._max_floor = max_floor
        self._rate = DecayingMean(TAU)  # usual answers per second
        self._in_flight = DecayingMean(TAU)  # usually
        self._recent = 0.0  # answers, decaying over the window of an episode
        self._since: float | None = None  # when it was fed last
        self._began_at: float | None = None  # the episode
        self._moved_at = 0.0  # the floor
        self._floor = 0.0

    def quiet(self, now: float, answers: int, in_flight: int) -> None:
        """Learn the usual rate while all is quiet. `answers` since the last update."""
        span = self._span(now)
        self._began_at = None
        if span > 0:
            self._rate.add(answers / span, span)
            self._in_flight.add(in_flight, span)

    def floor(self, now: float, answers: int, mean: float, *, failing: bool) -> float:
        """Return the floor during an episode; none while `failing`."""
        window, span = GRACE_TIMES * mean, self._span(now)
        if window < GRACE:
            window = GRACE
        if self._began_at is None:
            self._began_at = self._moved_at = now
            self._recent = self._rate.mean(min_weight=ENOUGH) * window
            in_flight = self._in_flight.mean(min_weight=ENOUGH)
            self._floor = min(self._max_floor, GAIN * in_flight + PLUS)
        self._recent = self._recent * exp(-span / window) + answers
        if failing:
            self._floor = 0.0
        elif now - self._began_at >= window:
            self._move(now, self._recent / window)
        return self._floor

    def _span(self, now: float) -> float:
        since, self._since = self._since, now
        return 0.0 if since is None or now < since else now - since

    def _move(self, now: float, rate: float) -> None:
        steps = (now - self._moved_at) / STEP
        self._moved_at = now
        usual = self._rate.mean(min_weight=ENOUGH)
        if rate < PROBE_BELOW * usual:
            steps = min(steps, 10.0)  # 2 to the power of a long silence is no number
            self._floor = min(self._max_floor, self._floor * 2.0**steps)
        elif rate > usual:
            self._floor *= 0.5**steps


# ---------------------------------------------------------------- recovery

SILENCE = 5.0  # seconds: for so long the throughput estimate remembers anyway


class _Recovery:
    """What a target served before it died, for when it answers on time again."""

    def __init__(self) -> None:
        self._before = 0.0  # proven ...
        self._answered_at = -inf  # ... and when it last answered on time
        self._died_at = -inf
        # The limit is no lower than `_before` until then; inf: there has been no answer yet.
        self._until = -inf

    def limit(self, now: float, proven: float, diagnosis: Diagnosis, *, late: bool) -> float:
        """Return what was proven before the last death, from the first answer on time until as much is proven again; else 0.

        Not after less than `SILENCE`, since an overload may look like death for a moment; until an answer is evidence of
        lateness, the target dies again, or `GRACE` seconds and the time of some answers are over.
        """
        if diagnosis.dead_at > self._died_at:
            if self._until < inf:
                self._before, self._answered_at = proven, diagnosis.on_time_at
            self._died_at, self._until = diagnosis.dead_at, inf
        elif self._until == inf and diagnosis.on_time_at > self._died_at:
            silent_since = max(self._answered_at, diagnosis.late_at)
            silent = diagnosis.on_time_at - silent_since >= SILENCE
            long_enough = max(GRACE, GRACE_TIMES * (diagnosis.mean or 0.0))
            self._until = now + long_enough if silent else -inf
        if self._until < inf and (late or now >= self._until or proven >= self._before):
            self._until = -inf
            self._before, self._answered_at = proven, diagnosis.on_time_at
        return self._before if -inf < self._until < inf else 0.0


# ---------------------------------------------------------------- automatic limit

HOLD, DOUBLING = 5.0, 10.0  # seconds
FADE = 120.0  # seconds of growth
BINDS_FOR = HOLD + FADE
FRESH = 1.0  # seconds since answers were late: until then the target has a queue of its own ...
NEARLY_FULL = 1.2  # ... and the gain is no more than this: a larger one only makes it longer
MIN_LIMIT = 2.0  # while there is evidence, before fading
STANDING = 1.0  # seconds in the queue
RETRY_LOOK = 0.05  # seconds; the shortest wait before another look


@dataclass(frozen=True, slots=True, kw_only=True)
class AutomaticLimit:
    """An automatic limit: `headroom_factor` times the proven throughput plus `headroom`; without evidence, at least `max_in_flight`."""

    kind: Literal["automatic"] = "automatic"
    finds_itself = True
    max_in_flight: int = 256
    headroom_factor: float = 1.5
    headroom: float = 2.0

    def __post_init__(self) -> None:
        check_types(self)
        require_at_least(self, 1, "max_in_flight", "headroom_factor")
        require_at_least(self, 0, "headroom")


class AutomaticLimiter(SlotGate):
    """The gate that counts slots, with an automatic limit."""

    def __init__(
        self, policy: AutomaticLimit, diagnosis: Diagnosis, *, paused: Callable[[float], bool]
    ) -> None:
        """`paused(now)`: whether a cooldown holds; then silence is not evidence."""
        super().__init__(policy.max_in_flight)
        self._policy = policy
        self._diagnosis = diagnosis
        self._paused = paused
        self._limit_floor = LimitFloor(policy.max_in_flight)
        self._recovery = _Recovery()
        self._answers = 0  # when the floor was last fed
        self._look_at = -inf  # before this, and without new evidence, there is nothing to see
        self._looked_at, self._changes = -inf, 0  # the last look: a second one would see the same
        self._control = MIN_LIMIT  # what evidence would make of the limit, at the last look
        self._held = MIN_LIMIT  # the same when the last evidence came
        self._held_at = -inf
        self._full_at = -inf  # until when no slot was free
        self._stood_at = -inf  # when a queue that stands, or 429s, were last evidence
        self._ceiling: float = policy.max_in_flight  # raised by what was proven

    @property
    def max_limit(self) -> float:
        return self._ceiling

    def binds(self, now: float) -> bool:
        """Whether the limit is below the ceiling."""
        return now - max(self._diagnosis.evidence_at, self._stood_at) < BINDS_FOR

    learned = binds

    def ready_at(self, _call: object, now: float) -> float:
        """READY while a slot is free; else when `_limit` will have grown by one (an answer may be sooner)."""
        if self.in_flight < self.limit:
            return READY
        diagnosis = self._diagnosis
        evidence_at, stood_at = diagnosis.evidence_at, self._stood_at
        if stood_at > evidence_at:
            evidence_at = stood_at
        if now - evidence_at >= BINDS_FOR or self.in_flight >= self._ceiling:
            return NEVER
        base = max(MIN_LIMIT, self._control, self._held)
        opens_at = evidence_at + HOLD
        doublings = log2((self.in_flight + 1) / base)
        if doublings > 0.0:
            opens_at += min(FADE, DOUBLING * doublings)
        if diagnosis.probed:
            opens_at = min(opens_at, diagnosis.overdue_at())
        soonest = now + RETRY_LOOK
        return opens_at if opens_at > soonest else soonest

    def _is_queue_evidence(self, now: float) -> bool:
        """Whether a queue that stands shows that sending less helps.

        Not while the target is certainly healthy, nor where slots are free and nothing is known yet of what is served.
        """
        diagnosis = self._diagnosis
        suspicious = (
            now - diagnosis.late_at < RECENTLY
            or now - diagnosis.throttled_at < RECENTLY
            or not diagnosis.is_healthy(now)
        )
        short = now - self._full_at < STANDING or diagnosis.judge.usual is not None
        return suspicious and short

    def tick(self, now: float, waited: float) -> None:
        diagnosis = self._diagnosis
        if now >= diagnosis.look_at:
            diagnosis.look(now)
        full = self.in_flight >= self.limit
        if full:
            self._full_at = now
        if waited > STANDING and self._is_queue_evidence(now):
            self._stood_at = now
        held_at = self._held_at
        if (
            diagnosis.evidence_at > held_at
            or self._stood_at > held_at
            or (
                (now >= self._look_at or full)
                and (now > self._looked_at or diagnosis.changes != self._changes)
            )
        ):
            self._look(now)

    def settle(self, _token: None, outcome: Outcome, now: float, _uniform: float, /) -> None:
        self.on_success(None, outcome, now, 0.0)
        if self._is_too_much(outcome, now):
            self._stood_at = now

    def on_success(self, _token: None, _outcome: Outcome, now: float, _uniform: float, /) -> None:
        if self.in_flight >= self.limit:
            self._full_at = now
        self.in_flight -= 1

    def _is_too_much(self, failure: Outcome, now: float) -> bool:
        """Whether a failure that just came, one of many, shows that too much is in flight.

        A timeout does while nothing is known of what is usual; a 429 of unknown cause while no slot is free.
        """
        diagnosis = self._diagnosis
        if diagnosis.failed_at != now:
            return False
        if failure.verdict is Verdict.TIMEOUT:
            return diagnosis.judge.usual is None and self.in_flight >= MIN_LIMIT
        refused = failure.verdict is Verdict.THROTTLED and diagnosis.throttled_at == now
        return refused and failure.retry_after is None and now - self._full_at < STANDING

    def _look(self, now: float) -> None:
        diagnosis = self._diagnosis
        policy = self._policy
        self._looked_at, self._changes = now, diagnosis.changes
        evidence_at, stood_at = diagnosis.evidence_at, self._stood_at
        if stood_at > evidence_at:
            evidence_at = stood_at
        binds = now - evidence_at < BINDS_FOR
        self._look_at = now if binds else now + LOOK
        late = now - diagnosis.late_at < FRESH
        proven = diagnosis.proven(now, late=late)
        gain = min(NEARLY_FULL, policy.headroom_factor) if late else policy.headroom_factor
        dead = now - diagnosis.dead_at < HOLD
        plus, least = (min(1.0, policy.headroom), 1.0) if dead else (policy.headroom, MIN_LIMIT)
        control, ceiling = gain * proven + plus, policy.max_in_flight
        self._control = control if control > least else least
        self._ceiling = self._control if proven and self._control > ceiling else ceiling
        if evidence_at > self._held_at:
            self._held, self._held_at = self._control, evidence_at
        floor_ = 0.0 if diagnosis.judge.streams else self._floor(now, binds=binds)
        limit = self._limit(now, evidence_at, floor_)
        before = self._recovery.limit(now, proven, diagnosis, late=late)
        if limit < before:
            limit = before
        if now - diagnosis.late_at >= HOLD:
            limit += diagnosis.lost
        self.limit = floor(limit if limit < self._ceiling else self._ceiling)

    def _limit(self, now: float, evidence_at: float, floor_: float) -> float:
        """Return the limit of the phase; `ready_at` solves it for the time."""
        quiet = now - evidence_at - HOLD
        if quiet >= FADE:
            return self._ceiling
        limit = self._control
        if quiet > 0:
            limit = max(limit, self._held) * 2 ** (quiet / DOUBLING)
        return limit if limit > floor_ else floor_

    def _floor(self, now: float, *, binds: bool) -> float:
        diagnosis = self._diagnosis
        answers, self._answers = diagnosis.answers - self._answers, diagnosis.answers
        if not binds:
            self._limit_floor.quiet(now, answers, self.in_flight)
            return 0.0
        trouble_at = max(diagnosis.failed_at, diagnosis.throttled_at)
        failing = now - trouble_at < GRACE or self._paused(now)
        return self._limit_floor.floor(now, answers, diagnosis.mean or 0.0, failing=failing)
