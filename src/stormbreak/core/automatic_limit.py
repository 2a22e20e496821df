"""The automatic in-flight limit, and the floor that keeps it from throttling a target that is only slow.

Without evidence that sending less helps, the limit stays at its ceiling: a calm burst from idle is sent at once. Long
and short answers side by side are not congestion, and neither are failures next to answers on time. Evidence is:

- the `diagnosis`: answers are late, or nothing is answered;
- a standing queue, unless the target is certainly healthy;
- 429s without a Retry-After that pile up while no slot is free. A refusal frees its slot at once, so a batch would
  otherwise send hundreds of requests a second to a full target;
- in a cold start, timeouts that pile up: the first burst may be more than the target serves in time. In a cold start a
  queue is evidence only if it waits for slots. A queue behind a cooldown would turn the throughput of the first few
  calls into a limit.

Evidence begins an episode, which has three phases:

- *hold*, until `HOLD` seconds after the last evidence: the limit is `_control`, slightly above the proven throughput
  (`throughput_estimate`). It has less headroom while answers are late, and is one if nothing is answered. While no
  answer comes, it falls.
- *growth*, for the next `FADE` seconds: the larger of `_control` and `_held` (its value at the last evidence), doubled
  every `DOUBLING` seconds.
- *quiet*, until new evidence: the ceiling.

While nothing is answered, the limit falls to one. The first answer on time restores the throughput that was proven
before (`_Recovery`). Otherwise it would have to be proven again, from one, each time a target returns.

The limit is never below the `LimitFloor`, is at least 1, and can always grow again. Lost attempts hold no slot: those
that are overdue and overtaken while answers are on time, or overdue while the circuit lets only probes pass.

`limit` is the value at the last `tick`. A tick is cheap while all is quiet, and if nothing has changed since.
"""

# ruff: noqa: FURB136, PLR1730 - `max` takes ten times as long, and this runs several times for each call

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, floor, inf, log2
from typing import Literal

from stormbreak.core.checks import check_types, require_at_least
from stormbreak.core.diagnosis import CHECK_EVERY, RECENTLY, Diagnosis
from stormbreak.core.gate import NEVER, READY, SlotGate
from stormbreak.core.window import DecayingMean
from stormbreak.types import Outcome, Verdict

# ---------------------------------------------------------------- limit floor
# Detects that our own limit is too small. By durations alone, a queue and a slower target look alike: answers are late.
# With a slower target, an outdated mean makes the limit too small, which lowers the proven throughput, which lowers the
# limit again. The diagnosis needs some answers to tell the two apart (`late_answers`); until then the floor uses the
# number of answers. Late, and as many answers as before: a queue. Late, no failures, and *fewer* answers: we may
# throttle ourselves. Then a floor under the limit grows until as many answers come as before.

TAU = 30.0  # seconds; time constant of the usual rate of answers and of the usual in-flight count
# The weight of `TAU` seconds, of 1. A younger process counts as idle for the missing time.
ENOUGH = 1 - exp(-1.0)
STEP = 10.0  # seconds in which the floor doubles or halves
PROBE_BELOW = 0.75  # of the usual answers per second: below this share the floor grows
GRACE = 10.0  # minimum seconds before the floor moves
GRACE_TIMES = 3.0  # the floor waits at least this many times the mean duration of an answer
GAIN, PLUS = 1.25, 2.0  # the first floor: GAIN times the usual in-flight count, plus PLUS


class LimitFloor:
    """The floor. It is updated while all is quiet, and during an episode."""

    def __init__(self, max_floor: float) -> None:
        self._max_floor = max_floor
        self._rate = DecayingMean(TAU)  # usual answers per second
        self._in_flight = DecayingMean(TAU)  # usual in-flight count
        self._recent = 0.0  # answers, decaying over the window of an episode
        self._since: float | None = None  # the last update
        self._began_at: float | None = None  # the start of the episode
        self._moved_at = 0.0  # when the floor last moved
        self._floor = 0.0

    def quiet(self, now: float, answers: int, in_flight: int) -> None:
        """Learn the usual rate while all is quiet. `answers` since the last update."""
        span = self._span(now)
        self._began_at = None
        if span > 0:
            self._rate.add(answers / span, span)
            self._in_flight.add(in_flight, span)

    def floor(self, now: float, answers: int, mean: float, *, failing: bool) -> float:
        """Return the floor during an episode; 0 while `failing`."""
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
            steps = min(steps, 10.0)  # after a long silence the power would overflow
            self._floor = min(self._max_floor, self._floor * 2.0**steps)
        elif rate > usual:
            self._floor *= 0.5**steps


# ---------------------------------------------------------------- recovery

SILENCE = 5.0  # seconds that the throughput estimate remembers anyway


