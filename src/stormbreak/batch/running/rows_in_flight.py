"""The calls of rows in progress: when each was last sent, and which of them straggle (`core.straggler`)."""

import asyncio
import time
from dataclasses import dataclass

from stormbreak.core.row_schedule import RowAttempt
from stormbreak.core.straggler import Attempt, Stragglers
from stormbreak.events import Event, Sent
from stormbreak.http.client import AsyncClient
from stormbreak.types import FALLBACK, TARGET, CallResult, Outcome, Target, Verdict

_Kind = tuple[Target, str]  # target and endpoint

STRAGGLER = Outcome(
    Verdict.TIMEOUT, detail="given up: it took far longer than usual", maybe_processed=True
)


@dataclass(slots=True, eq=False)
class RowCall:
    """The call of a row; `sent_at` is inf before its first attempt."""

    turn: RowAttempt
    endpoint: str = ""
    sent_at: float = float("inf")
    attempts: int = 0
    in_flight: Attempt[_Kind] | None = None  # not while it waits or backs off
    given_up: bool = False

    def straggled(self) -> CallResult:
        target = None if self.in_flight is None else self.in_flight.kind[0]
        return CallResult(STRAGGLER, self.attempts, target=target, maybe_processed=1)


class RowCalls(dict[asyncio.Task[None], RowCall]):
    """The calls in progress, oldest first."""

    def __init__(self, client: AsyncClient) -> None:
        super().__init__()
        policy = client.policy
        budget = policy.retry_budget
        self._client = client
        self._stragglers: Stragglers[_Kind] = Stragglers(
            ratio=0.0 if budget is None or policy.hedge is not None else budget.ratio,
            timeout=policy.attempt_timeout,
        )

    def hear(self, event: Event) -> None:
        """Note events that begin or end an attempt of the call whose task is running."""
        call = self.get(asyncio.current_task())  # type: ignore[arg-type]  # None is no key
        if call is None:
            return
        if not isinstance(event, Sent):
            call.in_flight = None
            return
        call.sent_at = time.monotonic()
        call.attempts = event.attempt
        call.in_flight = Attempt((event.target, call.endpoint), call.sent_at, call.turn.rounds)

    def learn(self, call: RowCall, ended: CallResult) -> None:
        if ended.outcome.verdict is Verdict.OK and ended.source in (TARGET, FALLBACK):
            self.answered(call)

    def answered(self, call: RowCall) -> None:
        """Record that the last attempt of a call was answered now."""
        if call.in_flight is not None:
            self._stragglers.answered(call.in_flight.kind, time.monotonic() - call.sent_at)

    def end_stragglers(self, *, alone: bool) -> None:
        """Give up attempts that take far too long; `alone`: no row is left to send, so none can overtake them."""
        now, stragglers = time.monotonic(), self._stragglers
        for task, call in self.items():
            attempt = call.in_flight
            if attempt is None or call.given_up or not stragglers.is_overdue(attempt, now):
                continue
            target, _ = attempt.kind
            if call.attempts < call.turn.left and self._client.is_straggler(
                target, attempt.sent_at, alone=alone
            ):
                stragglers.give_up()
                call.given_up = True
                task.cancel()

    def straggling(self) -> tuple[int, float]:
        """Count the attempts that take far longer than usual, and the seconds until the last of them ends."""
        now, stragglers = time.monotonic(), self._stragglers
        attempts = (call.in_flight for call in self.values() if call.in_flight is not None)
        rests = [rest for attempt in attempts if (rest := stragglers.rest(attempt, now))]
        return len(rests), max(rests, default=0.0)
