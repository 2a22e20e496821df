"""openai reads a running response as a stream with a GET that accepts JSON. It was parsed as JSON, retried, and became
a 502.
"""

import json

from sdk_clients import SDKS, sdk_client
from sockets import EVENTS, answer, served

RESPONSE = {"id": "resp_1", "object": "response", "created_at": 1, "status": "in_progress"}
RESPONSE |= {"model": "m", "output": [], "tools": []}
CREATED = {"type": "response.created", "sequence_number": 0, "response": RESPONSE}
BEGUN = f"event: response.created\ndata: {json.dumps(CREATED)}\n\n".encode()


async def test_a_running_response_is_read_as_a_stream():
    async with (
        served(answer(BEGUN, **EVENTS)) as server,
        sdk_client(SDKS[0], server.base_url) as (client, _),
    ):
        stream = await client.responses.retrieve("resp_1", stream=True)
        assert [event.type async for event in stream] == ["response.created"]
    assert len(server.requests) == 1
