"""The same SDK with our transport under it, and the bounds of time that the others have."""

import asyncio
from dataclasses import replace

import httpx2
import openai
from calls import Ask, Call, answer_all

from stormbreak.core.presets import INTERACTIVE
from stormbreak.httpx2 import AsyncTransport


def make(first: Call) -> Ask:
    policy = replace(
        INTERACTIVE,
        deadline=first["deadline"],
        patience=first["deadline"],
        attempt_timeout=first["timeout"],
    )
    http = httpx2.AsyncClient(transport=AsyncTransport(policy))
    client = openai.AsyncOpenAI(http_client=http, max_retries=0)

    async def ask(call: Call) -> object:
        return await client.chat.completions.create(
            model=call["model"], messages=[{"role": "user", "content": call["prompt"]}]
        )

    return ask


asyncio.run(answer_all(make))
