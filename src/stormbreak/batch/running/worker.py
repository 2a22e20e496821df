"""One worker of a batch: a fork that sends its part of the rows, and reports to its parent.

It obeys only its parent, and ends at once when the parent is gone.
"""

import asyncio
import os
import shutil
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, NoReturn, Protocol

from stormbreak.batch.running import signal_handlers
from stormbreak.batch.running.runner import End, Runner, RunParts, run_in_loop
from stormbreak.batch.running.snapshot import RunSnapshot
from stormbreak.batch.running.stats import RunStats
from stormbreak.batch.store.output_files import Store
from stormbreak.batch.store.spend_record import SpendRecord, metered
from stormbreak.core.concurrency_limit import FixedLimit, Limit
from stormbreak.cost.accounts import Account
from stormbreak.drivers.locks import new_lock
from stormbreak.errors import ConfigurationError
from stormbreak.fleet.store_thread import leave
from stormbreak.types import Verdict

VIEW_EVERY = 4  # snapshots
SPARE = 4  # rows


class Order(Enum):
    """The orders of a parent to its workers."""

    GO = "go"
    DRAIN = "drain"
    STOP = "stop"
    END = "end"  # the parent is gone


class NewLimit(NamedTuple):
    """Another order: use this limit from now on."""

    limit: Limit
    width: int


class Spent(NamedTuple):
    """The usage of a worker's attempts, and until when models get no request."""

    account: Account
    pauses: Mapping[str, float]


class Ended(NamedTuple):
    """The last report of a worker."""

    end: End
    refused_by: Verdict | None
    recovered: int
    reused: int
    stats: RunStats


class Failed(NamedTuple):
    """The last report of a worker that failed. `is_known`: the text is a message for users."""

    text: str
    is_known: bool


class View(Protocol):
    """Shows the live state of a run elsewhere, such as in `stormbreak top`."""

    def state(self) -> bytes:
        """Read the state of this process."""

    def show(self, states: Sequence[bytes]) -> None:
        """Show the states of all workers."""


class Reports:
    """Sends reports to the parent, from any thread; drops them once it is gone."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = new_lock()

    def send(self, report: RunSnapshot | bytes | Spent | Ended | Failed) -> None:
        with self._lock, suppress(OSError):
            self._connection.send(report)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStore(Store):
    """The files of the run. Spending is reported to the parent: only it writes the run file."""

    reports: Reports

    def note(self, account: Account, pauses: Mapping[str, float]) -> None:
        self.reports.send(Spent(account, pauses))


class WorkerSpend(SpendRecord):
    """The spending of a worker. The parent prices it, and enforces the limit on all workers through its store."""

    def update_cost(self) -> None:
        """Leave it to the parent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """The common state of all workers of a run, made before the fork.

    `folder` has the socket of the parent's store, at `fleet`.
    """

    count: int
    parts: RunParts
    view: View | None
    fleet: str
    folder: Path

    def width_of(self, limit: Limit, width: int) -> int:
        """Return the rows in flight of all workers, each `width` wide: only a fixed limit is shared."""
        return width if isinstance(limit, FixedLimit) else self.count * width


def work(
    plan: WorkerPlan, part: int, connection: Connection, others: Sequence[Connection]
) -> NoReturn:
    """Run as the worker of `part` (from 0), then end the process. `others` are the inherited ends of other pipes."""
    signal_handlers.ignore()
    for other in others:
        other.close()
    reports = Reports(connection)
    try:
        if _next_order(connection) is Order.GO:
            ended = _work(plan, part, connection, reports)
            leave(plan.fleet)  # the parent ends its store after the last of these reports
            reports.send(ended)
    except ConfigurationError as error:
        reports.send(Failed(str(error), is_known=True))
    except BaseException:  # noqa: BLE001 - the parent reports it
        reports.send(Failed(traceback.format_exc(), is_known=False))
    finally:
        # Do not end or flush anything of the parent, and do not wait for hanging threads.
        os._exit(0)


def _next_order(connection: Connection) -> Order | NewLimit:
    """Wait for an order; the death of the parent is its last one."""
    try:
        order: Order | NewLimit = connection.recv()
    except (EOFError, OSError):
        return Order.END
    return order


def _work(plan: WorkerPlan, part: int, connection: Connection, reports: Reports) -> Ended:
    client, rows, shared = plan.parts.client, plan.parts.rows, plan.parts.store
    journal = shared.journal
    store = WorkerStore(
        files=shared.files,
        journal=journal,
        changed=shared.changed,
        run=replace(shared.run, account=Account()),
        reports=reports,
    )
    journal.own = lambda index: rows.part_of(index, plan.count) == part
    spend = WorkerSpend(client, store, metered(client), None)
    spend.open()
    recovered, reused, ticks = journal.recovered, journal.reused, 0

    def tick(runner: Runner) -> None:
        nonlocal ticks
        _follow_share(runner, plan.count)
        reports.send(runner.snapshot)
        if plan.view is not None and ticks % VIEW_EVERY == 0:
            reports.send(plan.view.state())
        ticks += 1

    runner = Runner(plan.parts._replace(store=store), spend, tick)
    _follow_share(runner, plan.count)
    runner.hears_signals = False

    async def run() -> End:
        loop = asyncio.get_running_loop()
        loop.add_reader(connection.fileno(), _obey, connection, runner, plan.folder)
        try:
            return await runner.run()
        finally:
            loop.remove_reader(connection.fileno())

    try:
        end = run_in_loop(run())
    finally:
        spend.close()
        journal.close()
    recovered, reused = journal.recovered - recovered, journal.reused - reused
    return Ended(end, runner.refused_by, recovered, reused, runner.stats)


def _follow_share(runner: Runner, count: int) -> None:
    """Take the rows that this worker's share of a fixed limit allows, and a few more to claim a larger share.

    More rows in the queue would cost a third more CPU.
    """
    if isinstance(runner.client.engine.policy.limit, FixedLimit):
        share = runner.snapshot.limit if runner.stats.attempts else runner.width // count
        runner.schedule.width = min(runner.width, share + share // 8 + SPARE)
        runner.wake()


def _obey(connection: Connection, runner: Runner, folder: Path) -> None:
    order = _next_order(connection)
    if isinstance(order, NewLimit):
        runner.change_limit(order.limit, order.width)
        return
    if order is Order.END:  # requests in flight are lost, as when a run of one process is killed
        asyncio.get_running_loop().remove_reader(connection.fileno())
        shutil.rmtree(folder, ignore_errors=True)
    if not runner.interrupted:
        runner.interrupt()
    if order is not Order.DRAIN:
        runner.interrupt()
