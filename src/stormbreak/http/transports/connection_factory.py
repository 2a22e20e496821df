"""How the doors connect: over our own pools, with the settings an HTTP library would take, or over another transport."""

import ssl
from collections.abc import Callable
from typing import Any, TypeAlias

from stormbreak.drivers.locks import cached_value
from stormbreak.errors import ConfigurationError
from stormbreak.http.endpoint import Origin
from stormbreak.http.environment import is_proxy, proxy_for, tls_context
from stormbreak.http.h1.connection import Wire

Verify: TypeAlias = ssl.SSLContext | bool
Cert: TypeAlias = str | tuple[str, str] | tuple[str, str, str]


class ConnectionFactory:
    """The settings of our own pools, as the HTTP libraries name them. With `inner` there are none: it has its own.

    Raises:
        ConfigurationError: they do not go together, or cannot be followed; names the one.
    """

    def __init__(
        self,
        *,
        inner: Any,
        inner_wire: Callable[[Any], Wire],
        limit: int,
        proxy: str | None,
        verify: Verify,
        cert: Cert | None,
        trust_env: bool,
        http2: bool,
    ) -> None:
        self.inner = inner
        self._inner_wire = None if inner is None else inner_wire(inner)
        self._limit = limit
        self._proxy = proxy
        self._verify = verify
        self._cert = cert
        self.trust_env = trust_env
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
        if inner is not None and given:
            raise ConfigurationError(f"{given[0]} goes to the inner transport, not to ours")
        if http2:
            raise ConfigurationError("http2 is not spoken: give an inner transport that does")
        if proxy is not None and not is_proxy(proxy):
            raise ConfigurationError("proxy must be an http:// or https:// URL, as a text")
        if not isinstance(verify, ssl.SSLContext | bool):
            raise ConfigurationError("verify must be an ssl.SSLContext, True or False")
        if inner is None:
            _ = self._tls if cert is not None or verify is not True else None  # told at the start

    def connection_to(self, origin: Origin) -> Wire:
        """Make the wire to an origin."""
        from stormbreak.http.h1.aiohttp_connection import AiohttpConnection  # noqa: PLC0415 - only when needed

        if self._inner_wire is not None:
            return self._inner_wire
        proxy = self._proxy
        if proxy is None and self.trust_env:
            proxy = proxy_for(origin)
        secure = origin.base_url.startswith("https:")
        return AiohttpConnection(limit=self._limit, proxy=proxy, tls=self._tls if secure else None)

    def wires(self) -> tuple[Wire, ...]:
        """Those there are from the start: what only passes makes none."""
        return () if self._inner_wire is None else (self._inner_wire,)

    @cached_value
    def _tls(self) -> ssl.SSLContext:
        context = self._trusting()
        if self._cert is not None:
            files = (self._cert,) if isinstance(self._cert, str) else self._cert
            try:
                context.load_cert_chain(*files)
            except OSError as error:
                reason = error.strerror or "no certificate and key in it"
                raise ConfigurationError(f"cert: {reason}") from None
        return context

    def _trusting(self) -> ssl.SSLContext:
        if isinstance(self._verify, ssl.SSLContext):
            return self._verify
        context = tls_context() if self.trust_env else tls_context({})
        if not self._verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context
