"""Bodies of requests: the fields that the client reads, and their conversion to streams."""

import json
import math
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import msgspec
import pytest
from table_test import table_test

from stormbreak.errors import ConfigurationError
from stormbreak.http.answer_schema import schema_of
from stormbreak.http.endpoint import Origin
from stormbreak.http.h1.address import address_of
from stormbreak.http.h1.exchange import head_of
from stormbreak.http.request import (
    RequestTemplate,
    as_stream,
    count_inputs,
    encode_payload,
    fields_of,
    read_fields,
)
from stormbreak.http.routing import Route
from stormbreak.types import Target


def body(**fields):
    return json.dumps({"model": "m"} | fields).encode()


def test_a_head_built_from_cached_lines_equals_one_built_afresh():
    origin, address = (
        Origin("http://h:1/v1", "secret"),
        address_of("http://h:1/v1/chat/completions"),
    )
    route = Route(Target("p", "m"), origin, None)

    def prepared(key):
        template = RequestTemplate("chat/completions", body(), key=key, passed=(("x-a", "b"),))
        return template.prepare(route)

    for request in (prepared("one"), prepared("other")):
        plain = request._replace(headers=dict(request.headers))
        known, whole = (head_of(each, address, None)[0] for each in (request, plain))
        assert sorted(whole.split(b"\r\n")) == sorted(known.split(b"\r\n"))
    for key in ("a\r\nx: y", "a\n", "a\r", "a\0"):
        with pytest.raises(ValueError, match="line break"):
            head_of(prepared(key), address, None)


def test_a_plain_body_may_be_streamed_on_the_wire():
    assert read_fields(body(messages=[], n=2, temperature=0.5, stream=None)).may_stream


@table_test(
    "fields",
    [
        {"stream": False},
        {"stream": True},
        {"stream_options": {"include_usage": False}},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "alloy", "format": "wav"}},
    ],
)
def test_a_body_with_its_own_delivery_options_is_not_streamed_on_the_wire(fields):
    assert not read_fields(body(**fields)).may_stream


def test_a_fill_in_the_middle_request_takes_no_stream_and_no_schema():
    given = body(prompt="def f(", suffix="return a")
    template = RequestTemplate("fim/completions", given)
    template.stream_on_wire()
    assert not template.streamed
    with pytest.raises(ConfigurationError, match="a schema needs chat/completions"):
        RequestTemplate("fim/completions", given, schema=schema_of({"type": "object"}, 2))


def test_a_body_made_to_stream_changes_only_its_stream_fields():
    given = b'{"model":"m","messages":[{"role":"user","content":"\\u00e4\\n"}],"temperature":0.10,"stream":null}'
    made = as_stream(given)

    assert json.loads(made) == json.loads(given) | {
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert b'"temperature":0.10' in made
    assert b"\\u00e4\\n" in made  # unchanged


def test_the_repr_of_request_fields_shows_no_values():
    assert "voice" not in repr(read_fields(body(audio={"voice": "alloy"})))


@table_test(
    "payload",
    [
        {},
        {"n": 2, "max_tokens": 5, "stream": None, "temperature": 0.5},
        {"stream": True, "stream_options": {"include_usage": False}, "best_of": 3},
        {"stream_options": msgspec.Raw(b'{"include_usage":true}')},
    ],
)
def test_fields_of_a_payload_equal_those_of_its_body(payload):
    payload = {"model": "m", "messages": [], **payload}
    encoded = encode_payload(payload)
    assert fields_of(payload, encoded) == read_fields(encoded)


@table_test("n", [True, 1.0, "1"])
def test_a_field_of_the_wrong_type_is_rejected_in_payload_and_body(n):
    payload = {"model": "m", "n": n}
    encoded = encode_payload(payload)
    with pytest.raises(ConfigurationError) as in_body:
        read_fields(encoded)
    with pytest.raises(ConfigurationError) as in_payload:
        fields_of(payload, encoded)
    assert str(in_payload.value) == str(in_body.value)


@table_test("wrong", [b"", b"[]", b"{}", b'{"model":1}', b'{"model":"\xff"}'])
def test_an_invalid_body_is_rejected(wrong):
    with pytest.raises(ConfigurationError, match="cannot be sent"):
        read_fields(wrong)


@table_test(
    ("body", "why"),
    [
        (rb'{"model":"m","messages":[{"content":"\ud800"}]}', "it holds half a character"),
        (rb'{"model":"\udc00","n":"two"}', "it holds half a character"),
        (rb'{"model":"m","messages":"\ud800"', "it is not a JSON object"),
    ],
)
def test_a_lone_surrogate_in_a_body_is_named(body, why):
    """Found: a JSON object with one was called no JSON object."""
    with pytest.raises(ConfigurationError, match=f"the body cannot be sent: {why}"):
        read_fields(body)


def test_a_payload_that_is_not_json_is_rejected_and_not_echoed():
    with pytest.raises(ConfigurationError, match="model is of type object") as refused:
        encode_payload({"model": object()})
    assert "object at" not in str(refused.value)


@dataclass
class Part:
    data: object


@table_test(
    ("field", "message"),
    [
        ({"input": b"secret"}, "input is of type bytes"),
        ({"input": bytearray(b"secret")}, "input is of type bytearray"),
        ({"input": memoryview(b"secret")}, "input is of type memoryview"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"messages": [{"role": "user", "content": b"secret"}]}, r"messages\[0\].content is of type bytes"),
        ({"input": [[0.5, 1.5], [0.5, -math.inf]]}, r"input\[1\]\[1\] is -inf"),
        ({"metadata": {"x": ({"y": math.inf},)}}, r"metadata.x\[0\].y is inf"),
        ({"metadata": {b"secret": 1}}, "metadata has a key of type bytes"),
        ({"metadata": {math.nan: 1}}, "metadata has a key of type float"),
        ({"a secret": b"secret"}, r"\.\.\. is of type bytes"),
        ({"part": Part(b"secret")}, "part.data is of type bytes"),
        ({"part": [Part(math.nan)]}, r"part\[0\].data is nan"),
        ({"input": {"secret", "\ud800"}}, "input is of type set"),
        ({"input": "secret \ud83d"}, "input holds half a character"),
    ],
)  # fmt: skip
def test_a_value_that_json_cannot_hold_is_rejected_with_its_path(field, message):
    with pytest.raises(
        ConfigurationError, match=rf"payload cannot be written as JSON: {message}"
    ) as refused:
        encode_payload({"model": "m", **field})
    assert "secret" not in str(refused.value)


def test_a_payload_that_contains_itself_is_rejected():
    payload = {"model": "m"}
    payload["metadata"] = payload
    with pytest.raises(ConfigurationError, match="cannot be written as JSON"):
        encode_payload(payload)


class Colour(StrEnum):
    RED = "red"


def test_values_with_an_unambiguous_json_form_are_encoded():
    payload = {
        "model": "m",
        "raw": msgspec.Raw(b'{"n":1.50}'),
        "odd": OrderedDict(a=(1, 2.5, None, True)),
        "colour": Colour.RED,
        "part": Part([1]),
        "when": datetime(2026, 1, 2, tzinfo=UTC),
        "vector": [0.5, 1.5],
        "keys": {1: "one"},
        "large": 2**80,
    }
    body = encode_payload(payload)
    assert body == msgspec.json.encode(payload)
    assert b'{"n":1.50}' in body


@table_test(
    ("given", "count"),
    [("a text", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2]], 2), ([], None), (None, None)],
)
def test_inputs_of_a_body_are_counted(given, count):
    assert count_inputs(body(input=given)) == count
