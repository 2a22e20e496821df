"""After `[DONE]`, `message_stop` or `response.completed` the last chunk was missing or the connection stayed open: `request`,
batches and `stream_on_wire` rejected the answer or hung, and paid again, while `client.stream` accepted it.
"""

import asyncio
import itertools
import json

import httpx
import httpx2
from clients import ONCE, QUICK, client_of
from sockets import CHUNKED, EVENTS, End, answer, served
from streamed import DONE, chat, message, response
from table_test import table_test

import stormbreak.httpx
from stormbreak.core.policy import Policy
from stormbreak.httpx2 import AsyncTransport, Transport

TEXTS = ["Hello", " there"]
FORMATS = {"chat/completions": chat, "messages": message, "responses": response}
ENDLESS = answer(b"", **EVENTS | {"content_length": 10**7})


def chunked(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


async def drip(_request, writer):
    """Send comments without end, so that no read is silent."""
    while True:
        writer.write(chunked(b": still here\n\n"))
        await writer.drain()
        await asyncio.sleep(0.01)


ENDINGS = {
    "closed": (CHUNKED, End.CLOSE),
    "reset": (CHUNKED, End.RESET),
    "open": (CHUNKED, End.HANG),
    "short": (ENDLESS, End.CLOSE),
    "dripping": (CHUNKED, drip),
}


def script(events, ending):
    head, end = ENDINGS[ending]
    sent = b"".join(events)
    return [head, chunked(sent) if head is CHUNKED else sent, end]


async def requested(server, endpoint):
    async with client_of(server) as client:
        return (await client.request(endpoint, {"stream": True})).text


async def streamed(server, endpoint):
    async with client_of(server) as client, client.stream(endpoint, {}) as stream:
        return "".join([text async for text in stream.texts()])


async def awaited(server, endpoint):
    async with client_of(server) as client, client.stream(endpoint, {}) as stream:
        return (await stream.answer()).text


@table_test("way", [requested, streamed, awaited])
@table_test("ending", ENDINGS)
@table_test("endpoint", FORMATS)
async def test_a_complete_stream_without_the_end_of_its_body_is_an_answer(endpoint, ending, way):
    async with served(script(FORMATS[endpoint](TEXTS), ending)) as server:
        async with asyncio.timeout(20):
            assert await way(server, endpoint) == "Hello there"
        assert len(server.requests) == 1
        await server.all_closed()


@table_test("ending", ENDINGS)
async def test_stream_on_wire_accepts_a_stream_without_the_end_of_its_body(ending):
    async with served(script(chat(TEXTS), ending)) as server:
        async with client_of(server, stream_on_wire=True) as client, asyncio.timeout(20):
            assert (
                await client.chat([{"role": "user", "content": "Hello?"}])
            ).text == "Hello there"
        assert len(server.requests) == 1


PAYLOAD = {"model": "m", "messages": [{"role": "user", "content": "Hello?"}]}
TRANSPORTS = {
    "own": (httpx2.AsyncClient, lambda **more: AsyncTransport(QUICK, **more)),
    "inner": (
        httpx2.AsyncClient,
        lambda **more: AsyncTransport(QUICK, inner=httpx2.AsyncHTTPTransport(), **more),
    ),
    "blocking": (httpx2.Client, lambda **more: Transport(QUICK, **more)),
    "blocking inner": (
        httpx.Client,
        lambda **more: stormbreak.httpx.Transport(QUICK, inner=httpx.HTTPTransport(), **more),
    ),
}


@table_test("ending", ["closed", "open"])
@table_test("delivered", [True, False])
@table_test("over", TRANSPORTS)
async def test_transports_accept_a_stream_without_the_end_of_its_body(over, delivered, ending):
    make, transport = TRANSPORTS[over]
    async with served(script(chat(TEXTS), ending)) as server, asyncio.timeout(20):
        url = f"{server.base_url}/chat/completions"
        payload = PAYLOAD | ({"stream": True} if delivered else {})
        headers = {"Authorization": "Bearer sk-canary-0123456789"}
        http = make(transport=transport(stream_on_wire=not delivered))
        if isinstance(http, httpx.Client | httpx2.Client):
            with http:
                got = await asyncio.to_thread(http.post, url, json=payload, headers=headers)
        else:
            async with http:
                got = await http.post(url, json=payload, headers=headers)
        if delivered:
            assert got.content == b"".join(chat(TEXTS))
        else:
            assert json.loads(got.content)["choices"][0]["message"]["content"] == "Hello there"
        assert len(server.requests) == 1


@table_test("way", [requested, streamed, awaited])
@table_test("ending", ["closed", "open"])
async def test_a_complete_stream_without_done_is_an_answer(ending, way):
    events = chat(TEXTS)
    assert events.pop() == DONE
    async with served(script(events, ending)) as server, asyncio.timeout(20):
        assert await way(server, "chat/completions") == "Hello there"
        assert len(server.requests) == 1


@table_test("ending", ["closed", "reset", "short"])
@table_test("endpoint", FORMATS)
async def test_a_stream_cut_before_its_last_event_is_broken(endpoint, ending):
    made = FORMATS[endpoint](TEXTS)
    needed = 3 if endpoint == "chat/completions" else len(made) - 1
    for events, policy in itertools.product((made[:needed], made[: needed - 1]), (ONCE,)):
        async with served(script(events, ending)) as server, client_of(server, policy) as client:
            ended = await client.ask(endpoint, b'{"model":"m","stream":true}')
            assert ended.outcome.verdict == "broken"


async def test_a_stream_with_the_end_of_its_body_keeps_the_connection():
    whole = [CHUNKED, chunked(b"".join(chat(TEXTS))), 0.02, b"0\r\n\r\n"]
    async with served(whole) as server, client_of(server, Policy()) as client:
        for _ in range(3):
            await client.request("chat/completions", {"stream": True})
        assert [request.connection for request in server.requests] == [1, 1, 1]
