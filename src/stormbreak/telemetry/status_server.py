"""A small HTTP server for this machine that answers GET with the pages of functions.

It listens on 127.0.0.1, or on a Unix socket that only its owner may open. Its threads end with the process, take a few
requests at a time and give each a few seconds; whatever goes wrong in them stays in them. In a forked child nobody
serves, and nothing of the parent's is closed or removed.

A web page that is open in a browser of this machine can send requests here under a name of its own. So the header Host
must name this machine, or nothing is told.
"""

import atexit
import logging
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Self, TypeAlias

from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import new_lock
from stormbreak.errors import ConfigurationError
from stormbreak.escape import tame

# ---------------------------------------------------------------- Unix socket
# The file is made for its owner alone, taken over where it is stale, and removed where it is ours.
# The kernel takes no long paths for sockets. Of two forms of a path, the given one and that from
# the working directory, the shorter is used.

LONGEST = 103 if sys.platform == "darwin" else 107  # bytes
ANSWERS_WITHIN = 1.0  # seconds that a look at who is there already may take
_SHOWN = 4096  # characters of a path in a message


class SocketFile:
    """Where a socket is to be, or is.

    Raises:
        ConfigurationError: the path is too long for a socket, or leads nowhere.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.path = path.absolute()
        except OSError as error:  # the working directory is gone
            said = (error.strerror or "cannot be found").lower()
            raise ConfigurationError(f"{tame(str(path), _SHOWN)}: {said}") from error
        self._made: tuple[int, int] | None = None
        self._address()

    def bind(self, to: socket.socket) -> None:
        """Bind `to` there. Nobody can connect before it listens, and then only its owner.

        Raises:
            ConfigurationError: somebody listens there, something else stands there, or no socket can be made there.
        """
        self._clear()
        try:
            to.bind(self._address())
            self.path.chmod(0o600)
            found = self.path.lstat()
        except OSError as error:
            raise self._unfit((error.strerror or "no socket can be there").lower()) from error
        self._made = found.st_dev, found.st_ino

    def connected(self, timeout: float) -> socket.socket:
        """Connect to it."""
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            client.settimeout(timeout)
            client.connect(self._address())
        except BaseException:
            client.close()
            raise
        return client

    def remove(self) -> None:
        """Remove the file, if it is still the one that was made."""
        with suppress(OSError):
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == self._made:
                self.path.unlink()

    def _clear(self) -> None:
        """Take away a socket that nobody listens to any more."""
        try:
            found = self.path.lstat()
        except OSError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise self._unfit("exists, and is no socket")
        try:
            self.connected(ANSWERS_WITHIN).close()
        except ConnectionRefusedError:
            with suppress(OSError):
                self.path.unlink()
        except OSError as error:
            raise self._unfit((error.strerror or "does not answer").lower()) from error
        else:
            raise self._unfit("in use")

    def _address(self) -> str:
        forms = [str(self.path)]
        with suppress(OSError):  # the working directory is gone
            forms.append(os.path.relpath(self.path))
        shortest = min(forms, key=lambda form: len(os.fsencode(form)))
        if len(os.fsencode(shortest)) > LONGEST:
            raise self._unfit(f"too long for a socket: {LONGEST} bytes at the most")
        return shortest

    def _unfit(self, why: str) -> ConfigurationError:
        return ConfigurationError(f"{tame(str(self.path), _SHOWN)}: {why}")


# ---------------------------------------------------------------- server

HOST = "127.0.0.1"
PATIENCE = 5.0  # seconds that a client may be silent in the middle of a request
ENOUGH = 10.0  # seconds that one may take for all of it, however little it is silent
ROOM = 16  # requests at a time; whoever comes beyond that is turned away
LOOK_EVERY = 1.0  # seconds after which a closed port is noticed, if all else fails
BREATH = 0.1  # seconds before the next try to accept, such as when no file is left to open

_NAMES = frozenset({"localhost", HOST, "[::1]"})
_TEXT = "text/plain; charset=utf-8"

Page: TypeAlias = Callable[[], tuple[str, bytes]]
"""What a path answers: the type of its content, and that. It is called in a thread of the port's."""

_log = logging.getLogger("stormbreak")


class NotServedError(Exception):
    """Raised by a page that there is not: answered as 501, with the one line that says why."""


