"""Reserve file descriptors: for the connections of a run before it sends, and for its own files at any time.

A run that cannot open a file cannot record what it spends.
"""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stormbreak.drivers.locks import new_lock
from stormbreak.errors import ConfigurationError

RESERVE = 64
"""Files other than connections: of the run, of name lookups, of `top`, and sockets that are still closing."""

_DEFAULT_MAX = 10_240  # macOS: the limit where the hard limit says "unlimited"
_SPARE = 4  # the run file and its directory, the failed file and its directory


def make_room(connections: int) -> int:
    """Raise the soft limit on open files as far as needed and allowed; return how many of the `connections` fit.

    The limit stays raised: other runs of this process may need it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    others = _open_now() + RESERVE
    needed = others + connections
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    for limit in (wanted, min(wanted, _DEFAULT_MAX)):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
            break
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(0, min(connections, soft - others))


def too_many_files(concurrency: int, places: int, fit: int) -> ConfigurationError:
    """Make the error for a concurrency that does not fit; it names the largest one that does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    each = f" to each of {places} addresses" if places > 1 else ""
    limit = f"the {hard:,} files that this process may open (ulimit -Hn)"
    if fit < places:
        return ConfigurationError(f"{limit} are too few for a run; raise the limit")
    return ConfigurationError(
        f"concurrency {concurrency:,}: the connections{each} do not fit into {limit}; use at most {fit // places:,},"
        " or raise the limit"
    )


class ReservedFiles:
    """Descriptors held in reserve, so that sockets cannot take the last one from the files of a run."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._held: list[int] = []
        self._users = 0
        self._fill()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Free the reserve for files that are opened in the block, in any thread."""
        with self._lock:
            self._users += 1
            self._empty()
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._fill()

    def close(self) -> None:
        """Close them for good. May be called twice."""
        with self._lock:
            self._users += 1  # never refilled
            self._empty()

    def _fill(self) -> None:
        with suppress(OSError):  # none is left: try again next time
            while len(self._held) < _SPARE:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def _empty(self) -> None:
        while self._held:
            os.close(self._held.pop())


def _open_now() -> int:
    try:
        return len(list(Path("/dev/fd").iterdir()))
    except OSError:
        return RESERVE
