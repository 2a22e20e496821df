"""The circuit breaker: stops sending to a target that is ill, and finds out when it is well again.

States and what moves them::

    state      event                                     next
    closed     the trip rule says so                     open
    open       open time is over, and a call would leave half-open (that call is the first probe)
    half-open  enough probes succeeded                   closed
    half-open  enough probes failed to make that         open, for longer where the open time grows
               impossible (or any, with any_failure_reopens)
    half-open  undecided for too long                    open, likewise
    half-open  undecided after so many probes            open, for as long as before
    any        isolate()                                 isolated
    isolated   reset()                                   closed

`ready_at` looks and changes nothing; only `take` moves open to half-open. Each state has an epoch, and each
token carries the epoch (a probe: the trial) that gave it: a result that comes late, from an earlier state,
moves nothing. An attempt that we ended ourselves, by a cancel or our own deadline, is never a failure; where
it was already slow, it was a slow call.

A trial is over by its time, without anybody who acts then: the circuit counts as open from that moment on,
and moves at the next step. While it lasts, a call that finds no free place may look again when a lease is over or
the open time after the trial, whichever comes first.
"""

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from stormbreak.core.circuit import BreakerPolicy, Mode, State
from stormbreak.core.coldstart import ColdStart
from stormbreak.core.cooldown import SPREAD
from stormbreak.core.gate import OPEN, UNTIL_EVENT
from stormbreak.core.saved import Saved
from stormbreak.core.trial import Decision, Probe, Trial
from stormbreak.types import Outcome, Tally, Treatment, Verdict

LONGEST_NAMED = 900.0
"""Seconds that count of a time named by a server, at the most; then it is spread."""

Pass: TypeAlias = tuple[int, float, int]  # epoch, time it left, number in the cold start
BreakerToken: TypeAlias = Pass | Probe


class OnChange(Protocol):
    """Is told of every change of state."""

    def __call__(self, before: State, after: State, *, now: float, until: float | None) -> None:
        """`until` is the end of the open time, where the circuit opened."""
        ...


