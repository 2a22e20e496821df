"""The event loop of all synchronous clients of a process, on its own thread.

It starts on first use and ends with the process; a forked child starts its own. A thread that waits for it
runs blocking work for it meanwhile (`run_in_waiting_thread`). uvloop is used if
installed; the loop policy of the process is not changed.
"""

import asyncio
import atexit
import logging
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, ContextVar
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeAlias, TypeVar

from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import holds_lock, may_wait, new_lock

T = TypeVar("T")
_Tasks: TypeAlias = "SimpleQueue[Callable[[], None] | None]"  # None: it is over

SOON = 1.0  # seconds after which a waiting thread checks whether it may wait
LEAVING = 5.0  # seconds that a cancelled call has to close its connection, and the loop to end with the process


_log = logging.getLogger("stormbreak")


class Background:
    """One loop, from first use to `stop`; the next use starts another."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._begin()
        reset_in_child(self._begin)

    def _begin(self) -> None:
        self._ending: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` there, in the caller's context, and wait for what it returns or raises.

        KeyboardInterrupt, or another end of the wait, cancels it and waits until it has ended.

        Raises:
            RuntimeError: it is asked on the very thread that would have to do it, or by a finalizer in the middle of what
                the loop waits for, or the process ends.
        """
        job = self._begun(coroutine)
        self._wait(job, None)
        return job.result()

    def _begun(self, coroutine: Coroutine[Any, Any, T]) -> "_Job[T]":
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("code on the background loop may not wait for it")
        job = _Job(coroutine)
        try:
            loop = self.loop()
        except RuntimeError:
            coroutine.close()
            raise
        job.loop = loop
        loop.call_soon_threadsafe(job.begin, loop)
        return job

    def _wait(self, job: "_Job[Any]", within: float | None) -> bool:
        try:
            return job.wait(within)
        except BaseException:
            with suppress(RuntimeError):  # it is closed, and the job with it
                job.loop.call_soon_threadsafe(job.cancel)
            job.let_go(0.0 if holds_lock() else LEAVING)
            raise

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop, started if necessary.

        Raises:
            RuntimeError: the process ends. What is cleared away then may still want to close its connections, but a
                thread that starts so late never runs, and its starter would wait for ever.
        """
        loop = self._loop
        if loop is not None:
            return loop
        if sys.is_finalizing():
            raise RuntimeError("the process ends")
        # Not under the lock: a finalizer may come here meanwhile, on this thread or on the new one, which starts.
        made = _new_loop()
        thread = threading.Thread(target=_forever, args=(made,), name="stormbreak", daemon=True)
        try:
            thread.start()
        except BaseException:  # no thread can be started: the next use tries again
            made.close()
            raise
        with self._lock:
            loop = self._loop
            if loop is None:
                self._loop, self._thread = made, thread
                return made
        made.call_soon_threadsafe(made.stop)  # another one was quicker
        return loop

    def finish(self, ending: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Run a closing function on the loop, and wait for it where that is safe; return False without a loop.

        Then nothing is under way there. In a finalizer, under a lock, or on the loop's own thread it is only handed over;
        elsewhere it is waited for no longer than `LEAVING`.
        """
        loop = self._loop
        if loop is None:
            return False
        if threading.current_thread() is not self._thread and may_wait():
            job = self._begun(ending())
            if self._wait(job, LEAVING):
                job.result()
            return True
        try:
            # In a context of its own: that of the thread here belongs to something else.
            loop.call_soon_threadsafe(self._end_soon, ending, context=Context())
        except RuntimeError:  # it is closed, and all that was there
            return False
        return True

    def _end_soon(self, ending: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.get_running_loop().create_task(ending())
        self._ending.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._ending.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.debug("what was closed by a finalizer failed", exc_info=task.exception())

    def stop(self) -> None:
        """Cancel all tasks, close the loop, and wait; from any other thread."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            with suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(loop.stop)
            thread.join(LEAVING)


class _Job(Generic[T]):
    """One coroutine that a thread waits for. A `concurrent.futures.Future` calls itself done before it is."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self.loop: asyncio.AbstractEventLoop
        self._task: asyncio.Task[T] | None = None
        self._tasks: _Tasks = SimpleQueue()

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        _BLOCKING_WORK.set(self._tasks)  # in a context of its own, which the task inherits
        self._task = loop.create_task(self._coroutine)
        self._task.add_done_callback(lambda _: self._tasks.put(None))

    def cancel(self) -> None:
        assert self._task is not None
        self._task.cancel()

    def wait(self, within: float | None) -> bool:
        """Wait for its end, and run its tasks; signals are dealt with meanwhile. False: not ended `within` seconds.

        Raises:
            RuntimeError: this thread holds a lock of ours, as where a finalizer makes a call: the loop may wait for it.
        """
        try:
            while (task_ := self._tasks.get(timeout=within or SOON)) is not None:
                task_()
        except Empty:
            if within is not None:
                return False
            if holds_lock():
                raise RuntimeError("a finalizer may not wait in the middle of a step") from None
        else:
            return True
        while (task_ := self._tasks.get()) is not None:
            task_()
        return True

    def let_go(self, seconds: float) -> None:
        """Wait for its end, no longer than so many seconds, and run no task_ any more."""
        with suppress(Empty):
            while not (self._task is not None and self._task.done()):
                self._tasks.get(timeout=seconds)

    def result(self) -> T:
        assert self._task is not None
        if self._task.cancelled():
            raise RuntimeError("the background loop has ended, and the call with it")
        return self._task.result()


_BLOCKING_WORK: ContextVar[_Tasks] = ContextVar("_BLOCKING_WORK")  # of the thread that waits


async def run_in_waiting_thread(do: Callable[[], T], undo: Callable[[T], None] | None = None) -> T:
    """Run the blocking `do` in the thread that waits for this coroutine; return its result, or raise.

    Nothing can stop it there. If this was cancelled meanwhile, `undo` gets its result.
    An interrupt of the thread goes to the caller that made it wait.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def notify(report: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # a loop that is closed
            loop.call_soon_threadsafe(report)

    def task_() -> None:
        if done.cancelled():
            return
        try:
            got = do()
        except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
            failed = error
            notify(lambda: None if done.cancelled() else done.set_exception(failed))
        else:
            notify(lambda: _give(done, got, undo))

    _BLOCKING_WORK.get().put(task_)
    return await done


def _give(done: "asyncio.Future[T]", got: T, undo: Callable[[T], None] | None) -> None:
    if not done.cancelled():
        done.set_result(got)
    elif undo is not None:
        undo(got)


def _new_loop() -> asyncio.AbstractEventLoop:
    new: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with suppress(ImportError):
        from uvloop import new_event_loop as new  # noqa: PLC0415 - optional
    return new()


def _forever(loop: asyncio.AbstractEventLoop) -> None:
    try:
        asyncio.set_event_loop(loop)
        loop.run_forever()
    finally:
        loop.run_until_complete(_end())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _end() -> None:
    """Cancel all tasks, and those that they start while they end."""
    await asyncio.sleep(0)  # what was just handed over begins
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in others:
            task.cancel()
        await asyncio.wait(others)


BACKGROUND = Background()
"""The background loop of this process."""

atexit.register(BACKGROUND.stop)
