"""The loop that the cookbooks have: tenacity around every call, up to six attempts, exponential with full jitter."""

import asyncio

import openai
from calls import Ask, Call, answer_all
from tenacity import retry, stop_after_attempt, wait_random_exponential


def make(first: Call) -> Ask:
    client = openai.AsyncOpenAI(timeout=first["timeout"], max_retries=0)

    @retry(wait=wait_random_exponential(min=1, max=60), stop=stop_after_attempt(6))
    async def ask(call: Call) -> object:
        return await client.chat.completions.create(
            model=call["model"], messages=[{"role": "user", "content": call["prompt"]}]
        )

    return ask


asyncio.run(answer_all(make))
