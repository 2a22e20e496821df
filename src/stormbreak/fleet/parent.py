"""The store in a parent process, on a Unix socket, for the processes of one machine.

A message is a line of JSON. The parent decides alone, with its own clock; a store ends with its process.
"""

import os
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer
from tempfile import mkdtemp
from time import monotonic
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

import msgspec

from stormbreak.drivers.locks import new_lock
from stormbreak.fleet.messages import Answer, Report
from stormbreak.fleet.model import Scope, beat
from stormbreak.fleet.store import TIMEOUT, Message, StoreError

MAX_LINE = 16_000_000  # bytes


class ParentStore:
    """The store itself. As a context manager it serves its `url` to other processes, on a socket that only this user may open."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.scopes: dict[str, Scope] = {}
        self._clock = clock
        self._turn = new_lock()
        self.folder = Path(mkdtemp(prefix="stormbreak-fleet-"))  # mode 0700
        self._path = self.folder / "socket"
        self.url = f"parent://{quote(str(self._path))}"

    def beat(self, messages: Sequence[Message]) -> list[Answer]:
        """Process reports, and answer each of them."""
        with self._turn:
            return [
                beat(
                    self.scopes.setdefault(each.scope, Scope()),
                    each.member,
                    each.report,
                    self._clock(),
                )
                for each in messages
            ]

    def __enter__(self) -> Self:
        store = self

        class Handler(StreamRequestHandler):
            def handle(self) -> None:
                with suppress(OSError, msgspec.MsgspecError):
                    while line := self.rfile.readline(MAX_LINE):
                        self.wfile.write(msgspec.json.encode(_answered(store, line)) + b"\n")

        self._server = ThreadingUnixStreamServer(str(self._path), Handler)
        self._server.daemon_threads = True
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


def _answered(store: ParentStore, line: bytes) -> list[list[float]]:
    messages = [
        Message(scope, member, Report.of(numbers))
        for scope, member, numbers in msgspec.json.decode(
            line, type=list[tuple[str, str, list[float]]]
        )
    ]
    return [answer.numbers() for answer in store.beat(messages)]


class ParentClient:
    """One connection to the store of a parent process."""

    def __init__(self, url: str) -> None:
        self._path = unquote(urlsplit(url).path)
        self._socket: socket.socket | None = None
        self._lines: Any = None

    def beat(self, messages: Sequence[Message]) -> list[Answer]:
        """Send reports, and wait for their answers."""
        lines = [(each.scope, each.member, each.report.numbers()) for each in messages]
        try:
            connection = self._connected()
            connection.sendall(msgspec.json.encode(lines) + b"\n")
            line = self._lines.readline(MAX_LINE)
            return [Answer.of(each) for each in msgspec.json.decode(line, type=list[list[float]])]
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
        """Nothing: the processes end with their store."""
        return []

    def close(self) -> None:
        """Close the connection."""
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()
            if self._lines is not None:
                self._lines.close()
