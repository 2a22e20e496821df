"""A locally written answer parses like one of a provider."""

from table_test import table_test

from stormbreak.http.local_answers import ID, write_answer
from stormbreak.llm.endpoints import Shape
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.llm.response_verdict import read_answer
from stormbreak.types import Usage, Verdict


@table_test("shape", [Shape.CHAT, Shape.RESPONSES, Shape.MESSAGES])
@table_test("text", ["later", "sp\u00e4ter, \U0001f331", '"quoted"\n'])
def test_a_local_answer_is_complete_and_uses_no_tokens(shape, text):
    body = write_answer(shape, text, "m")
    reading = read_answer(HttpResponse(200, {}, body, 0.0), shape)

    assert (reading.verdict, reading.text, reading.usage) == (Verdict.OK, text, Usage())
    assert ID.encode() in body


@table_test("choices", [1, 3])
def test_a_local_answer_has_the_requested_number_of_choices(choices):
    """Found: a request with two choices got no degraded answer."""
    body = write_answer(Shape.CHAT, "later", "m", choices=choices)
    reading = read_answer(HttpResponse(200, {}, body, 0.0), Shape.CHAT, choices=choices)

    assert (reading.verdict, reading.detail) == (Verdict.OK, None)


def test_a_local_answer_with_too_many_choices_is_not_written():
    assert write_answer(Shape.CHAT, "later", "m", choices=10**9) is None


@table_test("shape", [Shape.EMBEDDINGS, Shape.JSON])
def test_a_local_answer_is_written_only_for_text(shape):
    assert write_answer(shape, "later", "m") is None
