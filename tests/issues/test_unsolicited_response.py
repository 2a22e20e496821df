"""An unsolicited response was rejected and its connection reused, so each call got the response of the call before.

HTTP/1.1 cannot show that a response belongs to no request. If a response is rejected, the rest of that connection is not
to be trusted.
"""

import asyncio
import json
import ssl
from importlib import import_module

import pytest
from chat_stream import HELLO, OPENING, STOP
from clients import SAY
from doubles import plain
from gateways import CHAT, running, settings
from on_threads import ConnectionOnThreads
from one_behind import OneBehind, streamed
from sdk_clients import ONCE, until
from sockets import BODY, CHUNKED, EVENTS, answer, failing, served, tls
from streamed import DONE
from table_test import table_test
from wrapped import INNER, OWN_BLOCKING, WRAPPED, asking, done, wire_of

from stormbreak.drivers.blocking import run
from stormbreak.errors import StreamBrokenError, UpstreamError
from stormbreak.http.client import AsyncClient
from stormbreak.http.h1.async_connection import AsyncConnection
from stormbreak.http.h1.exchange import UNREAD
from stormbreak.http.prepared_request import PreparedRequest
from stormbreak.http.response import assemble_stream
from stormbreak.http.stream_source import open_source
from stormbreak.http.sync_client import Client
from stormbreak.http.transports import wrapped_connection
from stormbreak.llm.endpoints import Shape
from stormbreak.types import Verdict

WAYS = [None, OWN_BLOCKING, *INNER, *WRAPPED]
NO_ANSWER = {
    "a page": answer(b"<html>hello</html>", content_type="text/html"),
    "of another API": answer(b'{"data": [], "object": "list"}'),
    "cut JSON": answer(b'{"choices": [{"mess'),
    "nothing": answer(b""),
    "in chunks": CHUNKED + b"2\r\n{}\r\n0\r\n\r\n",
    "packed in no known way": answer(content_encoding="gzip"),
}
NO_STREAM = {
    "a page": answer(b"<html>hello</html>", content_type="text/html"),
    "without output": answer(OPENING + DONE, **EVENTS),
    "cut in its text": answer(OPENING + HELLO, **EVENTS),
    "no JSON in an event": answer(OPENING + HELLO + b"data: {\n\n" + STOP + DONE, **EVENTS),
    "packed in no known way": answer(OPENING + DONE, content_encoding="gzip", **EVENTS),
}


def connections(server):
    return [each.connection for each in server.requests]


@pytest.mark.parametrize("way", WAYS, ids=str)
@table_test("ahead", NO_ANSWER)
async def test_a_rejected_response_closes_the_connection(way, ahead):
    async with (
        served([OneBehind(NO_ANSWER[ahead])]) as server,
        asking(way, server.base_url, ONCE) as ask,
    ):
        with pytest.raises(Exception):  # noqa: B017 - each SDK has its own type
            await ask("first")
        assert [await ask(f"call {number}") for number in range(3)] == [
            f"to call {number}" for number in range(3)
        ]
    assert connections(server) == [1, 2, 2, 2]


@pytest.mark.parametrize("way", [None, OWN_BLOCKING, *INNER], ids=str)
async def test_an_unrequested_stream_closes_the_connection(way):
    async with (
        served([OneBehind(streamed("to another"))]) as server,
        asking(way, server.base_url, ONCE) as ask,
    ):
        assert await ask("first") == "to another"
        assert await ask("second") == "to second"
    assert connections(server) == [1, 2]


async def test_each_call_through_the_gateway_gets_its_own_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEWAY_TEST_KEY", "sk-of-the-provider")
    async with (
        served([OneBehind(NO_ANSWER["a page"])]) as server,
        running(tmp_path / "gateway.toml", settings(server.base_url)) as gateway,
    ):
        for text in ("one", "two", "three"):
            reply = await gateway.ask(CHAT | {"messages": [{"role": "user", "content": text}]})
            assert reply.json["choices"][0]["message"]["content"] == f"to {text}"


