"""Run a job in a thread of its own while a caller waits for it.

The job has an event loop of its own, so the caller may have one running, as a notebook has. Signals stay the program's: an
exception in the waiting thread, such as KeyboardInterrupt, stops the run. What was sent is answered and written, then the
exception is raised. A second exception meanwhile ends the run at once.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from contextvars import copy_context
from threading import Thread

from stormbreak.batch.job import Job, run_job
from stormbreak.batch.running.runner import Runner
from stormbreak.batch.running.snapshot import RunSnapshot
from stormbreak.batch.running.summary import Summary
from stormbreak.drivers.locks import new_lock
from stormbreak.errors import StormbreakError

OnProgress = Callable[[RunSnapshot], object]


class StoppedError(StormbreakError):
    """The run was stopped before anything was sent."""


class BackgroundRun:
    """Starts the job at once; calls `on_progress` four times a second, in the job's thread."""

    def __init__(self, job: Job, on_progress: OnProgress | None) -> None:
        self._job = job
        self._on_progress = on_progress
        self._ended: Future[Summary] = Future()
        self._lock = new_lock()
        self._stops = 0
        self._at: tuple[Runner, asyncio.AbstractEventLoop] | None = None
        Thread(target=copy_context().run, args=(self._work,), name="stormbreak-batch").start()

    def wait(self) -> Summary:
        """Wait for the end. Raises as `run_job` does."""
        try:
            wait([self._ended])
        except BaseException:
            self._stop()
            try:
                wait([self._ended])
            except BaseException:
                self._stop()
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
            self._stop()
            try:
                await asyncio.wait([ended])
            except asyncio.CancelledError:
                self._stop()
                await asyncio.wait([ended])
                raise
            finally:
                if ended.done():
                    ended.exception()  # mark it as retrieved
            raise
        return ended.result()

    def _stop(self) -> None:
        with self._lock:
            self._stops += 1
            if self._at is not None:
                runner, loop = self._at
                with suppress(RuntimeError):  # it has ended
                    loop.call_soon_threadsafe(runner.interrupt)

    def _work(self) -> None:
        try:
            self._ended.set_result(run_job(self._job, self._tick, on_read=self._on_read))
        except BaseException as error:  # noqa: BLE001 - for the waiting thread
            self._ended.set_exception(error)

    def _on_read(self, rows: int) -> None:
        if self._stops:
            raise StoppedError(f"stopped, with {rows:,} rows read")

    def _tick(self, runner: Runner) -> None:
        if self._at is None:
            with self._lock:
                self._at = runner, asyncio.get_running_loop()
                for _ in range(self._stops):
                    runner.interrupt()
        if self._on_progress is not None:
            self._on_progress(runner.snapshot)
