import json
import re
import time

from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.llm.endpoints import Shape
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.llm.response_verdict import read_answer
from stormbreak.llm.surrogates import MAX_SURROGATES, decoded, replace_lone_surrogates
from stormbreak.types import Verdict

PIECES = st.sampled_from(["a", "\\", '"', "u", "d83d", "\ud83d", "\ude00", "\U0001f600", "é"])
LETTERS = st.lists(PIECES, max_size=12).map("".join)


def chat(content):
    choice = {"message": {"content": content}, "finish_reason": "length"}
    return json.dumps({"choices": [choice]}).encode()


@table_test(
    ("text", "expected"),
    [
        (rb'"\ud83d"', rb'"\ufffd"'),
        (rb'"\uDE00 a"', rb'"\ufffd a"'),
        (rb'"\ud83d\ude00"', rb'"\ud83d\ude00"'),
        (rb'"\\ud83d"', rb'"\\ud83d"'),
        (rb'"\\\ud83d"', rb'"\\\ufffd"'),
        (rb'"\ud83d\ud83d\ude00"', rb'"\ufffd\ud83d\ude00"'),
    ],
)
def test_only_lone_surrogates_are_replaced(text, expected):
    assert replace_lone_surrogates(text) == expected


@given(LETTERS)
def test_an_answer_cut_inside_a_character_is_ok(text):
    reading = read_answer(HttpResponse(200, {}, chat(text), 0.0), Shape.CHAT)

    assert reading.verdict is Verdict.OK
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert reading.text.replace("�", "") == whole.replace("�", "")


REFERENCE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\."
)
ESCAPES = st.sampled_from([b"\\", b"\\n", b"\\ud83d", b"\\ude00", b"\\u0041", b"u", b"ud83d", b"a"])


@given(st.lists(ESCAPES, max_size=12).map(b"".join))
def test_replacement_equals_parsing_escape_by_escape(text):
    expected = REFERENCE.sub(lambda found: rb"\ufffd" if found["half"] else found[0], text)
    assert replace_lone_surrogates(text) == expected


@table_test("escape", [b"\\n", b"\\", b"\\u0041", b"\\ud83d", b"\\ud83d\\ude00", b"u\\"])
def test_large_broken_json_is_fast(escape):
    """A bug: 60 MiB of escapes (59 KiB of gzip) blocked the loop for 24 s and took 4.2 GB."""
    body = b'{"choices":"' + escape * (2**24 // len(escape))
    begun = time.process_time()
    assert read_answer(HttpResponse(200, {}, body, 0.0), Shape.CHAT).verdict is Verdict.BROKEN
    assert time.process_time() - begun < 10.0


def test_a_text_with_too_many_lone_surrogates_is_unchanged():
    most = rb"\ud83d" * MAX_SURROGATES
    assert replace_lone_surrogates(most) == rb"\ufffd" * MAX_SURROGATES
    assert replace_lone_surrogates(most + rb"\ud83d") == most + rb"\ud83d"
    assert decoded(b'"' + most + b'"') == "\ufffd" * MAX_SURROGATES
