"""The proxy between us and a provider: which one (`HTTPS_PROXY`, `NO_PROXY`), and the parts of its URL."""

from base64 import b64encode
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import quoted
from stormbreak.http.endpoint import Origin, is_host, is_loopback


def proxy_for(origin: Origin) -> str | None:
    """Return the proxy by HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY; None for this machine.

    Raises:
        ConfigurationError: it is not an HTTP proxy; names the scheme, never the password.
    """
    if is_loopback(origin.host):
        return None
    proxies = getproxies_environment()
    parts = urlsplit(origin.base_url)
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    scheme = proxy.partition("://")[0].lower()
    if scheme != "http":
        value = quoted(scheme)
        raise ConfigurationError(
            f"the proxy for {parts.scheme} (from the environment) must be an http:// URL, got {value}"
        )
    if not is_proxy(proxy):
        raise ConfigurationError(
            f"the proxy for {parts.scheme} (from the environment) must be a URL such as http://host:3128"
        )
    return proxy


def is_proxy(proxy: object) -> bool:
    """Whether this is an http URL with a valid host and port."""
    if not isinstance(proxy, str):
        return False
    try:
        parts = urlsplit(proxy)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    return parts.scheme == "http" and bool(host) and is_host(host or "") and port != 0


class Proxy(NamedTuple):
    """An HTTP proxy; its repr shows no password. `authorization` is the value of `Proxy-Authorization`."""

    host: str
    port: int
    authorization: str | None

    def __repr__(self) -> str:
        return f"Proxy({self.host!r}, {self.port})"


def proxy_of(url: str) -> Proxy:
    """Split the URL of a proxy."""
    parts = urlsplit(url)
    given = None
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        given = f"Basic {b64encode(user.encode()).decode()}"
    return Proxy(parts.hostname or "", parts.port or 80, given)
