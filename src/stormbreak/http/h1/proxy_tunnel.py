"""A proxy between us and a provider: the parts of its URL, and the tunnel that it makes of CONNECT, without a socket."""

from base64 import b64encode
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from stormbreak.http.h1.address import Address
from stormbreak.http.h1.failures import ProxyRefusedError
from stormbreak.http.h1.response_parser import (
    CutResponseError,
    MalformedResponseError,
    ResponseParser,
)


class Proxy(NamedTuple):
    """An HTTP proxy; its repr shows no password. `authorization` is the value of `Proxy-Authorization`."""

    host: str
    port: int
    authorization: str | None

    def __repr__(self) -> str:
        return f"Proxy({self.host!r}, {self.port})"


def proxy_of(url: str) -> Proxy:
    """Take the URL of a proxy apart."""
    parts = urlsplit(url)
    given = None
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        given = f"Basic {b64encode(user.encode()).decode()}"
    return Proxy(parts.hostname or "", parts.port or 80, given)


class Tunnel:
    """A connection through `proxy` to `address`: send `request`, then feed the answer, until the tunnel is open."""

    def __init__(self, address: Address, proxy: Proxy) -> None:
        name = f"[{address.host}]" if ":" in address.host else address.host
        lines = [f"CONNECT {name}:{address.port} HTTP/1.1", f"Host: {name}:{address.port}"]
        if proxy.authorization is not None:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        self.request = "\r\n".join((*lines, "", "")).encode()
        self._parser = ResponseParser("HEAD")  # a tunnel begins behind the head

    def feed(self, data: bytes) -> bool:
        """Parse what the proxy has sent, nothing at its end; return whether the tunnel is open.

        Raises:
            ProxyRefusedError: it answers with another status than 2xx, with no HTTP, or not at all.
        """
        parser = self._parser
        try:
            if data:
                parser.feed(data)
            else:
                parser.end()
        except (CutResponseError, MalformedResponseError):
            raise ProxyRefusedError(None) from None
        if parser.complete and (parser.status is None or not 200 <= parser.status <= 299):
            raise ProxyRefusedError(parser.status)
        return parser.complete

    def close(self) -> None:
        """Let go of the parser."""
        self._parser.close()
