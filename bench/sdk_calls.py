"""CPU per call of the SDKs on our transports, beside the same SDKs on their own, in alternating rounds of one process.

They run on uvloop where they run on a loop, and on the same threads where they block; the provider has the other core.
"""

import asyncio
import gc
import time
from concurrent.futures import ThreadPoolExecutor

import uvloop

import cores
from partner import partner
from rounds import Section, alternate
from sdks import Subject, close, compared, subjects

AT_A_TIME = 16
REQUESTS = 480
ROUNDS = 8


def sections() -> list[Section]:
    """Measure every SDK in both ways over both transports."""
    with (
        partner() as provider,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ThreadPoolExecutor(AT_A_TIME) as threads,
    ):
        cores.pin(cores.CLIENT)
        try:
            found = subjects(provider.base_url, AT_A_TIME)

            def measure(subject: Subject) -> float:
                gc.collect()
                began = time.process_time()
                if subject.blocks:
                    list(threads.map(lambda _: subject.ask(), range(REQUESTS)))
                else:
                    runner.run(_push(subject))
                return (time.process_time() - began) / REQUESTS * 1e6

            for subject in found:
                measure(subject)  # opens the connections
            cpu = alternate(found, measure, rounds=ROUNDS)
            runner.run(close(found))
        finally:
            cores.unpin()
    title = f"CPU per call under the SDKs, {AT_A_TIME} at a time, 20 ms provider"
    return [Section(title, compared(found, cpu, "call", "<= 70", "<= 90"))]


async def _push(subject: Subject) -> None:
    left = iter(range(REQUESTS))

    async def lane() -> None:
        for _ in left:
            await subject.ask()

    await asyncio.gather(*(lane() for _ in range(AT_A_TIME)))
