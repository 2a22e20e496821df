"""What one call has been through so far."""

from collections import deque

from stormbreak.core.engine import Engine
from stormbreak.events import CallEnded, Event
from stormbreak.types import Call, Ended, Outcome

REMEMBERED = 64  # events a call keeps of itself


class Trail:
    """Counts attempts and unserved seconds, and keeps the last events for whoever asks why.

    `queued` is the part of `waited` that was spent in the queue; `delay` is the last backoff.

    A call that succeeds at once leaves no events unless somebody listens.
    """

    __slots__ = (
        "_engine", "_history", "attempts", "call", "delay", "queued", "unconnected", "waited",
    )  # fmt: skip

    def __init__(self, engine: Engine, call: Call) -> None:
        self._engine = engine
        self._history: deque[Event] | None = None
        self.call = call
        self.attempts = 0
        self.unconnected = 0
        self.waited = 0.0
        self.queued = 0.0
        self.delay = 0.0

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
    ) -> Ended:
        """Sum up."""
        if self._engine.listeners:
            call = self.call
            self.note(
                CallEnded(
                    now, call.number, call.target, outcome.verdict, self.attempts, self.waited
                )
            )
        history = tuple(self._history) if self._history else ()
        deadline_at = self.call.deadline_at
        return Ended(
            outcome, self.attempts, self.waited, stopped, retry_at, history,
            self.queued, deadline_at, self.unconnected,
        )  # fmt: skip
