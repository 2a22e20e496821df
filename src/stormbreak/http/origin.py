"""Where requests may go, and the key that belongs there.

A key belongs to one origin and is never sent to another. Redirects are not followed, so the origin of a
request is known before it is sent.
"""

import secrets
from dataclasses import dataclass, field
from hashlib import blake2s
from ipaddress import ip_address
from urllib.parse import urlsplit, urlunsplit

from stormbreak.errors import ConfigurationError

_SALT = secrets.token_bytes(16)  # digests tell keys of one process apart, and say nothing elsewhere


@dataclass(frozen=True, slots=True)
class Origin:
    """A base URL and its key. The key appears in no repr, and only in requests to this very origin."""

    base_url: str
    api_key: str | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        """Host name of the base URL."""
        return urlsplit(self.base_url).hostname or ""

    @property
    def key_digest(self) -> str:
        """Eight hex digits that tell this key from others within this process."""
        if self.api_key is None:
            return ""
        return blake2s(self.api_key.encode(), key=_SALT, digest_size=4).hexdigest()

    def url_of(self, endpoint: str) -> str:
        """Full URL of an endpoint such as "chat/completions".

        Raises:
            ConfigurationError: the endpoint is a URL of its own, or climbs out of the base path.
        """
        path = endpoint.lstrip("/")
        if "://" in path or ".." in path.split("/"):
            raise ConfigurationError(
                f"endpoint must be a path below the base URL, got {endpoint!r}"
            )
        return f"{self.base_url}/{path}"


def origin_of(base_url: str, api_key: str | None, *, allow_http: bool = False) -> Origin:
    """Check a base URL and tie the key to it.

    Raises:
        ConfigurationError: not an http(s) URL, or a key would travel in the clear to another machine.
    """
    try:
        parts = urlsplit(base_url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError("base_url cannot be read as a URL") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigurationError(
            f"base_url must look like https://host/v1, got {_shown(parts.scheme, host)}"
        )
    if parts.username or parts.password:
        raise ConfigurationError(f"base_url must hold no user or password (host {host})")
    if api_key and parts.scheme == "http" and not is_loopback(host) and not allow_http:
        raise ConfigurationError(
            f"base_url is plain http to {host}: the key would travel in the clear; use https"
        )
    if api_key and not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise ConfigurationError("the API key holds a blank, a line break or another odd character")
    netloc = f"[{host}]" if ":" in host else host
    netloc = netloc if port is None else f"{netloc}:{port}"
    return Origin(
        urlunsplit((parts.scheme, netloc, parts.path.rstrip("/"), "", "")), api_key or None
    )


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine by name or address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(scheme: str, host: str | None) -> str:
    return f"scheme {scheme!r} and host {host!r}"
