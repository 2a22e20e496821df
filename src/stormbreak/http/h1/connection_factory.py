"""Make connections with the proxy and the certificates of the environment, or those given to a transport."""

import os
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

from stormbreak.drivers.locks import cached_value
from stormbreak.errors import ConfigurationError
from stormbreak.http.endpoint import Origin
from stormbreak.http.h1.connection import POOL_LIMIT, Connection
from stormbreak.http.h1.proxy import is_proxy, proxy_for

Verify: TypeAlias = ssl.SSLContext | bool
Cert: TypeAlias = str | tuple[str, str] | tuple[str, str, str]


def connect(limit: int, origin: Origin) -> Connection:
    """Make a connection of at most `limit` sockets, and at most `POOL_LIMIT`."""
    from stormbreak.http.h1.async_connection import AsyncConnection  # noqa: PLC0415 - only when needed

    return AsyncConnection(
        limit=min(limit, POOL_LIMIT),
        proxy=proxy_for(origin),
        tls=tls_context() if origin.base_url.startswith("https:") else None,
    )


def tls_context(environ: Mapping[str, str] = os.environ) -> ssl.SSLContext:
    """Return the trusted certificates: those in SSL_CERT_FILE, else those of this machine, else certifi's.

    Raises:
        ConfigurationError: SSL_CERT_FILE has no readable certificates.
    """
    path = environ.get("SSL_CERT_FILE")
    try:
        context = ssl.create_default_context(cafile=path or None)
    except OSError as error:
        reason = error.strerror or "no certificates in it"
        raise ConfigurationError(f"SSL_CERT_FILE {path}: {reason}") from None
    places = ssl.get_default_verify_paths()
    known = path or places.cafile or places.capath or context.cert_store_stats()["x509_ca"]
    if not known:  # as in some builds of Python
        with suppress(ImportError):
            import certifi  # noqa: PLC0415 - comes with the SDKs' HTTP libraries

            context.load_verify_locations(certifi.where())
    return context


class ConnectionFactory:
    """The settings of our own connections, with the names of the HTTP libraries. An `inner` transport has its own.

    Raises:
        ConfigurationError: names a setting that is invalid, or conflicts with another.
    """

    def __init__(
        self,
        *,
        inner: Any,
        wrap_inner: Callable[[Any], Connection],
        proxy: str | None,
        verify: Verify,
        cert: Cert | None,
        trust_env: bool,
        http2: bool,
    ) -> None:
        self._wrapped = None if inner is None else wrap_inner(inner)
        self._proxy = proxy
        self._verify = verify
        self._cert = cert
        self._trust_env = trust_env
        given = [
            name
            for name, odd in {
                "proxy": proxy is not None,
                "verify": verify is not True,
                "cert": cert is not None,
                "trust_env": not trust_env,
                "http2": http2,
            }.items()
            if odd
        ]
        self.is_changed = inner is not None or bool(given)
        """Whether any setting differs from the default."""
        if inner is not None and given:
            raise ConfigurationError(f"{given[0]} goes to the inner transport, not to ours")
        if http2:
            raise ConfigurationError(
                "http2 is not supported: give an inner transport that supports it"
            )
        if proxy is not None and not is_proxy(proxy):
            raise ConfigurationError("proxy must be an http:// URL, as a string")
        if not isinstance(verify, ssl.SSLContext | bool):
            raise ConfigurationError("verify must be an ssl.SSLContext, True or False")
        if inner is None:
            _ = (
                self._tls if cert is not None or verify is not True else None
            )  # so that wrong files fail at the start

    def connection_to(self, origin: Origin) -> Connection:
        from stormbreak.http.h1.async_connection import AsyncConnection  # noqa: PLC0415 - only when needed

        if self._wrapped is not None:
            return self._wrapped
        proxy = self._proxy
        if proxy is None and self._trust_env:
            proxy = proxy_for(origin)
        secure = origin.base_url.startswith("https:")
        return AsyncConnection(limit=POOL_LIMIT, proxy=proxy, tls=self._tls if secure else None)

    def connections(self) -> tuple[Connection, ...]:
        """Return the connection over the inner transport, if any: pass-through requests do not create one."""
        return () if self._wrapped is None else (self._wrapped,)

    @cached_value
    def _tls(self) -> ssl.SSLContext:
        context = self._certificates()
        if self._cert is not None:
            files = (self._cert,) if isinstance(self._cert, str) else self._cert
            try:
                context.load_cert_chain(*files)
            except OSError as error:
                reason = error.strerror or "no certificate and key in it"
                raise ConfigurationError(f"cert: {reason}") from None
        return context

    def _certificates(self) -> ssl.SSLContext:
        if isinstance(self._verify, ssl.SSLContext):
            return self._verify
        context = tls_context() if self._trust_env else tls_context({})
        if not self._verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context
