"""The same rows by bare aiohttp: `bare_rows.py INPUT OUTPUT BASE_URL`. No retry, no journal, no resume."""

import asyncio
import json
import sys
from pathlib import Path

import aiohttp
import uvloop

CONCURRENCY = 200


async def _answer_all(source: Path, output: Path, base_url: str) -> None:
    connector = aiohttp.TCPConnector(limit=CONCURRENCY, keepalive_timeout=60.0)
    with source.open("rb") as lines, output.open("w") as answers:
        async with aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:

            async def lane() -> None:
                for line in lines:
                    row = json.loads(line)
                    async with session.post(
                        base_url + "/chat/completions", json=row["body"]
                    ) as response:
                        answer = json.loads(await response.read())
                    said = {"custom_id": row["custom_id"], "response": answer}
                    answers.write(json.dumps(said) + "\n")

            await asyncio.gather(*(lane() for _ in range(CONCURRENCY)))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_answer_all(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
