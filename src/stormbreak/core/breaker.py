"""The circuit breaker: it stops calls to an unhealthy target, and probes it for recovery.

States and transitions::

    state      event                                     next
    closed     the trip rule fires                       open
    open       open time is over, and a call would leave half-open (that call is the first probe)
    half-open  enough probes succeeded                   closed
    half-open  too many probes failed for that           open, for longer where the open time grows
               (or one, with reopen_on_any_failure)
    half-open  undecided after max_half_open_duration    open, for longer likewise
    half-open  undecided after many unclear probes       open, for as long as before
    any        isolate()                                 isolated
    isolated   reset()                                   closed
    isolated   its duration is over, and a call would    half-open (closed where the mode never opens)
               leave

`ready_at` changes nothing; only `take` moves open to half-open. Each state has an epoch. Each token carries the epoch
(a
probe: the trial) that issued it, so a late result from an earlier state changes nothing. An attempt that we ended, by a
cancel or our deadline, is never a failure; if it was already slow, it counts as a slow call.

The open time begins with the policy's `open_duration` and grows with each failed trial (`BreakerPolicy.longer`).
`_open_until` adds jitter, and keeps the circuit open until a Retry-After is over.

A trial can end by time alone: from then on the circuit counts as open, and its state changes at the next step. During a
trial, a call that finds no free place checks again when a lease ends, or when the open time after the trial would end,
whichever is first.
"""

from collections.abc import Mapping
from math import inf
from typing import Protocol, TypeAlias

from stormbreak.core.breaker_policy import CLOSED, BreakerPolicy, Mode, State
from stormbreak.core.checks import require, require_number
from stormbreak.core.circuit_snapshot import MAX_SECONDS, CircuitSnapshot
from stormbreak.core.cooldown import SPREAD
from stormbreak.core.diagnosis import Diagnosis
from stormbreak.core.gate import NEVER, READY, InFlight
from stormbreak.core.half_open import Decision, Probe, Trial
from stormbreak.core.trip import Counts
from stormbreak.types import Outcome, Tally, Treatment, Verdict

MAX_RETRY_AFTER = 900.0  # maximum seconds of a Retry-After, before jitter; an unprobed circuit is remembered as long

Pass: TypeAlias = tuple[int, float, InFlight | None]
"""Epoch, time of sending, and the token of the breaker's own diagnosis."""

BreakerToken: TypeAlias = Pass | Probe


class OnChange(Protocol):
    """Called at every change of state."""

    def __call__(self, before: State, after: State, *, now: float, until: float | None) -> None:
        """`until` is the end of the open time, or of a timed isolation."""


