"""What one call has been through so far."""

from collections import deque

from stormbreak.core.engine import Engine
from stormbreak.events import CallEnded, Event
from stormbreak.types import TARGET, Call, CallResult, Outcome, Target, Verdict

REMEMBERED = 64  # events a call keeps of itself


class CallState:
    """Counts attempts and unserved seconds, and keeps the last events for whoever asks why.

    `queued` is the part of `waited` that was spent in the queue; `delay` is the last backoff, `before` are the attempts at
    earlier targets, `source` says where the answer comes from, and `elsewhere` for which verdicts another target can take the call. `unconnected` and `maybe_processed` count attempts as
    `CallResult` does.

    A call that succeeds at once leaves no events unless somebody listens.
    """

    __slots__ = (
        "_engine", "_history", "attempts", "call", "delay", "maybe_processed", "queued", "sent_at", "unconnected",
        "waited",
    )  # fmt: skip
    before = 0
    elsewhere: frozenset[Verdict] = frozenset()
    source = TARGET

    def __init__(self, engine: Engine, call: Call) -> None:
        self._engine = engine
        self._history: deque[Event] | None = None
        self.call = call
        self.attempts = 0
        self.unconnected = 0
        self.maybe_processed = 0
        self.waited = 0.0
        self.queued = 0.0
        self.delay = 0.0
        self.sent_at = 0.0  # when the last attempt left

    def note(self, event: Event) -> None:
        """Keep an event, and pass it on if somebody listens."""
        if self._history is None:
            self._history = deque(maxlen=REMEMBERED)
        self._history.append(event)
        if self._engine.listeners:
            self._engine.events.append(event)

    def end(
        self,
        outcome: Outcome,
        now: float,
        *,
        stopped: str | None = None,
        retry_at: float | None = None,
    ) -> CallResult:
        """Sum up, and tell that the call is over."""
        if self._engine.listeners:
            call = self.call
            self.note(
                CallEnded(
                    now,
                    call.number,
                    call.target,
                    outcome.verdict,
                    self.attempts,
                    self.waited,
                    self.maybe_processed,
                    outcome.usage if outcome.verdict is Verdict.OK else None,
                )
            )
        return self._sum(outcome, stopped, retry_at)

    def _sum(self, outcome: Outcome, stopped: str | None, retry_at: float | None) -> CallResult:
        history = tuple(self._history) if self._history else ()
        deadline_at = self.call.deadline_at
        return CallResult(
            outcome, self.attempts, self.waited, stopped, retry_at, history,
            self.queued, deadline_at, self.unconnected, self.call.target, self.source,
            self.maybe_processed,
        )  # fmt: skip


class FallbackCallState(CallState):
    """That of a call with fallbacks: while `more` may follow, an end at one target is not that of the call."""

    __slots__ = ("before", "elsewhere", "ended_at", "more", "source")

    def __init__(self, engine: Engine, call: Call) -> None:
        super().__init__(engine, call)
        self.before = 0
        self.elsewhere = frozenset()
        self.ended_at = 0.0
        self.more = True
        self.source = TARGET

    def move(
        self,
        target: Target,
        *,
        patience: float | None,
        fail_fast: bool,
        elsewhere: frozenset[Verdict],
    ) -> None:
        """Begin at a target."""
        self.call = self.call._replace(target=target, patience=patience, fail_fast=fail_fast)
        self.elsewhere = elsewhere
        self.before = self.attempts
        self.delay = 0.0

    def end(
        self,
        outcome: Outcome,
        now: float,
        *,
        stopped: str | None = None,
        retry_at: float | None = None,
    ) -> CallResult:
        """Sum up what came of one target, or in the end of all."""
        self.ended_at = now
        if self.more:
            return self._sum(outcome, stopped, retry_at)
        return super().end(outcome, now, stopped=stopped, retry_at=retry_at)
