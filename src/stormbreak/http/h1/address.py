"""Where a request goes: the parts of its URL, and the proxy in between."""

from base64 import b64encode
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

_REMEMBERED = 256  # URLs; hardly anybody uses more than some endpoints
_PORTS = {"http": 80, "https": 443}
_SAFE = "/:?#[]@!$&'()*+,;=%~"  # is in a URL as it is (RFC 3986, section 2)


class Address(NamedTuple):
    """The parts of a URL. `target` is what stands in the request line; `authority` in the Host header."""

    secure: bool
    host: str
    port: int
    authority: str
    target: str


class Proxy(NamedTuple):
    """An HTTP proxy; its repr shows no password. `authorization` is the value of `Proxy-Authorization`."""

    host: str
    port: int
    authorization: str | None

    def __repr__(self) -> str:
        return f"Proxy({self.host!r}, {self.port})"


@lru_cache(maxsize=_REMEMBERED)
def address_of(url: str) -> Address:
    """Take a URL apart. What is not ASCII, or a blank, is escaped; what is escaped already stays as it is."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not host.isascii():
        host = host.encode("idna").decode()
    port = parts.port
    name = f"[{host}]" if ":" in host else host
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    if not target.isascii() or " " in target:
        target = quote(target, safe=_SAFE)
    secure = parts.scheme == "https"
    authority = name if port in (None, _PORTS[parts.scheme]) else f"{name}:{port}"
    return Address(secure, host, port or _PORTS[parts.scheme], authority, target)


def proxy_of(url: str) -> Proxy:
    """Take the URL of a proxy apart."""
    parts = urlsplit(url)
    given = None
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        given = f"Basic {b64encode(user.encode()).decode()}"
    return Proxy(parts.hostname or "", parts.port or 80, given)


def connect_request(address: Address, proxy: Proxy) -> bytes:
    """What asks `proxy` for a tunnel to `address`."""
    name = f"[{address.host}]" if ":" in address.host else address.host
    lines = [f"CONNECT {name}:{address.port} HTTP/1.1", f"Host: {name}:{address.port}"]
    if proxy.authorization is not None:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    return "\r\n".join((*lines, "", "")).encode()
