"""The bytes of every fault in a body, read by a raw client."""

import json

import pytest

from stormbreak.testing import answer_text

from .conftest import CHAT, STREAM, body_of, plays, stream_text, text_in


@plays("stall")
def test_stall_sends_half_an_answer_and_then_nothing(played):
    data, ending = played("stall", first=b"\r\n\r\n{")
    assert ending == "silent"
    assert b" 200 " in data
    assert len(body_of(data)) > 0
    with pytest.raises(json.JSONDecodeError):
        json.loads(body_of(data))


@plays("stall_early")
def test_stall_early_sends_a_head_and_then_nothing(played):
    data, ending = played("stall_early", first=b"\r\n\r\n")
    assert (body_of(data), ending) == (b"", "silent")
    assert b"content-length: " in data


@plays("html_200")
@pytest.mark.parametrize("payload", [CHAT, STREAM])
def test_html_200_sends_a_page_in_place_of_an_answer(played, payload):
    data, _ = played("html_200", payload)
    assert data.startswith(b"HTTP/1.1 200 ")
    assert b"content-type: text/html" in data
    assert body_of(data).startswith(b"<!doctype html>")


@plays("big_body")
def test_big_body_sends_a_good_answer_of_over_four_megabytes(played):
    data, _ = played("big_body")
    assert text_in(data) == answer_text(CHAT)
    assert len(data) > 4 * 1024 * 1024
    data, _ = played("big_body", STREAM)
    assert stream_text(body_of(data)) == answer_text(CHAT)
    assert len(data) > 4 * 1024 * 1024


@plays("tiny_chunks")
def test_tiny_chunks_sends_a_good_answer_in_chunks_of_seven_bytes(played):
    data, _ = played("tiny_chunks")
    assert text_in(data) == answer_text(CHAT)
    assert b"\r\n7\r\n" in data
    data, _ = played("tiny_chunks", STREAM)
    assert stream_text(body_of(data)) == answer_text(CHAT)
    assert body_of(data).endswith(b"data: [DONE]\n\n")


SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}},
    "required": ["title"],
}
ASKS_FOR_JSON = {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}


@plays("prose")
def test_prose_sends_text_in_place_of_the_requested_json(played):
    wanted = json.loads(answer_text(CHAT | ASKS_FOR_JSON))
    assert wanted.keys() == {"title"}
    data, _ = played("prose", CHAT | ASKS_FOR_JSON)
    assert text_in(data).startswith("Answer ")
    data, _ = played("prose", STREAM | ASKS_FOR_JSON)
    assert stream_text(body_of(data)).startswith("Answer ")
