"""openai asks for a response that is under way as a stream by a GET that accepts JSON. It was read as one piece of JSON,
asked for again and again, and in the end a 502.
"""

import json

from doors import SDKS, door
from sockets import EVENTS, answer, served

RESPONSE = {"id": "resp_1", "object": "response", "created_at": 1, "status": "in_progress"}
RESPONSE |= {"model": "m", "output": [], "tools": []}
CREATED = {"type": "response.created", "sequence_number": 0, "response": RESPONSE}
BEGUN = f"event: response.created\ndata: {json.dumps(CREATED)}\n\n".encode()


async def test_comes_as_a_stream():
    async with (
        served(answer(BEGUN, **EVENTS)) as server,
        door(SDKS[0], server.base_url) as (client, _),
    ):
        stream = await client.responses.retrieve("resp_1", stream=True)
        assert [event.type async for event in stream] == ["response.created"]
    assert len(server.requests) == 1
