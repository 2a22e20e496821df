"""The programs under test: copies of one command, each in a process group of its own, which ends with the storm.

A program gets the environment it would have anyway, with the address of the provider and a key that opens nothing.
What it writes to its standard output is not read: the provider saw all that counts. Of what it writes to standard error
the end is kept, for the case that it dies.
"""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from shutil import which
from typing import NamedTuple

from stormbreak.errors import ConfigurationError, StormbreakError
from stormbreak.keylike import quoted

KEY = "storm"
"""What every program gets for a key."""

_KEPT = 4096  # bytes of standard error
_READ = 65536
_GRACE = 2.0  # seconds between SIGTERM and SIGKILL
_LOOK = 0.02  # seconds between looks at one that is to end
_LAST_WORDS = 0.5  # seconds in which what a dead program wrote is still read


class Program(NamedTuple):
    """A command with a name."""

    name: str
    words: tuple[str, ...]

    def check(self) -> None:
        """Raise ConfigurationError if there is nothing to start."""
        if not self.words:
            raise ConfigurationError("--cmd names no program")
        if which(self.words[0]) is None:
            raise ConfigurationError(
                f"--cmd: there is no program {quoted(self.words[0])} that can be started"
            )


class ProgramError(StormbreakError):
    """A program did not play its part. `said` is the end of its standard error, as it wrote it."""

    def __init__(self, what: str, *, said: str = "") -> None:
        super().__init__(what)
        self.said = said


class Copy:
    """One running copy of a program."""

    def __init__(self, process: Process, number: int) -> None:
        self.number = number  # from 1 on
        self._process = process
        self._tail = b""
        self._listening = asyncio.create_task(self._listen())

    @property
    def pid(self) -> int:
        """Its process, and its process group."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code; negative: the signal that ended it; None while it runs."""
        return self._process.returncode

    def feed(self, line: bytes) -> None:
        """Hand it a line; what it does not read waits, and one that has ended misses it."""
        stdin = self._process.stdin
        if stdin is not None and self.code is None and not stdin.is_closing():
            stdin.write(line)

    def finish(self) -> None:
        """Tell it that nothing more comes."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def last_words(self) -> str:
        """The end of its standard error."""
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._listening), _LAST_WORDS)
        return self._tail.decode(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all that is left of its process group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def abandon(self) -> None:
        """Listen no more."""
        self._listening.cancel()

    async def _listen(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None
        while data := await stderr.read(_READ):
            self._tail = (self._tail + data)[-_KEPT:]


async def start(
    program: Program, running: list[Copy], copies: int, around: Mapping[str, str], *, fed: bool
) -> None:
    """Start so many copies, each put into `running` at once; with `fed`, lines can be handed to them."""
    for number in range(1, copies + 1):
        try:
            process = await asyncio.create_subprocess_exec(
                *program.words,
                stdin=PIPE if fed else DEVNULL,
                stdout=DEVNULL,
                stderr=PIPE,
                env=around,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it cannot be started"
            raise ConfigurationError(f"--cmd: {quoted(program.words[0])}: {why.lower()}") from error
        running.append(Copy(process, number))


async def stop(copies: Sequence[Copy]) -> None:
    """End them and all that they started; whoever does not go is killed."""
    for copy in copies:
        copy.send(signal.SIGTERM)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                await _gone(copies)
    finally:  # also where a second cancel comes
        for copy in copies:
            copy.send(signal.SIGKILL)
            copy.finish()
            copy.abandon()
    await _gone(copies)


async def _gone(copies: Sequence[Copy]) -> None:
    """Wait until none of them runs; not, as asyncio's `wait` may, for whatever else holds their pipes."""
    for copy in copies:
        while copy.code is None:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)


def environment(base_url: str) -> dict[str, str]:
    """What a program finds around it."""
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
    """What a command is called that was given no name: its script, else its program."""
    scripts = [Path(word).stem for word in words if _is_file(word)]
    return scripts[-1] if scripts else Path(words[0]).name if words else ""


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):
        return False
