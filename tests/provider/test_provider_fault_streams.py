"""The bytes of every fault in a stream, in each format, read by a raw client."""

import json

import pytest

from stormbreak.testing import answer_text

from .conftest import CHAT, STREAM, body_of, plays, stream_text

CLAUDE = {**CHAT, "max_tokens": 100, "stream": True}

ASKED = {"model": "m", "input": "tell me", "stream": True}

VERSION = ["anthropic-version: 2023-06-01"]

PATHS = [
    ("/v1/chat/completions", STREAM, []),
    ("/v1/responses", ASKED, []),
    ("/v1/messages", CLAUDE, VERSION),
]


@plays("stall")
@pytest.mark.parametrize(("path", "payload", "headers"), PATHS)
def test_stall_stops_a_stream_after_some_words(played, path, payload, headers):
    first = answer_text(payload).split(" ")[0].encode()
    data, ending = played("stall", payload, path=path, headers=headers, first=first)
    assert ending == "silent"
    assert first in data
    assert not data.endswith(b"0\r\n\r\n")


@plays("stall_early")
@pytest.mark.parametrize(("path", "payload", "headers"), PATHS)
def test_stall_early_stops_a_stream_before_the_first_word(played, path, payload, headers):
    data, ending = played("stall_early", payload, path=path, headers=headers, first=b"data: ")
    assert ending == "silent"
    assert b"data: " in data
    assert b"Answer" not in data


@plays("error_early")
@pytest.mark.parametrize(("path", "payload", "headers"), PATHS)
def test_error_early_sends_an_error_before_the_first_word(played, path, payload, headers):
    data, _ = played("error_early", payload, path=path, headers=headers)
    assert b"Answer" not in data
    *_, last = body_of(data).rstrip().split(b"\n")
    error = json.loads(last[6:])
    assert "error" in (error, error.get("type")) or "error" in error
    assert data.endswith(b"0\r\n\r\n")


@plays("no_done")
@pytest.mark.parametrize(
    ("place", "missing"), [(0, b"[DONE]"), (1, b"response.completed"), (2, b"message_stop")]
)
def test_no_done_sends_everything_except_the_end_marker(played, place, missing):
    path, payload, headers = PATHS[place]
    data, _ = played("no_done", payload, path=path, headers=headers)
    assert missing not in data
    assert b'"stop"' in data or b"output_item.done" in data or b'"end_turn"' in data
    assert data.endswith(b"0\r\n\r\n")


@plays("heartbeats")
def test_heartbeats_sends_only_comments(played):
    data, ending = played("heartbeats", STREAM, max_bytes=1500)
    assert ending == "endless"
    assert data.count(b": PROCESSING\n\n") > 5
    assert b"Answer" not in data


@plays("endless_line")
def test_endless_line_sends_a_line_without_an_end(played):
    data, ending = played("endless_line", STREAM, max_bytes=3 * 1024 * 1024)
    assert ending == "endless"
    *_, line = data.split(b"data: ")
    assert line.count(b".") > 2_000_000
    assert b"\n" not in line.replace(b"\r\n", b""), "a line break beside the frames of chunks"


@plays("comments")
def test_comments_sends_comments_between_the_events(played):
    body = body_of(played("comments", STREAM)[0])
    assert body.count(b": PROCESSING\n\n") > 5
    assert stream_text(body) == answer_text(CHAT)
    assert b"data: [DONE]" in body


@plays("crlf")
@plays("cr")
@pytest.mark.parametrize(("kind", "end", "other"), [("crlf", b"\r\n", None), ("cr", b"\r", b"\n")])
def test_crlf_and_cr_end_the_lines_of_a_stream(played, kind, end, other):
    body = body_of(played(kind, STREAM)[0])
    assert body.endswith(b"data: [DONE]" + end * 2)
    assert other is None or other not in body
    assert stream_text(body) == answer_text(CHAT)
