"""A chain, read: which of its layers is the SDK, the HTTP client, the door, and the pool of connections."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

from stormbreak.core.policy import Policy
from stormbreak.doctor.discovery import Chain, ClientLayer, NotBuiltYet, is_http_client, read
from stormbreak.doctor.retry_counts import SDKS
from stormbreak.http.client import AsyncClient
from stormbreak.http.sync_client import Client
from stormbreak.http.transports.sdk_transport import SdkTransport


class RequestPath:
    """One way of a request, from what the user holds to where it leaves. What there is none of is None."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    @cached_property
    def door(self) -> ClientLayer | None:
        """The transport of ours."""
        return self._first(lambda layer: isinstance(layer.thing, SdkTransport))

    @cached_property
    def ours(self) -> ClientLayer | None:
        """The client of ours, which is a way of its own."""
        return self._first(lambda layer: isinstance(layer.thing, AsyncClient | Client))

    @cached_property
    def http(self) -> ClientLayer | None:
        """The client of an HTTP library."""
        return self._first(lambda layer: is_http_client(layer.thing))

    @cached_property
    def sdk(self) -> ClientLayer | None:
        """The client of openai or anthropic."""
        return self._first(is_sdk)

    @cached_property
    def pool(self) -> tuple[str, Any] | None:
        """The pool of connections of an HTTP library, with its path."""
        end = self.chain[-1]
        pool = getattr(end.thing, "_pool", None)
        return None if pool is None else (f"{end.path}._pool", pool)

    @property
    def policy(self) -> Policy | None:
        """The policy in force on it."""
        layer = self.door or self.ours
        return None if layer is None else layer.thing.policy

    @property
    def library(self) -> str:
        """The HTTP library: of a client of the older one httpx, else httpx2."""
        old = self.http is not None and "httpx" in self.http.packages
        return "httpx" if old else "httpx2"

    def _first(self, holds: Callable[[ClientLayer], bool]) -> ClientLayer | None:
        return next((layer for layer in self.chain if holds(layer)), None)


def is_sdk(layer: ClientLayer) -> bool:
    """Whether it is a client of an SDK whose own retries a door ends."""
    if isinstance(layer.thing, NotBuiltYet):
        return True
    return (
        bool(layer.packages & SDKS)
        and not is_http_client(layer.thing)
        and isinstance(read(layer.thing, "max_retries"), int)
    )
