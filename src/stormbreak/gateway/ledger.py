"""What client keys have spent, on disk: a gateway that is killed and started again forgets nothing.

A row says how far a key may have spent in its period. It is written before that is spent, as for batches (ADR 41), and
exactly when the gateway ends. One process at a time writes these rows: it has the lock of the file FILE.lock. `usage_rows` keeps
others in the same file.
"""

import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from stormbreak.drivers.locks import new_lock
from stormbreak.errors import ConfigurationError
from stormbreak.gateway.usage_rows import TIMEOUT

_TABLE = "CREATE TABLE IF NOT EXISTS spent (key TEXT PRIMARY KEY, usd TEXT NOT NULL, ends REAL)"


class Spent(NamedTuple):
    """US dollars that a key may have spent, and the seconds until its period ends (None: never)."""

    usd: Decimal
    ends_in: float | None


class LedgerError(Exception):
    """The file cannot be written."""


class SpendLedger:
    """The file. Its methods block on the disk; `write` may run in a thread. `clock` returns unix epoch seconds.

    Raises:
        ConfigurationError: it cannot be opened, or another process has it.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = Path(path)
        self._clock = clock
        self._lock = new_lock()
        try:
            self._held = _locked(self.path)
        except OSError as error:
            raise self._unusable(error) from None
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.close(descriptor)
            self._db = sqlite3.connect(self.path, timeout=TIMEOUT, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            os.close(self._held)
            raise self._unusable(error) from None
        try:
            self._db.execute("PRAGMA synchronous = FULL")
            with self._db:
                self._db.execute("BEGIN EXCLUSIVE")
                self._db.execute(_TABLE)
            self.path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise self._unusable(error) from None

    def _unusable(self, error: Exception) -> ConfigurationError:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, BlockingIOError):
            reason = "another process has it"
        return ConfigurationError(f"gateway.ledger {self.path}: {reason}")

    def read(self, key: str) -> Spent | None:
        """Return what a key may have spent in a period that is not over; None: nothing."""
        query = "SELECT usd, ends FROM spent WHERE key = ?"
        found = self._db.execute(query, (key,)).fetchone()
        if found is None:
            return None
        usd, ends = found
        left = None if ends is None else ends - self._clock()
        return None if left is not None and left <= 0 else Spent(Decimal(usd), left)

    def write(self, key: str, spent: Spent) -> None:
        """Write what a key may have spent, before it does.

        Raises:
            LedgerError: it cannot be written.
        """
        ends = None if spent.ends_in is None else self._clock() + spent.ends_in
        try:
            with self._lock, self._db:
                self._db.execute(
                    "INSERT INTO spent VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET usd = excluded.usd, ends = excluded.ends",
                    (key, str(spent.usd), ends),
                )
        except sqlite3.Error as error:
            raise LedgerError(str(error)) from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()
        os.close(self._held)


def _locked(path: Path) -> int:
    """Return the descriptor of a lock file that no other process has."""
    beside = path.with_name(f"{path.name}.lock")
    descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
