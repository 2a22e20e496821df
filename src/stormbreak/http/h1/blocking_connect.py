"""Connect on a blocked thread: look up names, race addresses, open the proxy's tunnel, start TLS."""

import errno
import os
import socket
import ssl
import threading
import time
from concurrent.futures import Future
from functools import partial
from math import inf
from traceback import walk_tb

from stormbreak.drivers.blocking import READ, WRITE, Signal, SocketWait
from stormbreak.http.h1.address import Address
from stormbreak.http.h1.dns_cache import STAGGER, DnsCache, Found, in_order
from stormbreak.http.h1.failures import ProxyRefusedError
from stormbreak.http.h1.proxy import Proxy
from stormbreak.http.h1.proxy_tunnel import Tunnel
from stormbreak.http.h1.response_parser import MAX_HEAD

_UNDER_WAY = (0, errno.EINPROGRESS)


class BlockingResolver:
    """Looks up names on separate threads, since a lookup cannot be cancelled; concurrent lookups share the answer."""

    def __init__(self) -> None:
        self.names = DnsCache()
        self._asked: dict[tuple[str, int], Future[Found]] = {}

    async def addresses(self, host: str, port: int, until: float) -> Found:
        """Return the addresses of a host; raise the resolver's errors, or a TimeoutError."""
        found = self.names.find(host, port)
        if found is not None:
            return found
        lookup = self._asked.get((host, port))
        if lookup is None:
            lookup = self._asked[host, port] = Future()
            work = partial(self._ask, host, port, lookup)
            try:
                threading.Thread(target=work, name="stormbreak-names", daemon=True).start()
            except RuntimeError as error:
                del self._asked[host, port]
                lookup.set_exception(error)
        signal = Signal()
        lookup.add_done_callback(lambda _: signal.set())
        await signal.wait(until)
        if not lookup.done():
            raise TimeoutError
        return lookup.result()

    def _ask(self, host: str, port: int, lookup: "Future[Found]") -> None:
        try:
            found = in_order(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
            lookup.set_exception(error)
        else:
            self.names.keep(host, port, found)
            lookup.set_result(found)
        self._asked.pop((host, port), None)


async def connect(
    resolver: BlockingResolver,
    address: Address,
    proxy: Proxy | None,
    tls: ssl.SSLContext | None,
    until: float,
) -> socket.socket:
    """Connect to `address`, through `proxy` if there is one, by `until`. Cancelling closes all opened sockets.

    Raises:
        OSError: no connection; an ssl.SSLError from TLS, a ProxyRefusedError from the proxy's tunnel.
        RuntimeError: no thread can be started for the resolver.
    """
    host, port = (address.host, address.port) if proxy is None else (proxy.host, proxy.port)
    addresses = await resolver.addresses(host, port, until)
    try:
        sock = await _race(addresses, until)
    except OSError:
        resolver.names.forget(host, port)
        raise
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if proxy is not None and address.secure:
            await _tunnel(sock, address, proxy, until)
        if address.secure:
            sock = await _secured(sock, address, tls or ssl.create_default_context(), until)
    except BaseException:
        sock.close()
        raise
    return sock


async def _race(addresses: Found, until: float) -> socket.socket:
    """Return the first socket that connects; try another address every `STAGGER` seconds, or after a failure."""
    left, trying = list(addresses), list[socket.socket]()
    failure: OSError | None = None
    try:
        while left or trying:
            if left:
                try:
                    trying.append(_begin(*left.pop(0)))
                except OSError as error:
                    failure = failure or error
                    continue
            stagger = time.monotonic() + STAGGER if left else inf
            ready = await SocketWait(*((each, WRITE) for each in trying), until=min(stagger, until))
            for sock in ready:
                trying.remove(sock)
                number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not number:
                    return sock
                sock.close()
                failure = failure or OSError(number, os.strerror(number))
            if time.monotonic() >= until:
                raise TimeoutError
    finally:
        for sock in trying:
            sock.close()
    raise failure or OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


def _begin(family: int, address: tuple[object, ...]) -> socket.socket:
    """Return a socket that is connecting; raise OSError if that fails at once."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    number = sock.connect_ex(address)
    if number in _UNDER_WAY:
        return sock
    sock.close()
    raise OSError(number, os.strerror(number))


async def _tunnel(sock: socket.socket, address: Address, proxy: Proxy, until: float) -> None:
    """Make the proxy connect to `address`: later bytes go there."""
    tunnel = Tunnel(address, proxy)
    try:
        sock.sendall(tunnel.request)  # it fits into the buffer of a new socket
        await _ready(sock, READ, until)
        while not tunnel.feed(sock.recv(MAX_HEAD)):
            await _ready(sock, READ, until)
    except (ConnectionError, BlockingIOError):
        raise ProxyRefusedError(None) from None
    finally:
        tunnel.close()


async def _secured(
    sock: socket.socket, address: Address, tls: ssl.SSLContext, until: float
) -> ssl.SSLSocket:
    try:
        secured = tls.wrap_socket(
            sock,
            server_hostname=address.host.removesuffix("."),
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
        )
    except OSError as error:  # a reset: before Python 3.13, the socket that took over `sock` leaks
        for frame, _ in walk_tb(error.__traceback__):
            if isinstance(made := frame.f_locals.get("self"), ssl.SSLSocket):
                made.close()
        raise
    try:
        while (events := _shake(secured)) is not None:
            await _ready(secured, events, until)
    except BaseException:
        secured.close()
        raise
    return secured


def _shake(secured: ssl.SSLSocket) -> int | None:
    """Continue the handshake; return the event that it waits for, None at its end."""
    try:
        secured.do_handshake()
    except ssl.SSLWantReadError:
        return READ
    except ssl.SSLWantWriteError:
        return WRITE
    return None


async def _ready(sock: socket.socket, events: int, until: float) -> None:
    if not await SocketWait((sock, events), until=until):
        raise TimeoutError
