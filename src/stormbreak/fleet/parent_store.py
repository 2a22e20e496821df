"""The store in a parent process, on a Unix socket, for the processes of one machine.

A message is a line of JSON. The parent decides alone, with its own clock; the store ends with the parent process. A
`MoneyRecord` keeps money over restarts: it records the money that may be spent before the store grants it.

The socket is in a folder that the parent locks, and removes at its end. The next store removes the folder of a parent
that was killed.
"""

import fcntl
import os
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer
from tempfile import gettempdir, mkdtemp
from time import monotonic, time
from typing import Any, NamedTuple, Protocol, Self
from urllib.parse import quote, unquote, urlsplit

import msgspec

from stormbreak.drivers.locks import new_lock
from stormbreak.errors import ConfigurationError
from stormbreak.fleet.messages import NONE, TIMEOUT, Answer, Message, Report, StoreError
from stormbreak.fleet.store_rules import EVER, Scope, beat

MAX_LINE = 16_000_000  # bytes
_FOLDER, _SOCKET = "stormbreak-fleet-", "socket"
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC  # an open of a pipe instead would hang

# Made at import: msgspec prepares a type on first use, and two threads that do so at once crash the process.
_READ_MESSAGES = msgspec.json.Decoder(list[Message]).decode
_READ_ANSWERS = msgspec.json.Decoder(list[Answer]).decode


class Money(NamedTuple):
    """Micro-dollars that may be spent in a period, the seconds until it ends (None: never), and when it `started`."""

    micro: float
    ends_in: float | None
    started: float = EVER


class MoneyRecord(Protocol):
    """Keeps the money of scopes over restarts. One thread at a time uses it."""

    def restored(self, scope: str) -> Money | None:
        """Return the money that may have been spent in the present period."""

    def note(self, scope: str, money: Money, limit: float) -> bool:
        """Record the money that may be spent, before it is granted; return whether it is recorded.

        After an OSError the member gets no answer.
        """


class ParentStore:
    """The store. As a context manager it serves its `url` to other processes, on a socket that only this user may open.

    With a `record`, grants survive it. Raises ConfigurationError if no folder is writable, or its path is too long.
    """

    def __init__(
        self,
        clock: Callable[[], float] = monotonic,
        *,
        record: MoneyRecord | None = None,
        wall: Callable[[], float] = time,
    ) -> None:
        self.scopes: dict[str, Scope] = {}
        self._clock = clock
        self._wall = wall
        self.record = record
        self._turn = new_lock()
        try:
            _remove_leftovers(Path(gettempdir()))
            self.folder = Path(mkdtemp(prefix=_FOLDER))  # mode 0700
        except OSError as error:
            message = f"no folder for the socket of the workers: {error.strerror}; set TMPDIR"
            raise ConfigurationError(message) from error
        self._path = self.folder / _SOCKET
        self.url = f"parent://{quote(str(self._path))}"

    def beat(self, messages: Sequence[Message]) -> list[Answer]:
        with self._turn:
            return [self._answer(each, self._clock()) for each in messages]

    def money(self, scope: str) -> Money | None:
        """Return what may be spent in the present period of a scope; None: no period has begun."""
        with self._turn:
            known = self.scopes.get(scope)
            return None if known is None else self._money(known)

    def lost(self, scope: str) -> float:
        """Return the micro-dollars of members that are gone, or of processes before this one."""
        with self._turn:
            known, now = self.scopes.get(scope, Scope()), self._clock()
            gone = (each.money for each in known.members.values() if each.until <= now)
            return known.unclaimed + sum(gone)

    def _answer(self, message: Message, now: float) -> Answer:
        name, member, report = message
        scope = self.scopes.get(name)
        if scope is None:
            scope = self.scopes[name] = self._opened(name, report, now)
        answer = beat(scope, member, report, now, wall=self._wall())
        if self.record is None or not report.spend.limit:
            return answer
        money, asserted = self._money(scope), report.spend
        if money is None or self.record.note(name, money, asserted.limit):
            return answer
        known = asserted.granted if asserted.started == scope.started else 0.0
        scope.members[member].granted = known  # the member does not know of a larger grant
        return answer._replace(spend=answer.spend._replace(granted=known))

    def _opened(self, name: str, report: Report, now: float) -> Scope:
        known = None if self.record is None else self.record.restored(name)
        if known is None:
            return Scope()
        scope = Scope(epoch=now, started=EVER, folded=known.micro, period=report.spend.period)
        if known.ends_in is not None:
            scope.started = scope.money_time(now, self._wall())
            scope.ends_at = scope.started + known.ends_in
        return scope

    def _money(self, scope: Scope) -> Money | None:
        at = scope.money_time(self._clock(), self._wall())
        if scope.started == 0 or (scope.ends_at != NONE and at >= scope.ends_at):
            return None
        taken = scope.unclaimed + sum(member.money for member in scope.members.values())
        ends_in = None if scope.ends_at == NONE else scope.ends_at - at
        return Money(taken, ends_in, scope.started)

    def __enter__(self) -> Self:
        store = self

        class Handler(StreamRequestHandler):
            def handle(self) -> None:
                with suppress(OSError, msgspec.MsgspecError):
                    while line := self.rfile.readline(MAX_LINE):
                        answers = store.beat(_READ_MESSAGES(line))
                        self.wfile.write(msgspec.json.encode(answers) + b"\n")

        class Server(ThreadingUnixStreamServer):
            daemon_threads = True
            request_queue_size = 1024  # all workers may connect at once; more are refused

        self._lock = -1
        try:
            self._lock = os.open(self.folder, _FLAGS)
            with suppress(OSError):  # a file system without locks: nobody removes the folder
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._server = Server(str(self._path), Handler)
        except OSError as error:  # the path of a socket has about 100 characters
            with suppress(OSError):
                self.folder.rmdir()
            with suppress(OSError):
                os.close(self._lock)
            message = f"no socket for the workers: {error}; set TMPDIR to a short path"
            raise ConfigurationError(message) from error
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        with suppress(OSError):
            os.unlink(self._path)  # noqa: PTH108 - as the line after
            os.rmdir(self.folder)  # noqa: PTH106
        os.close(self._lock)


