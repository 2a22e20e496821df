"""Found by fuzzing: events after the last event of a stream were passed to the caller as part of the answer."""

from sockets import End, served
from streamed import DONE, chat, message, response
from table_test import table_test

from stormbreak.http.client import AsyncClient

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
STREAMS = {"chat/completions": chat, "messages": message, "responses": response}
AFTER = {
    "the same again": b"".join,
    "the marker and more": lambda made: DONE + b"".join(made[:-1]),
    "no JSON": lambda _: b"data: {\n\n",
}


@table_test("size", [0, 7])
@table_test("after", AFTER)
@table_test("endpoint", STREAMS)
async def test_events_after_the_end_of_a_stream_are_ignored(endpoint, after, size):
    made = STREAMS[endpoint](["Hello", " there"])
    sent = b"".join(made) + AFTER[after](made)
    parts = [sent[at : at + size] for at in range(0, len(sent), size)] if size else [sent]
    async with (
        served([HEAD, *parts, End.CLOSE]) as server,
        AsyncClient(base_url=server.base_url, model="m") as client,
    ):
        async with client.stream(endpoint, {}) as stream:
            texts = [text async for text in stream.texts()]
        async with client.stream(endpoint, {}) as stream:
            events = [event async for event in stream]
        async with client.stream(endpoint, {}) as stream:
            whole = await stream.answer()

    assert texts == ["Hello", " there"]
    assert len(made) - made.count(DONE) == len(events)
    assert whole.text == "Hello there"
