"""The programs under test: copies of one command. Each has a process group, which is killed after the storm.

A program gets its usual environment, with the base URL of the provider and a dummy key. Its standard output is not
read: the provider sees all that counts. The end of its standard error is kept, in case it dies.
"""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from os.path import isfile
from pathlib import Path
from shutil import which
from typing import NamedTuple, cast

from stormbreak.errors import ConfigurationError, StormbreakError
from stormbreak.hidden_keys import looks_like_key, quoted

KEY = "storm"  # the dummy API key of every program
_KEPT = 4096  # bytes of standard error
_STDERR = 2
_GRACE = 2.0  # seconds between SIGTERM and SIGKILL
_LOOK = 0.02  # seconds between checks of a process that must end
_STDERR_TAIL = 0.5  # seconds to read the output of a dead program


class Program(NamedTuple):
    """A command with a name."""

    name: str
    words: tuple[str, ...]

    def check(self) -> None:
        """Raise ConfigurationError if the program does not exist."""
        if not self.words:
            raise ConfigurationError("--cmd names no program")
        if which(self.words[0]) is None:
            raise ConfigurationError(f"--cmd: program {_named(self.words[0])} not found")


class ProgramError(StormbreakError):
    """A program failed. `stderr` is the end of its standard error, unchanged."""

    def __init__(self, what: str, *, stderr: str = "") -> None:
        super().__init__(what)
        self.stderr = stderr


class Copy(asyncio.SubprocessProtocol):
    """One running copy of a program, the leader of a process group."""

    def __init__(self, number: int) -> None:
        self.number = number  # from 1 on
        self._transport: asyncio.SubprocessTransport | None = None
        self._tail = b""
        self._silent = asyncio.Event()

    # ------------------------------------------------------------ called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is not a subclass
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002
        self._tail = (self._tail + data)[-_KEPT:]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        """All processes have closed its standard error."""
        if fd == _STDERR:
            self._silent.set()

    # ------------------------------------------------------------ called by its owner

    @property
    def transport(self) -> asyncio.SubprocessTransport:
        assert self._transport is not None
        return self._transport

    @property
    def pid(self) -> int:
        """The process id, also of its group."""
        pid = self.transport.get_pid()
        assert pid is not None
        return pid

    @property
    def code(self) -> int | None:
        """Its exit code; negative: the signal that ended it; None while it runs."""
        return self.transport.get_returncode()

    def feed(self, line: bytes) -> None:
        """Send it a line; unread lines are buffered, an ended process gets none."""
        pipe = self._stdin
        if pipe is not None and not pipe.is_closing():
            pipe.write(line)

    def finish(self) -> None:
        """Close its standard input."""
        if self._stdin is not None:
            self._stdin.close()

    async def stderr_tail(self) -> str:
        """The end of its standard error."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_STDERR_TAIL):
                await self._silent.wait()
        return self._tail.decode(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the rest of its process group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    @property
    def _stdin(self) -> asyncio.WriteTransport | None:
        return cast("asyncio.WriteTransport | None", self.transport.get_pipe_transport(0))


async def start(
    program: Program, running: list[Copy], copies: int, around: Mapping[str, str], *, fed: bool
) -> None:
    """Start `copies`, each added to `running` at once; with `fed`, they can be sent lines."""
    loop = asyncio.get_running_loop()
    for number in range(1, copies + 1):
        starting = asyncio.ensure_future(
            loop.subprocess_exec(
                partial(Copy, number),
                *program.words,
                stdin=PIPE if fed else DEVNULL,
                stdout=DEVNULL,
                stderr=PIPE,
                env=around,
                start_new_session=True,
            )
        )
        try:
            await asyncio.shield(starting)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it cannot be started"
            raise ConfigurationError(
                f"--cmd: {_named(program.words[0])}: {reason.lower()}"
            ) from error
        finally:  # a cancel before the pipes are connected would never return
            if not starting.done():
                await asyncio.wait([starting])
            if not starting.exception():
                running.append(starting.result()[1])


async def stop(copies: Sequence[Copy]) -> None:
    """Terminate the copies and their children; kill those that do not end."""
    for copy in copies:
        copy.send(signal.SIGTERM)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                await _gone(copies)
    finally:  # also on a second cancel
        for copy in copies:
            copy.send(signal.SIGKILL)
    await _gone(copies)
    for copy in copies:
        copy.transport.close()


async def _gone(copies: Sequence[Copy]) -> None:
    """Wait until all copies have exited, even if other processes still hold their pipes."""
    for copy in copies:
        while copy.code is None:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)


def environment(base_url: str) -> dict[str, str]:
    away = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    direct = ",".join(filter(None, ["127.0.0.1", away]))
    return {
        **os.environ,
        "OPENAI_BASE_URL": base_url,
        "OPENAI_API_KEY": KEY,
        "ANTHROPIC_BASE_URL": base_url.removesuffix("/v1"),
        "ANTHROPIC_API_KEY": KEY,
        "NO_PROXY": direct,
        "no_proxy": direct,
    }


def name_of(words: Sequence[str]) -> str:
    """Return the name of a command without a given name: its script, else its program."""
    scripts = [Path(word).stem for word in words if isfile(word)]  # noqa: PTH113 - never raises
    return scripts[-1] if scripts else Path(words[0]).name if words else ""


def _named(word: str) -> str:
    """Quote a program. A path can look like a key, so its parts are checked one by one."""
    is_path = "/" in word and not any(map(looks_like_key, word.split("/")))
    return repr(word) if is_path else quoted(word)
