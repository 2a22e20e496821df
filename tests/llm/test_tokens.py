from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.llm.tokens import ANSWER, DATA, estimate

BODY = b'{"model": "m", "messages": [{"role": "user", "content": "Hello there"}]}'


def test_the_estimate_is_a_quarter_of_the_bytes_plus_the_bound():
    assert estimate(BODY, bound=100) == len(BODY) // 4 + 1 + 100
    assert estimate(BODY, bound=100, choices=3) == len(BODY) // 4 + 1 + 300


@table_test("bound", [None, 0, -5, "100", 1.5, True, [1], 10**30])
def test_an_invalid_bound_is_ignored(bound):
    assert estimate(BODY, bound=bound) == len(BODY) // 4 + 1 + ANSWER


def test_embeddings_have_no_output_tokens():
    assert estimate(BODY, answers=False) == len(BODY) // 4 + 1


def test_a_picture_counts_the_same_at_any_size():
    small, large = (BODY[:-1] + b'"' + b"QUJD" * size + b'"}' for size in (2_000, 2_000_000))

    assert abs(estimate(large) - estimate(small)) <= 1
    assert estimate(large, answers=False) == pytest.approx(len(BODY) // 4 + DATA, abs=3)


@given(st.binary(max_size=200), st.integers(0, 5))
def test_an_estimate_is_at_least_one(body, choices):
    assert estimate(body, choices=choices, answers=False) >= 1


@table_test("start", [b"data:image/png;base64,", b""])
def test_data_is_found_as_a_url_and_as_plain_base64(start):
    body = BODY[:-1] + b',"data":"' + start + b"QUJD" * 5_000 + b'=="}'

    assert estimate(body, answers=False) == pytest.approx(len(BODY) // 4 + DATA, abs=15)


@table_test("text", [b"a" * 511 + b" ", b"word ", b'\\"', b"a"])
def test_a_long_text_counts_in_full_and_is_read_once(text):
    size = 3_000_000
    body = BODY[:-3] + text * (size // len(text)) + b' "}]}'
    began = process_time()

    assert estimate(body, answers=False) == pytest.approx(size / 4, rel=0.01)
    assert process_time() - began < 10.0
