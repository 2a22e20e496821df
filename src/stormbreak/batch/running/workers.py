"""The parent of the workers of a batch: starts them, passes on signals, adds up their reports, and ends with them.

It sends nothing itself. Its store shares limits and money between the workers; all of them write to the same OUTPUT. A
killed worker loses its requests in flight, and the others continue; its rows are left for the next run.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from queue import Empty, SimpleQueue
from typing import Any

from stormbreak.batch.running import signal_handlers
from stormbreak.batch.running.runner import TICK_EVERY, End, Runner
from stormbreak.batch.running.shared_spend import SharedSpend
from stormbreak.batch.running.snapshot import RunSnapshot, worst_circuit
from stormbreak.batch.running.worker import (
    Ended,
    Failed,
    NewLimit,
    Order,
    Spent,
    WorkerPlan,
    work,
)
from stormbreak.batch.store.durable_file import OutputError
from stormbreak.core.concurrency_limit import Limit
from stormbreak.drivers.garbage import collecting_less_often
from stormbreak.errors import ConfigurationError
from stormbreak.fleet.parent_store import ParentStore
from stormbreak.types import Verdict

_log = logging.getLogger("stormbreak")

WRITE_EVERY = 1.0  # seconds between two writes of the run file, and prices
LEAVE_WITHIN = 5.0  # seconds until a worker has given back its leases
_WORST = (End.REFUSED, End.SPENT, End.UNREACHABLE, End.INTERRUPTED, End.WORKER_LOST, End.FINISHED)
"""Reasons of an end, by precedence: the run gets the first one that a worker has."""

_SUMS = ("in_flight", "waiting", "retries", "input_tokens", "output_tokens")
_MAXIMA = ("open_circuits", "cooling", "straggling")
"""How to merge the snapshots of workers."""

_DRAINING = frozenset({End.REFUSED, End.UNREACHABLE})  # errors that end the other workers too


@dataclass(slots=True, eq=False)
class _Worker:
    """The parent's state of one worker."""

    process: Any
    connection: Connection
    snapshot: RunSnapshot | None = None
    state: bytes = b""
    end: End | None = None  # once it has ended

    def send(self, order: Order | NewLimit) -> None:
        if self.end is None:
            with suppress(OSError):
                self.connection.send(order)


