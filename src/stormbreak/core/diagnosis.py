"""The diagnosis of a target: overload, bad luck, or dead.

Sending less helps only against an overload. So every gate that slows traffic down asks the diagnosis first. The
evidence is the answers, not the failures:

- *overload*: answers arrive, but later than usual (`late_at`);
- *dead*: no answer arrives for longer than chance explains (`dead_at`);
- *bad luck*: some attempts fail while others are answered on time. Sending less changes nothing; a retry is right.

Lateness is a running score (a CUSUM) over answers: a late answer adds one, an answer on time subtracts one. While the
score is at its maximum, each late answer is evidence of overload, unless `late_answers` shows that the target itself
has become slower: then the new duration becomes the usual one. Only answers count. A hanging attempt may be lost, and
says nothing about attempts that are served.

For death, only the attempts count that left after the newest answered attempt. Each of them that failed, or is older
than usual, is evidence (`failure_evidence`).

Streaming attempts reveal more: the time of their first output. They have a separate baseline. Once it is known, only
streaming attempts decide lateness, since a whole answer would look late next to first outputs. If no streaming attempt
has left for `JUDGED` seconds, the other attempts decide again.
"""

from collections import deque
from collections.abc import Callable, Mapping
from enum import StrEnum
from math import inf

from stormbreak.core.failure_evidence import (
    MAJORITY,
    REMEMBERED,
    WEIGHT,
    FailureRun,
    Refusals,
    Timeouts,
)
from stormbreak.core.gate import ANSWERED, READY, Completion, InFlight
from stormbreak.core.late_answers import LateAnswers
from stormbreak.core.latency_baseline import LatencyBaseline
from stormbreak.core.stalls import STALL, Stalls
from stormbreak.core.throughput_estimate import FirstOutputEstimate, RateEstimate
from stormbreak.types import VERDICT_OK, Call, Outcome, Tally, Treatment, Verdict

RECENTLY = 30.0  # seconds since an answer, lateness or a 429
# attempts that are watched, at most: beyond that they are a sample of all
RECOVERY_WINDOW = 1_024
TOP_TOTAL, TOP_FIRST = 8, 5  # maximum of the score: for whole answers, for first outputs
JUDGED = 120.0  # seconds since a streaming attempt left
CHECK_EVERY = 1.0  # seconds between two choices of the baseline, two tests of the spread, two updates of a quiet limit
LATE_FOR = 10.0  # seconds since lateness was evidence
SUSPICIOUS_RATIO = 1 / 3  # share of failures


class Cause(StrEnum):
    """The cause of failures or lateness."""

    NONE = "none"
    BAD_LUCK = "bad luck"
    OVERLOAD = "overload"
    DEAD = "dead"


