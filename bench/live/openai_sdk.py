"""The openai SDK as it comes: up to two retries after half a second and a second."""

import asyncio

import openai
from calls import Ask, Call, answer_all


def make(first: Call) -> Ask:
    client = openai.AsyncOpenAI(timeout=first["timeout"])

    async def ask(call: Call) -> object:
        return await client.chat.completions.create(
            model=call["model"], messages=[{"role": "user", "content": call["prompt"]}]
        )

    return ask


asyncio.run(answer_all(make))
