"""Audio, images and other files counted as `broken` in the client, so every attempt was sent and paid."""

import json

import pytest
from clients import client_of
from sockets import HALF, End, answer, served
from table_test import table_test

from stormbreak.errors import BrokenAnswerError

SOUND = b"\xff\xfb\x90d\x00" + bytes(range(256)) * 20
SPEECH = {"model": "tts-1", "input": "hello", "voice": "alloy"}


@table_test("body", [SOUND, b"{" + SOUND, b"<" + SOUND, b"\n" + SOUND, b"ID3 data: \n\n"])
@table_test("kind", ["audio/mpeg", "image/png; x=y", "application/octet-stream"])
@table_test("stream", [False, True])
async def test_a_binary_answer_is_returned_unchanged(kind, body, stream):
    async with served(answer(body, content_type=kind)) as server, client_of(server) as client:
        got = await client.request("audio/speech", SPEECH | {"stream": stream})
        async with client.stream("audio/speech", SPEECH) as opened:
            pieces = b"".join([piece async for piece in opened.raw()])
        assert len(server.requests) == 2
    assert (got.raw, got.text) == (body, "")
    assert pieces == body


async def test_an_error_instead_of_audio_is_an_error():
    error = json.dumps({"error": {"message": "no", "code": "invalid_api_key"}}).encode()
    script = answer(error, content_type="audio/mpeg")
    async with served(script) as server, client_of(server) as client:
        ended = await client.ask("audio/speech", json.dumps(SPEECH).encode())
    assert ended.outcome.verdict == "auth"


@table_test(
    "script",
    [
        answer(b"", content_type="audio/mpeg"),
        answer(b"<html>", content_type="text/html"),
        answer(b"no upstream", content_type="text/plain"),
        (HALF.replace(b"application/json", b"audio/mpeg"), End.CLOSE),
    ],
)
async def test_an_empty_cut_or_html_audio_answer_is_broken(script):
    async with served(script) as server, client_of(server) as client:
        with pytest.raises(BrokenAnswerError):
            await client.request("audio/speech", SPEECH)


async def test_a_chat_completion_that_is_not_json_is_broken():
    script = answer(SOUND, content_type="application/octet-stream")
    async with served(script) as server, client_of(server) as client:
        with pytest.raises(BrokenAnswerError):
            await client.request("chat/completions", {"messages": []})
