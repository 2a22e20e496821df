"""Bodies of requests: what the client reads in them, and how they are made to stream."""

import json

import pytest

from stormbreak.errors import ConfigurationError
from stormbreak.http.body import encoded, inputs, streamed, wants


def body(**fields):
    return json.dumps({"model": "m"} | fields).encode()


def test_a_plain_body_may_be_streamed():
    assert wants(body(messages=[], n=2, temperature=0.5, stream=None)).may_stream


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": False},
        {"stream": True},
        {"stream_options": {"include_usage": False}},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "alloy", "format": "wav"}},
    ],
)
def test_whoever_says_how_an_answer_comes_gets_it_so(fields):
    assert not wants(body(**fields)).may_stream


def test_a_streamed_body_is_the_same_but_for_the_stream():
    given = b'{"model":"m","messages":[{"role":"user","content":"\\u00e4\\n"}],"temperature":0.10,"stream":null}'
    made = streamed(given)

    assert json.loads(made) == json.loads(given) | {
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert b'"temperature":0.10' in made
    assert b"\\u00e4\\n" in made  # as it was written


def test_what_is_asked_for_shows_no_text():
    assert "voice" not in repr(wants(body(audio={"voice": "alloy"})))


@pytest.mark.parametrize("wrong", [b"", b"[]", b"{}", b'{"model":1}', b'{"model":"\xff"}'])
def test_a_body_that_is_none_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="cannot be sent"):
        wants(wrong)


def test_a_payload_that_is_no_json_is_refused_without_being_repeated():
    with pytest.raises(ConfigurationError, match="TypeError") as refused:
        encoded({"model": object()})
    assert "object at" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "count"),
    [("a text", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2]], 2), ([], None), (None, None)],
)
def test_inputs_are_counted(given, count):
    assert inputs(body(input=given)) == count
