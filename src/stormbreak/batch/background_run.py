"""A job at work in a thread of its own, with somebody who waits for it.

Its event loop is then nobody else's: it does not matter whether a loop runs in the thread that waits, as in a notebook. And
signals stay the program's: whatever is raised in the thread that waits, KeyboardInterrupt first of all, lets what was sent be
answered and written, sends nothing more, and is raised again when the run has ended. What is raised meanwhile ends it at once.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from contextvars import copy_context
from threading import Thread

from stormbreak.batch.job import Job, run_job
from stormbreak.batch.running.runner import Runner
from stormbreak.batch.running.summary import Summary
from stormbreak.batch.view import View
from stormbreak.drivers.locks import new_lock
from stormbreak.errors import StormbreakError

OnProgress = Callable[[View], object]


class StoppedError(StormbreakError):
    """It was stopped before anything was sent."""


class BackgroundRun:
    """A job from when it is made on; `on_progress` is told four times a second, in its thread."""

    def __init__(self, job: Job, on_progress: OnProgress | None) -> None:
        self._job = job
        self._on_progress = on_progress
        self._ended: Future[Summary] = Future()
        self._lock = new_lock()
        self._stops = 0
        self._at: tuple[Runner, asyncio.AbstractEventLoop] | None = None
        Thread(target=copy_context().run, args=(self._work,), name="stormbreak-batch").start()

    def wait(self) -> Summary:
        """Wait for its end. Raises as `run_job` does."""
        try:
            wait([self._ended])
        except BaseException:
            self._stop()
            self._wait_once_more()
            raise
        return self._ended.result()

    async def waited(self) -> Summary:
        """Wait for its end; to be cancelled is what KeyboardInterrupt is to `wait`."""
        ended = asyncio.wrap_future(self._ended)
        try:
            await asyncio.wait([ended])
        except asyncio.CancelledError:
            self._stop()
            await self._waited_once_more(ended)
            raise
        return ended.result()

    def _wait_once_more(self) -> None:
        try:
            wait([self._ended])
        except BaseException:
            self._stop()
            wait([self._ended])
            raise

    async def _waited_once_more(self, ended: "asyncio.Future[Summary]") -> None:
        try:
            await asyncio.wait([ended])
        except asyncio.CancelledError:
            self._stop()
            await asyncio.wait([ended])
            raise
        finally:
            if ended.done():
                ended.exception()  # nobody asks for it any more

    def _stop(self) -> None:
        with self._lock:
            self._stops += 1
            if self._at is not None:
                runner, loop = self._at
                with suppress(RuntimeError):  # it has ended
                    loop.call_soon_threadsafe(runner.interrupt)

    def _work(self) -> None:
        try:
            self._ended.set_result(run_job(self._job, self._tick, reading=self._reading))
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
            self._ended.set_exception(error)

    def _reading(self, rows: int) -> None:
        if self._stops:
            raise StoppedError(f"stopped, with {rows:,} rows read")

    def _tick(self, runner: Runner) -> None:
        if self._at is None:
            with self._lock:
                self._at = runner, asyncio.get_running_loop()
                for _ in range(self._stops):
                    runner.interrupt()
        if self._on_progress is not None:
            self._on_progress(View.of(runner))
