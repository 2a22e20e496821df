"""The worker processes of a gateway, for their parent: start them, ask them, restart them when they end.

A worker that ends is restarted after a second; the pause doubles each time it did not live for STEADY.
"""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import msgspec

from stormbreak.errors import ConfigurationError
from stormbreak.gateway.logs import LOG
from stormbreak.gateway.worker import MAX_LINE, Ask, Reply, Start, line_of

START_TIMEOUT = 60.0  # seconds until a worker must serve
ANSWER_TIMEOUT = 2.0  # seconds in which it must answer ...
CHANGE_TIMEOUT = 30.0  # ... when it reads or applies a new file: a busy worker is not killed
AFTER_GRACE = 8.0  # seconds to notify the last clients and end: supervisors wait for 10
FIRST_PAUSE = 1.0  # seconds before a worker is restarted ...
MAX_PAUSE = 30.0  # ... and at most
STEADY = 30.0  # seconds after which an end is not a failed start

PROGRAM = """
import signal
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, signal.SIG_IGN)
from stormbreak.gateway.worker import main
main()
"""
"""A worker. Signals that a terminal or a supervisor sends to all processes are for the parent; imports take a while."""

_READ = msgspec.json.Decoder(Reply).decode


class WorkerGoneError(Exception):
    """A worker has ended, or does not answer."""


