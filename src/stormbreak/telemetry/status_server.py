"""A small HTTP server for this machine: GET requests for pages, and on sockets POST requests for actions.

It listens on 127.0.0.1, or on a Unix socket that only its owner can open. Its daemon threads serve a few requests at a
time, each for a few seconds, and contain their errors. A forked child does not serve, and does not close or remove
anything of its parent.

A web page in a browser of this machine can send requests here under its own host name (DNS rebinding). So the server
answers only if the header Host names this machine. A browser always sends Host; a health check in HTTP/1.0, such as
haproxy's, does not, and gets its page.
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
from contextlib import AbstractContextManager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, TypeAlias

from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import new_lock
from stormbreak.errors import ConfigurationError
from stormbreak.escape import shown

# ---------------------------------------------------------------- Unix socket

MAX_SOCKET_PATH = 103 if sys.platform == "darwin" else 107  # maximum bytes that the kernel accepts
PROBE_TIMEOUT = 1.0  # seconds to find out whether a socket file is in use
_MAX_SHOWN = 4096  # characters of a path in a message


class SocketFile:
    """A Unix socket: private to its owner, replaced if stale, removed at the end unless another file replaced it.

    Raises ConfigurationError if the path is too long for a socket, or the working directory does not exist.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.path = path.absolute()
        except OSError as error:  # the working directory was removed
            why = (error.strerror or "cannot be found").lower()
            raise ConfigurationError(f"{shown(str(path), _MAX_SHOWN)}: {why}") from error
        self._made: tuple[int, int] | None = None
        self._address()

    def bind(self, to: socket.socket) -> None:
        """Bind `to` to the path. It accepts connections only once it listens, from its owner only.

        Raises ConfigurationError if the path is in use, is not a socket, or cannot be created.
        """
        self._remove_stale()
        try:
            to.bind(self._address())
            self.path.chmod(0o600)
            found = self.path.lstat()
        except OSError as error:
            raise self._error(error.strerror or "no socket can be created there") from error
        self._made = found.st_dev, found.st_ino

    def connected(self, timeout: float) -> socket.socket:
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

    def _remove_stale(self) -> None:
        try:
            found = self.path.lstat()
        except OSError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise self._error("exists and is not a socket")
        try:
            self.connected(PROBE_TIMEOUT).close()
        except ConnectionRefusedError:
            with suppress(OSError):
                self.path.unlink()
        except OSError as error:
            raise self._error(error.strerror or "does not answer") from error
        else:
            raise self._error("in use")

    def _address(self) -> str:
        """Return the shorter of the absolute and the relative path: the kernel limits the length."""
        forms = [str(self.path)]
        with suppress(OSError):  # the working directory was removed
            forms.append(os.path.relpath(self.path))
        shortest = min(forms, key=lambda form: len(os.fsencode(form)))
        if len(os.fsencode(shortest)) > MAX_SOCKET_PATH:
            raise self._error(f"too long for a socket: at most {MAX_SOCKET_PATH} bytes")
        return shortest

    def _error(self, why: str) -> ConfigurationError:
        return ConfigurationError(f"{shown(str(self.path), _MAX_SHOWN)}: {why.lower()}")


# ---------------------------------------------------------------- server

HOST = "127.0.0.1"
IDLE_TIMEOUT = 5.0  # seconds without a byte in the middle of a request
REQUEST_TIMEOUT = 10.0  # seconds for a whole request
MAX_REQUESTS = 16  # requests at a time; further connections are closed
POLL_INTERVAL = 1.0  # maximum seconds until a close is noticed
ACCEPT_PAUSE = 0.1  # seconds after a failed accept, such as without free file descriptors

_HOST_NAMES = frozenset({"localhost", HOST, "[::1]"})
TEXT = "text/plain; charset=utf-8"

Page: TypeAlias = Callable[[], tuple[str, bytes]]
"""Makes the content type and the body of a path, in a thread of the server."""

Action: TypeAlias = Callable[[str], str]
"""Carries out the order in the body of a POST request, and returns a line; a ConfigurationError is answered with 400.
"""

