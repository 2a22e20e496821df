"""Found by review: the check of a stream skipped blanks before the first event, but the reader did not. The stream was
complete, and its caller missed the first piece of text.
"""

from chat_stream import DONE, HELLO, STOP, THERE
from clients import PAYLOAD, client_of
from sockets import EVENTS, answer, served
from table_test import table_test

MARK = b"\xef\xbb\xbf"


@table_test("blanks", [b" ", b"\t", MARK, MARK * 2, b"\r\n \n" + MARK])
@table_test("size", [1, 10_000])
async def test_blanks_before_the_first_event_lose_no_text(blanks, size):
    whole = blanks + HELLO + THERE + STOP + DONE
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    script = (answer(b"", **EVENTS | {"content_length": len(whole)}), *pieces)
    async with served(script) as server, client_of(server) as client:
        async with client.stream("chat/completions", PAYLOAD) as stream:
            texts = [text async for text in stream.texts()]
        assembled = await client.request("chat/completions", PAYLOAD | {"stream": True})

    assert "".join(texts) == assembled.text == "hello there"
