"""A plain retry loop without stormbreak, for comparison with `batch run`.

Arguments: INPUT, OUTPUT, base URL, maximum of attempts in flight, seconds per attempt. Every row is sent until it is
answered, with full jitter between its attempts. Answers are appended to OUTPUT as they arrive.
"""

import asyncio
import json
import random
import sys
from pathlib import Path

import httpx2

BASE, CAP = 1.0, 60.0  # seconds, as in the baseline `loop_full_jitter`


async def answer(client, row, slots, at_most):
    """Send a row until it is answered; it holds no slot between two attempts."""
    delay = BASE
    while True:
        try:
            async with slots, asyncio.timeout(at_most):
                response = await client.post("/chat/completions", json=row["body"])
                response.raise_for_status()
                return response.json()
        except (httpx2.HTTPError, TimeoutError, ValueError):
            await asyncio.sleep(random.uniform(0.0, delay))
            delay = min(CAP, 2 * delay)


async def answer_all(rows, file, base_url, width, at_most):
    slots = asyncio.Semaphore(width)
    limits = httpx2.Limits(max_connections=width)
    async with httpx2.AsyncClient(base_url=base_url, timeout=None, limits=limits) as client:

        async def each(row):
            body = await answer(client, row, slots, at_most)
            file.write(json.dumps({"custom_id": row["custom_id"], "body": body}) + "\n")

        await asyncio.gather(*map(each, rows))


if __name__ == "__main__":
    source, output, base_url, width, at_most = sys.argv[1:]
    rows = [json.loads(line) for line in Path(source).read_text().splitlines()]
    with Path(output).open("a", buffering=1) as file:
        asyncio.run(answer_all(rows, file, base_url, int(width), float(at_most)))