MAX_ORDER = 1000  # bytes of the body of a POST request

_log = logging.getLogger("stormbreak")


class PageUnavailableError(Exception):
    """Raised by a page that cannot be served: answered with `status` and this line."""

    def __init__(self, message: str, *, status: int = HTTPStatus.NOT_IMPLEMENTED) -> None:
        super().__init__(message)
        self.status = HTTPStatus(status)


class StatusServer(AbstractContextManager["StatusServer"]):
    """Serves `pages` by path until it is closed, on `port` of `host` (0 picks a free one) or a socket at `path`.

    With `any_name`, the header Host may have any name: for a server that other machines can reach. `actions` by path
    are only for a socket, which only its owner can open. Raises ConfigurationError if the port is in use, or no socket
    can be created.
    """

    def __init__(
        self,
        pages: Mapping[str, Page],
        *,
        host: str = HOST,
        port: int = 0,
        path: Path | None = None,
        any_name: bool = False,
        actions: Mapping[str, Action] | None = None,
    ) -> None:
        if actions and path is None:
            raise ValueError("actions need a socket: every user of this machine can reach a port")
        self.path = path
        self._host = host
        self._file = None if path is None else SocketFile(path)
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            family = family if path is None else socket.AF_UNIX
            self._server = _Server(pages, family, any_name=any_name, actions=actions or {})
        except OSError as error:  # such as no free file descriptor
            raise ConfigurationError(f"cannot listen: {error.strerror}") from error
        try:
            self._bind(port)
        except BaseException:
            self._server.server_close()
            raise
        self.port: int | None = None if path is not None else self._server.server_address[1]
        self._lock = new_lock()
        self._thread = threading.Thread(
            target=self._server.serve, name="stormbreak status server", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:
            self._release()
            raise ConfigurationError("cannot listen: no thread can be started") from None
        atexit.register(self.close)
        reset_in_child(self._forget)

    @property
    def address(self) -> str:
        if self.path is not None:
            return str(self.path)
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}"

    def close(self) -> None:
        """Stop listening and remove the socket. Requests in progress are still answered. Idempotent."""
        with self._lock:
            if self._server.closed:
                return
            self._server.closed = True
        atexit.unregister(self.close)
        # A connection wakes the server; without one it notices within POLL_INTERVAL.
        with suppress(OSError, ConfigurationError), self._connected():
            pass
        self._thread.join(2 * POLL_INTERVAL)
        self._release()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _bind(self, port: int) -> None:
        if self._file is not None:
            self._file.bind(self._server.socket)
        else:
            try:
                self._server.server_address = (self._host, port)
                self._server.server_bind()
            except (OSError, OverflowError) as error:
                why = getattr(error, "strerror", None) or "a port is from 0 to 65535"
                raise ConfigurationError(
                    f"cannot listen on {self._host} port {port}: {why}"
                ) from error
        self._server.server_activate()

    def _connected(self) -> socket.socket:
        if self._file is not None:
            return self._file.connected(POLL_INTERVAL)
        address: tuple[str, int] = self._server.socket.getsockname()[:2]
        return socket.create_connection(address, POLL_INTERVAL)

    def _release(self) -> None:
        self._server.server_close()
        if self._file is not None:
            self._file.remove()

    def _forget(self) -> None:
        self._server.closed = True
        self._server.socket.close()


