"""Law 15, of streams. A success is a complete answer: a stream that is cut anywhere, in whatever pieces it came and
however the connection ended, is never taken for one, and never raised as anything but what it is.
"""

import asyncio
import json
from itertools import pairwise

import pytest
from fakewire import CUT, FakeIncoming, FakeWire
from hypothesis import assume, given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.core.presets import OFF
from stormbreak.errors import StreamBrokenError, UpstreamError
from stormbreak.http.client import AsyncClient
from stormbreak.llm.stream_event_text import is_readable
from stormbreak.types import Outcome, Verdict

SAY = {"messages": [{"role": "user", "content": "hello"}]}


def event(content, finish=None, index=0):
    choice = {"index": index, "delta": {"content": content}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\r\n\r\n"


PIECES = [event("", None), event("all is "), event("well, \u00fcber all"), event("", "stop")]
WHOLE = b"".join(PIECES)
TEXT = "all is well, über all"
FINISHED = len(WHOLE) - 4  # behind the brace that ends the last event, without its line ends


def a_client():
    """A client, and the fake connection of its streams."""
    client, connection = (
        AsyncClient(base_url="http://127.0.0.1:1/v1", model="m", policy=OFF),
        FakeWire(),
    )
    client._resolver.first.routes._connections[client.base_url] = connection
    return client, connection


def read(pieces, end=b"", way="answer", **asked):
    """What a caller gets from a stream of `pieces`, without any retry."""

    return asyncio.run(read_in_loop(pieces, end, way, **asked))


async def read_in_loop(pieces, end, way, *, over=None, **asked):
    (client, connection), incoming = over or a_client(), FakeIncoming(pieces, end)
    connection.left.append(incoming)
    try:
        async with client.stream("chat/completions", SAY | asked) as stream:
            if way == "texts":
                return "".join([text async for text in stream.texts()])
            if way == "events":
                return [event.json() async for event in stream]
            if way == "raw":
                return b"".join([piece async for piece in stream.raw()])
            return (await stream.answer()).text
    finally:
        assert connection.opened[-1] is incoming
        assert incoming.closed
        assert client.engine.target_state(client.target("m")).slots.in_flight == 0


@table_test("way", ["answer", "texts", "raw"])
@table_test("end", [b"", CUT, Outcome(Verdict.TIMEOUT, status=200)])
async def test_a_cut_stream_is_never_taken_for_a_whole_one(end, way):
    over = a_client()
    for size in range(len(WHOLE)):
        if end == b"" and size >= FINISHED:
            got = await read_in_loop([WHOLE[:size]], end, way, over=over)
            assert got in (TEXT, WHOLE[:size])
            continue
        with pytest.raises(UpstreamError) as raised:
            await read_in_loop([WHOLE[:size]], end, way, over=over)
        assert raised.value.verdict in (Verdict.BROKEN, Verdict.TIMEOUT)


@given(cuts=st.lists(st.integers(0, len(WHOLE)), max_size=20))
def test_a_stream_may_arrive_in_any_pieces(cuts):
    at = [0, *sorted(cuts), len(WHOLE)]
    pieces = [WHOLE[a:b] for a, b in pairwise(at) if a < b]

    assert read(pieces) == read(pieces, way="texts") == TEXT
    assert read(pieces, way="raw") == WHOLE


@given(
    position=st.integers(0, 3),
    noise=st.binary(min_size=1, max_size=12),
    way=st.sampled_from(["answer", "texts", "events"]),
)
def test_noise_between_events_is_never_taken_for_an_answer(position, noise, way):
    data = b"{" + noise.replace(b"\n", b"").replace(b"\r", b"")
    assume(not is_readable(data))
    pieces = [*PIECES[:position], b"data: " + data + b"\n\n", *PIECES[position:]]
    with pytest.raises(UpstreamError):
        read(pieces, way=way)


@table_test("way", ["answer", "texts", "events"])
@table_test(
    "data",
    [b'{"choices":[{"delta":{"content":"\xff"}}]}', b'{"choices":[{"delta":{"content":"a"}}}'],
)
def test_an_unreadable_event_breaks_the_stream_at_any_position(data, way):
    """Also if it looks like output, which the scanner does not decode."""
    for position in range(4):
        pieces = [*PIECES[:position], b"data: " + data + b"\n\n", *PIECES[position:]]
        with pytest.raises(UpstreamError) as raised:
            read(pieces, way=way)
        assert raised.value.verdict is Verdict.BROKEN


@table_test("way", ["answer", "texts"])
def test_an_error_event_after_the_first_output_breaks_the_stream(way):
    error_event = (
        b'data: {"error":{"message":"no","code":"overloaded_error","type":"overloaded_error"}}\n\n'
    )
    with pytest.raises(StreamBrokenError) as raised:
        read([*PIECES[:2], error_event], way=way)

    assert raised.value.verdict is Verdict.OVERLOADED
    assert raised.value.received == b"".join([*PIECES[:2], error_event])


def test_every_choice_must_end():
    with pytest.raises(UpstreamError):
        read(PIECES, n=2)
    assert read([*PIECES, event("two", "stop", index=1)], n=2) == TEXT
