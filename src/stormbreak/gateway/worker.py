"""A worker of a gateway: a process that serves clients on the listening sockets of its parent, and obeys its requests.

Its argument is the descriptor of its end of a socket pair. Messages are lines of JSON:
first `Start`, then requests of the parent, each with an answer. When the parent is gone, it ends.
"""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

import msgspec

from stormbreak.drivers.garbage import collect_less_often
from stormbreak.errors import ConfigurationError
from stormbreak.gateway.admin import AdminPages
from stormbreak.gateway.logs import LOG, log_to_stderr
from stormbreak.gateway.process import Gateway
from stormbreak.gateway.routing import GatewayRules
from stormbreak.http.h1.server import new_loop
from stormbreak.telemetry.state import State

MAX_LINE = 64 << 20  # bytes


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """The first message: the settings file and its text, the listening sockets, and whether there is an admin port."""

    path: str
    text: str
    sockets: list[int]
    watched: bool


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request of the parent: `do` is `ping`, `look`, `prepare` (a new text of the file), `apply` it, `abandon` it, or `drain`."""

    number: int
    do: str
    text: str = ""


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to a request, or with number 0 to `Start`. `error` explains a failure."""

    number: int
    error: str | None = None
    metrics: bytes = b""
    state: State | None = None


_READ_START = msgspec.json.Decoder(Start).decode
_READ_ASK = msgspec.json.Decoder(Ask).decode


def line_of(message: msgspec.Struct) -> bytes:
    return msgspec.json.encode(message) + b"\n"


class Worker:
    """Serves, and answers the parent."""

    def __init__(
        self, gateway: Gateway, pages: AdminPages | None, send: Callable[[Reply], None]
    ) -> None:
        self._gateway = gateway
        self._pages = pages
        self._send = send
        self._prepared: GatewayRules | None = None
        self._stopped = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Serve the requests of the parent until all answers have ended after `drain` or SIGTERM.

        When the parent is gone, end answers at once.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopped.set)
        asking = loop.create_task(self._answer_all(reader))
        draining = loop.create_task(self._drain())
        await asyncio.wait({asking, draining}, return_when=asyncio.FIRST_COMPLETED)
        if draining.done():
            asking.cancel()
            self._send(self._look(0))
        else:
            draining.cancel()
            await self._gateway.drain_within(0.0)

    async def _drain(self) -> None:
        await self._stopped.wait()
        await self._gateway.drain()

    async def _answer_all(self, reader: asyncio.StreamReader) -> None:
        """Answer requests one by one until the parent is gone."""
        while line := await reader.readline():
            ask = _READ_ASK(line)
            try:
                reply = await self._answer(ask)
            except Exception as error:  # noqa: BLE001 - a mistake of ours must not cut the answers of clients
                LOG.exception("a worker could not %s", ask.do)
                reply = Reply(number=ask.number, error=type(error).__name__)
            self._send(reply)

    async def _answer(self, ask: Ask) -> Reply:
        match ask.do:
            case "look":
                return self._look(ask.number)
            case "prepare":
                try:
                    self._prepared = await self._gateway.prepare(ask.text)
                except ConfigurationError as error:
                    return Reply(number=ask.number, error=str(error))
            case "apply" if self._prepared is not None:
                self._gateway.apply(self._prepared)
                self._prepared = None
            case "abandon":
                self._prepared = None
            case "drain":
                self._stopped.set()
        return Reply(number=ask.number)

    def _look(self, number: int) -> Reply:
        if self._pages is None:
            return Reply(number=number)
        return Reply(number=number, metrics=self._pages.metrics(), state=self._pages.state())


async def work(control: socket.socket, write_line: Callable[[str], None]) -> None:
    """Serve until the parent ends it or is gone."""
    reader, writer = await asyncio.open_connection(sock=control, limit=MAX_LINE)
    start = _READ_START(await reader.readline())

    def send(reply: Reply) -> None:
        writer.write(line_of(reply))

    try:
        # The parent owns the ports and the ledger.
        change = partial(replace, admin_port=None, ledger=None)
        gateway = Gateway(start.path, change, text=start.text, write_line=write_line)
    except ConfigurationError as error:
        send(Reply(number=0, error=str(error)))
    else:
        pages = gateway.pages() if start.watched else None
        await gateway.serve([socket.socket(fileno=each) for each in start.sockets])
        collect_less_often()
        send(Reply(number=0))
        await Worker(gateway, pages, send).serve(reader)
    writer.close()
    with suppress(OSError):  # the parent is gone
        await writer.wait_closed()


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    with log_to_stderr() as write_line, asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(work(control, write_line))
