"""The other end of a port: finding it by what its user typed, and asking it for its state."""

import http.client
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from stormbreak.errors import ConfigurationError
from stormbreak.escape import tame
from stormbreak.telemetry.state import State, decoded
from stormbreak.telemetry.status_server import HOST, SocketFile

LARGEST = 4 << 20  # bytes of a state
_LOOPBACK = frozenset({"localhost", HOST, "::1"})
_HOST_AND_PORT = re.compile(r"(?P<host>[\w.-]+|\[[0-9a-fA-F:.]+\]):(?P<port>[0-9]{1,5})", re.ASCII)


class NoServerError(Exception):
    """Nobody listens there; the message says how that is known."""


class ConnectionClosedError(NoServerError):
    """Somebody took the connection and hung up: the end, or a port with too many visitors at this moment."""


class NoResponseError(Exception):
    """Whoever listens there did not answer in time."""


class NotStormbreakError(Exception):
    """What answers there is not one of us; the message says how that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a state is served: a port of this machine, or a socket. `name` is what its user calls it."""

    host: str = HOST
    port: int = 0
    path: Path | None = None
    name: str = ""

    def __str__(self) -> str:
        if self.name or self.path is not None:
            return tame(self.name or str(self.path), 200)
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def place_of(text: str) -> Place | None:
    """The port that `text` names: a number, host:port, or a URL. None: it must be a path.

    Raises:
        ConfigurationError: it names a port of another machine, or none that can be.
    """
    if text.isascii() and text.isdecimal():
        return _on(HOST, int(text), text)
    if "://" in text:
        try:
            url = urlsplit(text)
            host, port = url.hostname or "", url.port
        except ValueError:
            raise ConfigurationError(f"{tame(text)}: not a URL") from None
        if url.scheme != "http":
            raise ConfigurationError(f"{tame(text)}: a port is served over http, without TLS")
        return _on(host, 80 if port is None else port, text)
    found = _HOST_AND_PORT.fullmatch(text)
    if found is None:
        return None
    return _on(found["host"].strip("[]"), int(found["port"]), text)


def look(place: Place, timeout: float) -> State:
    """Ask for the state there; each step of that may take `timeout` seconds.

    Raises:
        NoServerError, ConnectionClosedError, NoResponseError, NotStormbreakError: there is none.
    """
    connection = _Connection(place, timeout)
    try:
        connection.request("GET", "/state")
        answer = connection.getresponse()
        body = answer.read(LARGEST + 1)
    except TimeoutError as error:
        raise NoResponseError from error
    except (ConnectionResetError, BrokenPipeError) as error:
        raise ConnectionClosedError("the connection was closed") from error
    except OSError as error:  # refused, or no such file
        raise NoServerError((error.strerror or type(error).__name__).lower()) from error
    except (http.client.HTTPException, ValueError) as error:
        raise NotStormbreakError("it does not speak HTTP") from error
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise NotStormbreakError(f"it answers /state with status {answer.status}")
    if len(body) > LARGEST:
        raise NotStormbreakError("it says more than a state can be")
    try:
        return decoded(body)
    except ValueError as error:
        raise NotStormbreakError(str(error)) from error


class _Connection(http.client.HTTPConnection):
    """To a place, whichever kind it is of; proxies of the environment do not count."""

    def __init__(self, place: Place, timeout: float) -> None:
        super().__init__("localhost" if place.path else place.host, place.port, timeout=timeout)
        self._place = place

    def connect(self) -> None:
        """Connect."""
        if self._place.path is None:
            super().connect()
        else:
            self.sock: socket.socket = SocketFile(self._place.path).connected(self.timeout or 1.0)


def _on(host: str, port: int, text: str) -> Place:
    if host not in _LOOPBACK:
        said = "not this machine; a port is served on 127.0.0.1 only"
        raise ConfigurationError(f"{tame(text)}: {said}")
    if not 0 < port < 1 << 16:
        raise ConfigurationError(f"{tame(text)}: a port is from 1 to 65535")
    return Place(host=host, port=port)
