"""One run per OUTPUT, by a kernel lock on `out.jsonl.lock`.

The lock file is empty, never written, never renamed and never removed. The run file and OUTPUT are replaced by
rename, which would leave an old holder and a new one each with a lock on a file of their own; a lock file that
is removed at the end has the same race. The kernel frees the lock with the process, kill -9 included.
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
    """Hold the right to write OUTPUT. Raises ConfigurationError if another process holds it."""
    try:
        fd = os.open(files.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        said = f"cannot write there: {reason(error)}"
        raise ConfigurationError(f"{path_of(files.output)}: {said}") from error
    try:
        _take(fd, files)
        yield
    finally:
        os.close(fd)


def held(files: BatchPaths) -> bool:
    """Tell whether a run is writing OUTPUT, without making a file."""
    try:
        fd = os.open(files.lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        # There is no way to look at a lock but to take a shared one; it is gone with the descriptor.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def require_free(files: BatchPaths) -> None:
    """Refuse an OUTPUT that a run is writing now. Raises ConfigurationError; touches nothing."""
    if held(files):
        raise _taken(files)


def _taken(files: BatchPaths) -> ConfigurationError:
    return ConfigurationError(f"another run is writing to {path_of(files.output)}")


def _take(fd: int, files: BatchPaths) -> None:
    for left in reversed(range(_TRIES)):  # `held` may be in the way for an instant
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if left:
                time.sleep(_PAUSE)
        except OSError as error:
            said = f"cannot be locked: {reason(error)}"
            raise ConfigurationError(f"{path_of(files.lock)}: {said}") from error
        else:
            return
    raise _taken(files)