class Breaker:
    """The gate that asks whether the target is well.

    `trips` is how often the rule said to open; in metrics-only mode, how often it would have.
    """

    __slots__ = (
        "_at_rest", "_cold", "_counts", "_epoch", "_named_until", "_on_change", "_open_for", "_policy",
        "_spread", "_treatments", "_trip", "_uniform", "state", "trial", "trips", "until",
    )  # fmt: skip
    name = "breaker"
    minds_success = True

    def __init__(
        self,
        policy: BreakerPolicy,
        treatments: Mapping[Verdict, Treatment],
        on_change: OnChange,
        *,
        spread: float = SPREAD,
    ) -> None:
        """A time that a failure named is stretched by up to `spread` of itself."""
        self._policy = policy
        self._spread = spread
        self._treatments = treatments
        self._on_change = on_change
        self._trip = policy.trip.machine()
        self._cold = ColdStart(policy.lease)
        self._counts = policy.mode in (Mode.NORMAL, Mode.METRICS_ONLY)
        self._at_rest = State.ISOLATED if policy.mode is Mode.FORCED_OPEN else State.CLOSED
        self._epoch = 0
        self._open_for = policy.open_for  # as grown so far
        self._named_until = OPEN  # the latest time that a failure named since the last success
        self._uniform = 0.5  # the chance that opened the circuit last
        self.trial: Trial | None = None
        self.trips = 0
        self.state = self._at_rest
        self.until = OPEN  # end of the open time
        self._forget()

    def ready_at(self, now: float) -> float:
        """When a call may leave: see `Gate`."""
        if self.state is State.CLOSED:
            return OPEN
        if self.state is State.ISOLATED:
            return UNTIL_EVENT
        if self.trial is None:
            return self.until if self.until > now else OPEN
        until = self._open_until(self.trial.ends_at, self._after_trial(self.trial), self._uniform)
        if not self._is_stale(now):
            return min(self.trial.ready_at(now), until)
        return until if until > now else OPEN

    def standing(self, now: float) -> str:
        """How it counts now, as it is told: a trial that is over by its time counts as open."""
        state = State.OPEN if self._is_stale(now) else self.state
        return state.value.replace("_", "-")

    def take(self, now: float) -> BreakerToken:
        """Let one call pass: freely while closed, as a probe otherwise."""
        if self.state is State.CLOSED:
            return self._epoch, now, self._cold.left(now) if self._cold.on else 0
        self._end_stale_trial(now)
        if self.trial is None:
            self.trial = Trial(self._policy, now)
            self._move(State.HALF_OPEN, now)
        return self.trial.take(now)

    def settle(self, token: BreakerToken, outcome: Outcome, now: float, uniform: float) -> None:
        """Count the outcome, unless it belongs to an earlier state."""
        if not self._counts:
            return
        tally = Tally.NOTHING if outcome.own_deadline else self._treatments[outcome.verdict].tally
        if not isinstance(token, Probe) and token[0] == self._epoch:  # then the circuit is closed
            _, left_at, number = token
            if number:
                self._cold.ended(number, well=tally is Tally.SUCCESS)
            if self._is_too_much(tally, outcome, now, now - left_at):
                self._trips(now, uniform)
            return
        self._end_stale_trial(now)
        if isinstance(token, Probe) and token.trial is self.trial:
            self._settle_probe(token, tally, outcome, now, uniform)

    def _is_too_much(self, tally: Tally, outcome: Outcome, now: float, took: float) -> bool:
        if tally is Tally.SUCCESS:
            self._named_until = OPEN  # a failure cannot speak for a target that serves
            return self._trip.record(now, failed=False, took=took)
        if tally is Tally.NOTHING:
            return _was_cut(outcome) and self._trip.cut(now, took)
        self._heed(outcome, now)
        self._cold.failed(took)
        undecided = self._cold.undecided(now)
        return self._trip.record(now, failed=True, took=took, undecided=undecided)

    def _settle_probe(
        self, probe: Probe, tally: Tally, outcome: Outcome, now: float, uniform: float
    ) -> None:
        assert self.trial is not None
        counts = tally is Tally.SUCCESS or _was_cut(outcome)
        if counts and self._trip.is_slow(now - probe.sent_at):
            tally = Tally.FAILURE  # slow is what the rule calls ill
        if tally is Tally.FAILURE:
            self._heed(outcome, now)
        answered = not _was_cut(outcome)
        decision = self.trial.settle(probe, tally, answered=answered, now=now)
        if decision is Decision.ILL:
            self._open(now, now, self._longer(), uniform)
        elif decision is Decision.WELL:
            self.reset(now)
        else:
            self._end_stale_trial(now)  # with this probe it may be spent

    def _heed(self, outcome: Outcome, now: float) -> None:
        if outcome.retry_after and self._policy.heed_server:
            named = min(outcome.retry_after, LONGEST_NAMED)
            self._named_until = max(self._named_until, now + named)

    def _trips(self, now: float, uniform: float) -> None:
        self.trips += 1
        if self._policy.mode is Mode.METRICS_ONLY:
            self._forget()
            return
        self._open(now, now, self._policy.open_for, uniform)

    def _is_stale(self, now: float) -> bool:
        return self.trial is not None and now >= self.trial.ends_at

    def _end_stale_trial(self, now: float) -> None:
        if self.trial is not None and self._is_stale(now):
            seconds = self._after_trial(self.trial)
            self._open(self.trial.ends_at, now, seconds, self._uniform)

    def _open(self, at: float, now: float, seconds: float, uniform: float) -> None:
        self.until = self._open_until(at, seconds, uniform)
        self._open_for, self._uniform = seconds, uniform
        self._move(State.OPEN, now)

    def _open_until(self, at: float, seconds: float, uniform: float) -> float:
        until = at + seconds * (1 + self._policy.jitter * (2 * uniform - 1))
        named = self._named_until - at
        return max(until, at + named * (1 + self._spread * uniform)) if named > 0 else until

    def _after_trial(self, trial: Trial) -> float:
        """The open time after a trial without a decision: that nothing was told is no sign of illness."""
        return self._open_for if trial.spent else self._longer()

    def _longer(self) -> float:
        """The open time after one more failed trial, before jitter."""
        return min(self._open_for * self._policy.growth, self._most())

    def _most(self) -> float:
        return max(self._policy.longest_open, self._policy.open_for)

    def isolate(self, now: float) -> None:
        """Open by hand, until `reset`."""
        self._move(State.ISOLATED, now)

    def reset(self, now: float) -> None:
        """Close, and forget what was counted; a breaker that is forced open stays isolated."""
        self._forget()
        self._move(self._at_rest, now)

    def save(self, now: float) -> Saved:
        """What is worth keeping over a restart. Half-open is saved as open: its probes do not come back."""
        if self.state is State.HALF_OPEN and not self._is_stale(now):
            return Saved(state=State.OPEN, open_left=0.0, open_for=self._open_for)
        kept = State.OPEN if self.state is State.HALF_OPEN else self.state
        left = max(0.0, self.ready_at(now) - now) if kept is State.OPEN else 0.0
        return Saved(state=kept, open_left=left, open_for=self._open_for)

    def restore(self, saved: Saved, now: float, *, elapsed: float = 0.0) -> None:
        """Take up what was saved `elapsed` seconds ago. What was counted, and who was under way, is forgotten.

        Only a breaker in normal mode opens so; isolated is isolated in every mode. No time is longer than this
        policy makes it: it may be another than the one that was saved under.
        """
        self._forget()
        if saved.state is State.OPEN and self._policy.mode is Mode.NORMAL:
            policy = self._policy
            self._open_for = min(max(saved.open_for, policy.open_for), self._most())
            named = LONGEST_NAMED * (1 + self._spread) if policy.heed_server else 0.0
            longest = max(self._most() * (1 + policy.jitter), named)
            self.until = now + min(max(0.0, saved.open_left - elapsed), longest)
            self._move(State.OPEN, now)
        else:
            self._move(State.ISOLATED if saved.state is State.ISOLATED else self._at_rest, now)

    def _forget(self) -> None:
        self._trip.reset()
        self._open_for = self._policy.open_for
        self._named_until = OPEN
        if self._counts:
            self._cold.begin()
        else:
            self._cold.on = False

    def _move(self, after: State, now: float) -> None:
        before, self.state = self.state, after
        self._epoch += 1
        if after is not State.HALF_OPEN:
            self.trial = None
        if after is not before or after is State.OPEN:
            until = self.until if after is State.OPEN else None
            self._on_change(before, after, now=now, until=until)


def _was_cut(outcome: Outcome) -> bool:
    """Whether we ended the attempt ourselves."""
    return outcome.own_deadline or outcome.verdict is Verdict.CANCELLED
