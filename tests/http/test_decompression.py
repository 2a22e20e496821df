"""Compressed bodies decompress to the original in any pieces, and are broken without their end."""

import gzip
import json
import random
import zlib
from contextlib import suppress
from functools import cache
from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sockets import BODY, End, answer, served
from table_test import table_test

from stormbreak.core.presets import OFF
from stormbreak.errors import StreamBrokenError
from stormbreak.http.client import AsyncClient
from stormbreak.http.h1 import decompression
from stormbreak.http.h1.decompression import (
    FREE_RATIO,
    MAX_MEMBERS,
    MAX_RATIO,
    PIECE,
    UndecodableError,
    decoder_of,
)
from stormbreak.types import Verdict

SAY = [{"role": "user", "content": "hello"}]


@cache
def bomb(form):
    """Return 16 MiB of spaces, compressed to 16 KiB."""
    return FORMS[form][1](b" " * 2**24)


def bare_deflate(data):
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


FORMS = {
    "gzip": ("gzip", gzip.compress),
    "several": ("gzip", lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:])),
    "deflate": ("deflate", zlib.compress),
    "bare": ("deflate", bare_deflate),
}
forms = st.sampled_from(sorted(FORMS))


def unpacked(encoding, pieces):
    decoder = decoder_of(encoding)
    whole = b"".join(piece for packed in pieces for piece in decoder.feed(packed))
    decoder.end()
    return whole


def cut_into(data, places):
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(ends)]


@given(forms, st.binary(max_size=500), st.lists(st.integers(0, 10**6), max_size=6))
def test_a_body_decompresses_to_the_same_in_any_pieces(form, data, places):
    encoding, pack = FORMS[form]

    assert data == unpacked(encoding, cut_into(pack(data), places))


@given(forms, st.binary(min_size=1, max_size=200), st.data())
def test_a_truncated_body_is_undecodable(form, data, draw):
    encoding, pack = FORMS[form]
    packed = pack(data)
    first = len(gzip.compress(data[:7])) if form == "several" else 0
    size = draw.draw(st.integers(1, len(packed) - 1).filter(lambda size: size != first))
    with pytest.raises(UndecodableError):
        unpacked(encoding, [packed[:size]])


@given(st.sampled_from(["gzip", "deflate"]), st.binary(max_size=300), st.binary(max_size=20))
def test_junk_is_decompressed_or_undecodable(encoding, junk, behind):
    for data in (junk, gzip.compress(b"fine") + behind, zlib.compress(b"fine") + behind):
        with suppress(UndecodableError):
            assert isinstance(unpacked(encoding, [data]), bytes)


def test_decompressed_pieces_are_bounded():
    data = random.Random(1).randbytes(2**16) + bytes(5 * PIECE + 1)
    pieces = list(decoder_of("gzip").feed(gzip.compress(data)))

    assert data == b"".join(pieces)
    assert max(map(len, pieces)) <= PIECE


@table_test("encoding", ["br", "zstd", "gzip, gzip", "zstd, sk-canary"])
def test_an_unaccepted_encoding_is_rejected_and_not_echoed(encoding):
    with pytest.raises(UndecodableError) as refused:
        unpacked(encoding, [b"any"])

    assert encoding not in str(refused.value)


@table_test("encoding", ["", "identity", " Identity ", "none", "sk-canary"])
def test_an_identity_or_unknown_encoding_has_no_decoder(encoding):
    assert decoder_of(encoding) is None


def test_the_number_of_gzip_members_is_bounded():
    with pytest.raises(UndecodableError):
        unpacked("gzip", [gzip.compress(b"")] * (MAX_MEMBERS + 1))


def test_a_body_that_decompresses_to_nothing_is_bounded(monkeypatch):
    monkeypatch.setattr(decompression, "BODY_LIMIT", 1000)
    packer = zlib.compressobj(wbits=31)
    nothing = [packer.flush(zlib.Z_FULL_FLUSH) or b"" for _ in range(10)]
    with pytest.raises(UndecodableError, match="larger than"):
        unpacked("gzip", [packer.compress(b"") + b"".join(nothing)] + [b"\0\0\0\xff\xff"] * 400)


@table_test("form", FORMS)
@table_test("size", [1, 1000, 10**9])
def test_a_bomb_below_the_size_limit_is_rejected(form, size):
    """In pieces of any size, and soon after the free amount."""
    packed, got = bomb(form), []
    decoder = decoder_of(FORMS[form][0])
    pieces = (decoder.feed(packed[at : at + size]) for at in range(0, len(packed), size))
    with pytest.raises(UndecodableError, match="unpacks to more than 600 times its size"):
        got.extend(map(len, chain.from_iterable(pieces)))
    assert sum(got) <= FREE_RATIO


