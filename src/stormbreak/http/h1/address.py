"""Where a request goes: the parts of its URL."""

from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, urlsplit

_REMEMBERED = 256  # URLs; hardly anybody uses more than some endpoints
PORTS = {"http": 80, "https": 443}
_SAFE = "/:?#[]@!$&'()*+,;=%~"  # is in a URL as it is (RFC 3986, section 2)


class Address(NamedTuple):
    """The parts of a URL. `target` is what stands in the request line; `authority` in the Host header."""

    secure: bool
    host: str
    port: int
    authority: str
    target: str


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
    authority = name if port in (None, PORTS[parts.scheme]) else f"{name}:{port}"
    return Address(secure, host, port or PORTS[parts.scheme], authority, target)