# ---------------------------------------------------------------- streams


async def read(client, reader, text):
    """The text of a stream, read in one of three ways by a client of either kind."""
    payload = {"messages": [{"role": "user", "content": text}]}
    if isinstance(client, Client):
        return await asyncio.to_thread(_read_blocking, client, reader, payload)
    async with client.stream("chat/completions", payload) as stream:
        if reader == "assembled":
            return (await stream.answer()).text
        if reader == "as text":
            return "".join([text async for text in stream.texts()])
        return _text_of(b"".join([piece async for piece in stream.raw()]))


def _read_blocking(client, reader, payload):
    with client.stream("chat/completions", payload) as stream:
        if reader == "assembled":
            return stream.answer().text
        return "".join(stream.texts()) if reader == "as text" else _text_of(b"".join(stream.raw()))


def _text_of(events):
    lines = [line[6:] for line in events.splitlines() if line.startswith(b"data: {")]
    return "".join(json.loads(each)["choices"][0]["delta"].get("content", "") for each in lines)


@pytest.mark.parametrize("kind", [AsyncClient, Client])
@table_test("reader", ["as text", "as bytes", "assembled"])
@table_test("ahead", NO_STREAM)
async def test_a_rejected_stream_closes_the_connection(kind, reader, ahead):
    async with served([OneBehind(NO_STREAM[ahead])]) as server:
        client = kind(base_url=server.base_url, model="m", policy=ONCE)
        with pytest.raises((StreamBrokenError, UpstreamError, json.JSONDecodeError)):
            await read(client, reader, "first")
        assert [await read(client, reader, text) for text in ("a", "b")] == ["to a", "to b"]
        await _close(client)
    assert connections(server) == [1, 2, 2]


@pytest.mark.parametrize("kind", [AsyncClient, Client])
@table_test("reader", ["as text", "assembled"])
async def test_a_plain_answer_to_a_stream_request_closes_the_connection(kind, reader):
    async with served([OneBehind(plain("to another"))]) as server:
        client = kind(base_url=server.base_url, model="m", policy=ONCE)
        assert await read(client, reader, "first") == "to another"
        assert await read(client, reader, "second") == "to second"
        await _close(client)
    assert connections(server) == [1, 2]


@table_test("way", [None, OWN_BLOCKING, *INNER])
async def test_a_plain_error_to_a_stream_request_keeps_the_connection(way):
    """In an outage, new connections would add to the load."""
    busy = answer(b'{"error": {"message": "busy", "type": "overloaded_error"}}')

    async def scene():
        for _ in range(3):
            outcome, _ = await open_source(
                wire, request, None, stall_timeout=None, learn=False, on_cancelled=pytest.fail
            )
            assert outcome.verdict is Verdict.OVERLOADED
        await wire.close()

    wire = wire_of(way) if way in INNER else AsyncConnection(limit=9)
    wire = wire.blocking if way is OWN_BLOCKING else wire
    async with served(busy) as server:
        request = PreparedRequest(server.base_url, {}, b"{}", shape=Shape.CHAT, streamed=True)
        await done(way, scene())
    assert connections(server) == [1, 1, 1]


@table_test("ahead", NO_STREAM)
async def test_a_rejected_stream_of_stream_on_wire_closes_the_connection(ahead):
    async with (
        served([OneBehind(NO_STREAM[ahead])]) as server,
        AsyncClient(
            base_url=server.base_url, model="m", policy=ONCE, stream_on_wire=True
        ) as client,
    ):
        with pytest.raises(UpstreamError):
            await client.chat(SAY)
        assert (await client.chat(SAY)).text == "to hello"
    assert connections(server) == [1, 2]


async def _close(client):
    if isinstance(client, Client):
        await asyncio.to_thread(client.close)
    else:
        await client.close()


# ---------------------------------------------------------------- release of the connection


def refused(_):
    return False


