"""Pushes the rows of a file through a client until every one is answered or explained.

One dispatcher takes rows from the schedule and starts a task for each; each task asks the client, and what
came of it goes into the journal. A row is taken only when there is room for it, and its deadline begins
when it first leaves; a call that backs off makes room for another one. Two more tasks look after the rest: one
makes the journal durable, one reports progress and gives up if nothing is ever reached.

A first signal drains the run: what was sent is still answered and written, nothing new is sent. A second
one stops at once. Either way the same command goes on from there.
"""

import asyncio
import contextlib
import logging
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from enum import Enum
from hashlib import blake2b

from stormbreak.batch.counts import Counts
from stormbreak.batch.durable import OutputError
from stormbreak.batch.journal import Journal
from stormbreak.batch.ledger import Ledger
from stormbreak.batch.lines import Failure, Response
from stormbreak.batch.row import Row
from stormbreak.batch.rows import Rows
from stormbreak.batch.schedule import STOPPING, Final, Later, Schedule, Turn
from stormbreak.batch.so_far import CostSoFar
from stormbreak.core.presets import is_off
from stormbreak.errors import ConfigurationError
from stormbreak.events import Event, Queued, RetryPlanned, Sent
from stormbreak.http.client import AsyncClient
from stormbreak.http.exchange import Received
from stormbreak.types import FALLBACK, TARGET, Ended, Outcome, Verdict

FLUSH_EVERY = 0.1  # seconds
TICK_EVERY = 0.25  # seconds
NOTE_EVERY = 1.0  # seconds
PRICE_EVERY = 1.0  # seconds
SIGNALS = (signal.SIGINT, signal.SIGTERM)

_Held = tuple[Row, Failure, Response | None]
_log = logging.getLogger("stormbreak")


class End(Enum):
    """Why a run ended."""

    FINISHED = "finished"
    REFUSED = "refused"  # every scout met the same final verdict
    SPENT = "spent"  # what is left of a limit of spending is too little for a row
    UNREACHABLE = "unreachable"  # nothing answered in HTTP
    INTERRUPTED = "interrupted"