def _remove_leftovers(folder: Path) -> None:
    """Remove the socket folders of parents that were killed: nobody holds their locks.

    A folder without a socket stays: its parent may be about to lock it.
    """
    for path in folder.glob(f"{_FOLDER}*/{_SOCKET}"):
        with suppress(OSError):  # it is alive, of another user, or removed by another parent
            lock = os.open(path.parent, _FLAGS | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Root may open those of others; a parent of an older version has no lock.
                if os.fstat(lock).st_uid == os.geteuid() and not _is_served(path):
                    os.unlink(_SOCKET, dir_fd=lock)  # the path may lead elsewhere by now
                    path.parent.rmdir()
            finally:
                os.close(lock)


def _is_served(path: Path) -> bool:
    """Whether a process of this machine accepts on the socket, or may: a full queue refuses nobody."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(TIMEOUT)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True


class ParentClient:
    """One connection to the store of a parent process."""

    def __init__(self, url: str) -> None:
        self._path = unquote(urlsplit(url).path)
        self._socket: socket.socket | None = None
        self._lines: Any = None

    def beat(self, messages: Sequence[Message]) -> list[Answer]:
        try:
            connection = self._connected()
            connection.sendall(msgspec.json.encode(messages) + b"\n")
            return _READ_ANSWERS(self._lines.readline(MAX_LINE))
        except TimeoutError:
            self.close()
            raise StoreError("no answer in time") from None
        except (OSError, msgspec.MsgspecError) as error:
            self.close()
            raise StoreError(f"the parent process is gone ({type(error).__name__})") from None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(TIMEOUT)
            self._socket.connect(self._path)
            self._lines = self._socket.makefile("rb")
        return self._socket

    def warnings(self) -> list[str]:
        """Return no warnings: the processes end with their store."""
        return []

    def close(self) -> None:
        connection, self._socket = self._socket, None
        lines, self._lines = self._lines, None
        for each in (connection, lines):
            if each is not None:
                each.close()
