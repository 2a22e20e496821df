"""Count the Python calls that one steady call makes in our files: `python bench/python_calls.py [engine|chat]`.

Calls of functions written in C are not counted, and a coroutine that is resumed counts once. A steady call succeeds at
once; nothing is queued, and nobody listens.
"""

import asyncio
import inspect
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType

import stormbreak
from stormbreak import AsyncClient, Policy, Target
from stormbreak.core.engine import Engine
from stormbreak.core.flow import Send
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.testing import serve
from stormbreak.types import Call, Outcome, Verdict

HOME = str(Path(stormbreak.__file__).parent)
WARM_UP, MEASURED = 200, 100
RESUMABLE = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


async def count(call: Callable[[], Awaitable[object]]) -> Counter[str]:
    """Count the Python calls in our files of `MEASURED` calls, by file and function."""
    counts: Counter[str] = Counter()
    seen: set[FrameType] = set()  # those that can be resumed: each resume is an event, too

    def on_event(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and frame not in seen and code.co_filename.startswith(HOME):
            if code.co_flags & RESUMABLE:
                seen.add(frame)
            counts[f"{code.co_filename[len(HOME) + 1 :]}:{code.co_name}"] += 1

    for _ in range(WARM_UP):
        await call()
    sys.setprofile(on_event)
    try:
        for _ in range(MEASURED):
            await call()
    finally:
        sys.setprofile(None)
    return counts


async def count_engine() -> Counter[str]:
    """Count those of a call through the engine and the asyncio driver alone."""
    engine, target, answer = Engine(Policy()), Target("bench", "model"), Outcome(Verdict.OK)
    driver = AsyncioDriver(engine)

    async def send(_: Send) -> Outcome:
        return answer

    def call() -> Awaitable[object]:
        deadline_at = time.monotonic() + 600.0
        return driver.run(Call(engine.number(), target, deadline_at, 20.0), send)

    return await count(call)


async def count_chat() -> Counter[str]:
    """Count those of a whole `chat()` of a client, to a provider in another thread's loop."""
    with serve(speed=100) as provider:  # it answers soon: else timers run in each call
        async with AsyncClient(base_url=provider.base_url, api_key="any") as client:
            return await count(
                lambda: client.chat([{"role": "user", "content": "Hello"}], model="m")
            )


def main() -> None:
    """Print the calls of one call, most frequent first."""
    measure = {"engine": count_engine, "chat": count_chat}[(sys.argv[1:] or ["chat"])[0]]
    counts = asyncio.run(measure())
    print(f"{counts.total() / MEASURED:.1f} Python calls for one call")
    for name, number in counts.most_common():
        print(f"{number / MEASURED:6.2f} {name}")


if __name__ == "__main__":
    main()
