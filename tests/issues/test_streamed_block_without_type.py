"""Found by fuzzing: the text of a streamed block without a type was missing from the assembled, successful answer."""

from sockets import End, served
from streamed import message
from table_test import table_test

from stormbreak.http.client import AsyncClient

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
TYPE = b'"content_block":{"type":"text",'


@table_test("written", [b"", b'"type":null,'])
async def test_a_streamed_block_without_a_type_is_text(written):
    sent = b"".join(message(["Hello", " there"]))
    assert TYPE in sent
    sent = sent.replace(TYPE, b'"content_block":{' + written)
    async with (
        served([HEAD, sent, End.CLOSE]) as server,
        AsyncClient(base_url=server.base_url, model="m") as client,
    ):
        async with client.stream("messages", {}) as stream:
            texts = [text async for text in stream.texts()]
        async with client.stream("messages", {}) as stream:
            whole = await stream.answer()

    assert texts == ["Hello", " there"]
    assert whole.text == "Hello there"
