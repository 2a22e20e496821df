"""The address of a request: the parts of its URL."""

from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, urlsplit

_REMEMBERED = 256  # URLs; few users have more than some endpoints
PORTS = {"http": 80, "https": 443}
_SAFE = "/:?#[]@!$&'()*+,;=%~"  # not escaped in a URL (RFC 3986, section 2)


class Address(NamedTuple):
    """The parts of a URL. `target` goes into the request line, `authority` into the Host header."""

    secure: bool
    host: str
    port: int
    authority: str
    target: str


@lru_cache(maxsize=_REMEMBERED)
def address_of(url: str) -> Address:
    """Split a URL. Blanks and characters outside ASCII are escaped; existing escapes stay."""
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
