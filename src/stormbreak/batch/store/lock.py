"""One run per OUTPUT: a kernel lock on `out.jsonl.lock`.

The lock file is empty and is never written or renamed. If no run has begun, the process that holds the lock removes it;
a process that gets a lock on a removed file tries again. The kernel frees the lock when the process ends, even after
kill -9.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from stormbreak.batch.store.paths import BatchPaths
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, reason

_TRIES = 10
_PAUSE = 0.02  # seconds


@contextlib.contextmanager
def locked(files: BatchPaths) -> Iterator[None]:
    """Hold the lock of OUTPUT. Raises ConfigurationError if another process holds it."""
    fd = _take(files)
    try:
        yield
    finally:
        if not (files.run.exists() or os.fstat(fd).st_size):  # no run has begun
            files.lock.unlink(missing_ok=True)
        os.close(fd)


def held(files: BatchPaths) -> bool:
    """Whether a run is writing OUTPUT. Makes no file."""
    try:
        fd = os.open(files.lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        # The only test of a lock is to take a shared one, which ends with the descriptor.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def require_free(files: BatchPaths) -> None:
    """Raise ConfigurationError if a run is writing OUTPUT now; touch nothing."""
    if held(files):
        raise _taken(files)


def _taken(files: BatchPaths) -> ConfigurationError:
    return ConfigurationError(f"another run is writing to {path_of(files.output)}")


def _take(files: BatchPaths) -> int:
    for left in reversed(range(_TRIES)):  # `held` may hold it for an instant
        fd = _open(files)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), files.lock.stat()):
                return fd
        except FileNotFoundError:
            pass  # it was removed meanwhile
        except BlockingIOError:
            if left:
                time.sleep(_PAUSE)
        except OSError as error:
            os.close(fd)
            why = f"cannot be locked: {reason(error)}"
            raise ConfigurationError(f"{path_of(files.lock)}: {why}") from error
        os.close(fd)
    raise _taken(files)


def _open(files: BatchPaths) -> int:
    try:
        return os.open(files.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        why = f"cannot write there: {reason(error)}"
        raise ConfigurationError(f"{path_of(files.output)}: {why}") from error