class StatusServer:
    """Serves `pages`, by their paths, until it is closed; `pages` may change meanwhile.

    On `port` of 127.0.0.1 (0 takes a free one), or on a socket at `path`.

    Raises:
        ConfigurationError: the port is in use, or no socket can be there.
    """

    def __init__(
        self, pages: Mapping[str, Page], *, port: int = 0, path: Path | None = None
    ) -> None:
        self.path = path
        self._file = None if path is None else SocketFile(path)
        try:
            self._server = _Server(pages, unix=path is not None)
        except OSError as error:  # such as no file left to open
            raise ConfigurationError(f"cannot listen: {error.strerror}") from error
        try:
            self._bind(port)
        except BaseException:
            self._server.server_close()
            raise
        self.port: int | None = None if path is not None else self._server.server_address[1]
        self._lock = new_lock()
        self._thread = threading.Thread(
            target=self._server.serve, name="stormbreak port", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:
            self._server.server_close()
            if self._file is not None:
                self._file.remove()
            raise ConfigurationError("cannot listen: no thread can be started") from None
        atexit.register(self.close)
        reset_in_child(self._forget)

    @property
    def address(self) -> str:
        """Where it is: a URL, or the path of its socket."""
        return f"http://{HOST}:{self.port}" if self.path is None else str(self.path)

    def close(self) -> None:
        """Stop listening, and remove the socket; a second time does nothing. Whoever is being answered still is."""
        with self._lock:
            if self._server.closed:
                return
            self._server.closed = True
        atexit.unregister(self.close)
        # It looks up, and sees that it is closed; so it does by itself where the socket is out of reach.
        with suppress(OSError, ConfigurationError), self._connected():
            pass
        self._thread.join(2 * LOOK_EVERY)
        self._server.server_close()
        if self._file is not None:
            self._file.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _bind(self, port: int) -> None:
        if self._file is not None:
            self._file.bind(self._server.socket)
        else:
            try:
                self._server.server_address = (HOST, port)
                self._server.server_bind()
            except (OSError, OverflowError) as error:
                said = getattr(error, "strerror", None) or "a port is from 0 to 65535"
                raise ConfigurationError(f"cannot listen on {HOST} port {port}: {said}") from error
        self._server.server_activate()

    def _connected(self) -> socket.socket:
        if self._file is not None:
            return self._file.connected(LOOK_EVERY)
        return socket.create_connection((HOST, self.port or 0), LOOK_EVERY)

    def _forget(self) -> None:
        self._server.closed = True
        self._server.socket.close()


class _Server(ThreadingMixIn, TCPServer):
    """Bound and activated by its owner, so that nobody connects to a socket before its mode is set."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = ROOM
    timeout = LOOK_EVERY

    def __init__(self, pages: Mapping[str, Page], *, unix: bool) -> None:
        self.address_family = socket.AF_UNIX if unix else socket.AF_INET
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.allow_reuse_address = not unix
        self.pages = pages
        self.closed = False
        self.complained: set[str] = set()
        self._since: dict[socket.socket, float] = {}  # when each request began
        self._watching = new_lock()
        self._room = threading.BoundedSemaphore(ROOM)

    def serve(self) -> None:
        """Take requests until it is closed."""
        while not self.closed:
            self.handle_request()
            self._cut_off(time.monotonic() - ENOUGH)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; where that fails, it is not tried again at once."""
        try:
            return self.socket.accept()
        except OSError:
            time.sleep(BREATH)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        """Whether anybody is answered still."""
        return not self.closed

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, if there is room for one more."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer, with an eye on the time."""
        with self._watching:
            self._since[request] = time.monotonic()
        try:
            super().finish_request(request, client_address)
        finally:
            with self._watching:
                del self._since[request]

    def _cut_off(self, late: float) -> None:
        """Hang up on whoever began before `late`: a byte now and then would keep a place for ever."""
        with self._watching:
            for request, since in self._since.items():
                if since < late:
                    with suppress(OSError):
                        request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Say it to nobody but the log: most often the client has gone."""
        _log.debug("a request to the port failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: _Server
    timeout = PATIENCE
    default_request_version = "HTTP/1.0"  # so that what cannot be read gets a status, too
    error_message_format = "%(message)s\n"
    error_content_type = _TEXT

    def do_GET(self) -> None:
        """Answer with the page, if Host and path are right."""
        if not self._is_meant():
            self._say(HTTPStatus.FORBIDDEN, "the header Host must be localhost or 127.0.0.1")
            return
        path = self.path.partition("?")[0]
        page = self.server.pages.get(path)
        if page is None:
            there = ", ".join(sorted(self.server.pages))
            self._say(HTTPStatus.NOT_FOUND, f"no such page; there are: {there}")
            return
        try:
            kind, body = page()
        except NotServedError as why:
            self._say(HTTPStatus.NOT_IMPLEMENTED, str(why))
        except Exception:  # noqa: BLE001 - a page's trouble is told, and goes no further
            self._warn_once(path)
            self._say(HTTPStatus.INTERNAL_SERVER_ERROR, "the page failed; the log says why")
        else:
            self._answer(HTTPStatus.OK, kind, body)

    def _refuse(self) -> None:
        self._say(HTTPStatus.METHOD_NOT_ALLOWED, "only GET", Allow="GET")

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815

    def version_string(self) -> str:
        """What the header Server says."""
        return "stormbreak"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by the library
        """Nothing: standard error belongs to the application."""

    def _is_meant(self) -> bool:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1:
            return False
        name, _, port = str(hosts[0]).strip().lower().rpartition(":")
        if not port.isdecimal():  # there is none
            name = str(hosts[0]).strip().lower()
        return name in _NAMES

    def _say(self, status: HTTPStatus, line: str, **headers: str) -> None:
        self._answer(status, _TEXT, f"{line}\n".encode(), **headers)

    def _answer(self, status: HTTPStatus, kind: str, body: bytes, **headers: str) -> None:
        self.send_response(status)
        given = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
        }
        for name, value in (given | {"X-Content-Type-Options": "nosniff"} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _warn_once(self, path: str) -> None:
        if path not in self.server.complained:
            self.server.complained.add(path)
            _log.warning(
                "the page %s failed; its further failures are not reported", path, exc_info=True
            )
