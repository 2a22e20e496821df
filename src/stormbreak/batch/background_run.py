"""Run a job in its own thread while a caller waits for it.

The job has its own event loop, so the caller may have one running, as a notebook has. The program keeps its signal
handlers: an exception in the waiting thread, such as KeyboardInterrupt, stops the run. Requests in flight are answered
and written, then the exception is raised. A second exception meanwhile ends the run at once.
"""

import asyncio
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING

from stormbreak.batch.job import Job, run_job
from stormbreak.batch.running.runner import Runner
from stormbreak.batch.running.snapshot import RunSnapshot
from stormbreak.batch.running.summary import Summary
from stormbreak.batch.running.workers import Running
from stormbreak.batch.store.reader import Answered, Failed, parse_result
from stormbreak.drivers.locks import new_lock
from stormbreak.errors import StormbreakError

if TYPE_CHECKING:
    from stormbreak.batch.running.progress_panel import Panel

OnProgress = Callable[[RunSnapshot], object]
_NAME = "stormbreak-batch"  # of the threads
MAX_UNREAD = 256  # results that wait for the reader before the run stops sending


class StoppedError(StormbreakError):
    """The run was stopped before anything was sent."""


class ResultStream:
    """A queue of the results of a run, as lines of the journal, for a reader in another thread.

    The run calls `put`, its reader calls the rest; appending and popping are atomic. While `MAX_UNREAD` results wait,
    the run sends no new row. `on_put` wakes the reader, `on_room` the run; each is called in the other's thread.
    `on_put` is also called at the end of the run.
    """

    def __init__(self, on_put: Callable[[], object]) -> None:
        self._lines: deque[bytes] = deque()
        self.on_put = on_put
        self.on_room: Callable[[], object] = lambda: None

    @property
    def has_room(self) -> bool:
        return len(self._lines) < MAX_UNREAD

    @property
    def is_empty(self) -> bool:
        return not self._lines

    def put(self, line: bytes) -> None:
        self._lines.append(line)
        self.on_put()

    def take(self) -> Iterator[Answered | Failed]:
        """Take all results that wait."""
        while self._lines:
            line = self._lines.popleft()
            if len(self._lines) == MAX_UNREAD - 1:
                self.on_room()
            yield parse_result(line)


class BackgroundRun:
    """Starts the job at once; calls `on_progress` four times a second, in the job's thread.

    Without `on_progress`, a notebook shows a panel in the cell that is running.
    Finished rows go to `results`; the run waits while too many are unread.
    """

    def __init__(
        self, job: Job, on_progress: OnProgress | None, results: ResultStream | None = None
    ) -> None:
        self._job = job
        self._results = results
        self._on_progress = on_progress
        self._panel = None if on_progress else _notebook_panel()
        self._ended: Future[Summary] = Future()
        self._lock = new_lock()
        self._stops = 0
        self._at: tuple[Runner, asyncio.AbstractEventLoop] | None = None
        # In an exit handler the main thread counts as ended, and reads.
        self._may_lose_reader = results is not None and not _nobody_reads()
        if results is not None:
            self._ended.add_done_callback(lambda _: results.on_put())
        threading.Thread(target=copy_context().run, args=(self._work,), name=_NAME).start()

    @property
    def is_over(self) -> bool:
        return self._ended.done()

    def stop_and_wait(self) -> Summary:
        """End a run whose reader has stopped."""
        if not self.is_over:
            self.stop()
        return self.wait()

    async def async_stop_and_wait(self) -> Summary:
        if not self.is_over:
            self.stop()
        return await self.async_wait()

    def wait(self) -> Summary:
        """Wait for the end. Raises as `run_job` does."""
        try:
            wait([self._ended])
        except BaseException:
            self.stop()
            try:
                wait([self._ended])
            except BaseException:
                self.stop()
                wait([self._ended])
                raise
            raise
        return self._ended.result()

    async def async_wait(self) -> Summary:
        """Wait for the end; a cancellation does what KeyboardInterrupt does to `wait`."""
        ended = asyncio.wrap_future(self._ended)
        try:
            await asyncio.wait([ended])
        except asyncio.CancelledError:
            self.stop()
            try:
                await asyncio.wait([ended])
            except asyncio.CancelledError:
                self.stop()
                await asyncio.wait([ended])
                raise
            finally:
                if ended.done():
                    ended.exception()  # mark it as retrieved
            raise
        return ended.result()

    def stop(self) -> None:
        """Send nothing more, and end when all requests in flight are answered; the second time, end at once."""
        with self._lock:
            self._stops += 1
            if self._at is not None:
                runner, loop = self._at
                call_soon(loop, runner.interrupt)

    def _work(self) -> None:
        try:
            summary = run_job(self._job, self._tick, on_read=self._on_read, results=self._results)
            self._ended.set_result(summary)
        except BaseException as error:  # noqa: BLE001 - for the waiting thread
            self._ended.set_exception(error)

    def _on_read(self, rows: int) -> None:
        if self._stops:
            raise StoppedError(f"stopped, with {rows:,} rows read")
        if self._panel is not None:
            self._panel.on_read(rows)

    def _tick(self, runner: Running) -> None:
        assert isinstance(runner, Runner)  # one process
        if self._at is None:
            loop = asyncio.get_running_loop()
            if self._results is not None:
                self._results.on_room = lambda: call_soon(loop, runner.wake)
            with self._lock:
                self._at = runner, loop
                for _ in range(self._stops):
                    runner.interrupt()
        if self._may_lose_reader and not self._stops and _nobody_reads():
            self.stop()
        if self._on_progress is not None:
            self._on_progress(runner.snapshot)
        elif self._panel is not None:
            self._panel.tick(runner)


def _nobody_reads() -> bool:
    """Whether the program only waits for its batches: after an exception Python keeps the reader, and waits for us."""
    others = (each for each in threading.enumerate() if not each.daemon and each.name != _NAME)
    return not any(each.is_alive() for each in others)


def _notebook_panel() -> "Panel | None":
    if "IPython" not in sys.modules:
        return None
    from stormbreak.batch.running.progress_panel import notebook_panel  # noqa: PLC0415 - loads rich

    return notebook_panel()


def call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Call it in the thread of `loop`, unless that has ended."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