class _Server(ThreadingMixIn, TCPServer):
    """Its owner binds and activates it, so that no client connects before the mode of the socket is set."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = MAX_REQUESTS
    timeout = POLL_INTERVAL

    def __init__(
        self,
        pages: Mapping[str, Page],
        family: socket.AddressFamily,
        *,
        any_name: bool,
        actions: Mapping[str, Action],
    ) -> None:
        self.address_family = family
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.allow_reuse_address = family != socket.AF_UNIX
        self.any_name = any_name
        self.pages = pages
        self.actions = actions
        self.closed = False
        self.failed_pages: set[str] = set()
        self._started: dict[socket.socket, float] = {}
        self._started_lock = new_lock()
        self._slots = threading.BoundedSemaphore(MAX_REQUESTS)

    def serve(self) -> None:
        while not self.closed:
            self.handle_request()
            self._cut_off(time.monotonic() - REQUEST_TIMEOUT)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; pause after a failure."""
        try:
            return self.socket.accept()
        except OSError:
            time.sleep(ACCEPT_PAUSE)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        """Refuse requests once it is closed."""
        return not self.closed

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, if fewer than MAX_REQUESTS are being answered."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer, with the start time noted."""
        with self._started_lock:
            self._started[request] = time.monotonic()
        try:
            super().finish_request(request, client_address)
        finally:
            with self._started_lock:
                del self._started[request]

    def _cut_off(self, late: float) -> None:
        """Close requests that started before `late`: a client that drips bytes would hold its slot forever."""
        with self._started_lock:
            for request, started in self._started.items():
                if started < late:
                    with suppress(OSError):
                        request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log it for debugging: usually the client has disconnected."""
        _log.debug("a request to the status server failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: _Server
    timeout = IDLE_TIMEOUT
    default_request_version = "HTTP/1.0"  # so that an unreadable request gets a status too
    error_message_format = "%(message)s\n"
    error_content_type = TEXT

    def do_GET(self) -> None:
        """Answer with the page, if Host and path are right."""
        if not (self.server.any_name or self._is_probe() or self._names_this_machine()):
            self._reply(HTTPStatus.FORBIDDEN, "the header Host must be localhost or 127.0.0.1")
            return
        path = self.path.partition("?")[0]
        page = self.server.pages.get(path)
        if page is None:
            known = ", ".join(sorted(self.server.pages))
            self._reply(HTTPStatus.NOT_FOUND, f"no such page; pages: {known}")
            return
        try:
            kind, body = page()
        except PageUnavailableError as why:
            self._reply(why.status, str(why))
        except Exception:  # noqa: BLE001 - an error of a page is logged and goes no further
            self._warn_once(path)
            self._reply(HTTPStatus.INTERNAL_SERVER_ERROR, "the page failed; see the log")
        else:
            self._send(HTTPStatus.OK, kind, body)

    def do_POST(self) -> None:
        """Carry out the action of the path, if there is one."""
        act = self.server.actions.get(self.path)
        length = self.headers.get("Content-Length", "")
        if act is None:
            self._refuse()
        elif not self._names_this_machine():
            self._reply(HTTPStatus.FORBIDDEN, "the header Host must be localhost or 127.0.0.1")
        elif not length.isdecimal() or int(length) > MAX_ORDER:
            self._reply(HTTPStatus.BAD_REQUEST, f"needs a body of at most {MAX_ORDER} bytes")
        else:
            try:
                self._reply(
                    HTTPStatus.OK, act(self.rfile.read(int(length)).decode(errors="replace"))
                )
            except ConfigurationError as error:
                self._reply(HTTPStatus.BAD_REQUEST, str(error))

    def _refuse(self) -> None:
        self._reply(HTTPStatus.METHOD_NOT_ALLOWED, "only GET", Allow="GET")

    do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815

    def version_string(self) -> str:
        return "stormbreak"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by the library
        """Write nothing: standard error belongs to the application."""

    def _is_probe(self) -> bool:
        return self.request_version == "HTTP/1.0" and "Host" not in self.headers

    def _names_this_machine(self) -> bool:
        hosts = [str(host).strip().lower() for host in self.headers.get_all("Host") or []]
        if len(hosts) != 1:
            return False
        name, _, port = hosts[0].rpartition(":")
        return (name if port.isdecimal() else hosts[0]) in _HOST_NAMES

    def _reply(self, status: HTTPStatus, line: str, **headers: str) -> None:
        self._send(status, TEXT, f"{line}\n".encode(), **headers)

    def _send(self, status: HTTPStatus, kind: str, body: bytes, **headers: str) -> None:
        self.send_response(status)
        always = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        }
        for name, value in (always | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _warn_once(self, path: str) -> None:
        if path not in self.server.failed_pages:
            self.server.failed_pages.add(path)
            _log.warning("the page %s failed; further failures are not logged", path, exc_info=True)