@table_test("way", [None, OWN_BLOCKING, *INNER])
async def test_a_waiting_call_never_gets_a_connection_with_a_rejected_answer(way):
    if way in (None, OWN_BLOCKING):
        wire = AsyncConnection(limit=1)
        wire = wire if way is None else wire.blocking
    else:
        wire = wire_of(way, limits=import_module(way.lib).Limits(max_connections=1))
    async with served(answer(), failing(429), answer(), CHUNKED + b"1\r\na\r\n0\r\n\r\n") as server:
        request = PreparedRequest(server.base_url, {}, b"{}")
        asked = [done(way, wire.exchange(request, refused)) for _ in range(6)]
        got = await asyncio.gather(*asked)
        await done(way, wire.close())
    assert [each.status for each in got].count(200) == 5
    assert connections(server) == [1, 2, 3, 4, 5, 6]


@table_test("way", INNER)
async def test_a_sequence_of_valid_answers_reuses_the_connection(way):
    """httpcore needs one turn of the loop to return it to the pool."""
    wire = wire_of(way)

    async def scene():
        for _ in range(3):
            assert (await wire.exchange(request)).status == 200
        await wire.close()

    async with served() as server:
        request = PreparedRequest(server.base_url, {}, b"{}")
        await done(way, scene())
    assert connections(server) == [1, 1, 1]


@pytest.mark.parametrize("blocks", [False, True])
async def test_a_body_above_the_size_limit_closes_the_connection(blocks):
    wire = AsyncConnection(limit=1)
    wire = wire.blocking if blocks else wire

    async def scene():
        for _ in range(2):
            stream = await wire.open(request)
            assert (await stream.read()).detail == "larger than 0 MiB"
        await wire.close()

    async with served() as server:
        request = PreparedRequest(server.base_url, {}, b"{}", max_bytes=9)
        await (asyncio.to_thread(run, scene()) if blocks else scene())
    assert connections(server) == [1, 2]


@table_test("way", INNER)
async def test_a_body_that_cannot_be_decompressed_closes_the_connection(way, monkeypatch):
    """For example a cut zstd frame in a complete body."""
    lib = import_module(f"{way.lib}._decoders")

    def fail(_):
        raise lib.DecodingError("incomplete")

    monkeypatch.setattr(lib.IdentityDecoder, "flush", fail)
    wire = wire_of(way)

    async def scene():
        for _ in range(2):
            assert (await wire.exchange(request)).detail == "body cannot be decompressed"
        await wire.close()

    async with served() as server:
        request = PreparedRequest(server.base_url, {}, b"{}")
        await done(way, scene())
    assert connections(server) == [1, 2]


@table_test("way", [way for way in INNER if way.blocks])
async def test_a_stream_closed_by_another_thread_is_cut(way, monkeypatch):
    """The close comes just before the read; the reader used to take the body for complete."""

    async def scene():
        stream = await wire.open(request)
        monkeypatch.setattr(wrapped_connection, "running_strand", stream.close)
        assert (await stream.read()).detail == "body was cut"
        monkeypatch.undo()
        await wire.close()

    wire = wire_of(way)
    async with served() as server:
        request = PreparedRequest(server.base_url, {}, b"{}")
        await done(way, scene())


async def test_a_stream_whose_reader_raises_closes_the_connection():
    wire = AsyncConnection(limit=1)
    async with served(streamed("hello")) as server:
        request = PreparedRequest(server.base_url, {}, b"{}", shape=Shape.CHAT)
        for _ in range(2):
            stream = await wire.open(request)
            while not stream._exchange.parser.complete:
                await stream._exchange.wait()
            with pytest.raises(ZeroDivisionError):
                await assemble_stream(stream, request, None, lambda: 1 / 0)
        await wire.close()
    assert connections(server) == [1, 2]


