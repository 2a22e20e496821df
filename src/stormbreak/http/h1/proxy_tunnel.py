"""The tunnel of a proxy (CONNECT), without a socket."""

from stormbreak.http.h1.address import Address
from stormbreak.http.h1.failures import ProxyRefusedError
from stormbreak.http.h1.proxy import Proxy
from stormbreak.http.h1.response_parser import (
    CutResponseError,
    MalformedResponseError,
    ResponseParser,
)


class Tunnel:
    """A connection through `proxy` to `address`: send `request`, then feed the answer, until the tunnel is open."""

    def __init__(self, address: Address, proxy: Proxy) -> None:
        name = f"[{address.host}]" if ":" in address.host else address.host
        lines = [f"CONNECT {name}:{address.port} HTTP/1.1", f"Host: {name}:{address.port}"]
        if proxy.authorization is not None:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        self.request = "\r\n".join((*lines, "", "")).encode()
        self._parser = ResponseParser("HEAD")  # the tunnel begins after the head

    def feed(self, data: bytes) -> bool:
        """Parse data from the proxy, b"" at its end; return whether the tunnel is open.

        Raises:
            ProxyRefusedError: it answers with a status other than 2xx, not with HTTP, or not at all.
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
        self._parser.llhttp = None
