"""Many streams at once through the gateway: `python bench/gateway_streams.py [STREAMS] [EVENTS_A_SECOND]`.

It prints the CPU of the gateway's process, and how much later than sent the events come. The provider and the clients,
each a process too, need about as much CPU as the gateway.
"""

import asyncio
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from dripping import dripping
from gateway_load import _cpu, _request
from gateway_peers import PEERS, Options, Route, Running

SECONDS = 10.0
OPENED_AT_ONCE = 50


class _Reader(asyncio.Protocol):
    """Asks for one stream, and counts its events and bodies that ended well, in `seen`."""

    def __init__(self, request: bytes, seen: dict[str, int]) -> None:
        self._request = request
        self._seen = seen

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._seen["events"] += data.count(b"data: ")
        self._seen["whole"] += data.endswith(b"0\r\n\r\n")


async def _measure(gateway: Running, streams: int, rate: float, chunks: int) -> str:
    loop, seen = asyncio.get_running_loop(), {"events": 0, "whole": 0}
    request = _request(gateway, ',"stream":true')
    for _ in range(0, streams, OPENED_AT_ONCE):
        opening = (
            loop.create_connection(lambda: _Reader(request, seen), "127.0.0.1", gateway.port)
            for _ in range(OPENED_AT_ONCE)
        )
        await asyncio.gather(*opening)
        await asyncio.sleep(0.02)
    began, cpu, events = time.monotonic(), _cpu(gateway), seen["events"]
    await asyncio.sleep(SECONDS / 2)
    took, cpu, events = time.monotonic() - began, _cpu(gateway) - cpu, seen["events"] - events
    for _ in range(int(20 * 6 * SECONDS)):
        if seen["whole"] < streams:
            await asyncio.sleep(0.05)
    late = time.monotonic() - began - chunks / rate
    return (
        f"{streams:,} streams of {rate:g} events a second: {events / took:,.0f} events a second came, for"
        f" {100 * cpu / took:.0f} % of a core, {1e6 * cpu / events:.0f} us each; {seen['whole']:,} streams whole,"
        f" the last at most {late:.1f} s late"
    )


def main() -> None:
    """Print one line."""
    given = [int(each) for each in sys.argv[1:]]
    streams, rate = (*given, *(1_000, 50)[len(given) :])
    chunks = int(SECONDS * rate)
    (peer,) = (each for each in PEERS if each.name == "stormbreak")
    options = Options(attempt=600.0, in_flight=2 * streams)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        address = stack.enter_context(dripping(chunks, 1 / rate))
        gateway = stack.enter_context(peer.running([Route("chat", address)], folder, options))
        print(uvloop.run(_measure(gateway, streams, rate, chunks)))


if __name__ == "__main__":
    main()
