"""Pushes the rows of a file through a client until every one is answered or explained.

One dispatcher takes rows from the schedule and starts a task for each; each task asks the client, and what
came of it goes into the journal. Three more tasks look after the rest: one makes the journal durable, one
gives up if nothing ever answers, one reports progress.

A first signal drains the run: what was sent is still answered and written, nothing new is sent. A second
one stops at once. Either way the same command goes on from there.
"""

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator
from enum import Enum

from stormbreak.batch.counts import Counts
from stormbreak.batch.journal import Journal
from stormbreak.batch.lines import Failure, Response
from stormbreak.batch.row import Row
from stormbreak.batch.rows import Rows
from stormbreak.batch.schedule import Later, Schedule, Turn
from stormbreak.http.client import AsyncClient
from stormbreak.http.exchange import Received
from stormbreak.types import Ended, Verdict

FLUSH_EVERY = 0.1  # seconds
TICK_EVERY = 0.25  # seconds
SIGNALS = (signal.SIGINT, signal.SIGTERM)

_Held = tuple[Row, Failure, Response | None]


class End(Enum):
    """Why a run ended."""

    FINISHED = "finished"
    REFUSED = "refused"  # every scout met the same final verdict
    UNREACHABLE = "unreachable"  # nothing answered in HTTP
    INTERRUPTED = "interrupted"


class Runner:
    """One run over `rows`.

    `width` calls are under way at once; something must answer within `grace` seconds; `tick` is called four
    times a second.
    """

    def __init__(
        self,
        client: AsyncClient,
        rows: Rows,
        journal: Journal,
        *,
        width: int,
        grace: float,
        tick: Callable[["Runner"], None] = lambda _: None,
    ) -> None:
        self.client = client
        self.rows = rows
        self.journal = journal
        self.counts = Counts()
        self.schedule = Schedule(journal.left(), deadline=client.policy.deadline)
        self.refused_by: Verdict | None = None
        self._width = width
        self._grace = grace
        self._tick = tick
        self._end: End | None = None
        self._error: BaseException | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._held: list[
            _Held
        ] = []  # failures of scouts, written once the run is known to make sense
        self._bell = asyncio.Event()
        client.subscribe(self.counts.hear)

    async def run(self) -> End:
        """Run to the end, whichever it is; raises what the journal raised, if it could not write."""
        sitters = [
            asyncio.create_task(sit())
            for sit in (self._flush_often, self._watch_connection, self._tick_often)
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
        if self._end is not End.REFUSED:
            self._write_held()
        await asyncio.to_thread(self.journal.flush)
        self._tick(self)
        return self._end or End.FINISHED

    async def _dispatch(self) -> None:
        while self._end is None:
            self._bell.clear()
            if len(self._calls) >= self._width:
                await self._bell.wait()
                continue
            turn = self.schedule.take(time.monotonic())
            if turn is None:
                return
            if isinstance(turn, Turn):
                task = asyncio.create_task(self._serve(turn))
                self._calls.add(task)
                task.add_done_callback(self._over)
                await asyncio.sleep(
                    0
                )  # one at a time: the first answers come while the last are sent
            else:
                await self._wait_until(turn)

    async def _wait_until(self, until: float) -> None:
        """Wait for the bell, at the latest until then."""
        span = None if until == float("inf") else max(0.0, until - time.monotonic())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._bell.wait(), span)

    async def _serve(self, turn: Turn) -> None:
        row = self.rows.row_at(turn.index)
        now = time.monotonic()
        left = None if turn.deadline_at is None else max(0.0, turn.deadline_at - now)
        ended = await self.client.ask(row.endpoint, row.body, deadline=left)
        if ended.stopped != "drained":
            self._settle(turn, row, ended)

    def _settle(self, turn: Turn, row: Row, ended: Ended) -> None:
        now = time.monotonic()
        fate = self.schedule.settle(turn, ended, now, random.random())  # noqa: S311 - spread, no secret
        if isinstance(fate, Later):
            return
        received = ended.outcome.value
        response = _response(received) if isinstance(received, Received) else None
        if fate.ok:
            assert response is not None
            self.counts.add(received.reading.usage)
            self.journal.succeed(row, response)
        else:
            self._held.append((row, _failure(ended, fate.attempts, now), response))
        if not self.schedule.scouting:
            self._write_held()
        self.refused_by = self.schedule.stop_reason()
        if self.refused_by is not None:
            self._stop(End.REFUSED)

    def _write_held(self) -> None:
        held, self._held = self._held, []
        for row, failure, response in held:
            self.journal.fail(row, failure, response)

    def _over(self, task: "asyncio.Task[None]") -> None:
        self._calls.discard(task)
        self._bell.set()
        if not task.cancelled() and task.exception() is not None and self._error is None:
            self._error = task.exception()
            self._stop(End.INTERRUPTED)
            self._cancel_all()

    def _stop(self, end: End) -> None:
        """Send nothing more; what was sent is still answered."""
        self._end = self._end or end
        self.client.drain()
        self._bell.set()

    def _cancel_all(self) -> None:
        for task in self._calls:
            task.cancel()

    def _interrupt(self) -> None:
        if self._end is not None:
            self._cancel_all()
        self._stop(End.INTERRUPTED)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._interrupt)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    async def _flush_often(self) -> None:
        try:
            while True:
                await asyncio.sleep(FLUSH_EVERY)
                if self.journal.pending:
                    await asyncio.to_thread(self.journal.flush)
        except OSError as error:
            self._give_up(error)
        except ValueError as error:  # the journal's own error is one
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        self._error = self._error or error
        self._stop(End.INTERRUPTED)
        self._cancel_all()

    async def _watch_connection(self) -> None:
        await asyncio.sleep(self._grace)
        if not self.counts.heard_http:
            self._stop(End.UNREACHABLE)
            self._cancel_all()

    async def _tick_often(self) -> None:
        while True:
            self._tick(self)
            await asyncio.sleep(TICK_EVERY)


def _response(received: Received) -> Response:
    return Response(
        status_code=received.status, request_id=received.reading.request_id, body=received.body
    )


def _failure(ended: Ended, attempts: int, now: float) -> Failure:
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
        attempts=attempts,
        retry_at=None if ended.retry_at is None else time.time() + ended.retry_at - now,
    )