class WorkerProcess:
    """One process. `last_look` is its last report of metrics."""

    def __init__(
        self,
        process: "asyncio.subprocess.Process",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.process = process
        self.last_look: Reply | None = None
        self._writer = writer
        self._asked: dict[int, asyncio.Future[Reply]] = {}
        self._number = 0
        self._started: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.get_running_loop().create_task(self._read(reader))

    @classmethod
    async def start(cls, start: Start, environ: Mapping[str, str]) -> "WorkerProcess":
        """Start a worker; return it when it serves.

        Raises:
            ConfigurationError: it reports that the settings are wrong.
            WorkerGoneError: it has ended or does not serve in time.
        """
        ours, its = socket.socketpair()
        with its:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                PROGRAM,
                str(its.fileno()),
                pass_fds=(its.fileno(), *start.sockets),
                env=dict(environ),
                stdin=subprocess.DEVNULL,
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE)
        worker = cls(process, reader, writer)
        try:
            writer.write(line_of(start))
            async with asyncio.timeout(START_TIMEOUT):
                said = await worker._started
        except TimeoutError:
            await worker.kill()
            raise WorkerGoneError(f"it did not serve within {START_TIMEOUT:g} s") from None
        except BaseException:
            await worker.kill()
            raise
        if said.error is not None:
            await worker.kill()
            raise ConfigurationError(said.error)
        return worker

    async def ask(self, do: str, *, text: str = "", within: float = ANSWER_TIMEOUT) -> Reply:
        """Send it a request. Raises WorkerGoneError if it has ended or does not answer in time."""
        if self._reading.done():
            raise WorkerGoneError(f"worker {self.process.pid} has ended")
        self._number += 1
        number, answered = self._number, asyncio.get_running_loop().create_future()
        self._asked[number] = answered
        self._writer.write(line_of(Ask(number=number, do=do, text=text)))
        try:
            async with asyncio.timeout(within):
                reply: Reply = await answered
        except TimeoutError:
            raise WorkerGoneError(f"worker {self.process.pid} does not answer") from None
        finally:
            del self._asked[number]
        return reply

    async def ended(self) -> int:
        """Wait for its end; return its status, negative for a signal."""
        await asyncio.wait({self._reading})
        return await self.process.wait()

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.ended()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Read its answers until it has ended."""
        with suppress(OSError):
            while line := await reader.readline():
                reply = _READ(line)
                if reply.metrics:
                    self.last_look = reply
                waits = self._started if reply.number == 0 else self._asked.get(reply.number)
                if waits is not None and not waits.done():
                    waits.set_result(reply)
        self._writer.close()
        for waits in (self._started, *self._asked.values()):
            if not waits.done():
                waits.set_exception(WorkerGoneError(f"worker {self.process.pid} has ended"))


class Workers:
    """A fixed number of processes. `start` is the message that a new one gets.

    `on_end` is called with each process that has ended.
    """

    def __init__(
        self,
        count: int,
        start: Callable[[], Start],
        environ: Mapping[str, str],
        on_end: Callable[[WorkerProcess], None],
    ) -> None:
        self._count = count
        self._start = start
        self._environ = environ
        self._on_end = on_end
        self._keepers: list[asyncio.Task[None]] = []
        self._running: dict[int, WorkerProcess] = {}
        self.starting = asyncio.Lock()
        """Held while a worker starts; changes to all workers are made under it."""

    @property
    def running(self) -> Sequence[WorkerProcess]:
        return list(self._running.values())

    async def start(self) -> None:
        """Start all workers, and restart those that end.

        Raises ConfigurationError if a worker reports wrong settings, or does not serve.
        """
        starting = [WorkerProcess.start(self._start(), self._environ) for _ in range(self._count)]
        found = await asyncio.gather(*starting, return_exceptions=True)
        good = [each for each in found if isinstance(each, WorkerProcess)]
        failed = next((each for each in found if isinstance(each, BaseException)), None)
        if failed is not None:
            await asyncio.gather(*(worker.kill() for worker in good))
            if isinstance(failed, WorkerGoneError):
                raise ConfigurationError(f"a worker of the gateway cannot serve: {failed}")
            raise failed
        for slot, worker in enumerate(good):
            self._running[slot] = worker
            self._keepers.append(asyncio.get_running_loop().create_task(self._keep(slot, worker)))

    async def ask_all(
        self, do: str, *, text: str = "", within: float = ANSWER_TIMEOUT
    ) -> Mapping[WorkerProcess, Reply | WorkerGoneError]:
        """Send a request to all that serve; return their answers."""

        async def ask(worker: WorkerProcess) -> Reply | WorkerGoneError:
            try:
                return await worker.ask(do, text=text, within=within)
            except WorkerGoneError as gone:
                return gone

        workers = self.running
        replies = await asyncio.gather(*map(ask, workers))
        return dict(zip(workers, replies, strict=True))

    async def drain(self, grace: float) -> None:
        """Give their answers `grace` seconds to finish; wait a little longer for the workers to end."""
        await self._stop_keeping()
        seconds = grace + AFTER_GRACE
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.ask_all("drain", within=seconds)
                await asyncio.gather(*(worker.ended() for worker in self.running))

    async def close(self) -> None:
        await self._stop_keeping()
        await asyncio.gather(*(worker.kill() for worker in self.running))
        self._running.clear()

    async def _stop_keeping(self) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    async def _keep(self, slot: int, worker: WorkerProcess) -> None:
        """Replace a worker that has ended."""
        loop = asyncio.get_running_loop()
        pause, since = FIRST_PAUSE, loop.time()
        while True:
            status = await worker.ended()
            self._running.pop(slot, None)
            self._on_end(worker)
            if loop.time() - since >= STEADY:
                pause = FIRST_PAUSE
            cause = f"signal {-status}" if status < 0 else f"status {status}"
            LOG.warning("worker %d has ended (%s)", worker.process.pid, cause)
            worker, pause = await self._another(pause)
            self._running[slot], since = worker, loop.time()

    async def _another(self, pause: float) -> tuple[WorkerProcess, float]:
        """Start another worker after a pause, until one serves; also return the next pause."""
        while True:
            LOG.info("another worker starts in %g s", pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE)
            try:
                async with self.starting:
                    return await WorkerProcess.start(self._start(), self._environ), pause
            except (ConfigurationError, WorkerGoneError, OSError) as error:
                LOG.error("a worker cannot serve: %s", error)
