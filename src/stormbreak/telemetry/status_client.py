"""The client of a status server: find the server from the user's input, and read its state."""

import http.client
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from stormbreak.errors import ConfigurationError
from stormbreak.escape import LABEL, shown
from stormbreak.telemetry.state import State, decoded
from stormbreak.telemetry.status_server import HOST, SocketFile

MAX_STATE = 4 << 20  # bytes
SET_CONCURRENCY = "/concurrency"  # an action of batches: a number, or auto
_LOOPBACK = frozenset({"localhost", HOST, "::1"})
_HOST_AND_PORT = re.compile(r"(?P<host>[\w.-]+|\[[0-9a-fA-F:.]+\]):(?P<port>[0-9]{1,5})", re.ASCII)


class NoServerError(Exception):
    """Nothing listens at the address. The message has the reason."""


class ConnectionClosedError(NoServerError):
    """The server closed the connection: it is ending, or has too many requests."""


class NoResponseError(Exception):
    """The server did not respond in time."""


class NotStormbreakError(Exception):
    """The server is not stormbreak's. The message has the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddress:
    """The address of a status server: a port of this machine, or a socket. `name` is the user's name for it."""

    host: str = HOST
    port: int = 0
    path: Path | None = None
    name: str = ""

    def __str__(self) -> str:
        if self.name or self.path is not None:
            return shown(self.name or str(self.path), 200)
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> ServerAddress | None:
    """Parse a port number, host:port or URL. None: it must be a path.

    Raises ConfigurationError if it names another machine, or the port is invalid.
    """
    if text.isascii() and text.isdecimal():
        return _checked(HOST, int(text), text)
    if "://" in text:
        try:
            url = urlsplit(text)
            host, port = url.hostname or "", url.port
        except ValueError:
            raise ConfigurationError(f"{shown(text, LABEL)}: not a URL") from None
        if url.scheme != "http":
            raise ConfigurationError(f"{shown(text, LABEL)}: use http: a status server has no TLS")
        return _checked(host, 80 if port is None else port, text)
    found = _HOST_AND_PORT.fullmatch(text)
    if found is None:
        return None
    return _checked(found["host"].strip("[]"), int(found["port"]), text)


def _checked(host: str, port: int, text: str) -> ServerAddress:
    if host not in _LOOPBACK:
        raise ConfigurationError(
            f"{shown(text, LABEL)}: not this machine; a status server listens on 127.0.0.1 only"
        )
    if not 0 < port < 1 << 16:
        raise ConfigurationError(f"{shown(text, LABEL)}: a port is from 1 to 65535")
    return ServerAddress(host=host, port=port)


def fetch_state(server: ServerAddress, timeout: float) -> State:
    """Read the state of a server; each step may take `timeout` seconds.

    Raises:
        NoServerError, ConnectionClosedError, NoResponseError, NotStormbreakError: there is none.
    """
    status, body = _ask(server, "GET", "/state", None, timeout)
    if status != http.HTTPStatus.OK:
        raise NotStormbreakError(f"/state has status {status}")
    if len(body) > MAX_STATE:
        raise NotStormbreakError("the response is too large for a state")
    try:
        return decoded(body)
    except ValueError as error:
        raise NotStormbreakError(str(error)) from error


def send_order(server: ServerAddress, path: str, order: str, timeout: float) -> str:
    """Send an order to a server, and return its reply.

    Raises:
        ConfigurationError: it refuses; the message has the reason.
        NoServerError, ConnectionClosedError, NoResponseError, NotStormbreakError: there is none.
    """
    status, body = _ask(server, "POST", path, order, timeout)
    line = shown(body.decode(errors="replace").strip(), 1000)
    if status == http.HTTPStatus.BAD_REQUEST:
        raise ConfigurationError(line)
    if status != http.HTTPStatus.OK:
        raise NotStormbreakError(f"{path} has status {status}")
    return line


def _ask(
    server: ServerAddress, method: str, path: str, body: str | None, timeout: float
) -> tuple[int, bytes]:
    """Return the status and the body of a response."""
    connection = _Connection(server, timeout)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read(MAX_STATE + 1)
    except TimeoutError as error:
        raise NoResponseError from error
    except (ConnectionResetError, BrokenPipeError) as error:
        raise ConnectionClosedError("the connection was closed") from error
    except OSError as error:  # refused, or no such file
        raise NoServerError((error.strerror or type(error).__name__).lower()) from error
    except (http.client.HTTPException, ValueError) as error:
        raise NotStormbreakError("the response is not HTTP") from error
    finally:
        connection.close()


class _Connection(http.client.HTTPConnection):
    """A connection to a port or a socket, never through a proxy."""

    def __init__(self, server: ServerAddress, timeout: float) -> None:
        super().__init__("localhost" if server.path else server.host, server.port, timeout=timeout)
        self._path = server.path

    def connect(self) -> None:
        if self._path is None:
            super().connect()
        else:
            self.sock: socket.socket = SocketFile(self._path).connected(self.timeout or 1.0)