class Runner:
    """One run over `rows`.

    With the same `salt`, a row that is sent as it was in an earlier run carries the idempotency key that it had.
    At most `width` calls are sent or about to be, and four times as many back off; something must answer
    within `grace` seconds; `tick` is called four times a second, and its trouble never fails the run. The `ledger` is
    written every second, in a thread, and whenever little is left of what it allows for.
    """

    def __init__(
        self,
        client: AsyncClient,
        rows: Rows,
        journal: Journal,
        *,
        ledger: Ledger,
        salt: str,
        width: int,
        grace: float,
        tick: Callable[["Runner"], None] = lambda _: None,
    ) -> None:
        self.client = client
        self.rows = rows
        self.journal = journal
        self.counts = Counts()
        self.schedule = Schedule(
            journal.left(), once=is_off(client.policy), spread=client.policy.retry.spread
        )
        self.refused_by: Verdict | None = None
        self.width = width
        self._grace = grace
        self._tick = tick
        self.ledger = ledger
        self.so_far = CostSoFar(client, ledger)
        self._short = asyncio.Event()  # of what may be spent
        self._end: End | None = None
        self._error: BaseException | None = None
        self._calls: set[asyncio.Task[None]] = set()
        # Failures of scouts, written once the run is known to make sense.
        self._held: list[_Held] = []
        self._bell = asyncio.Event()
        self._salt = f"{salt} {client.base_url}".encode()
        client.subscribe(self._hear)

    @property
    def stopping(self) -> bool:
        """Whether nothing new is sent any more."""
        return self._end is not None

    @property
    def under_way(self) -> int:
        """Calls that have not ended: sent, about to be, or backing off."""
        return len(self._calls)

    async def run(self) -> End:
        """Run to the end, whichever it is; raises what the journal raised, if it could not write."""
        sitters = [
            asyncio.create_task(sit())
            for sit in (self._flush_often, self._look_often, self._note_often, self._price_often)
        ]
        try:
            with self._signals():
                await self._dispatch()
                while self._calls:
                    await asyncio.wait(self._calls)
        finally:
            for task in (*sitters, *self._calls):
                task.cancel()
            await asyncio.gather(*sitters, *self._calls, return_exceptions=True)
        if self._error is not None:
            raise self._error
        if self._end is None and self.counts.unreachable:  # sooner than the grace was over
            self._end = End.UNREACHABLE
        if self._end not in (End.REFUSED, End.UNREACHABLE):
            self._write_held()
        await asyncio.to_thread(self.journal.flush)
        await asyncio.to_thread(self.so_far.look)
        self._show()
        return self._end or End.FINISHED

    async def _dispatch(self) -> None:
        while self._end is None:
            self._bell.clear()
            if not self._has_room():
                await self._bell.wait()
                continue
            turn = self.schedule.take(time.monotonic())
            if turn is None:
                return
            if isinstance(turn, Turn):
                task = asyncio.create_task(self._serve(turn))
                self._calls.add(task)
                task.add_done_callback(self._over)
            else:
                await self._wait_until(turn)

    def _has_room(self) -> bool:
        calls = len(self._calls)
        return calls - self.counts.backing_off < self.width and calls < 5 * self.width

    async def _wait_until(self, until: float) -> None:
        """Wait for the bell, at the latest until then."""
        span = None if until == float("inf") else max(0.0, until - time.monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(span):
                await self._bell.wait()

    def _hear(self, event: Event) -> None:
        self.counts.hear(event)
        if isinstance(event, RetryPlanned):
            self._bell.set()
        elif isinstance(event, Sent | Queued) and self.ledger.is_short:
            self._short.set()

    async def _serve(self, turn: Turn) -> None:
        row = self.rows.row_at(turn.index)
        now = time.monotonic()
        left = None if turn.deadline_at is None else max(0.0, turn.deadline_at - now)
        try:
            ended = await self.client.ask(
                row.endpoint,
                row.body,
                deadline=left,
                queue_is_free=left is None,
                attempts=turn.left,
                idempotency_key=self._key_of(row),
            )
        except ConfigurationError as error:  # about this row alone
            ended = Ended(Outcome(Verdict.INVALID, detail=str(error)))
        if ended.stopped == "spend" and ended.retry_at is None:
            self._stop(End.SPENT)
        elif ended.stopped != "drained":
            self._settle(turn, row, ended)

    def _key_of(self, row: Row) -> str:
        """The same in every round of a row, and in every run that asks the same there."""
        asked = blake2b(self._salt, digest_size=16)
        asked.update(f" {row.index} {row.endpoint} ".encode())
        asked.update(row.body)
        return asked.hexdigest()

    def _settle(self, turn: Turn, row: Row, ended: Ended) -> None:
        now = time.monotonic()
        self.counts.explain(ended.outcome)
        if turn.rounds and ended.attempts:
            self.counts.retries += 1  # a row that has come back was sent before
        fate = self.schedule.settle(turn, ended, now, random.random())  # noqa: S311 - spread, no secret
        if isinstance(fate, Later):
            return
        received = ended.outcome.value
        response = None
        if isinstance(received, Received):
            response = _response(received, _who(ended) if fate.ok else None)
        if fate.ok:
            assert response is not None
            self.counts.add(received.reading.usage)
            self.journal.succeed(row, response)
        elif self._may_be_undone(ended.outcome.verdict):
            self._held.append((row, _failure(ended, fate, now), response))
        else:
            self.journal.fail(row, _failure(ended, fate, now), response)
        if not self.schedule.scouting:
            self._write_held()
        self.refused_by = self.schedule.stop_reason()
        if self.refused_by is not None:
            self._stop(End.REFUSED)

    def _may_be_undone(self, verdict: Verdict) -> bool:
        """Whether the run may yet end for what a row failed with, which then says nothing of the row."""
        return self.schedule.scouting and (verdict in STOPPING or self.counts.unreachable)

    def _write_held(self) -> None:
        held, self._held = self._held, []
        for row, failure, response in held:
            self.journal.fail(row, failure, response)

    def _over(self, task: "asyncio.Task[None]") -> None:
        self._calls.discard(task)
        self._bell.set()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._give_up(error)

    def _stop(self, end: End) -> None:
        """Send nothing more; what was sent is still answered."""
        self._end = self._end or end
        self.client.drain()
        self._bell.set()

    def _cancel_all(self) -> None:
        for task in self._calls:
            task.cancel()

    def interrupt(self) -> None:
        """Send nothing more, and end when what was sent is answered; the second time, end at once."""
        if self._end is not None:
            self._cancel_all()
        self._stop(End.INTERRUPTED)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Listen to signals, where there are any: only the main thread gets them."""
        loop = asyncio.get_running_loop()
        heard = SIGNALS if threading.current_thread() is threading.main_thread() else ()
        for number in heard:
            loop.add_signal_handler(number, self.interrupt)
        try:
            yield
        finally:
            for number in heard:
                loop.remove_signal_handler(number)

    def _give_up(self, error: BaseException) -> None:
        """Stop; wait for what was sent, unless its answers could not be written anyway."""
        self._error = self._error or error
        self._stop(End.INTERRUPTED)
        if isinstance(error, OutputError) and not self.journal.is_writable:
            self._cancel_all()

    async def _flush_often(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY)
            try:
                if self.journal.pending:
                    await asyncio.to_thread(self.journal.flush)
            except OutputError as error:
                return self._give_up(error)

    async def _note_often(self) -> None:
        noted = self.counts.attempts
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._short.wait(), NOTE_EVERY)
            self._short.clear()
            if self.counts.attempts == noted and not self.ledger.is_short:
                continue
            noted = self.counts.attempts
            try:
                await asyncio.to_thread(self.ledger.write)
            except OutputError as error:
                return self._give_up(error)
            self.ledger.allow()

    async def _price_often(self) -> None:
        """Work out what it costs by now, in a thread."""
        while True:
            await asyncio.to_thread(self.so_far.look)
            await asyncio.sleep(PRICE_EVERY)

    async def _look_often(self) -> None:
        """Show progress; give up when the grace is over and nothing was reached."""
        give_up_at = time.monotonic() + self._grace
        while True:
            self._show()
            if time.monotonic() >= give_up_at and self.counts.unreachable:
                self._stop(End.UNREACHABLE)
                self._cancel_all()
            await asyncio.sleep(TICK_EVERY)

    def _show(self) -> None:
        try:
            self._tick(self)
        except Exception:  # noqa: BLE001 - such as a terminal that is gone
            _log.warning("progress cannot be shown any more", exc_info=True)
            self._tick = lambda _: None


def _who(ended: Ended) -> str | None:
    """Who answered a row, where it was not the target that it is for."""
    if ended.source == FALLBACK and ended.target is not None:
        return f"{ended.target.provider}/{ended.target.model}"
    return None if ended.source == TARGET else ended.source


def _response(received: Received, answered_by: str | None) -> Response:
    return Response(
        status_code=received.status,
        request_id=received.reading.request_id,
        body=received.body,
        answered_by=answered_by,
    )


def _failure(ended: Ended, fate: Final, now: float) -> Failure:
    """Explain a row that failed, in our own words."""
    outcome = ended.outcome
    said = [outcome.verdict.value]
    said += [f"status {outcome.status}"] if outcome.status else []
    said += [outcome.detail] if outcome.detail else []
    said += [outcome.rejection.reason] if outcome.rejection else []
    said += [f"no further retry: {ended.stopped}"] if ended.stopped else []
    return Failure(
        code=outcome.code or outcome.verdict.value,
        message="; ".join(said),
        verdict=outcome.verdict,
        attempts=fate.attempts,
        maybe_processed=fate.maybe_processed,
        retry_at=None if ended.retry_at is None else time.time() + ended.retry_at - now,
    )
