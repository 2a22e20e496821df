"""Durable writes: append whole lines, sync them, and replace a file in one step.

A write is complete or leaves no trace. After its first failure a file accepts no more writes and raises the same error
again, until the next run has read the file.

Other users of the directory may put links where our files belong. No link is followed, and only private files (mode
0600) are written.
"""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, reason

PRIVATE = 0o600
_BLOCK = 2**16  # bytes
_CREATE = os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_NO_DIRECTORY_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF, errno.EACCES}
_sync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


_GOES_ON = "what was written is kept; run the same command again to resume"
_SENDS_AGAIN = "run the same command again to send the missing rows"
_REMOVED, _REPLACED = "was removed", "was replaced by another file"


class OutputError(ConfigurationError):
    """A file of the batch cannot be written (any more); durable lines stay durable."""


class AppendFile:
    """An append-only file of lines, mode 0600. The first `repair` or `append` opens it, and creates it if needed.

    An existing file becomes private. A lock excludes another process that opens it by another name. Call `append` in
    one thread; `sync` may run in another at the same time. After `share`, forks of this process can append too.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._end = 0  # bytes that the file must have
        self._unsynced = False
        self._cut: OutputError | None = None  # some bytes are gone; the rest can still be synced
        self._broken: OutputError | None = None  # accepts no more lines
        self._unsure: OutputError | None = None  # and a sync may succeed without all lines
        # If several processes append, its lock gives them turns.
        self._turns: BinaryIO | None = None

    @property
    def is_writable(self) -> bool:
        """Whether it accepts lines: no write has failed."""
        return self._broken is None

    def repair(self, end: int) -> None:
        """Cut off everything after the last complete line, which ends at `end`, and end that line with a newline.

        Also sync the lines of an earlier run, which may have been killed before it could.
        """
        try:
            fd = self._opened()
            self._unsynced = True
            if os.fstat(fd).st_size > end:
                os.ftruncate(fd, end)
            self._end = end
            if end and os.pread(fd, 1, end - 1) != b"\n":
                self.append(b"\n")
        except OSError as error:
            raise self._failed(reason(error)) from error
        self.sync()

    def share(self) -> None:
        """Let forks of this process append too; call it before the fork, when the file is open.

        They take turns with a lock on a file without a name: locks on this file are shared by all of them. The kernel
        ends the turn of a killed process.
        """
        self._turns = TemporaryFile()  # noqa: SIM115 - closed with this one

    def append(self, line: bytes) -> None:
        """Write all of `line`, or nothing. It is durable after the next `sync`."""
        if self._broken:
            raise self._broken
        if self._turns is None:
            self._append(line)
            return
        fcntl.lockf(self._turns, fcntl.LOCK_EX)
        try:
            self._append(line)
        finally:
            fcntl.lockf(self._turns, fcntl.LOCK_UN)

    def _append(self, line: bytes) -> None:
        written = 0
        try:
            fd = self._opened()
            end = os.lseek(fd, 0, os.SEEK_END)  # takes a fifth of the time of fstat
            if end < self._end:
                self._note_cut()
                end = _cut_to_a_line(fd)
            elif self._turns is not None and end and os.pread(fd, 1, end - 1) != b"\n":
                end = _cut_to_a_line(fd)  # a process was killed while it wrote
            while written < len(line):
                written += os.write(fd, line[written:])
        except OSError as error:
            self._take_back(written)
            raise self._failed(reason(error)) from error
        self._end = end + written
        self._unsynced = True

    def sync(self) -> None:
        """Make all lines durable that were appended before the call. Blocks on the disk.

        Raises OutputError also if the file is shorter than what was written to it; then the rest is durable.
        """
        if self._unsure:
            raise self._unsure
        if self._unsynced:
            self._unsynced = False  # do this first: a later append needs another sync
            self._sync()
        if self._cut:
            raise self._cut

    def close(self) -> None:
        """Sync and close. May be called twice."""
        try:
            if self._fd >= 0:
                self._unsynced = True  # check once more that nothing is missing
            self.sync()
        finally:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            if self._turns is not None:
                self._turns.close()
                self._turns = None

    def _sync(self) -> None:
        why, least = None, self._end  # read before fstat: lines may be appended meanwhile
        try:
            found = os.fstat(self._fd)
            if os.path.samestat(found, self._path.stat()):
                _sync(self._fd)
            else:
                why = _REPLACED
        except FileNotFoundError:
            why = _REMOVED
        except OSError as error:
            why = reason(error)
        if why:
            # A second fsync may succeed without the pages that the first one lost: never try again.
            self._unsure = self._failed(
                why, _SENDS_AGAIN if why in (_REMOVED, _REPLACED) else _GOES_ON
            )
            raise self._unsure
        if found.st_size < least:
            self._note_cut()

    def _note_cut(self) -> None:
        what = "another process cut it short while the run was at work"
        self._cut = OutputError(f"{path_of(self._path)}: {what}; {_SENDS_AGAIN}")

    def _opened(self) -> int:
        if self._fd < 0:
            made = not self._path.exists()
            fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_NONBLOCK | _CREATE, PRIVATE)
            try:
                self._end = _private(fd).st_size
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                raise self._failed("another run is writing to it, by another name") from None
            except BaseException:
                os.close(fd)
                raise
            self._fd = fd
            if made:
                sync_directory(self._path)
        return self._fd

    def _take_back(self, written: int) -> None:
        # If this fails too, the last line stays torn, and the next run cuts it off.
        with contextlib.suppress(OSError):
            if written:
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)

    def _failed(self, why: str, hint: str = _GOES_ON) -> OutputError:
        self._broken = OutputError(f"{path_of(self._path)}: cannot write: {why}; {hint}")
        return self._broken


def _cut_to_a_line(fd: int) -> int:
    """Remove a torn last line; return where the file ends."""
    end = os.fstat(fd).st_size
    while end:
        begin = max(0, end - _BLOCK)
        end = begin + os.pread(fd, end - begin, begin).rfind(b"\n") + 1
        if end > begin:
            break
    os.ftruncate(fd, end)
    return end


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a new file (mode 0600). It replaces `path` in one step at the end, unless the block raises."""
    fresh = fresh_path(path)
    try:
        if path.exists() and not path.is_file():  # root can replace /dev/null
            raise OSError(errno.EINVAL, "not a regular file")  # noqa: TRY301
        fresh.unlink(missing_ok=True)  # left by a crash, or a link that another user put there
        fd = os.open(fresh, os.O_WRONLY | os.O_EXCL | _CREATE, PRIVATE)
        made = os.fstat(fd)
        try:
            with os.fdopen(fd, "wb", buffering=2**20) as file:
                os.fchmod(fd, PRIVATE)
                yield file
                file.flush()
                os.fsync(fd)
            if not os.path.samestat(fresh.lstat(), made):
                raise FileExistsError(errno.EEXIST, "another process is writing it too")  # noqa: TRY301
            fresh.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                if os.path.samestat(fresh.lstat(), made):
                    fresh.unlink()
            raise
        sync_directory(path)
    except OSError as error:
        why = f"cannot write: {reason(error)}; left as it was"
        raise OutputError(f"{path_of(path)}: {why}") from error


def remove(path: Path) -> None:
    """Remove `path` durably, if it exists."""
    path.unlink(missing_ok=True)
    sync_directory(path)


def remove_stale_temp(path: Path) -> None:
    """Remove the file of a process that was killed while it replaced `path`."""
    with contextlib.suppress(OSError):  # reported later, if it is in the way
        fresh_path(path).unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make the creation or removal of `path` durable."""
    try:
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        # Some network file systems do not support it, and some directories are not readable.
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise


def fresh_path(path: Path) -> Path:
    """Return the name of the file that `replacing` writes, before it replaces `path`."""
    return path.with_name(f"{path.name}.stormbreak-new")


def _private(fd: int) -> os.stat_result:
    """Make it readable for its owner only. Raises OSError if it is not a file, or not ours."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    if stat.S_IMODE(found.st_mode) != PRIVATE:
        os.fchmod(fd, PRIVATE)
    return found