def test_repetitive_answers_are_not_taken_for_bombs():
    """A model that repeats a word up to its limit, short equal events, and 8 MiB of events that differ in a word."""
    repeated = json.dumps({"content": "the same " * (2**20 // 9)}).encode()
    words = [b"%x" % (number * 2654435761 % 2**32) for number in range(1000)]
    events = b"".join(SSE + words[number * number % 1000] for number in range(2**23 // len(SSE)))
    short = (
        b'data: {"choices":[{"index":0,"delta":{"content":" the"},"finish_reason":null}]}\n\n'
        * 64_000
    )
    for form, (encoding, pack) in FORMS.items():
        for data in (repeated, b" " * FREE_RATIO, short, events):
            packed = pack(data)
            for size in (1000, 10**9):
                pieces = [packed[at : at + size] for at in range(0, len(packed), size)]
                assert data == unpacked(encoding, pieces), (form, size)
        assert len(events) < MAX_RATIO * len(packed)


def test_the_compression_ratio_is_that_of_the_whole_body():
    """Earlier bytes count, also in another member: after incompressible data a bomb is found later."""
    noise = random.Random(1).randbytes(2**15)
    packed = gzip.compress(noise) + gzip.compress(b" " * 2**24)
    assert noise + b" " * 2**24 == unpacked("gzip", [packed])
    with pytest.raises(UndecodableError, match="600 times"):
        unpacked("gzip", [packed + gzip.compress(b" " * 2**26)])


# ---------------------------------------------------------------- on real sockets

SSE = b"".join(
    b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
    for choice in (
        {"index": 0, "delta": {"content": "Hi"}, "finish_reason": None},
        {"index": 0, "delta": {"content": "!"}, "finish_reason": "stop"},
    )
)
WHOLE = SSE + b"data: [DONE]\n\n"


def client_of(server, **more):
    return AsyncClient(base_url=server.base_url, model="m", policy=OFF, **more)


@table_test("form", FORMS)
@table_test("cut", [0, 1, 4, 8])
async def test_an_answer_without_its_trailer_is_broken(form, cut):
    """Found: the library accepted a gzip body without its last eight bytes as complete."""
    encoding, pack = FORMS[form]
    packed = pack(BODY)
    async with (
        served(answer(packed[: len(packed) - cut], content_encoding=encoding)) as server,
        client_of(server) as client,
    ):
        ended = await client.ask("chat/completions", b'{"model":"m"}')
    outcome = ended.outcome

    if cut:
        assert (outcome.verdict, outcome.status) == (Verdict.BROKEN, 200)
        assert (outcome.maybe_processed, outcome.detail) == (True, "compressed body was cut")
    else:
        assert Verdict.OK is outcome.verdict
    assert server.requests[0].headers["accept-encoding"] == "gzip, deflate"


@table_test("cut", [0, 8])
@table_test("assembled", [False, True])
async def test_a_stream_is_whole_without_its_trailer(cut, assembled):
    """A stream is complete with its own end marker; missing bytes after it do no harm."""
    packer = zlib.compressobj(wbits=31)
    half = packer.compress(WHOLE[:60]) + packer.flush(zlib.Z_SYNC_FLUSH)
    rest = packer.compress(WHOLE[60:]) + packer.flush()
    head = answer(b"", content_type="text/event-stream", content_encoding="gzip")
    head = head.replace(b"content-length: 0\r\n", b"")
    end = rest[: len(rest) - cut]
    async with (
        served((head + half, 0.02, end, End.CLOSE)) as server,
        client_of(server, stream_on_wire=assembled) as client,
    ):
        if assembled:
            ended = await client.ask("chat/completions", b'{"model":"m"}')
            assert Verdict.OK is ended.outcome.verdict
        else:
            async with client.stream("chat/completions", {"messages": SAY}) as stream:
                assert "".join([text async for text in stream.texts()]) == "Hi!"


@table_test(
    "encoding", ["none", "identity", "None", "identity, none", "", "utf-8", "aws-chunked", "binary"]
)
@table_test("assembled", [False, True])
async def test_a_body_in_an_unregistered_encoding_is_read_as_plain(encoding, assembled):
    """Found: `none` was rejected on all attempts. HTTP libraries read unregistered encodings as plain, too."""
    kind = "text/event-stream" if assembled else "application/json"
    whole = answer(WHOLE if assembled else BODY, content_encoding=encoding, content_type=kind)
    async with served(whole) as server, client_of(server, stream_on_wire=assembled) as client:
        assert (await client.chat(SAY)).text == ("Hi!" if assembled else "fine")


@table_test("encoding", ["identity, gzip", "gzip, none", "GZIP", "x-gzip"])
async def test_a_body_compressed_once_is_decompressed(encoding):
    packed = answer(gzip.compress(BODY), content_encoding=encoding)
    async with served(packed) as server, client_of(server) as client:
        assert (await client.chat(SAY)).text == "fine"


@table_test("encoding", ["br", "zstd", "compress", "gzip, br", "gzip, gzip", "dcz"])
@table_test("streamed", [False, True])
async def test_an_answer_in_an_unaccepted_encoding_is_not_retried(encoding, streamed):
    packed = answer(b"packed", content_encoding=encoding)
    async with served(packed) as server, AsyncClient(base_url=server.base_url, model="m") as client:
        ended = await client.ask(
            "chat/completions", json.dumps({"model": "m", "stream": streamed}).encode()
        )
        assert len(server.requests) == 1
    outcome = ended.outcome
    assert (outcome.verdict, outcome.maybe_processed) == (Verdict.UNREPEATABLE, True)
    assert outcome.detail == "content encoding is not accepted: ask the provider for gzip or none"


async def test_an_error_in_an_unaccepted_encoding_is_classified_by_its_status():
    packed = answer(b"packed", 401, content_encoding="br")
    async with served(packed) as server, client_of(server) as client:
        ended = await client.ask("chat/completions", b'{"model":"m"}')
    assert ended.outcome.verdict is Verdict.AUTH


async def test_a_cut_compressed_stream_is_broken():
    packer = zlib.compressobj(wbits=31)
    half = packer.compress(SSE[:-60]) + packer.flush(zlib.Z_SYNC_FLUSH)
    head = answer(half, content_type="text/event-stream", content_encoding="gzip")
    async with served((head, End.CLOSE)) as server, client_of(server) as client:
        stream = await client.stream("chat/completions", {"messages": SAY})
        with pytest.raises(StreamBrokenError) as broken:
            await stream.answer()

    assert (
        broken.value.verdict,
        broken.value.ended.outcome.detail,
    ) == (Verdict.BROKEN, "compressed body was cut")
