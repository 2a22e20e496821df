"""CPU per chunk, and memory, of 1,000 streams at once under the SDKs: on our transports, and on their own.

As in `streams`, but the SDKs make objects of what comes, and take so long for it that the server writes less often.
Those that block have a thread for each stream.
"""

import asyncio
import gc
import threading
import time
from typing import NamedTuple

import uvloop

import cores
from dripping import dripping
from held import Watch, allow_files
from rounds import Figure, Section, alternate
from sdks import Subject, close, compared, subjects

STREAMS = 1_000
CHUNKS = 30
PERIOD = 0.25  # seconds
ROUNDS = 2
STACK = 256 * 1024  # bytes of each thread


class _Round(NamedTuple):
    cpu: float  # us of this process per chunk
    growth: float  # KiB per stream from its first chunks to its last


def sections() -> list[Section]:
    """Measure every SDK in both ways over both transports."""
    allow_files(2 * STREAMS + 200)
    before = threading.stack_size(STACK)
    with (
        dripping(CHUNKS, PERIOD) as url,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        cores.pin(cores.CLIENT)
        try:
            found = subjects(url, STREAMS)
            for subject in found:
                _measure(runner, subject)  # opens the connections
            rounds = alternate(found, lambda one: _measure(runner, one), rounds=ROUNDS)
            runner.run(close(found))
        finally:
            cores.unpin()
            threading.stack_size(before)
    figures = compared(
        found, [[one.cpu for one in taken] for taken in rounds], "chunk", "<= 120", "<= 120"
    )
    figures += [
        Figure(f"{subject.name}, growth a stream", "KiB", tuple(one.growth for one in taken))
        for subject, taken in zip(found, rounds, strict=True)
    ]
    return [Section(f"{STREAMS:,} streams of {CHUNKS} chunks at once under the SDKs", figures)]


def _measure(runner: asyncio.Runner, subject: Subject) -> _Round:
    gc.collect()
    began, watch = time.process_time(), Watch(STREAMS, CHUNKS)
    if subject.blocks:
        _on_threads(subject, watch)
    else:
        runner.run(_on_loop(subject, watch))
    return _Round((time.process_time() - began) / (STREAMS * CHUNKS) * 1e6, watch.growth)


async def _on_loop(subject: Subject, watch: Watch) -> None:
    async def read() -> None:
        async for _ in await subject.ask(stream=True):
            watch.count()

    await asyncio.gather(*(read() for _ in range(STREAMS)))


def _on_threads(subject: Subject, watch: Watch) -> None:
    def read() -> None:
        for _ in subject.ask(stream=True):
            watch.count()

    threads = [threading.Thread(target=read) for _ in range(STREAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
