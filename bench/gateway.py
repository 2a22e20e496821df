"""The gateway beside the bare provider behind it: CPU of its process for a request and for a streamed event, added time.

The provider answers at once. Each server has a process of its own; the callers are bare sockets. A round asks the
provider itself, and then the gateway with more and more switched on.
"""

import asyncio
import gc
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import uvloop

import cores
from partner import Partner, in_process, partner
from rounds import Figure, Section, alternate, minus, share
from stormbreak.gateway.process import Gateway

INSTANT = "[provider]\nservice = 0\nvariation = 0\n"
KEY = "sb-bench"
CONNECTIONS = 32
REQUESTS = 60  # of each connection
ALONE = 300  # requests one after the other
STREAMS = 16  # at once, on each of a few turns
TURNS = 6
ROUNDS = 5
PROMPT = "x" * 550
FILE = """
[targets.main]
base_url = "http://127.0.0.1:{port}/v1"
model = "storm-1"

[gateway]
port = 0
{gateway}

[keys.app]
sha256 = "{digest}"
{key}
"""
BARE = 'admin_port = "none"\naccess_log = false'
LIMITS = "rpm = 1e9\ntpm = 1e11\nmax_in_flight = 10_000"
KINDS = {
    "gateway": {"gateway": BARE, "key": ""},
    "gateway, limits of the key": {"gateway": BARE, "key": LIMITS},
    "gateway, ledger": {"gateway": f'{BARE}\nledger = "spent.db"', "key": ""},
    "gateway, log and metrics": {"gateway": "admin_port = 0", "key": ""},
}


class _Subject(NamedTuple):
    name: str
    server: Partner


class _Round(NamedTuple):
    cpu: float  # us for a request
    rate: float  # requests a second, by the clock
    alone: float  # ms, the median of requests one after the other
    event: float  # us for a streamed event


def sections() -> list[Section]:
    """Measure the provider and the gateways before it."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        provider = stack.enter_context(partner(INSTANT))
        subjects = [_Subject("provider alone", provider)]
        for number, (name, texts) in enumerate(KINDS.items()):
            path = Path(folder) / f"{number}.toml"
            digest = sha256(KEY.encode()).hexdigest()
            path.write_text(FILE.format(port=provider.port, digest=digest, **texts))
            server = stack.enter_context(in_process(partial(_gateway, path), cores.CLIENT))
            subjects.append(_Subject(name, server))
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        for subject in subjects:
            _measure(runner, subject)  # opens connections, fills caches
        rounds = alternate(subjects, lambda each: _measure(runner, each), rounds=ROUNDS)
    return [_figures(subjects, rounds)]


@asynccontextmanager
async def _gateway(path: Path) -> AsyncIterator[int]:
    gateway = Gateway(path)
    await gateway.start()
    try:
        yield gateway.port
    finally:
        await gateway.close()


def _measure(runner: asyncio.Runner, subject: _Subject) -> _Round:
    gc.collect()
    port, server = subject.server.port, subject.server
    plain, stream = _request(), _request(',"stream":true')
    before, began = server.cpu(), time.perf_counter()
    runner.run(all_requests(port, plain, CONNECTIONS, REQUESTS))
    requests, took = CONNECTIONS * REQUESTS, time.perf_counter() - began
    cpu = (server.cpu() - before) / requests
    (times,) = runner.run(all_requests(port, plain, 1, ALONE))
    before = server.cpu()
    runner.run(all_requests(port, stream, STREAMS, TURNS))
    events = STREAMS * TURNS * 16  # as the mock provider sends them
    event = (server.cpu() - before) / events
    return _Round(cpu * 1e6, requests / took, statistics.median(times) * 1e3, event * 1e6)


def _request(more: str = "") -> bytes:
    body = f'{{"model":"main","messages":[{{"role":"user","content":"{PROMPT}"}}]{more}}}'.encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
        % (KEY.encode(), len(body), body)
    )


async def all_requests(
    port: int, request: bytes, connections: int, times: int
) -> list[list[float]]:
    """Send a request so often on each connection; return how long each answer took, by connection."""
    return await asyncio.gather(*(_ask(port, request, times) for _ in range(connections)))


async def _ask(port: int, request: bytes, times: int) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    took = []
    for _ in range(times):
        began = time.perf_counter()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200"), head
        if b"chunked" in head:
            await reader.readuntil(b"\r\n0\r\n\r\n")
        else:
            await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
        took.append(time.perf_counter() - began)
    writer.close()
    return took


def _figures(subjects: Sequence[_Subject], rounds: Sequence[tuple[_Round, ...]]) -> Section:
    figures = []
    alone = rounds[0]
    for subject, taken in zip(subjects, rounds, strict=True):
        cpu = tuple(one.cpu for one in taken)
        figures.append(Figure(subject.name, "us", cpu, note="CPU of its process for a request"))
        if subject is subjects[0]:
            continue
        base = tuple(one.cpu for one in alone)
        figures.append(Figure(subject.name, "%", share(cpu, base), note="of the provider's CPU"))
        per_second = tuple(1e6 / each for each in cpu)
        figures.append(Figure(subject.name, "/s", per_second, note="requests per CPU second"))
        added = minus((one.alone for one in taken), (one.alone for one in alone))
        figures.append(Figure(subject.name, "ms", added, note="added p50, one after the other"))
        events = tuple(one.event for one in taken)
        figures.append(Figure(subject.name, "us", events, note="CPU for a streamed event"))
    return Section(
        f"The gateway, {CONNECTIONS} connections, a provider that answers at once", figures
    )
