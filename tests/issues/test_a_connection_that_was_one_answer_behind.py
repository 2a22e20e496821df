"""An answer that nobody requested was refused, and its connection used again: each call got the answer of the one before.

That a response came just after a request left makes it look like its answer; HTTP/1.1 has nothing to tell. If it is
none, what follows on that connection is not to be trusted.
"""

import asyncio
import json
import ssl
from importlib import import_module

import pytest
from chat_stream import HELLO, OPENING, STOP
from clients import SAY
from doors import ONCE, until
from doubles import plain
from gateways import CHAT, running, settings
from on_threads import ConnectionOnThreads
from one_behind import OneBehind, streamed
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
async def test_the_next_calls_get_their_own_answers(way, ahead):
    async with (
        served([OneBehind(NO_ANSWER[ahead])]) as server,
        asking(way, server.base_url, ONCE) as ask,
    ):
        with pytest.raises(Exception):  # noqa: B017 - of each SDK its own
            await ask("first")
        assert [await ask(f"call {number}") for number in range(3)] == [
            f"to call {number}" for number in range(3)
        ]
    assert connections(server) == [1, 2, 2, 2]


@pytest.mark.parametrize("way", [None, OWN_BLOCKING, *INNER], ids=str)
async def test_also_after_a_stream_that_was_not_asked_for(way):
    async with (
        served([OneBehind(streamed("to another"))]) as server,
        asking(way, server.base_url, ONCE) as ask,
    ):
        assert await ask("first") == "to another"
        assert await ask("second") == "to second"
    assert connections(server) == [1, 2]


async def test_through_the_gateway_each_call_gets_its_own(tmp_path, monkeypatch):
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
async def test_streams_get_their_own_too(kind, reader, ahead):
    async with served([OneBehind(NO_STREAM[ahead])]) as server:
        client = kind(base_url=server.base_url, model="m", policy=ONCE)
        with pytest.raises((StreamBrokenError, UpstreamError, json.JSONDecodeError)):
            await read(client, reader, "first")
        assert [await read(client, reader, text) for text in ("a", "b")] == ["to a", "to b"]
        await _close(client)
    assert connections(server) == [1, 2, 2]


@pytest.mark.parametrize("kind", [AsyncClient, Client])
@table_test("reader", ["as text", "assembled"])
async def test_also_after_an_answer_in_one_piece(kind, reader):
    async with served([OneBehind(plain("to another"))]) as server:
        client = kind(base_url=server.base_url, model="m", policy=ONCE)
        assert await read(client, reader, "first") == "to another"
        assert await read(client, reader, "second") == "to second"
        await _close(client)
    assert connections(server) == [1, 2]


@table_test("way", [None, OWN_BLOCKING, *INNER])
async def test_an_error_in_one_piece_keeps_its_connection(way):
    """As it does with a status of its own: in an outage, each new connection would add to the load."""
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
async def test_and_plain_calls_that_are_streamed_on_the_wire(ahead):
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


# ---------------------------------------------------------------- the connection is held until then


def refused(_):
    return False


@table_test("way", [None, OWN_BLOCKING, *INNER])
async def test_no_call_that_waits_for_a_connection_gets_one_whose_answer_was_refused(way):
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
async def test_who_asks_again_gets_a_connection_whose_answer_was_sound(way):
    """Though httpcore takes a turn of the loop to have it back."""
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
async def test_a_body_that_is_larger_than_it_may_be_is_no_answer_either(blocks):
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
async def test_nor_is_one_that_the_library_cannot_unpack_to_its_end(way, monkeypatch):
    """As a cut zstd: all of the body has come."""
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
async def test_nor_has_one_a_good_end_that_another_thread_closes(way, monkeypatch):
    """Just before it is read: the reader took it for whole."""

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


async def test_nor_is_a_stream_whose_reader_raises():
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
async def test_whose_judge_raises_keeps_no_place_in_the_pool(kind):
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
async def test_nor_does_one_whose_body_has_come_and_was_not_read(blocks):
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


async def test_bytes_behind_an_answer_that_is_still_read_close_its_connection():
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


async def test_so_do_those_that_come_while_much_of_it_waits_within_tls(certificates):
    """Nobody would see them there: TLS has taken them from the socket."""
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
async def test_nor_is_one_used_again_whose_stream_was_given_up_before_it_was_read_to_an_end(kind):
    """Its body has come whole, and is no whole answer: the reader never saw that."""
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
async def test_who_says_408_has_given_the_connection_up(kind):
    """Such a server has seen no request for long, and its answer crosses ours."""
    wire = kind(limit=9)
    async with served(failing(408), answer()) as server:
        request = PreparedRequest(server.base_url, {}, b"{}")
        assert [(await wire.exchange(request)).status for _ in range(2)] == [408, 200]
        await wire.close()
    assert connections(server) == [1, 2]