class Workers:
    """The workers of one run; the attributes that it shares with `Runner` are for the summary.

    `tick` is called four times a second, with a new `snapshot`; its exceptions never fail the run.
    """

    def __init__(
        self,
        plan: WorkerPlan,
        *,
        fleet: ParentStore,
        spend: SharedSpend,
        tick: Callable[["Workers"], None],
    ) -> None:
        self.client, self.rows, store, self.stats, width, *_ = plan.parts
        self.journal = store.journal
        self.spend = spend
        self.refused_by: Verdict | None = None
        self._plan = plan
        self._fleet = fleet
        self._width = plan.width_of(self.client.policy.limit, width)
        self._tick = tick
        self._failed_before = self.journal.failed - self.journal.again
        self._done_before = self.journal.done
        self._workers: list[_Worker] = []
        self._error: Exception | None = None
        self._signals_heard = self._signals_sent = 0
        self._hung_up = False
        self._is_over = False
        self._limits: SimpleQueue[NewLimit] = SimpleQueue()
        self.snapshot = self._together()

    def change_limit(self, limit: Limit, width: int) -> None:
        """Let all workers use a new limit from now on. Call it from any thread."""
        self._limits.put(NewLimit(limit, width))

    def run(self) -> End:
        """Run all workers to their end; signals work as in a run of one process.

        Raises ConfigurationError if OUTPUT cannot be written, or a process cannot be started.
        """
        try:
            with signal_handlers.heard(self._hear, self._hang_up):
                self._start()
                with self._fleet:
                    self._send(Order.GO)
                    self._follow()
                    for worker in self._workers:  # it still uses the store
                        worker.process.join(LEAVE_WITHIN)
                self.journal.recount()
                self._is_over = True
                self._show()
        finally:
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()
                worker.connection.close()
            try:
                self.spend.close()
            except OutputError as error:
                self._error = self._error or error
        if self._error is not None:
            raise self._error
        ends = {worker.end for worker in self._workers}
        return next(end for end in _WORST if end in ends)

    def _start(self) -> None:
        self.journal.share()
        context = get_context("fork")
        pipes = [context.Pipe() for _ in range(self._plan.count)]
        try:
            with collecting_less_often():  # forks share memory that the collector does not touch
                for part, (ours, theirs) in enumerate(pipes):
                    others = [end for pipe in pipes for end in pipe if end is not theirs]
                    process = context.Process(target=work, args=(self._plan, part, theirs, others))
                    process.start()
                    self._workers.append(_Worker(process, ours))
        except OSError as error:
            why = f"cannot start {self._plan.count} processes: {error.strerror}"
            raise ConfigurationError(f"workers: {why}") from error
        finally:
            for _, theirs in pipes:
                theirs.close()

    # ------------------------------------------------------------ while they run

    def _follow(self) -> None:
        """Take reports and pass on orders until all workers have ended."""
        show_at = write_at = 0.0
        while any(worker.end is None for worker in self._workers):
            alive = {worker.connection: worker for worker in self._workers if worker.end is None}
            for connection in alive.keys() & wait([*alive], TICK_EVERY / 2):
                self._receive(alive[connection])
            self._pass_on()
            now = time.monotonic()
            if now >= write_at:
                write_at = now + WRITE_EVERY
                self._account()
            if now >= show_at:
                show_at = now + TICK_EVERY
                self._show()
        self._account()

    def _receive(self, worker: _Worker) -> None:
        try:
            report = worker.connection.recv()
        except (EOFError, OSError):
            self._on_lost(worker)
            return
        if isinstance(report, RunSnapshot):
            worker.snapshot = report
        elif isinstance(report, bytes):
            worker.state = report
        elif isinstance(report, Spent):
            self.spend.add(self._workers.index(worker), report.account, report.pauses)
        elif isinstance(report, Ended):
            self._on_ended(worker, report)
        elif isinstance(report, Failed):
            worker.end = End.INTERRUPTED
            self._give_up(
                ConfigurationError(report.text) if report.is_known else RuntimeError(report.text)
            )

    def _on_ended(self, worker: _Worker, report: Ended) -> None:
        worker.end = report.end
        self.refused_by = self.refused_by or report.refused_by
        self.journal.recovered += report.recovered
        self.journal.reused += report.reused
        self.stats.merge(report.stats)
        if report.end in _DRAINING:
            self._send(Order.DRAIN)

    def _on_lost(self, worker: _Worker) -> None:
        worker.end = End.WORKER_LOST
        if worker.snapshot is not None:
            worker.snapshot = replace(worker.snapshot, in_flight=0, waiting=0, limit=0)
        self.spend.lose()

    def _give_up(self, error: Exception) -> None:
        """Let the workers finish the requests in flight, then raise `error`."""
        self._error = self._error or error
        self._send(Order.DRAIN)

    def _send(self, order: Order | NewLimit) -> None:
        for worker in self._workers:
            worker.send(order)

    def _pass_on(self) -> None:
        while self._signals_sent < self._signals_heard:
            self._signals_sent += 1
            self._send(Order.DRAIN if self._signals_sent == 1 else Order.STOP)
        if self._hung_up and not self._signals_sent:
            self._hung_up = False
            self._send(Order.DRAIN)
        with suppress(Empty):
            while True:
                order = self._limits.get_nowait()
                self._width = self._plan.width_of(order.limit, order.width)
                self._send(order)

    def _account(self) -> None:
        try:
            self.spend.write()
            self.spend.update_cost()
        except ConfigurationError as error:
            self._give_up(error)

    def _show(self) -> None:
        self.snapshot = self._together()
        self.stats.sample(self.snapshot)
        if self._plan.view is not None:
            self._plan.view.show([worker.state for worker in self._workers if worker.state])
        try:
            self._tick(self)
        except Exception:  # noqa: BLE001 - such as a terminal that is gone
            self._tick = lambda _: None
            _log.warning("progress cannot be shown any more", exc_info=True)

    def _together(self) -> RunSnapshot:
        seen = [each.snapshot for each in self._workers if each.snapshot is not None]
        done = self._done_before + sum(each.done - self._done_before for each in seen)
        failed = self._failed_before + sum(each.failed - self._failed_before for each in seen)
        if self._is_over:
            done, failed = self.journal.done, self.journal.failed - self.journal.again
        return RunSnapshot(
            at=time.monotonic(),
            total=len(self.rows),
            done=done,
            failed=failed,
            width=self._width,
            limit=min(self._width, sum(each.limit for each in seen)) if seen else self._width,
            circuit=worst_circuit({each.circuit.replace("-", "_") for each in seen}),
            stopping=any(each.stopping for each in seen),
            interrupted=any(each.interrupted for each in seen),
            cost=self.spend.cost,
            cost_limit=self.spend.limit,
            slow=next((each.slow for each in seen if each.slow), ""),
            **{name: sum(getattr(each, name) for each in seen) for name in _SUMS},
            **{name: max((getattr(each, name) for each in seen), default=0) for name in _MAXIMA},
        )

    def _hear(self) -> None:
        self._signals_heard += 1

    def _hang_up(self) -> None:
        self._hung_up = True


Running = Runner | Workers  # a run: the process that sends, or the parent of those
