"""What the clients here share: a line of standard input is a call, and begins at once (docs/live.md)."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

Call = dict[str, Any]
Ask = Callable[[Call], Awaitable[object]]


async def lines() -> AsyncIterator[Call]:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        yield json.loads(line)


async def answer_all(make: Callable[[Call], Ask]) -> None:
    """Make what asks from the first call, which tells the timeout; then ask for every one."""
    ask: Ask | None = None
    async with asyncio.TaskGroup() as tasks:
        async for call in lines():
            ask = ask or make(call)
            tasks.create_task(_within_deadline(ask, call))


async def _within_deadline(ask: Ask, call: Call) -> None:
    with suppress(Exception):  # a user would see it; here the provider counts
        async with asyncio.timeout(call["deadline"]):
            await ask(call)