@pytest.mark.parametrize("kind", [AsyncConnection, ConnectionOnThreads])
async def test_a_failing_check_of_the_response_frees_the_connection_slot(kind):
    wire = kind(limit=1)
    async with served(answer(), failing(500), answer()) as server:
        request = PreparedRequest(server.base_url, {}, b"{}")
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await wire.exchange(request, lambda _: 1 / 0)
        assert (await wire.exchange(request)).status == 200
        await wire.close()
    assert connections(server) == [1, 2, 3]


@pytest.mark.parametrize("blocks", [False, True])
async def test_a_received_but_unread_body_frees_the_connection_slot(blocks):
    wire = AsyncConnection(limit=9)
    wire = wire.blocking if blocks else wire

    async def scene():
        first = await wire.open(request)
        while not first._exchange.parser.complete:
            await first._exchange.wait()
        second = await wire.open(request)
        for stream in (first, second):
            while await stream.read():
                pass
            stream.close()
        assert (await wire.exchange(request)).status == 200
        await wire.close()

    async with served(answer()) as server:
        request = PreparedRequest(server.base_url, {}, b"{}")
        await (asyncio.to_thread(run, scene()) if blocks else scene())
    assert connections(server) in ([1, 2, 1], [1, 2, 2])


async def test_bytes_after_an_unread_answer_close_the_connection():
    wire = AsyncConnection(limit=9)
    more = asyncio.Event()

    async def behind(_, writer):
        await more.wait()
        writer.write(answer())

    async with served([answer(), behind]) as server:
        request = PreparedRequest(server.base_url, {}, b"{}")
        stream = await wire.open(request)
        more.set()
        await server.all_closed()
        assert await stream.read() == BODY
        assert await stream.read() == b""
        stream.close()
        await wire.close()


async def test_bytes_after_an_answer_buffered_in_tls_close_the_connection(certificates):
    """TLS has already read them from the socket, so the socket does not show them."""
    trusted, _ = certificates
    wire = AsyncConnection(limit=9, tls=ssl.create_default_context(cafile=trusted[0]))
    go_on, large = asyncio.Semaphore(0), answer(b"x" * (UNREAD + 9))

    def then(data):
        async def write(_, writer):
            await go_on.acquire()
            writer.write(data)

        return write

    script = [large[:-10], then(large[-10:]), then(answer(b"behind"))]
    async with served(script, answer(), ssl=tls(trusted)) as server:
        request = PreparedRequest(f"https://localhost:{server.port}/v1", {}, b"{}")
        stream = await wire.open(request)
        parser = stream._exchange.parser
        await until(lambda: parser.unread == UNREAD - 1)
        go_on.release()
        await until(lambda: parser.complete)
        go_on.release()
        await server.all_closed()
        while await stream.read():
            pass
        stream.close()
        assert (await wire.exchange(request)).body == BODY
        await wire.close()


@pytest.mark.parametrize("kind", [AsyncClient, Client])
async def test_a_stream_left_before_its_end_closes_the_connection(kind):
    """The body is complete but not a complete answer, and the reader did not see that."""
    async with served([OneBehind(NO_STREAM["cut in its text"])]) as server:
        client = kind(base_url=server.base_url, model="m", policy=ONCE)
        if kind is Client:
            await asyncio.to_thread(_give_up, client)
        else:
            async with client.stream("chat/completions", {"messages": SAY}) as stream:
                await anext(stream.raw())
        assert await read(client, "as text", "second") == "to second"
        await _close(client)
    assert connections(server) == [1, 2]


def _give_up(client):
    with client.stream("chat/completions", {"messages": SAY}) as stream:
        next(iter(stream.raw()))


@table_test("kind", [AsyncConnection, ConnectionOnThreads])
async def test_a_status_408_closes_the_connection(kind):
    """Such a server saw no request for a long time, and its response crosses the new request."""
    wire = kind(limit=9)
    async with served(failing(408), answer()) as server:
        request = PreparedRequest(server.base_url, {}, b"{}")
        assert [(await wire.exchange(request)).status for _ in range(2)] == [408, 200]
        await wire.close()
    assert connections(server) == [1, 2]
