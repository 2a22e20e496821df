"""The state of one call."""

from collections import deque
from collections.abc import Callable
from math import inf

import msgspec

from stormbreak.core.engine import Engine
from stormbreak.core.retry import RetryAllowance
from stormbreak.core.tenant import Tenant
from stormbreak.events import CallEnded, Event
from stormbreak.types import TARGET, Call, CallResult, Outcome, Target, Verdict

MAX_EVENTS = 64  # maximum events that a call keeps
NO_VERDICTS = frozenset[Verdict]()


class CallState(msgspec.Struct, eq=False):  # its constructor is not written in Python
    """Counts attempts and unserved seconds, and keeps the last events of a call for `explain`.

    A call that succeeds at once keeps no events unless there are listeners.
    """

    engine: Engine
    call: Call
    attempts: int = 0
    earlier_attempts: int = 0  # at earlier targets
    unconnected: int = 0  # attempts without a connection
    maybe_processed: int = 0  # failed attempts that may have been processed
    waited: float = 0.0  # seconds unserved: in the queue and in backoff
    queued: float = 0.0  # seconds of these in the queue
    delay: float = 0.0  # the last backoff in seconds
    retried_late: bool = False
    followed_retry_after: bool = False  # the last retry followed a Retry-After of this target
    sent_at: float = 0.0  # when the last attempt left
    ended_at: float = 0.0  # when the call ended at its last target
    source: str = TARGET  # where the answer comes from
    fallback_verdicts: frozenset[Verdict] = NO_VERDICTS  # with these another target takes the call
    later_verdicts: frozenset[Verdict] = NO_VERDICTS  # with these a later step may answer the call
    tenant: Tenant | None = None  # pays for its attempts
    may_move: bool = False  # the end at one target is not the end of the call
    _events: deque[Event] | None = None

    def move(
        self,
        target: Target,
        *,
        patience: float | None,
        fail_fast: bool,
        fallback_verdicts: frozenset[Verdict],
        later_verdicts: frozenset[Verdict],
    ) -> None:
        """Begin at a target of a call with fallbacks."""
        self.call = self.call._replace(target=target, patience=patience, fail_fast=fail_fast)
        self.fallback_verdicts = fallback_verdicts
        self.later_verdicts = later_verdicts
        self.earlier_attempts = self.attempts
        self.delay = 0.0
        self.followed_retry_after = False

    def expires_at(self, now: float) -> float:
        """Return the time until which the call may wait, by its deadline and its patience."""
        call = self.call
        deadline_at = inf if call.deadline_at is None else call.deadline_at
        patience = inf if call.patience is None else call.patience - self.waited
        return min(deadline_at, now + patience)

    def allowance(self, verdict: Verdict, now: float) -> RetryAllowance:
        """Return the time and attempts left after `verdict`, and whether a late retry is left."""
        call = self.call
        patient = not (call.fail_fast or verdict in self.later_verdicts)
        return RetryAllowance(
            deadline=inf if call.deadline_at is None else call.deadline_at - now,
            patience=inf if call.patience is None else call.patience - self.waited,
            attempts=inf if call.max_attempts is None else call.max_attempts - self.attempts,
            late=patient and not self.retried_late,
            returned=patient and self.followed_retry_after,
        )

    def note(self, event: Callable[..., Event], now: float, *details: object) -> None:
        """Record an event of this call and target, and emit it to listeners."""
        noted = event(now, self.call.number, self.call.target, *details)
        if self._events is None:
            self._events = deque(maxlen=MAX_EVENTS)
        self._events.append(noted)
        if self.engine.listeners:
            self.engine.events.append(noted)

    def end(
        self,
        outcome: Outcome,
        now: float,
        *,
        stopped: str | None = None,
        retry_at: float | None = None,
        of_tenant: bool = False,
    ) -> CallResult:
        """Return the result of the call, at one target or overall."""
        self.ended_at = now
        if self.engine.listeners and not self.may_move:
            usage = outcome.usage if outcome.verdict is Verdict.OK else None
            details = outcome.verdict, self.attempts, self.waited, self.maybe_processed, usage
            self.note(CallEnded, now, *details)
        call, events = self.call, tuple(self._events) if self._events else ()
        return tuple.__new__(  # the constructor of a NamedTuple is a Python function, and takes twice as long
            CallResult,
            (
                outcome,
                self.attempts,
                self.waited,
                stopped,
                retry_at,
                events,
                self.queued,
                call.deadline_at,
                self.unconnected,
                call.target,
                self.source,
                self.maybe_processed,
                of_tenant,
            ),
        )
