"""Connect on an event loop: look up names, race addresses, open the proxy's tunnel, start TLS."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from stormbreak.http.h1.address import Address
from stormbreak.http.h1.dns_cache import STAGGER, DnsCache, Found, in_order
from stormbreak.http.h1.failures import ProxyRefusedError
from stormbreak.http.h1.proxy import Proxy
from stormbreak.http.h1.proxy_tunnel import Tunnel
from stormbreak.http.h1.response_parser import MAX_HEAD

P = TypeVar("P", bound=asyncio.Protocol)


class Resolver:
    """Looks up names; concurrent lookups of one name share the answer."""

    def __init__(self) -> None:
        self.names = DnsCache()
        self._asked: dict[tuple[str, int], asyncio.Task[Found]] = {}

    async def addresses(self, host: str, port: int) -> Found:
        """Return the addresses of a host; raise the resolver's errors."""
        found = self.names.find(host, port)
        if found is not None:
            return found
        key = host, port
        task = self._asked.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._ask(host, port))
            self._asked[key] = task
            task.add_done_callback(lambda done: self._answered(key, done))
        return await asyncio.shield(task)

    async def _ask(self, host: str, port: int) -> Found:
        loop = asyncio.get_running_loop()
        return in_order(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))

    def _answered(self, key: tuple[str, int], task: "asyncio.Task[Found]") -> None:
        self._asked.pop(key, None)
        if not task.cancelled() and task.exception() is None:
            self.names.keep(*key, task.result())


async def connect(
    resolver: Resolver,
    address: Address,
    proxy: Proxy | None,
    tls: ssl.SSLContext | None,
    factory: Callable[[], P],
) -> tuple[asyncio.Transport, P]:
    """Connect to `address`, through `proxy` if there is one. Cancelling closes all opened sockets.

    Raises:
        OSError: no connection; an ssl.SSLError from TLS, a ProxyRefusedError from the proxy's tunnel.
        RuntimeError: no thread can be started for the resolver.
    """
    loop = asyncio.get_running_loop()
    goal = (address.host, address.port) if proxy is None else (proxy.host, proxy.port)
    sock = await _race(resolver, *goal)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if proxy is not None and address.secure:
            await _tunnel(sock, address, proxy)
        if not address.secure:
            transport, protocol = await loop.create_connection(factory, sock=sock)
        else:
            transport, protocol = await loop.create_connection(
                factory, sock=sock, ssl=tls or True, server_hostname=address.host.removesuffix(".")
            )
    except BaseException:
        sock.close()
        raise
    return transport, protocol


async def _race(resolver: Resolver, host: str, port: int) -> socket.socket:
    """Return the first socket that connects; try another address every `STAGGER` seconds, or after a failure."""
    addresses = await resolver.addresses(host, port)
    if len(addresses) == 1:
        try:
            return await _open(*addresses[0])
        except OSError:
            resolver.names.forget(host, port)
            raise
    left = list(addresses)
    running: set[asyncio.Task[socket.socket]] = set()
    failures: list[BaseException] = []
    try:
        while left or running:
            if left:
                running.add(asyncio.get_running_loop().create_task(_open(*left.pop(0))))
            done, running = await asyncio.wait(
                running, timeout=STAGGER if left else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if error is None:
                    running |= done - {task}
                    return task.result()
                failures.append(error)
        resolver.names.forget(host, port)
        raise failures[0]
    finally:
        for task in running:
            task.add_done_callback(_close_late)
            task.cancel()


def _close_late(task: "asyncio.Task[socket.socket]") -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _open(family: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _tunnel(sock: socket.socket, address: Address, proxy: Proxy) -> None:
    """Make the proxy connect to `address`: later bytes go there."""
    loop = asyncio.get_running_loop()
    tunnel = Tunnel(address, proxy)
    try:
        await loop.sock_sendall(sock, tunnel.request)
        while not tunnel.feed(await loop.sock_recv(sock, MAX_HEAD)):
            pass
    except ConnectionError:
        raise ProxyRefusedError(None) from None
    finally:
        tunnel.close()
