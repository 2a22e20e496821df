"""Writing that survives: appending whole lines, syncing them, and replacing a file in one step.

A write either stands whole or leaves no trace. After the first failure a file takes nothing more: the same
error comes again, until the next run has looked at what is there.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from stormbreak.batch.plain import path_of, reason
from stormbreak.errors import ConfigurationError

_CHUNK = 2**16  # bytes
_NEW = os.O_CREAT | os.O_CLOEXEC
_sync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class OutputError(ConfigurationError):
    """A file of the batch cannot be written (any more); what was durable before still is."""


class AppendFile:
    """A file that only grows, line by line, mode 0600. Opened, and made, by the first `mend` or `append`.

    `append` belongs to one thread; `sync` may run in another at the same time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._size = 0  # as it must be, if nobody else writes it
        self._unsynced = False
        self._changed: OutputError | None = None  # somebody else does
        self._broken: OutputError | None = None  # no line is taken any more
        self._unsure: OutputError | None = None  # nor is it known what a sync would make durable

    @property
    def broken(self) -> bool:
        """Whether it takes no more lines."""
        return self._broken is not None

    def mend(self, end: int) -> None:
        """Cut off what follows the last complete line, which ends at `end`, and end it with a newline.

        What an earlier run wrote is durable afterwards, even if that run was killed before it could see to it.
        """
        try:
            fd = self._opened()
            self._unsynced = True
            if self._size > end:
                os.ftruncate(fd, end)
                self._size = end
            if end and os.pread(fd, 1, end - 1) != b"\n":
                self.append(b"\n")
        except OSError as error:
            raise self._failed(reason(error)) from error
        self.sync()

    def append(self, line: bytes) -> None:
        """Write `line`, whole or not at all. It is durable after the next `sync`.

        Where another program has cut the file, it goes behind the last whole line, and `sync` raises.
        """
        if self._broken:
            raise self._broken
        written = 0
        try:
            fd = self._opened()
            if os.fstat(fd).st_size != self._size:
                self._go_on_behind_another(fd)
            while written < len(line):
                written += os.write(fd, line[written:])
        except OSError as error:
            self._take_back(written)
            raise self._failed(reason(error)) from error
        self._size += len(line)
        self._unsynced = True

    def sync(self) -> None:
        """Make durable what was appended before the call; blocks for as long as the disk takes."""
        if self._unsure:
            raise self._unsure
        size = self._size  # first: what is appended from now on comes on top
        if self._fd >= 0 and os.fstat(self._fd).st_size < size:
            self._note_change()
        if self._unsynced:
            self._make_durable()
        if self._changed:
            raise self._changed

    def _make_durable(self) -> None:
        self._unsynced = False  # first: an append from now on needs a sync of its own
        why = self._synced()
        if why:
            # A second fsync may succeed without the pages that the first one lost: never ask again.
            self._unsure = self._failed(why)
            raise self._unsure

    def close(self) -> None:
        """Sync and let go; more than once is fine."""
        try:
            self.sync()
        finally:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _synced(self) -> str | None:
        """Sync; return what went wrong, if anything did."""
        try:
            if not os.path.samestat(os.fstat(self._fd), self._path.stat()):
                return "was replaced by another file"
            _sync(self._fd)
        except FileNotFoundError:
            return "was removed"
        except OSError as error:
            return reason(error)
        return None

    def _opened(self) -> int:
        if self._fd < 0:
            made = not self._path.exists()
            self._fd = os.open(self._path, os.O_RDWR | os.O_APPEND | _NEW, 0o600)
            self._size = os.fstat(self._fd).st_size
            if made:
                sync_directory(self._path)
        return self._fd

    def _go_on_behind_another(self, fd: int) -> None:
        """Note that another program changed the file; of a line that it cut, nothing stays."""
        self._note_change()
        size = os.fstat(fd).st_size
        if size < self._size:
            size = _end_of_lines(fd, size)
            os.ftruncate(fd, size)
        self._size = size

    def _note_change(self) -> None:
        said = (
            "was changed by another program while the run was writing; what it lost is sent again"
        )
        self._changed = self._changed or OutputError(f"{path_of(self._path)}: {said}")

    def _take_back(self, written: int) -> None:
        # If even this fails, the torn line is the last one, and the next run cuts it off.
        with contextlib.suppress(OSError):
            if written:
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)

    def _failed(self, why: str) -> OutputError:
        said = f"{why}; what was written stays, the same command goes on from there"
        self._broken = OutputError(f"{path_of(self._path)}: cannot write: {said}")
        return self._broken


def _end_of_lines(fd: int, size: int) -> int:
    """Where the last whole line ends in a file of this size."""
    while size:
        start = max(0, size - _CHUNK)
        newline = os.pread(fd, size - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        size = start
    return 0


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a new file (mode 0600) that takes the place of `path` at the end, in one step, if nothing was raised."""
    fresh = path.with_name(f"{path.name}.stormbreak-new")  # one name: what a crash left is used up
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | _NEW, 0o600)
        try:
            os.fchmod(fd, 0o600)
            with os.fdopen(fd, "wb", buffering=2**20) as file:
                yield file
                file.flush()
                os.fsync(fd)
            fresh.replace(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        sync_directory(path)
    except OSError as error:
        said = f"cannot write: {reason(error)}; left as it was"
        raise OutputError(f"{path_of(path)}: {said}") from error


def remove(path: Path) -> None:
    """Remove `path` for good; none there is fine."""
    path.unlink(missing_ok=True)
    sync_directory(path)


def sync_directory(path: Path) -> None:
    """Make durable that `path` has the name it has, or is gone."""
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no such thing
            os.fsync(fd)
    finally:
        os.close(fd)
