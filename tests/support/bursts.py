"""Many concurrent calls to an idle provider, on real sockets."""

import asyncio
import time

from stormbreak.http.client import AsyncClient

CALLS, SERVICE = 200, 1.0
IDLE = f"""
name = "idle"
speed = 1

[provider]
slots = 400
service = {SERVICE}
variation = 0
"""


async def burst(base_url, **options):
    """Make two hundred concurrent calls; return the answers and the seconds of the slowest."""
    async with AsyncClient(base_url=base_url, model="m", **options) as client:
        began = time.monotonic()
        answers = await asyncio.gather(
            *[client.chat([{"role": "user", "content": str(number)}]) for number in range(CALLS)]
        )
        return answers, time.monotonic() - began
