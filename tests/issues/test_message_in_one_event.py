"""Found by review: a stream with the whole message in one event counted as complete, but its text was empty."""

import json

import pytest
from chat_stream import DONE, HELLO, STOP, THERE
from clients import PAYLOAD, client_of
from sockets import EVENTS, answer, served
from streamed import event

MESSAGE = {"role": "assistant", "content": "hello there"}
WHOLE = event({"choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}]})
PIECES = HELLO + THERE


@pytest.mark.parametrize(
    "stream",
    [WHOLE + DONE, PIECES + WHOLE + DONE, PIECES + STOP + WHOLE + DONE],
    ids=["alone", "at the end", "after its finish reason"],
)
async def test_a_whole_message_in_one_event_is_the_answer_once(stream):
    async with served(answer(stream, **EVENTS)) as server, client_of(server) as client:
        assembled = await client.request("chat/completions", PAYLOAD | {"stream": True})
        async with client.stream("chat/completions", PAYLOAD) as open_:
            texts = [text async for text in open_.texts()]

    assert assembled.text == "".join(texts) == "hello there"
    assert json.loads(assembled.raw)["choices"][0]["message"]["content"] == "hello there"