class Breaker:
    """The gate of a target's health.

    `trips` counts how often the rule opened the circuit, or in metrics-only mode would have.
    """

    name = "breaker"
    takes = True

    def __init__(
        self,
        policy: BreakerPolicy,
        treatments: Mapping[Verdict, Treatment],
        on_change: OnChange,
        *,
        spread: float = SPREAD,
        alone: bool = False,
        diagnosis: Diagnosis | None = None,
    ) -> None:
        """A Retry-After of a failure is extended by a random share of up to `spread`.

        Without a `diagnosis` it creates one. `alone`: there is no cooldown gate, so the Retry-After of a probe holds
        the next probes.
        """
        self._policy = policy
        self._spread = spread
        self._treatments = treatments
        self._on_change = on_change
        self._diagnosis = diagnosis or Diagnosis(treatments)
        self._trip = policy.trip.counter(self._diagnosis)
        self._counts = policy.mode in (Mode.NORMAL, Mode.METRICS_ONLY)
        self._observes = diagnosis is None and self._counts
        self._open_is_idle = State.ISOLATED if policy.mode is Mode.FORCED_OPEN else State.CLOSED
        self._alone = alone
        self._epoch = 0
        self._uniform = 0.5  # the random number of the last opening
        self._probed_at = -inf  # when the last probe left
        self.trial: Trial | None = None
        self.trips = 0
        self.state = self._open_is_idle
        self.until = self._open_until_at  # end of the open time, or of an isolation
        self._forget()

    @property
    def _open_until_at(self) -> float:
        return NEVER if self._open_is_idle is State.ISOLATED else READY

    def ready_at(self, _call: object, now: float) -> float:
        if self.state is CLOSED:
            return READY
        ready_at = self._probe_ready_at(now)
        next_at = self._probed_at + self._trip.probe_gap()
        return next_at if next_at > now and next_at > ready_at else ready_at

    def _probe_ready_at(self, now: float) -> float:
        if self.trial is None:
            return self.until if self.until > now else READY
        until = self._open_until(self.trial.ends_at, self._after_trial(self.trial), self._uniform)
        if not self._is_stale(now):
            hold = self._hold if self._hold > now else READY
            return min(max(self.trial.ready_at(now), hold), until)
        return until if until > now else READY

    def state_at(self, now: float) -> State:
        """Return the state now: a trial that has ended by time counts as open."""
        return State.OPEN if self._is_stale(now) else self.state

    def state_text(self, now: float) -> str:
        """Return the state as a word for messages."""
        return self.state_at(now).value.replace("_", "-")

    def next_probe(self, now: float) -> float | None:
        """Return the seconds until a call may leave as a probe; None if none will, or if probes are in flight."""
        ready_at = self.ready_at(None, now)
        if self.state_at(now) not in (State.OPEN, State.ISOLATED) or ready_at == NEVER:
            return None
        return max(0.0, ready_at - now)

    def counts(self, now: float) -> Counts:
        return self._trip.counts(now)

    def is_needed(self, now: float) -> bool:
        """Whether it has state that a new breaker would lack.

        Some time after its next probe was due, an unused circuit counts as closed.
        """
        if self.state is self._open_is_idle:
            return False
        ready_at = self.ready_at(None, now)
        return ready_at > now or now - self.until < MAX_RETRY_AFTER

    def take(self, _call: object, now: float) -> BreakerToken:
        """Let one call pass: freely while closed, as a probe otherwise."""
        if self.state is CLOSED:
            return self._epoch, now, self._diagnosis.take(None, now) if self._observes else None
        self._end_stale_trial(now)
        if self.state is State.ISOLATED and self._policy.mode is not Mode.NORMAL:
            self.reset(now)  # a trial would never decide
            return self.take(None, now)
        if self.trial is None:
            self.trial = Trial(self._policy, now, pace=self._open_duration)
            self._move(State.HALF_OPEN, now)
        self._probed_at = now
        probe = self.trial.take(now, lost_after=self._diagnosis.lost_after)
        probe.flight = self._diagnosis.take(None, now) if self._observes else None
        return probe

    def settle(self, token: BreakerToken, outcome: Outcome, now: float, uniform: float) -> None:
        """Count the outcome, unless it belongs to an earlier state."""
        if not self._counts:
            return
        if self._observes:
            flight = token.flight if isinstance(token, Probe) else token[2]
            assert flight is not None
            self._diagnosis.settle(flight, outcome, now, uniform)
        own = outcome.own_deadline
        tally = Tally.NOTHING if own else self._treatments[outcome.verdict].tally
        if type(token) is tuple and token[0] == self._epoch:  # the circuit is closed
            if self._should_trip(tally, outcome, now, now - token[1]):
                self._trips(now, uniform)
            return
        self._end_stale_trial(now)
        if isinstance(token, Probe) and token.trial is self.trial:
            self._settle_probe(token, tally, outcome, now, uniform)

    def on_success(self, token: BreakerToken, outcome: Outcome, now: float, uniform: float) -> None:
        """Count a success, unless it belongs to an earlier state."""
        if (
            self._observes
            or not self._counts
            or type(token) is not tuple
            or token[0] != self._epoch
        ):
            self.settle(token, outcome, now, uniform)
            return
        self._retry_after_until = -inf  # the target serves, so an earlier Retry-After is obsolete
        if self._trip.record(now, 0, now - token[1]):
            self._trips(now, uniform)

    def _should_trip(self, tally: Tally, outcome: Outcome, now: float, took: float) -> bool:
        if tally is Tally.SUCCESS:
            self._retry_after_until = -inf
            return self._trip.record(now, 0, took)
        if tally is Tally.NOTHING:
            return _was_cancelled_late(outcome) and self._trip.cut(now, took)
        self._respect_retry_after(outcome, now)
        return self._trip.record(now, 1, took)

    def _settle_probe(
        self, probe: Probe, tally: Tally, outcome: Outcome, now: float, uniform: float
    ) -> None:
        assert self.trial is not None
        counts = tally is Tally.SUCCESS or _was_cancelled_late(outcome)
        if counts and self._trip.is_slow(now - probe.sent_at):
            tally = Tally.FAILURE  # slow calls are failures of the rule
        if tally is Tally.SUCCESS:
            self._retry_after_until = self._hold = -inf
        elif tally is Tally.FAILURE or self._alone:
            self._respect_retry_after(outcome, now)
            if self._alone:
                self._hold = self._retry_after_end(now, uniform)
        answered = not _was_cancelled_late(outcome)
        decision = self.trial.settle(probe, tally, answered=answered, now=now)
        if decision is Decision.UNHEALTHY:
            self._open(now, now, self._longer(), uniform)
        elif decision is Decision.HEALTHY:
            self.reset(now)
        else:
            self._end_stale_trial(now)  # this probe may have spent the trial

    def _respect_retry_after(self, outcome: Outcome, now: float) -> None:
        if outcome.retry_after and self._policy.respect_retry_after:
            named = min(outcome.retry_after, MAX_RETRY_AFTER)
            self._retry_after_until = max(self._retry_after_until, now + named)

    def _trips(self, now: float, uniform: float) -> None:
        self.trips += 1
        if self._policy.mode is Mode.METRICS_ONLY:
            self._forget()
            return
        self._open(now, now, self._policy.open_duration, uniform)

    def _is_stale(self, now: float) -> bool:
        return self.trial is not None and now >= self.trial.ends_at

    def _end_stale_trial(self, now: float) -> None:
        if self.trial is not None and self._is_stale(now):
            seconds = self._after_trial(self.trial)
            self._open(self.trial.ends_at, now, seconds, self._uniform)

    def _open(self, at: float, now: float, seconds: float, uniform: float) -> None:
        self.until = self._open_until(at, seconds, uniform)
        self._named_ends_at = self._retry_after_end(at, uniform)  # for `save`
        self._open_duration, self._uniform = seconds, uniform
        self._move(State.OPEN, now)

    def _open_until(self, at: float, seconds: float, uniform: float) -> float:
        until = at + seconds * (1 + self._policy.open_duration_jitter * (2 * uniform - 1))
        return max(until, self._retry_after_end(at, uniform))

    def _retry_after_end(self, at: float, uniform: float) -> float:
        """Return the end of the Retry-After in force at `at`, with jitter; READY if there is none."""
        named = self._retry_after_until - at
        return at + named * (1 + self._spread * uniform) if named > 0 else READY

    def _after_trial(self, trial: Trial) -> float:
        """Return the open time after a trial without a decision: unchanged if it is spent, which proves nothing."""
        return self._open_duration if trial.spent else self._longer()

    def _longer(self) -> float:
        """Return the open time after one more failed trial, before jitter."""
        return self._policy.longer(self._open_duration)

    def isolate(self, now: float, *, duration: float | None = None) -> None:
        """Isolate: until `reset`, or for `duration` seconds, after which a trial decides.

        Raises:
            ConfigurationError: `duration` is not a valid duration.
        """
        if duration is not None:
            require_number("duration", duration)
            require(
                0 < duration <= MAX_SECONDS,
                f"duration must be above 0, up to {MAX_SECONDS:.0f} s",
                duration,
            )
        self._manual_until = NEVER if duration is None else now + duration
        self.until = max(self._manual_until, self._open_until_at)
        self._move(State.ISOLATED, now)

    def reset(self, now: float) -> None:
        """Close, and reset the counts; a breaker that is forced open stays isolated."""
        self._forget()
        self.until = self._open_until_at
        self._move(self._open_is_idle, now)

    def force(self, forced_open: bool, now: float) -> None:  # noqa: FBT001
        """Force the circuit open, or stop forcing it: the policy has changed."""
        at_rest = State.ISOLATED if forced_open else State.CLOSED
        if at_rest is self._open_is_idle:
            return
        self._open_is_idle = at_rest
        if self._manual_until > now:
            self.until = max(self._manual_until, self._open_until_at)
        else:
            self.reset(now)

    def save(self, now: float) -> CircuitSnapshot:
        """Return the state to keep over a restart.

        Half-open is saved as open, since its probes are lost. An isolation by the mode alone is saved as closed, since
        the next process has its own mode.
        """
        open_for = self._open_duration
        if self._manual_until > now:
            left = 0.0 if self._manual_until == NEVER else self._manual_until - now
            return CircuitSnapshot(state=State.ISOLATED, open_left=left, open_for=open_for)
        if self.state is State.CLOSED or self._policy.mode is not Mode.NORMAL:
            return CircuitSnapshot(state=State.CLOSED, open_left=0.0, open_for=open_for)
        if self.state is State.OPEN or self._is_stale(now):
            stale = self.trial
            named = (
                self._retry_after_end(stale.ends_at, self._uniform)
                if stale
                else self._named_ends_at
            )
            return CircuitSnapshot(
                state=State.OPEN,
                open_left=max(0.0, self.ready_at(None, now) - now),
                open_for=open_for,
                named_left=max(0.0, named - now),
            )
        return CircuitSnapshot(state=State.OPEN, open_left=0.0, open_for=open_for)

    def restore(self, saved: CircuitSnapshot, now: float, *, elapsed: float = 0.0) -> None:
        """Restore the state that was saved `elapsed` seconds ago, without counts and calls in flight.

        Only a breaker in normal mode opens this way; an isolation is restored in every mode. All times are capped by
        this policy, which may differ from the saved one.
        """
        self._forget()
        left = saved.open_left - elapsed
        if saved.state is State.ISOLATED and (saved.open_left == 0 or left > 0):
            self.isolate(now, duration=left if saved.open_left else None)
        elif saved.state is not State.CLOSED and self._policy.mode is Mode.NORMAL:
            self._restore_open(saved, now, elapsed)
        else:
            self.reset(now)

    def _restore_open(self, saved: CircuitSnapshot, now: float, elapsed: float) -> None:
        policy = self._policy
        longest = policy.open_duration_limit
        self._open_duration = min(max(saved.open_for, policy.open_duration), longest)
        own = min(saved.open_left, longest * (1 + policy.open_duration_jitter))
        longest_named = MAX_RETRY_AFTER * (1 + self._spread) if policy.respect_retry_after else 0.0
        named = min(saved.named_left, longest_named)
        self._named_ends_at = now + max(0.0, named - elapsed)
        self.until = now + max(0.0, own - elapsed, named - elapsed)
        self._move(State.OPEN, now)

    def _forget(self) -> None:
        self._trip.reset()
        self._open_duration = self._policy.open_duration  # grows with failed trials
        # The latest Retry-After since the last success.
        self._retry_after_until = -inf
        self._manual_until = -inf  # end of an isolation by hand

    def _move(self, after: State, now: float) -> None:
        before, self.state = self.state, after
        self._epoch += 1
        self._hold = -inf  # no probe leaves before this
        self._diagnosis.probed = after in (State.OPEN, State.HALF_OPEN)
        if after is not State.HALF_OPEN:
            self.trial = None
        if after is not before or after is State.OPEN:
            shut = after in (State.OPEN, State.ISOLATED)
            until = self.until if shut and self.until < NEVER else None
            self._on_change(before, after, now=now, until=until)


def _was_cancelled_late(outcome: Outcome) -> bool:
    """Whether we ended the attempt ourselves."""
    return outcome.own_deadline or outcome.verdict is Verdict.CANCELLED
