"""Pushes the rows of a file through a client until every one is answered or explained.

One dispatcher takes rows from the schedule and starts a task for each; each task asks the client, and what
came of it goes into the journal. A row is taken only when there is room for it, and its deadline begins
when it first leaves; a call that backs off makes room for another one. Four more tasks look after the rest: they
make the journal durable, report progress and give up if nothing is ever reached, write down what is spent, and
work out what it costs.

Whatever ends a run early drains it: what was sent is still answered and written, nothing new is sent. A second
Ctrl-C, or an OUTPUT that takes no more answers, stops it at once. Either way the same command goes on from there.
"""

import asyncio
import contextlib
import errno
import logging
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from hashlib import blake2b

from stormbreak.batch.input.index import Rows
from stormbreak.batch.input.request import Row
from stormbreak.batch.ledger import Ledger
from stormbreak.batch.live_cost import LiveCost
from stormbreak.batch.run_counters import Counts
from stormbreak.batch.running.failure_reasons import ACCOUNT, AccountErrors, SuspectAccount
from stormbreak.batch.running.file_limits import ReservedFiles
from stormbreak.batch.store.append_file import OutputError
from stormbreak.batch.store.journal import RowJournal
from stormbreak.batch.store.record import Failure, Response
from stormbreak.core.presets import is_off
from stormbreak.core.row_schedule import Final, Reschedule, RowAttempt, Schedule
from stormbreak.errors import ConfigurationError
from stormbreak.events import CooldownStarted, Event, Queued, RetryPlanned, Returned, Sent
from stormbreak.http.client import AsyncClient
from stormbreak.http.exchange import Received
from stormbreak.http.h1.connection import CONNECT_TIMEOUT
from stormbreak.http.h1.failures import OPEN_FILES
from stormbreak.types import FALLBACK, TARGET, CallResult, Outcome, Target, Verdict

FLUSH_EVERY = 0.1  # seconds
TICK_EVERY = 0.25  # seconds
NOTE_EVERY = 1.0  # seconds
CONNECTED_AFTER = 2 * CONNECT_TIMEOUT
"""Seconds; an attempt that takes longer was sent, and may be paid for."""

NOTE_GAP = 0.1  # seconds at the least, where no money waits for it
PRICE_EVERY = 1.0  # seconds
LACK_PAUSE = 1.0
"""Seconds in which no row leaves, after one found no file to open for its connection."""

RESOURCE_ERRORS = 10  # times in a row that the run file may find none, before the run ends
THREADS = 3  # of our own: name lookups, which may hang, fill those of the loop
SIGNALS = (signal.SIGINT, signal.SIGTERM)

_Held = tuple[Row, Failure, Response | None]
_log = logging.getLogger("stormbreak")


