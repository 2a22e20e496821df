"""google-genai: its requests bypass the policy and are sent once."""

import asyncio
import json

import pytest
from google import genai
from google.genai import errors
from google.genai.types import HttpOptions
from recipes import KEY
from sockets import answer, failing, served

from stormbreak.httpx2 import AsyncTransport, Transport

pytestmark = pytest.mark.sdks("shared")
FINE = answer(
    json.dumps(
        {
            "candidates": [
                {"content": {"role": "model", "parts": [{"text": "fine"}]}, "finishReason": "STOP"}
            ]
        }
    ).encode()
)
THROTTLED = failing(429, {"code": 429, "message": "slower", "status": "RESOURCE_EXHAUSTED"})
ASK = {"model": "gemini-2.5-flash", "contents": "Hello?"}


def client_of(server, transport, blocking):
    options = HttpOptions(
        base_url=server.base_url.removesuffix("/v1"),
        client_args={"transport": blocking},
        async_client_args={"transport": transport},
    )
    return genai.Client(api_key=KEY, http_options=options)


@pytest.mark.parametrize("blocks", [False, True])
async def test_a_request_of_google_genai_bypasses_the_policy(blocks):
    transport = AsyncTransport("interactive")
    blocking = Transport(transport.engine)
    async with served(FINE, THROTTLED) as server:
        client = client_of(server, transport, blocking)

        async def ask():
            if blocks:
                return await asyncio.to_thread(client.models.generate_content, **ASK)
            return await client.aio.models.generate_content(**ASK)

        assert (await ask()).text == "fine"
        with pytest.raises(errors.ClientError) as caught:
            await ask()
        await client.aio.aclose()
        await asyncio.to_thread(client.close)
    assert caught.value.code == 429
    assert len(server.requests) == 2
    assert transport.snapshot()["targets"] == {}