class _Recovery:
    """The throughput proven before a target died, to restore when it answers on time again."""

    def __init__(self) -> None:
        self._before = 0.0  # proven before ...
        self._answered_at = -inf  # ... and the last answer on time then
        self._died_at = -inf
        # Until then the limit is at least `_before`; inf: no answer has come yet.
        self._until = -inf

    def limit(self, now: float, proven: float, diagnosis: Diagnosis, *, late: bool) -> float:
        """Return the throughput proven before the last death, to be restored now; else 0.

        It is restored from the first answer on time until as much is proven again. It ends earlier if answers are late,
        if the target dies again, or after `GRACE` seconds and the duration of some answers. After a silence shorter
        than `SILENCE` nothing is restored, since an overload may look like death for a moment.
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
FRESH = 1.0  # seconds after late answers in which the target itself has a queue ...
NEARLY_FULL = 1.2  # ... and the gain is at most this: a larger one only lengthens that queue
MIN_LIMIT = 2.0  # while there is evidence, before fading
STANDING = 1.0  # seconds in the queue after which the queue stands
FAILING = 10.0  # seconds without a floor after many failures or a 429
MIN_RECHECK = 0.05  # seconds; the minimum wait before another check


@dataclass(frozen=True, slots=True, kw_only=True)
class AutomaticLimit:
    """An automatic limit. With evidence: `headroom_factor` times the proven throughput, plus `headroom`.

    Without evidence: `max_in_flight`, or that value if it is larger.
    """

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
        """`paused(now)`: whether a cooldown holds calls; then silence is not evidence."""
        super().__init__(policy.max_in_flight)
        self._policy = policy
        self._diagnosis = diagnosis
        self._paused = paused
        self._limit_floor = LimitFloor(policy.max_in_flight)
        self._recovery = _Recovery()
        self._answers = 0  # at the last update of the floor
        self._update_at = -inf  # before this, and without new evidence, nothing changes
        self._updated_at, self._changes = -inf, 0  # of the last update, to avoid a second one
        self._control = MIN_LIMIT  # the limit under evidence, as of the last update
        self._held = MIN_LIMIT  # the same as of the last evidence
        self._held_at = -inf
        self._full_at = -inf  # when last no slot was free
        self._stood_at = -inf  # when a standing queue, a timeout or 429s were last evidence
        self._ceiling: float = policy.max_in_flight  # raised by the proven throughput

    @property
    def max_limit(self) -> float:
        return self._ceiling

    def binds(self, now: float) -> bool:
        """Whether the limit is below the ceiling."""
        return now - max(self._diagnosis.evidence_at, self._stood_at) < BINDS_FOR

    learned = binds

    def ready_at(self, _call: object, now: float) -> float:
        """READY while a slot is free; else when `_limit` will have grown by one (an answer may free a slot sooner)."""
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
        soonest = now + MIN_RECHECK
        return opens_at if opens_at > soonest else soonest

    def _is_queue_evidence(self, now: float) -> bool:
        """Whether a standing queue shows that sending less helps.

        It does not while the target is certainly healthy, or while slots are free and the usual duration is unknown.
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
        if now >= diagnosis.check_at:
            diagnosis.check(now)
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
                (now >= self._update_at or full)
                and (now > self._updated_at or diagnosis.changes != self._changes)
            )
        ):
            self._update(now)

    def settle(self, _token: None, outcome: Outcome, now: float, _uniform: float, /) -> None:
        self.on_success(None, outcome, now, 0.0)
        if self._is_too_much(outcome, now):
            self._stood_at = now

    def on_success(self, _token: None, _outcome: Outcome, now: float, _uniform: float, /) -> None:
        if self.in_flight >= self.limit:
            self._full_at = now
        self.in_flight -= 1

    def _is_too_much(self, failure: Outcome, now: float) -> bool:
        """Whether a new failure, one of many, shows that too much is in flight.

        A timeout does while the usual duration is unknown; a 429 without a Retry-After does while no slot is free.
        """
        diagnosis = self._diagnosis
        if diagnosis.failed_at != now:
            return False
        if failure.verdict is Verdict.TIMEOUT:
            return diagnosis.judge.usual is None and self.in_flight >= MIN_LIMIT
        refused = failure.verdict is Verdict.THROTTLED and diagnosis.throttled_at == now
        return refused and failure.retry_after is None and now - self._full_at < STANDING

    def _update(self, now: float) -> None:
        diagnosis = self._diagnosis
        policy = self._policy
        self._updated_at, self._changes = now, diagnosis.changes
        evidence_at, stood_at = diagnosis.evidence_at, self._stood_at
        if stood_at > evidence_at:
            evidence_at = stood_at
        binds = now - evidence_at < BINDS_FOR
        self._update_at = now if binds else now + CHECK_EVERY
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
        """Return the limit of the present phase; `ready_at` solves the same formula for the time."""
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
        failing = now - trouble_at < FAILING or self._paused(now)
        return self._limit_floor.floor(now, answers, diagnosis.mean or 0.0, failing=failing)
