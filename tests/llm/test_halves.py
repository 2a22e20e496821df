import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormbreak.llm.classify import read_answer
from stormbreak.llm.halves import mended
from stormbreak.llm.reading import HttpAnswer, Shape
from stormbreak.types import Verdict

PIECES = st.sampled_from(["a", "\\", '"', "u", "d83d", "\ud83d", "\ude00", "\U0001f600", "é"])
LETTERS = st.lists(PIECES, max_size=12).map("".join)


def chat(content):
    choice = {"message": {"content": content}, "finish_reason": "length"}
    return json.dumps({"choices": [choice]}).encode()


@pytest.mark.parametrize(
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
def test_only_lone_halves_are_replaced(text, expected):
    assert mended(text) == expected


@given(LETTERS)
def test_an_answer_cut_inside_a_character_is_an_answer(text):
    reading = read_answer(HttpAnswer(200, {}, chat(text), 0.0), Shape.CHAT)

    assert reading.verdict is Verdict.OK
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert reading.text.replace("�", "") == whole.replace("�", "")
