"""A cache in an SQLite file, readable only by its owner, shared by any number of processes.

It stores the JSON of answers under keyed digests; the file has neither prompts nor API keys. Since the cache is the
last resort, its errors are logged once and count as a miss; they never fail a call.
"""

import logging
import os
import secrets
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from stormbreak.cache.memory import SECRET_BYTES, CacheEntry
from stormbreak.core.fallback_policy import CachePolicy
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import new_lock
from stormbreak.errors import ConfigurationError

VERSION = 1  # version of the tables below, stored as SQLite's `user_version`
PATIENCE = 1.0  # seconds to wait for another process; then the answer is not stored
PRIVATE = stat.S_IRUSR | stat.S_IWUSR
_TABLES = (
    "CREATE TABLE secret (bytes BLOB NOT NULL)",
    "CREATE TABLE answers (key BLOB PRIMARY KEY, body BLOB NOT NULL, at REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX answers_by_age ON answers (at)",
    "CREATE TABLE size (bytes INTEGER NOT NULL)",
    "INSERT INTO size VALUES (0)",
    "CREATE TRIGGER came AFTER INSERT ON answers BEGIN UPDATE size SET bytes = bytes + length(new.body); END",
    "CREATE TRIGGER went AFTER DELETE ON answers BEGIN UPDATE size SET bytes = bytes - length(old.body); END",
    f"PRAGMA user_version = {VERSION}",
)

T = TypeVar("T")

_log = logging.getLogger("stormbreak")


class SqliteCache:
    """A cache in the file `path`, created if missing. `clock` returns unix epoch seconds.

    Raises:
        ConfigurationError: the file cannot be opened, or is not a stormbreak cache.
    """

    blocks = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        policy: CachePolicy,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = Path(path)
        self._policy = policy
        self._clock = clock
        self._lock = new_lock()
        self._busy = False  # touched only under the lock
        self._warned = False
        self._connection: sqlite3.Connection | None = None
        try:
            _make(self._path)
            self._connection = _connect(self._path)
            self.secret = _prepare(self._connection)
            self._path.chmod(PRIVATE)  # only after the check that it is ours
            self._connection.execute("PRAGMA journal_mode = WAL")
        except (OSError, sqlite3.Error, ValueError) as error:
            self.close()
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigurationError(
                f"{path}: cannot open the cache of answers: {reason}"
            ) from None
        reset_in_child(self._leave_behind)

    def get(self, key: bytes) -> CacheEntry | None:
        oldest = self._clock() - self._policy.max_age

        def look(connection: sqlite3.Connection) -> CacheEntry | None:
            query = "SELECT body, at FROM answers WHERE key = ? AND at > ?"
            found = connection.execute(query, (key, oldest)).fetchone()
            return None if found is None else CacheEntry(*found)

        return self._with(look)

    def put(self, key: bytes, body: bytes) -> None:
        self.put_all([(key, body)])

    def put_all(self, answers: Iterable[tuple[bytes, bytes]]) -> None:
        """Store several answers, by key, in one transaction."""
        now = self._clock()
        oldest = now - self._policy.max_age

        def keep(connection: sqlite3.Connection) -> None:
            with _transaction(connection):
                connection.execute("DELETE FROM answers WHERE at <= ?", (oldest,))
                for key, body in answers:
                    connection.execute("DELETE FROM answers WHERE key = ?", (key,))
                    connection.execute("INSERT INTO answers VALUES (?, ?, ?)", (key, body, now))
                _make_room(connection, self._policy.max_bytes)

        self._with(keep)

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __del__(self) -> None:
        connection = getattr(self, "_connection", None)
        if connection is not None:
            connection.close()

    def _with(self, do: Callable[[sqlite3.Connection], T]) -> T | None:
        try:
            with self._lock:
                if self._connection is None or self._busy:  # a finalizer interrupted another use
                    return None
                self._busy = True
                try:
                    return do(self._connection)
                finally:
                    self._busy = False
        except sqlite3.Error as error:
            if not self._warned:
                self._warned = True
                name = type(error).__name__
                _log.warning("the cache of answers fails (logged once): %s", name)
            return None

    def _leave_behind(self) -> None:
        """Neither use nor close the parent's connection in a child process: see "How To Corrupt" in SQLite's manual."""
        connection, self._connection = self._connection, None
        _PARENTS.append(connection)
        self._busy = False
        if connection is not None:
            self._connection = _connect(self._path)


_PARENTS: list[sqlite3.Connection | None] = []  # must not be collected, which would close it


def _make(path: Path) -> None:
    """Create the file, readable only by its owner, if it is missing or empty."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    fd = os.open(path, flags, PRIVATE)
    try:
        if not os.fstat(fd).st_size:
            os.fchmod(fd, PRIVATE)
    finally:
        os.close(fd)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA secure_delete = ON")  # overwrite deleted content
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _prepare(connection: sqlite3.Connection) -> bytes:
    """Create missing tables, and read the secret. Raises ValueError for a foreign file."""
    with _transaction(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version == 0 and tables == 0:
            for statement in _TABLES:
                connection.execute(statement)
            fresh = secrets.token_bytes(SECRET_BYTES)
            connection.execute("INSERT INTO secret VALUES (?)", (fresh,))
        elif version != VERSION:
            raise ValueError(f"its tables are of version {version}, not {VERSION}")
        found = connection.execute("SELECT secret.bytes FROM secret, size").fetchone()
    secret = None if found is None else found[0]
    if not isinstance(secret, bytes) or len(secret) != SECRET_BYTES:
        raise ValueError("its contents are incomplete")
    return secret


def _make_room(connection: sqlite3.Connection, max_bytes: int) -> None:
    """Delete the oldest until `max_bytes` are left."""
    (size,) = connection.execute("SELECT bytes FROM size").fetchone()
    if size <= max_bytes:
        return
    gone: list[tuple[bytes]] = []
    for key, length in connection.execute("SELECT key, length(body) FROM answers ORDER BY at"):
        gone.append((key,))
        size -= length
        if size <= max_bytes:
            break
    connection.executemany("DELETE FROM answers WHERE key = ?", gone)