class Diagnosis:
    """Watches every attempt at one target. It is a gate that is always READY; the token is the attempt's `InFlight`."""

    __slots__ = (
        "_answered_at", "_by_rate", "_checked_for", "_chosen_at", "_compared_at", "_failing", "_first_answered_at",
        "_first_output_estimate", "_is_luck", "_late", "_late_answers", "_late_share", "_limited", "_on_time_sent_at",
        "_on_time_took", "_overdue", "_overloaded_at", "_plain", "_stalls", "_streamed", "_streamed_at", "_watched",
        "answers", "changes", "check_at", "dead_at", "evidence_at", "failed_at", "hangs", "judge", "late_at",
        "on_time_at", "probed", "refusals", "run", "throttled_at", "timeouts", "treatments",
    )  # fmt: skip
    name = "diagnosis"
    takes = True

    def __init__(
        self,
        treatments: Mapping[Verdict, Treatment],
        *,
        limited: bool = False,
        is_random: Callable[[float], bool] = lambda _: False,
        stalls: Stalls | None = None,
    ) -> None:
        """The `treatments` define failures. `limited`: an automatic limit handles overload.

        `is_random(now)`: whether 429s are known to be bad luck; then they are not evidence. `stalls` are the stalls of
        this process: an answer that may have waited for a stall is neither late nor on time.
        """
        self.treatments = treatments
        self._limited = limited
        self._is_luck = is_random
        self._stalls = stalls or Stalls()
        self._watched: deque[InFlight] = deque()  # in the order in which they left
        self._first_output_estimate = FirstOutputEstimate()
        self._by_rate = RateEstimate()
        self.answers = 0
        self.changes = 0  # first outputs, and ends of attempts
        self.probed = False  # the circuit is not closed
        self._answered_at = -inf
        self._first_answered_at = inf
        self.evidence_at = -inf  # the later of `late_at` and `dead_at`: the last evidence
        # Lateness
        self.judge = self._plain = LatencyBaseline()
        self._streamed = LatencyBaseline(streams=True)
        self._streamed_at = -inf  # when a streaming attempt last left
        self._chosen_at = -inf
        self.check_at = -inf  # an earlier `check` finds nothing new
        self._checked_for: float | None = None  # the usual duration at the last check
        self._overdue: set[InFlight] = set()  # in flight, and older than usual
        self._late, self._late_share = 0, 0.0  # the score, and the share of the answers
        self._late_answers = LateAnswers()
        self._compared_at = -inf  # when their spread was last tested
        self.late_at = -inf
        self.on_time_at = -inf
        self._on_time_sent_at = -inf  # the newest attempt that was answered on time ...
        self._on_time_took = 0.0  # ... and its duration
        # Failures
        self.run = FailureRun(self._watched)
        self.refusals = Refusals()
        self.timeouts = Timeouts()
        self._failing = 0.0  # share of failures
        self.failed_at = -inf  # when the share of failures was last suspicious
        self.dead_at = -inf
        self._overloaded_at = -inf  # when the target last refused an attempt because of its load
        self.throttled_at = -inf  # when the last 429 came that was not bad luck
        self.hangs = False  # the last attempt that ended timed out

    # ------------------------------------------------------------ a gate: attempts leave and end

    def ready_at(self, _call: object, _now: float) -> float:
        return READY

    def take(self, call: Call | None, now: float) -> InFlight:
        """Register an attempt that leaves. Without a call, its first output is not reported."""
        streams = call is not None and call.streams
        flight = InFlight(now, streams)
        if streams:
            self._streamed_at = now
            self._streamed.on_send(flight)
        else:
            self._plain.on_send(flight)
        watched = self._watched
        while watched and watched[0].completion is not None:  # no `check` for a long time
            watched.popleft()
        if len(watched) < RECOVERY_WINDOW:
            watched.append(flight)
        usual = self._checked_for
        if usual is not None and now + usual < self.check_at:
            self.check_at = now + usual
        return flight

    def first_output(self, flight: InFlight, now: float) -> None:
        if (
            not flight.streams
            or flight.first_output_at is not None
            or flight.completion is not None
        ):
            return
        self.changes += 1
        flight.first_output_at = now
        flight.stalled = self._stalls.is_recent(now)
        self._overdue.discard(flight)
        self._first_output_estimate.first(now)

    def settle(self, token: InFlight, outcome: Outcome, now: float, _uniform: float) -> None:
        if outcome.verdict is VERDICT_OK:
            self.on_success(token, outcome, now, _uniform)
            return
        flight, completion = token, token.complete(outcome)
        self.changes += 1
        self._overdue.discard(flight)
        if flight.first_output_at is not None:
            self._first_output_estimate.ended(now)
        if outcome.verdict is Verdict.THROTTLED:
            self._refused(flight, now)
        if completion is not Completion.CUT:
            self._failed(flight, outcome, now)
            if outcome.verdict is Verdict.BROKEN and self.judge.mean:
                self._by_rate.cut(now, now - flight.sent_at, self.judge.mean)
        baseline = self._streamed if flight.streams else self._plain
        baseline.on_completion(flight, now, self.evidence_at)
        if self.judge.usual != self._checked_for:
            self.check_at = -inf

    def on_success(self, token: InFlight, _outcome: Outcome, now: float, _uniform: float) -> None:
        flight, sent_at = token, token.sent_at
        flight.completion = ANSWERED
        if self._overdue:
            self._overdue.discard(flight)
        if sent_at <= self.refusals.refused_at:
            self.refusals.compare(flight, VERDICT_OK, now)
        self.answers += 1
        self.changes += 1
        if flight.first_output_at is None:
            self._by_rate.answered(now, now - sent_at, self.judge.mean)
        else:
            self._first_output_estimate.ended(now)
        self._answered(flight, now)
        baseline = self._streamed if flight.streams else self._plain
        baseline.on_completion(flight, now, self.evidence_at)
        if self.judge.usual != self._checked_for:
            self.check_at = -inf

    def _answered(self, flight: InFlight, now: float) -> None:
        self._failing -= WEIGHT * self._failing
        self.hangs = False
        self._answered_at = now
        if self.answers == 1:
            self._first_answered_at = now
        self.refusals.count = 0
        judge, sent_at = self.judge, flight.sent_at
        if sent_at > self.run.answered_sent_at:
            self.run.answered(flight)
        if judge.streams and not flight.streams:
            return
        at = flight.first_output_at if judge.streams else None
        took = (now if at is None else at) - sent_at
        if judge.usual is not None and took > judge.usual:
            self._late_answer(flight, took, now)
            return
        if self._late_share:
            self._late_share -= WEIGHT * self._late_share
        if self._late:
            self._late -= 1
            self._late_answers.answered(sent_at, took)
        self.on_time_at = now
        if sent_at > self._on_time_sent_at:
            self._on_time_sent_at, self._on_time_took = sent_at, took
        if self.timeouts.recent:
            self.timeouts.answered_on_time(sent_at, took, now)

    def _failed(self, flight: InFlight, outcome: Outcome, now: float) -> None:
        self._failing += WEIGHT * (1 - self._failing)
        self.hangs = outcome.verdict is Verdict.TIMEOUT
        if self._failing >= SUSPICIOUS_RATIO:
            self.failed_at = now
        if outcome.verdict is Verdict.OVERLOADED or outcome.verdict is Verdict.THROTTLED:
            self._overloaded_at = now
        elif outcome.verdict is Verdict.TIMEOUT:
            self.timeouts.add(flight.sent_at, now, self._on_time_sent_at, self._on_time_took)
        if self.treatments[outcome.verdict].tally is Tally.FAILURE:
            self._count(flight, now, quick=flight.completion is Completion.REFUSED)

    def check(self, now: float) -> None:
        """Find the attempts that are older than usual."""
        if now >= self._chosen_at + CHECK_EVERY:
            self._chosen_at = now
            self._choose_judge(now)
        if self._stalls.is_recent(now):
            self.check_at = now + STALL
            return
        usual = self._checked_for = self.judge.usual
        self.check_at = self._chosen_at + CHECK_EVERY
        watched = self._watched
        while watched:
            flight = watched[0]
            if flight.completion is None:
                if usual is None:
                    return
                if flight.sent_at + usual > now:
                    self.check_at = min(self.check_at, flight.sent_at + usual)
                    return
                uses_first_output = self.judge.streams
                if not uses_first_output or (flight.streams and flight.first_output_at is None):
                    self._overdue.add(flight)
                    self._count(flight, now, quick=False)
            watched.popleft()

    # ------------------------------------------------------------ lateness

    def _late_answer(self, flight: InFlight, took: float, now: float) -> None:
        late_answers, judge = self._late_answers, self.judge
        by_first_output = judge.streams and flight.first_output_at is not None
        if flight.stalled if by_first_output else self._stalls.is_recent(now):
            return
        self.timeouts.answered_late()
        self._late_share += WEIGHT * (1 - self._late_share)
        if not self._late:
            late_answers.begin(now, self.evidence_at)
        late_answers.answered(flight.sent_at, took)
        if judge.streams and flight.sent_at <= self._on_time_sent_at:
            return  # the longest answers of a burst come last: an attempt that left later was on time
        top = TOP_FIRST if judge.streams else TOP_TOTAL
        self._late = min(top, self._late + 1)
        if self._late < top:
            return
        if self._is_slower(now):
            self.late_at = -inf
            self._get_used_to(now)
            return
        if late_answers.end_trial(now):
            judge.roll_back()
        elif late_answers.is_trial_due(now, self.timeouts.last_at):
            late_answers.begin_trial(now)
            self._get_used_to(now)
            return
        self.late_at = self.evidence_at = now

    def _is_slower(self, now: float) -> bool:
        """Whether the spread shows that the target itself is slower.

        It is not tested soon after failures or refusals, which may be signs of too much load. It is not tested by first
        outputs: they are short, and waits spread as much as they do.
        """
        trouble_at = max(self.failed_at, self._overloaded_at)
        if (
            self.judge.streams
            or now - trouble_at <= REMEMBERED
            or now - self._compared_at < CHECK_EVERY
        ):
            return False
        self._compared_at = now
        return self._late_answers.is_slower(self.judge.samples)

    def _get_used_to(self, now: float) -> None:
        """Make the duration of these answers usual."""
        self.judge.restart(sorted(self._late_answers.times))
        self._late, self._late_share = 0, 0.0
        self.on_time_at = now

    def _are_most_late(self, now: float, *, within: float = REMEMBERED) -> bool:
        return self._late_share >= MAJORITY and now - self._answered_at <= within

    def _choose_judge(self, now: float) -> None:
        """Measure lateness by first outputs if enough are known."""
        known = self._streamed.usual is not None and now - self._streamed_at < JUDGED
        judge = self._streamed if known else self._plain
        if judge is not self.judge:
            self.judge = judge
            self._late = 0
            self._late_share = 0.0
            self._late_answers = LateAnswers()
            self.run.start()

    # ------------------------------------------------------------ failures

    def _count(self, flight: InFlight, now: float, *, quick: bool) -> None:
        if self.run.count(flight, quick=quick):
            self.dead_at = self.evidence_at = now
            if self._late_answers.end_trial(now):  # attempts are so late that none is answered
                self.judge.roll_back()

    def _refused(self, flight: InFlight, now: float) -> None:
        self.refusals.compare(flight, Verdict.THROTTLED, now)
        if not (self.refusals.are_random or self._is_luck(now)):
            self.throttled_at = now

    def _is_everybody_refused(self) -> bool:
        """Whether only 429s have come for longer than chance explains."""
        refusals = self.refusals
        long = refusals.refused_at - self.on_time_at > LATE_FOR
        return long and refusals.count >= self.run.max_length

    def is_overtaken(self, sent_at: float) -> bool:
        """Whether an attempt that left later was answered on time."""
        return self._on_time_sent_at > sent_at

    # ------------------------------------------------------------ what gates ask

    def cause(self, now: float) -> Cause:
        if self.is_dead(now):
            return Cause.DEAD
        late_at = self.late_at
        if now - late_at < LATE_FOR or late_at > self.on_time_at or self._are_most_late(now):
            return Cause.OVERLOAD
        if not self.run and self._failing <= WEIGHT:
            return Cause.NONE
        return Cause.OVERLOAD if self._is_everybody_refused() else Cause.BAD_LUCK

    def is_dead(self, now: float) -> bool:
        """Whether nothing was answered for longer than chance explains.

        With an automatic limit, timeouts after late answers are a sign of overload, which the limit handles. Then only
        failures count that came before the attempt was late.
        """
        self.check(now)
        return self.run.is_unexplained(
            by_quick=self._limited and self._are_most_late(now, within=RECENTLY)
        )

    def is_healthy(self, now: float) -> bool:
        """Whether answers come, and most of them on time; with little traffic, in the last minutes."""
        return not self.is_in_trouble(now) and now - self.on_time_at <= REMEMBERED

    def is_in_trouble(self, now: float) -> bool:
        """Whether most answers of the last minutes were late, or none has come for longer than chance explains."""
        self.check(now)
        return self._are_most_late(now) or self.run.is_unexplained()

    def is_new(self, now: float) -> bool:
        """Whether no answer to this process is older than half a minute."""
        return now - self._first_answered_at <= RECENTLY

    def is_passed(self, sent_at: float) -> bool:
        """Whether an attempt that left later was answered, on time or late."""
        return self.run.answered_sent_at > sent_at

    @property
    def lost_after(self) -> float | None:
        """The age at which a probe is lost; None if most answers were late before, since a probe may then be queued."""
        return None if self._late_share >= MAJORITY else self.judge.usual

    def overdue_at(self) -> float:
        """Return when the next attempt is lost while the circuit lets only probes pass; inf if unknown."""
        usual = self.lost_after if self.probed else None
        if usual is not None:
            for flight in self._watched:
                if flight.completion is None:
                    return flight.sent_at + usual
        return inf

    @property
    def lost(self) -> int:
        """The attempts in flight that will hardly be answered: overdue, and overtaken unless only probes pass."""
        if not self._overdue or (self.probed and self.lost_after is not None):
            return len(self._overdue)
        return sum(self.is_overtaken(flight.sent_at) for flight in self._overdue)

    def proven(self, now: float, *, late: bool) -> float:
        """Return the proven number of attempts that the target serves at once."""
        if late:
            self._first_output_estimate.forget(now)
        return self._first_output_estimate.at(now) + self._by_rate.at(now, self.mean)

    @property
    def mean(self) -> float | None:
        """Mean seconds of a whole answer, streamed or not."""
        mean = self.judge.mean
        return self._streamed.mean if mean is None else mean
