"""Push the rows of a file through a client until each one is answered or explained.

A dispatcher takes rows from the schedule and starts a task for each; the task calls the client and writes the result to
the journal. A row is taken only when there is room for it, and its deadline starts when it is first sent; a call that
backs off makes room for another one. Four more tasks flush the journal, report progress (and give up if nothing is ever
reached), write the spend record, and price it.

A run that ends early is drained: requests in flight are still answered and written, nothing new is sent. A second
Ctrl-C, or an OUTPUT that cannot be written any more, stops it at once. Either way the same command resumes it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from enum import Enum
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

from stormbreak.batch.input.index import Rows
from stormbreak.batch.input.row import Row
from stormbreak.batch.running import signal_handlers
from stormbreak.batch.running.failure_reasons import (
    ACCOUNT,
    AccountErrors,
    SuspectAccount,
    account_verdict,
    failure_of,
)
from stormbreak.batch.running.file_descriptors import ReservedFiles
from stormbreak.batch.running.rows_in_flight import RowCall, RowCalls
from stormbreak.batch.running.snapshot import RunSnapshot, slow_reason_for_run, worst_circuit
from stormbreak.batch.running.stats import RunStats
from stormbreak.batch.store.durable_file import OutputError
from stormbreak.batch.store.output_files import Store
from stormbreak.batch.store.output_line import Failure, Response
from stormbreak.batch.store.spend_record import SpendRecord
from stormbreak.core.concurrency_limit import Limit
from stormbreak.core.presets import is_off
from stormbreak.core.row_schedule import Reschedule, RowAttempt, Schedule, waits_too_long
from stormbreak.drivers.chance import draw
from stormbreak.errors import ConfigurationError
from stormbreak.events import CooldownStarted, Event, Queued, RetryPlanned, Sent
from stormbreak.http.answer_schema import AnswerSchema, Repairs
from stormbreak.http.client import AsyncClient
from stormbreak.http.h1.failures import OPEN_FILES, is_out_of_files
from stormbreak.http.h1.server import new_loop
from stormbreak.http.prepared_request import CONNECT_TIMEOUT
from stormbreak.http.response import Response as ReceivedResponse
from stormbreak.types import FALLBACK, TARGET, CallResult, Outcome, Verdict

FLUSH_EVERY = 0.1  # seconds
TICK_EVERY = 0.25  # seconds
RECORD_EVERY = 1.0  # seconds
CONNECTED_AFTER = 2 * CONNECT_TIMEOUT
"""Seconds; an attempt that takes longer was sent, and may be billed."""

RECORD_GAP = 0.1  # minimum seconds between two writes, if no budget waits for them
PRICE_EVERY = 1.0  # seconds
OUT_OF_FILES_PAUSE = 1.0  # seconds without a new row, after a connection could not open a file
MAX_OUT_OF_FILES = 10  # consecutive failed writes of the run file that end the run
THREADS = 3  # our own threads: name lookups, which may hang, fill those of the loop

_NOT_CLOSED = frozenset({"open", "half_open", "isolated"})
_Held = tuple[Row, Failure, Response | None]
T = TypeVar("T")
_log = logging.getLogger("stormbreak")


def run_in_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run on the fastest installed loop; the library itself never sets a loop policy."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)


class End(Enum):
    """Why a run ended."""

    FINISHED = "finished"
    REFUSED = (
        "refused"  # the first rows got the same final verdict, or the account was refused later
    )
    SPENT = "spent"  # the rest of the spend limit is too little for a row
    UNREACHABLE = "unreachable"  # nothing spoke HTTP
    INTERRUPTED = "interrupted"
    WORKER_LOST = "worker_lost"  # a worker was killed; the others have ended


class RunParts(NamedTuple):
    """The parts of a run, in one process or in each of several.

    With the salt of the run, an unchanged row keeps the idempotency key of earlier runs. At most `width` calls are in
    flight or about to be, and at most four times as many back off; something must answer within `grace` seconds.
    """

    client: AsyncClient
    rows: Rows
    store: Store
    stats: RunStats
    width: int
    grace: float
    schema: AnswerSchema | None


class Runner:
    """One run over rows.

    `tick` is called four times a second, with a new `snapshot`; its exceptions never fail the run. The `spend` record
    is written in a thread, every second and whenever little of the allowed spending is left.
    """

    def __init__(
        self, parts: RunParts, spend: SpendRecord, tick: Callable[["Runner"], None]
    ) -> None:
        client, self.rows, store, self.stats, width, self._grace, schema = parts
        self.client = client
        self.journal = journal = store.journal
        self.spend = spend
        self.schedule = Schedule(
            journal.left(),
            width=width,
            once=is_off(client.policy),
            spread=client.policy.retry.retry_after_jitter,
            unproven=not journal.done,
        )
        self._account_errors: AccountErrors[_Held] = AccountErrors()
        self.refused_by: Verdict | None = None
        self.width = width
        self.hears_signals = True
        self._loop: asyncio.AbstractEventLoop | None = None
        self._schema = schema
        # by index: rows that were sent and have not ended
        self._repairs: dict[int, Repairs] = {}
        self._tick = tick
        self._record_now = (
            asyncio.Event()
        )  # little of the allowed spending is left, or a pause is new
        self._end: End | None = None
        self._error: BaseException | None = None
        self._calls = RowCalls(client)
        # Failures of the first rows. They are written once another row shows that address, key and model are right.
        self._held: list[_Held] = []
        self._wake = asyncio.Event()
        self._interrupts = 0
        self._hold_until = 0.0
        self._spare = ReservedFiles()
        self.reader_has_room: Callable[[], bool] = lambda: True
        self._threads = ThreadPoolExecutor(THREADS, "stormbreak-batch")
        form = "" if schema is None else f" {schema.digest} {schema.asks}"  # they change requests
        if client.policy.spend.max_output_tokens is not None:
            form += f" {client.policy.spend.max_output_tokens}"
        self._salt = f"{store.run.salt} {client.base_url}{form}".encode()
        self.snapshot = self._take_snapshot()
        client.subscribe(self._hear)

    @property
    def stopping(self) -> bool:
        return self._end is not None

    @property
    def interrupted(self) -> bool:
        """Whether a signal has stopped the run; a second one ends it at once."""
        return self._interrupts > 0

    @property
    def under_way(self) -> int:
        """Calls that have not ended: sent, about to be, or backing off."""
        return len(self._calls)

    async def run(self) -> End:
        """Run to the end, and close the client. Raises OutputError if the journal could not be written."""
        async with self.client:
            return await self._run()

    async def _run(self) -> End:
        self._loop = asyncio.get_running_loop()
        try:
            with self._signals():
                await self._until_over()
                if self._error is not None:
                    raise self._error
                if self._end is None and self.stats.unreachable:  # before the grace was over
                    self._end = End.UNREACHABLE
                suspect = self._account_errors.suspect
                if self._end is None and suspect is not None:
                    self._refuse(suspect.verdict)
                if self._end is None:
                    self._fail_held_rows()
                    self._fail(self._account_errors.release())
                await self._in_thread(self.journal.flush)
                await self._in_thread(self.spend.update_cost)
                self._show()
        finally:
            self._spare.close()
            self._threads.shutdown(wait=False)
        return self._end or End.FINISHED

    async def _until_over(self) -> None:
        """Send until no row is left to send and no request is in flight."""
        loops = (self._flush_often, self._tick_often, self._record_spend, self._update_cost)
        helpers = [asyncio.create_task(loop()) for loop in loops]
        for task in helpers:
            task.add_done_callback(self._give_up_if_failed)
        try:
            try:
                await self._dispatch()
            except Exception as error:  # noqa: BLE001 - what was sent is still answered
                self._give_up(error)
            while self._calls:
                await asyncio.wait(self._calls)
        finally:
            for task in (*helpers, *self._calls):
                task.cancel()
            await asyncio.gather(*helpers, *self._calls, return_exceptions=True)

    async def _dispatch(self) -> None:
        while self._end is None:
            self._wake.clear()
            has_room = self.schedule.has_room(self.stats.backing_off) and self.reader_has_room()
            if not has_room or not self._may_send():
                await self._wake.wait()
                continue
            if time.monotonic() < self._hold_until:
                await self._wait_until(self._hold_until)
                continue
            turn = self.schedule.take(time.monotonic())
            if turn is None:
                return
            if isinstance(turn, RowAttempt):
                call = RowCall(turn)
                task = asyncio.create_task(self._send_row(call))
                self._calls[task] = call
                task.add_done_callback(self._on_row_done)
            else:
                await self._wait_until(turn)

    async def _wait_until(self, until: float) -> None:
        span = None if until == float("inf") else max(0.0, until - time.monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(span):
                await self._wake.wait()

    def _hear(self, event: Event) -> None:
        self.stats.hear(event)
        kind = type(event)
        if kind is Sent or kind is Queued:
            self._calls.hear(event)
            if self.spend.is_short:
                self._record_now.set()
        elif kind is RetryPlanned:
            self._calls.hear(event)
            self._wake.set()
        elif isinstance(event, CooldownStarted):
            self.spend.pause(event)
            self._record_now.set()

    async def _send_row(self, call: RowCall) -> None:
        turn = call.turn
        row = self.rows.row_at(turn.index)
        call.endpoint = row.endpoint
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
                fields=row.fields,
                schema=self._schema,
                repairs=None
                if self._schema is None
                else self._repairs.setdefault(row.index, Repairs()),
            )
        except ConfigurationError as error:  # about this row alone
            ended = CallResult(Outcome(Verdict.INVALID, detail=str(error)))
        except asyncio.CancelledError:
            if not call.given_up:
                raise
            self.stats.add_straggler()
            ended = call.straggled()
        self._calls.learn(call, ended)
        out_of_money = ended.stopped == "spend" and ended.retry_at is None
        if out_of_money and not ended.of_tenant:  # other tenants may have money left
            self._stop(End.SPENT)
        elif ended.stopped != "drained":
            if ended.stopped == OPEN_FILES:
                self._hold_until = time.monotonic() + OUT_OF_FILES_PAUSE
            self._settle(turn, row, ended, sent_at=now + ended.waited)

    def _key_of(self, row: Row) -> str:
        """Make the key of a row: the same in all runs that send the same request there, until it fails permanently."""
        key = blake2b(self._salt, digest_size=16)
        key.update(f" {row.index} {row.endpoint} ".encode())
        key.update(row.body)
        if refused := self.journal.tries_of_refused(row.index):
            key.update(b" %d" % refused)
        return key.hexdigest()

    def _settle(self, turn: RowAttempt, row: Row, ended: CallResult, *, sent_at: float) -> None:
        now = time.monotonic()
        self.stats.explain(ended.outcome)
        if turn.rounds and ended.attempts:
            self.stats.retries += 1  # the row was sent in an earlier pass
        fate = self.schedule.settle(turn, ended, now, draw())
        if isinstance(fate, Reschedule):
            return
        self._repairs.pop(row.index, None)
        received = ended.outcome.value
        response = None
        if isinstance(received, ReceivedResponse):
            response = Response(
                status_code=received.status,
                request_id=received.parsed.request_id,
                body=received.body,
                answered_by=_answered_by(ended) if fate.ok else None,
                attempts=fate.attempts,
            )
        if fate.ok:
            assert response is not None
            self.stats.add_usage(received.parsed.usage)
            self.stats.from_fallback += response.answered_by is not None
            self.journal.succeed(row, response)
            self._after_row(None, ended, sent_at=sent_at, now=now)
        else:
            body = b"" if response is None else response.body
            failure = failure_of(ended, fate, now)
            retry_at = failure.retry_at if waits_too_long(ended, now) else None
            self.stats.reasons.add(ended.outcome, body, row.body, retry_at=retry_at)
            self._after_row((row, failure, response), ended, sent_at=sent_at, now=now)

    def _after_row(
        self, held: _Held | None, ended: CallResult, *, sent_at: float, now: float
    ) -> None:
        """Write a failure once it is certain; stop the run for an error that is not about the row."""
        verdict = ended.outcome.verdict
        target, of_account = account_verdict(ended)
        certain = self._account_errors.note(target, of_account, held, sent_at=sent_at, now=now)
        if held is None or (of_account in ACCOUNT and target is not None):
            pass  # already written, or held until the account answers
        elif self.schedule.may_stop_for(verdict) or (
            self.schedule.scouting and self.stats.unreachable
        ):
            self._held.append(held)  # the run may still stop for it, and then the row is sent again
        else:
            certain.append(held)
        self._fail(certain)
        if not self.schedule.scouting:
            self._fail_held_rows()
        self._refuse(self.schedule.stop_reason())

    def _refuse(self, verdict: Verdict | None) -> None:
        """Stop if there is a verdict about address, key, model or account."""
        if verdict is not None:
            self.refused_by = self.refused_by or verdict
            self._stop(End.REFUSED)

    def _fail_held_rows(self) -> None:
        held, self._held = self._held, []
        self._fail(held)

    def _fail(self, certain: Iterable[_Held]) -> None:
        for row, failure, response in certain:
            with self._spare.released():
                self.journal.fail(row, failure, response)

    def _on_row_done(self, task: "asyncio.Task[None]") -> None:
        del self._calls[task]
        self._wake.set()
        suspect = self._account_errors.suspect
        if suspect is not None and suspect.is_tried and not self._may_answer(suspect):
            self._refuse(suspect.verdict)
        self._give_up_if_failed(task)

    def _may_send(self) -> bool:
        """Whether a row may be sent: one at a time if an account is in doubt and was hardly tried since."""
        suspect = self._account_errors.suspect
        return suspect is None or not (suspect.is_tried or self._calls)

    def _may_answer(self, suspect: SuspectAccount) -> bool:
        """Whether a call in progress may still show that the account works."""
        return any(suspect.since <= call.sent_at < float("inf") for call in self._calls.values())

    def _stop(self, end: End) -> None:
        """Send nothing more; requests in flight are still answered."""
        self._end = self._end or end
        self.client.drain()
        self._wake.set()

    def _cancel_all(self) -> None:
        for task in self._calls:
            task.cancel()

    def wake(self) -> None:
        self._wake.set()

    def change_limit(self, limit: Limit, width: int) -> None:
        """Use a new limit and width from now on. Call it from any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._change_limit, limit, width)

    def _change_limit(self, limit: Limit, width: int) -> None:
        self.client.change_limit(limit)
        self.width = self.schedule.width = width
        self._wake.set()

    def interrupt(self) -> None:
        """Send nothing more, and end when all requests in flight are answered; the second time, end at once."""
        self._interrupts += 1
        if self._interrupts > 1:
            self._cancel_all()
        self._stop(End.INTERRUPTED)

    def _signals(self) -> contextlib.AbstractContextManager[None]:
        if not self.hears_signals:
            return contextlib.nullcontext()
        return signal_handlers.heard(self.interrupt, self._hang_up, loop=self._loop)

    def _hang_up(self) -> None:
        """Do as `interrupt`, but never end at once: a terminal that closes hangs up several times."""
        self._stop(End.INTERRUPTED)

    def _give_up(self, error: BaseException) -> None:
        """Stop; wait for requests in flight, unless their answers could not be written anyway."""
        self._error = self._error or error
        self._stop(End.INTERRUPTED)
        if not self.journal.is_writable:
            self._cancel_all()

    def _give_up_if_failed(self, task: "asyncio.Task[None]") -> None:
        """Nothing runs its work any more."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._give_up(error)

    async def _in_thread(self, work: Callable[[], object]) -> None:
        """Do blocking work in a thread, or in this one if no thread can start any more."""
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

    async def _record_spend(self) -> None:
        spend = self.spend
        recorded, out_of_files = self.stats.attempts, 0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RECORD_EVERY):  # wait_for can swallow a cancel (3.11)
                    await self._record_now.wait()
            self._record_now.clear()
            attempts = self.stats.attempts
            if attempts == recorded and not (spend.is_short or spend.is_behind):
                continue
            try:
                await self._in_thread(self._write_spend)
            except OutputError as error:
                out_of_files += 1
                if not is_out_of_files(error.__cause__) or out_of_files >= MAX_OUT_OF_FILES:
                    raise
                await asyncio.sleep(OUT_OF_FILES_PAUSE)
                continue
            recorded, out_of_files = attempts, 0
            spend.allow()
            if not spend.is_short:
                await asyncio.sleep(RECORD_GAP)

    def _write_spend(self) -> None:
        with self._spare.released():
            self.spend.write()

    async def _update_cost(self) -> None:
        while True:
            await self._in_thread(self.spend.update_cost)
            await asyncio.sleep(PRICE_EVERY)

    async def _tick_often(self) -> None:
        """Show progress; give up when the grace is over and nothing has answered."""
        give_up_at = time.monotonic() + self._grace
        while True:
            self._show()
            now = time.monotonic()
            self._calls.end_stragglers(alone=self.schedule.all_under_way or self.stopping)
            silent = self.stats.silent_since(now) >= CONNECTED_AFTER  # one call has a connection
            if now >= give_up_at and self.stats.unreachable and not silent:
                self._stop(End.UNREACHABLE)
                self._cancel_all()
            await asyncio.sleep(TICK_EVERY)

    def _show(self) -> None:
        self.snapshot = self._take_snapshot()
        self.stats.sample(self.snapshot)
        try:
            self._tick(self)
        except Exception:  # noqa: BLE001 - such as a terminal that is gone
            self._tick = lambda _: None
            _log.warning("progress cannot be shown any more", exc_info=True)
        except BaseException as error:  # noqa: BLE001 - raised in a task, it would end the loop at once
            self._tick = lambda _: None
            self._give_up(error)

    def _take_snapshot(self) -> RunSnapshot:
        stats, journal = self.stats, self.journal
        targets = self.client.snapshot(pending=False)["targets"].values()
        circuits = [each["circuit"] for each in targets]
        in_flight = sum(each["in_flight"] for each in targets)
        straggling, rest = self._calls.straggling()
        limit = sum(each["limit"] for each in targets) if targets else self.width
        return RunSnapshot(
            at=time.monotonic(),
            total=len(self.rows),
            done=journal.done,
            failed=journal.failed - journal.again,
            in_flight=in_flight,
            width=self.width,
            limit=min(limit, self.width),
            waiting=self.under_way - in_flight + self.schedule.waiting,
            retries=stats.retries,
            circuit=worst_circuit(circuits),
            open_circuits=sum(each in _NOT_CLOSED for each in circuits),
            cooling=sum(each["cooldown"] > 0 for each in targets),
            input_tokens=stats.input_tokens,
            output_tokens=stats.output_tokens,
            stopping=self.stopping,
            interrupted=self.interrupted,
            cost=self.spend.cost,
            cost_limit=self.spend.limit,
            slow=self._slow_reason(targets) or _straggling(straggling),
            straggling=rest,
        )

    def _slow_reason(self, targets: Collection[Mapping[str, Any]]) -> str:
        """Explain why the run is slow; "" if it is not slow, is stopping, or has ended."""
        stats, schedule = self.stats, self.schedule
        if self.stopping or not (self.under_way or schedule.waiting):
            return ""
        next_in = None
        if schedule.next_at is not None and not stats.backing_off:
            next_in = schedule.next_at - time.monotonic()
        return slow_reason_for_run(
            targets,
            at=datetime.now().astimezone(),
            later=stats.backing_off + schedule.waiting,
            next_in=next_in,
            last_failure=stats.last_failure,
        )


def _straggling(attempts: int) -> str:
    if attempts <= 1:
        return "1 answer takes far longer than usual" if attempts else ""
    return f"{attempts:,} answers take far longer than usual"


def _answered_by(ended: CallResult) -> str | None:
    """Name the fallback or other source that answered a row; None if its own target did."""
    if ended.source == FALLBACK and ended.target is not None:
        return f"{ended.target.provider}/{ended.target.model}"
    return None if ended.source == TARGET else ended.source
