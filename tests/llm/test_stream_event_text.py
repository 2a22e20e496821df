"""The text of single events."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamed import whole_response
from table_test import table_test

from stormbreak.llm.stream_event_text import is_readable, text_of
from stormbreak.llm.surrogates import decoded


def chat(content, index=0):
    return {"choices": [{"index": index, "delta": {"content": content}}]}


@table_test(
    ("value", "text"),
    [
        (chat("well"), "well"),
        (chat(None), ""),
        (chat("other", index=1), ""),
        ({"choices": [{"delta": {"content": "no index"}}]}, "no index"),
        ({"choices": [], "usage": {}}, ""),
        ({"choices": [{"delta": {"content": 3}}]}, ""),
        ({"choices": [{"delta": None}]}, ""),
        ({"choices": [{"message": {"content": "whole"}}]}, "whole"),
        ({"choices": [{"message": "odd"}]}, ""),
        ({"choices": [{"delta": {"content": "piece"}, "message": {"content": "whole"}}]}, "piece"),
        ({"choices": [{"delta": {"content": "piece"}, "message": "odd"}]}, "piece"),
        ({"type": "response.output_text.delta", "delta": "well"}, "well"),
        ({"type": "response.reasoning_text.delta", "delta": "hm"}, ""),
        ({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "well"}}, "well"),
        ({"type": "content_block_delta", "delta": {"partial_json": "{"}}, ""),
        ({"type": "content_block_start", "content_block": {"type": "text", "text": "we"}}, "we"),
        ({"type": "content_block_start", "content_block": {"type": "tool_use", "input": {}}}, ""),
        ({"type": "response.completed", "response": whole_response(["we", "ll"])}, "well"),
        ({"type": "response.completed", "response": {"output": 3}}, ""),
        ({"type": ["odd"], "delta": "x"}, ""),
        ({"type": "message_stop"}, ""),
        ([1, 2], ""),
        ("text", ""),
    ],
)
def test_each_format_has_its_text(value, text):
    assert text_of(json.dumps(value).encode()) == text


def test_the_last_of_two_values_of_a_key_counts():
    """A bug: the assembled answer had the text, but `texts()` did not."""
    whole = json.dumps(chat("well"))
    assert text_of(b'{"choices": "odd", ' + whole[1:].encode()) == "well"


@table_test(
    "whole",
    [
        {"choices": [{"message": {"content": "well"}}]},
        {"type": "response.completed", "response": whole_response(["well"])},
    ],
)
def test_an_event_that_repeats_the_whole_adds_no_text(whole):
    assert text_of(json.dumps(whole).encode()) == "well"
    assert text_of(json.dumps(whole).encode(), begun=True) == ""


def test_half_a_character_is_replaced():
    half = b'{"choices":[{"delta":{"content":"so \\ud83d"}}]}'

    assert is_readable(half)
    assert text_of(half) == "so �"
    assert decoded(half)["choices"][0]["delta"]["content"] == "so �"


@table_test("data", [b"", b"{", b"[DONE]", b'{"a":"\xff"}', b"\xff", b"[" * 100_000])
def test_unreadable_data_has_no_text(data):
    assert not is_readable(data)
    assert text_of(data) == ""
    with pytest.raises((msgspec.DecodeError, UnicodeError, RecursionError)):
        decoded(data)


@given(st.binary(max_size=40))
def test_no_data_raises(data):
    text_of(data)
    if is_readable(data):
        decoded(data)