class End(Enum):
    """Why a run ended."""

    FINISHED = "finished"
    REFUSED = "refused"  # by every scout alike, or the account later on
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
        journal: RowJournal,
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
            journal.left(),
            width=width,
            once=is_off(client.policy),
            spread=client.policy.retry.retry_after_jitter,
            unproven=not journal.done,
        )
        self.refusals: AccountErrors[_Held] = AccountErrors()
        self.refused_by: Verdict | None = None
        self.width = width
        self._grace = grace
        self._tick = tick
        self.ledger = ledger
        self.so_far = LiveCost(client, ledger)
        self._short = asyncio.Event()  # of what may be spent
        self._end: End | None = None
        self._error: BaseException | None = None
        self._calls: dict[asyncio.Task[None], float] = {}  # when each was last sent; inf: not yet
        # Failures of scouts, written once the run is known to make sense.
        self._held: list[_Held] = []
        self._bell = asyncio.Event()
        self._interrupts = 0
        self._hold_until = 0.0
        self._spare = ReservedFiles()
        self._threads = ThreadPoolExecutor(THREADS, "stormbreak-batch")
        self._salt = f"{salt} {client.base_url}".encode()
        client.subscribe(self._hear)

    @property
    def stopping(self) -> bool:
        """Whether nothing new is sent any more."""
        return self._end is not None

    @property
    def interrupted(self) -> bool:
        """Whether somebody asked for that; asked once more, it ends at once."""
        return self._interrupts > 0

    @property
    def under_way(self) -> int:
        """Calls that have not ended: sent, about to be, or backing off."""
        return len(self._calls)

    async def run(self) -> End:
        """Run to the end, whichever it is; raises what the journal raised, if it could not write."""
        try:
            with self._signals():
                await self._until_over()
                if self._error is not None:
                    raise self._error
                if self._end is None and self.counts.unreachable:  # sooner than the grace was over
                    self._end = End.UNREACHABLE
                if self._end is None:
                    self._fail_held_rows()
                    self._fail(self.refusals.release())
                await self._in_thread(self.journal.flush)
                await self._in_thread(self.so_far.look)
                self._show()
        finally:
            self._spare.close()
            self._threads.shutdown(wait=False)
        return self._end or End.FINISHED

    async def _until_over(self) -> None:
        """Send, until nothing more is to be sent and all that was sent is answered."""
        sitters = [
            asyncio.create_task(sit())
            for sit in (
                self._flush_often,
                self._update_timeseries,
                self._write_notes,
                self._update_cost,
            )
        ]
        for task in sitters:
            task.add_done_callback(self._check_missed)
        try:
            try:
                await self._dispatch()
            except Exception as error:  # noqa: BLE001 - what was sent is still answered
                self._give_up(error)
            while self._calls:
                await asyncio.wait(self._calls)
        finally:
            for task in (*sitters, *self._calls):
                task.cancel()
            await asyncio.gather(*sitters, *self._calls, return_exceptions=True)

    async def _dispatch(self) -> None:
        while self._end is None:
            self._bell.clear()
            if (
                not self.schedule.has_room(self.counts.backing_off)
                or self.refusals.doubt is not None
            ):
                await self._bell.wait()
                continue
            if time.monotonic() < self._hold_until:
                await self._wait_until(self._hold_until)
                continue
            turn = self.schedule.take(time.monotonic())
            if turn is None:
                return
            if isinstance(turn, RowAttempt):
                task = asyncio.create_task(self._serve(turn))
                self._calls[task] = float("inf")
                task.add_done_callback(self._over)
            else:
                await self._wait_until(turn)

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
        elif isinstance(event, Sent | Queued):
            task = asyncio.current_task()
            if isinstance(event, Sent) and task in self._calls:
                self._calls[task] = time.monotonic()
            if self.ledger.is_short:
                self._short.set()
        elif isinstance(event, CooldownStarted):
            self.ledger.pause(event)
            self._short.set()

    async def _serve(self, turn: RowAttempt) -> None:
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
            ended = CallResult(Outcome(Verdict.INVALID, detail=str(error)))
        if ended.stopped == "spend" and ended.retry_at is None:
            self._stop(End.SPENT)
        elif ended.stopped != "drained":
            if ended.stopped == OPEN_FILES:
                self._hold_until = time.monotonic() + LACK_PAUSE
            self._settle(turn, row, ended, sent_at=now + ended.waited)

    def _key_of(self, row: Row) -> str:
        """The same in every round of a row, and in every run that asks the same there."""
        asked = blake2b(self._salt, digest_size=16)
        asked.update(f" {row.index} {row.endpoint} ".encode())
        asked.update(row.body)
        return asked.hexdigest()

    def _settle(self, turn: RowAttempt, row: Row, ended: CallResult, *, sent_at: float) -> None:
        now = time.monotonic()
        self.counts.explain(ended.outcome)
        if turn.rounds and ended.attempts:
            self.counts.retries += 1  # a row that has come back was sent before
        fate = self.schedule.settle(turn, ended, now, random.random())  # noqa: S311 - spread, no secret
        if isinstance(fate, Reschedule):
            return
        received = ended.outcome.value
        response = None
        if isinstance(received, Received):
            response = _response(received, _who(ended) if fate.ok else None)
        if fate.ok:
            assert response is not None
            self.counts.add(received.reading.usage)
            self.journal.succeed(row, response)
            self._learn(None, ended, sent_at=sent_at, now=now)
        else:
            body = b"" if response is None else response.body
            self.counts.reasons.add(ended.outcome, body, row.body)
            failed = (row, _failure(ended, fate, now), response)
            self._learn(failed, ended, sent_at=sent_at, now=now)

    def _learn(self, held: _Held | None, ended: CallResult, *, sent_at: float, now: float) -> None:
        """Write the failure of a row that is over, once it is certain; stop for what no row is to blame for."""
        verdict = ended.outcome.verdict
        target, of_account = _of_account(ended)
        certain = self.refusals.note(target, of_account, held, sent_at=sent_at, now=now)
        if held is None or (of_account in ACCOUNT and target is not None):
            pass  # written already, or held until the account answers
        elif self._may_recover(verdict):
            self._held.append(held)
        else:
            certain.append(held)
        self._fail(certain)
        if not self.schedule.scouting:
            self._fail_held_rows()
        self._refuse(self.schedule.stop_reason())

    def _refuse(self, verdict: Verdict | None) -> None:
        """Stop for a verdict that no row is to blame for, if there is one."""
        if verdict is not None:
            self.refused_by = self.refused_by or verdict
            self._stop(End.REFUSED)

    def _may_recover(self, verdict: Verdict) -> bool:
        """Whether the run may yet end for what a row failed with, which then says nothing of the row."""
        if self.schedule.may_stop_for(verdict):
            return True
        return self.schedule.scouting and self.counts.unreachable

    def _fail_held_rows(self) -> None:
        held, self._held = self._held, []
        self._fail(held)

    def _fail(self, certain: Iterable[_Held]) -> None:
        for row, failure, response in certain:
            with self._spare.released():
                self.journal.fail(row, failure, response)

    def _over(self, task: "asyncio.Task[None]") -> None:
        del self._calls[task]
        self._bell.set()
        doubt = self.refusals.doubt
        if doubt is not None and not self._may_answer(doubt):
            self._refuse(doubt.verdict)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._give_up(error)

    def _may_answer(self, doubt: SuspectAccount) -> bool:
        """Whether a call under way may yet show that the account works."""
        if not doubt.is_tried:
            return bool(self._calls)
        return any(doubt.since <= sent_at < float("inf") for sent_at in self._calls.values())

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
        self._interrupts += 1
        if self._interrupts > 1:
            self._cancel_all()
        self._stop(End.INTERRUPTED)

    def _cancel_in_flight(self) -> None:
        """Do as `interrupt` does, and never end at once: a terminal that goes away hangs up several times."""
        self._stop(End.INTERRUPTED)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Listen to signals, where there are any: only the main thread gets them."""
        loop = asyncio.get_running_loop()
        heard: dict[signal.Signals, Callable[[], None]] = {}
        if threading.current_thread() is threading.main_thread():
            heard = dict.fromkeys(SIGNALS, self.interrupt)
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
                heard[signal.SIGHUP] = self._cancel_in_flight
        for number, handler in heard.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in heard:
                loop.remove_signal_handler(number)

    def _give_up(self, error: BaseException) -> None:
        """Stop; wait for what was sent, unless its answers could not be written anyway."""
        self._error = self._error or error
        self._stop(End.INTERRUPTED)
        if not self.journal.is_writable:
            self._cancel_all()

    def _check_missed(self, sitter: "asyncio.Task[None]") -> None:
        """One of our own tasks is over: nobody does its work any more if it failed."""
        error = None if sitter.cancelled() else sitter.exception()
        if error is not None:
            self._give_up(error)

    async def _in_thread(self, work: Callable[[], object]) -> None:
        """Do what blocks in a thread; here, where no thread can be started any more."""
        try:
            done = asyncio.get_running_loop().run_in_executor(self._threads, work)
        except RuntimeError:
            work()
        else:
            await done

    async def _flush_often(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY)
            if self.journal.pending:
                await self._in_thread(self.journal.flush)

    async def _write_notes(self) -> None:
        noted, lacks = self.counts.attempts, 0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(NOTE_EVERY):  # wait_for can swallow a cancel (3.11)
                    await self._short.wait()
            self._short.clear()
            ledger = self.ledger
            if self.counts.attempts == noted and not (ledger.is_short or ledger.is_behind):
                continue
            attempts = self.counts.attempts
            try:
                await self._in_thread(self._note)
            except OutputError as error:
                lacks += 1
                if not _lacks_files(error) or lacks >= RESOURCE_ERRORS:
                    raise
                await asyncio.sleep(LACK_PAUSE)
                continue
            noted, lacks = attempts, 0
            ledger.allow()
            if not ledger.is_short:
                await asyncio.sleep(NOTE_GAP)

    def _note(self) -> None:
        with self._spare.released():
            self.ledger.write()

    async def _update_cost(self) -> None:
        """Work out what it costs by now, in a thread."""
        while True:
            await self._in_thread(self.so_far.look)
            await asyncio.sleep(PRICE_EVERY)

    async def _update_timeseries(self) -> None:
        """Show progress; give up when the grace is over and nothing was reached."""
        give_up_at = time.monotonic() + self._grace
        while True:
            self._show()
            now = time.monotonic()
            silent = self.counts.silent_since(now) >= CONNECTED_AFTER  # one has a connection
            if now >= give_up_at and self.counts.unreachable and not silent:
                self._stop(End.UNREACHABLE)
                self._cancel_all()
            await asyncio.sleep(TICK_EVERY)

    def _show(self) -> None:
        try:
            self._tick(self)
        except Exception:  # noqa: BLE001 - such as a terminal that is gone
            self._tick = lambda _: None
            _log.warning("progress cannot be shown any more", exc_info=True)
        except BaseException as error:  # noqa: BLE001 - raised in a task, it would end the loop at once
            self._tick = lambda _: None
            self._give_up(error)


def _lacks_files(error: OutputError) -> bool:
    """Whether a file could not be written only because this process may open no more of them."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE)


def _of_account(ended: CallResult) -> tuple[Target | None, Verdict]:
    """What a row's end tells of an account, and of which: its last outcome, or that a fallback was refused before."""
    verdict = ended.outcome.verdict
    if verdict is not Verdict.OK and verdict not in ACCOUNT:
        for event in ended.history:
            if isinstance(event, Returned) and event.verdict in ACCOUNT:
                return event.target, event.verdict
    return ended.target if ended.source in (TARGET, FALLBACK) else None, verdict


def _who(ended: CallResult) -> str | None:
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


def _failure(ended: CallResult, fate: Final, now: float) -> Failure:
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
