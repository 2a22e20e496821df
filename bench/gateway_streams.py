"""Many streams at once through the gateway: `python bench/gateway_streams.py [STREAMS] [EVENTS_A_SECOND]`.

It prints the CPU of the gateway's process, which has a core of its own, and how much later than sent the events come. The
provider and the clients share the other core: one writes prepared pieces, the others look ten times a second at what
has come.
"""

import os
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import cores
from dripping import dripping
from gateway_load import _cpu, _request
from gateway_peers import PEERS, Options, Route, Running

SECONDS = 10.0
GROUPS = 10  # of streams that have an event at the same moment
OPENED_AT_ONCE = 50
LOOK_EVERY = 0.1  # seconds


class _Streams:
    """Sockets that have asked for a stream each: what came on them, and how many ended well."""

    def __init__(self) -> None:
        self._open: list[socket.socket] = []
        self.events = self.whole = 0

    def ask(self, port: int, request: bytes) -> None:
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(request)
        connection.setblocking(False)
        self._open.append(connection)

    def look(self) -> None:
        """Read what has come, and sleep to the next look."""
        began = time.monotonic()
        for connection in tuple(self._open):
            try:
                data = connection.recv(1 << 18)
            except BlockingIOError:
                continue
            self.events += data.count(b"data: {")
            if data.endswith(b"0\r\n\r\n") or not data:
                self.whole += bool(data)
                connection.close()
                self._open.remove(connection)
        time.sleep(max(0.0, began + LOOK_EVERY - time.monotonic()))

    def look_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._open:
            self.look()


def _measure(gateway: Running, streams: int, rate: float, chunks: int) -> str:
    seen, request = _Streams(), _request(gateway, ',"stream":true')
    for number in range(streams):
        seen.ask(gateway.port, request)
        if number % OPENED_AT_ONCE == 0:
            seen.look()
    began, cpu, events = time.monotonic(), _cpu(gateway), seen.events
    seen.look_for(SECONDS / 2)
    took, cpu, events = time.monotonic() - began, _cpu(gateway) - cpu, seen.events - events
    seen.look_for(6 * SECONDS)
    late = time.monotonic() - began - chunks / rate
    return (
        f"{streams:,} streams of {rate:g} events a second: {events / took:,.0f} events a second came, for"
        f" {100 * cpu / took:.0f} % of a core, {1e6 * cpu / events:.1f} us each; {seen.whole:,} streams whole,"
        f" the last at most {late:.1f} s late"
    )


def main(given: Sequence[int]) -> None:
    """Print one line."""
    streams, rate = (*given, *(1_000, 50)[len(given) :])
    chunks = int(SECONDS * rate)
    (peer,) = (each for each in PEERS if each.name == "stormbreak")
    options = Options(attempt=600.0, in_flight=2 * streams)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        address = stack.enter_context(dripping(chunks, 1 / rate, groups=GROUPS))
        gateway = stack.enter_context(peer.running([Route("chat", address)], folder, options))
        if sys.platform == "linux":
            os.sched_setaffinity(gateway.process.pid, {cores.CLIENT})
        cores.pin(cores.PROVIDER)
        print(_measure(gateway, streams, rate, chunks))


if __name__ == "__main__":
    main([int(each) for each in sys.argv[1:]])
