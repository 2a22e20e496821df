"""Law 15 for plain answers: a success is a complete, well-formed answer, whatever the status."""

import json
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st
from streamed import whole_message, whole_response
from table_test import table_test

from stormbreak.llm.completeness import read_body
from stormbreak.llm.endpoints import Shape
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.llm.response_verdict import read_answer
from stormbreak.types import Usage, Verdict

CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Hé!"}, "finish_reason": "stop"}
CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [CHOICE],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    "error": None,
}
EMBEDDINGS = {
    "object": "list",
    "data": [{"index": 0, "embedding": [0.1, -2e-3]}, {"index": 1, "embedding": "zczMPQ=="}],
    "usage": {"prompt_tokens": 3},
}
MODELS = {"object": "list", "data": [{"id": "m"}]}
WHOLE = {
    Shape.CHAT: CHAT,
    Shape.COMPLETION: {"choices": [{"index": 0, "text": "Hé!", "finish_reason": "stop"}]},
    Shape.EMBEDDINGS: EMBEDDINGS,
    Shape.RESPONSES: whole_response(["Hé!"]),
    Shape.MESSAGES: whole_message(["Hé!"]),
    Shape.JSON: MODELS,
    Shape.RESOURCE: MODELS,
}


def read(body, shape=Shape.CHAT, status=200, **asked):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_answer(HttpResponse(status, {}, raw, 0.0), shape, **asked)


@table_test("shape", Shape)
def test_a_whole_answer_is_ok(shape):
    assert read(WHOLE[shape], shape).verdict is Verdict.OK
    assert read(json.dumps(WHOLE[shape], ensure_ascii=False).encode(), shape).verdict is Verdict.OK


def test_text_finish_reason_and_usage_of_a_chat_completion_are_read():
    reading = read(CHAT)
    assert (reading.text, reading.finish_reason) == ("Hé!", "stop")
    assert reading.usage == Usage(input_tokens=3, output_tokens=2)
    assert not reading.maybe_processed


@table_test("reason", ["length", "content_filter", "tool_calls"])
def test_an_answer_that_stopped_early_is_ok(reason):
    reading = read({"choices": [CHOICE | {"finish_reason": reason}]})
    assert (reading.verdict, reading.finish_reason) == (Verdict.OK, reason)


@table_test(
    ("content", "text"),
    [
        (None, ""),
        (
            [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}, 5],
            "ab",
        ),
        ({}, ""),
    ],
)
def test_text_of_message_parts_is_joined(content, text):
    reading = read({"choices": [CHOICE | {"message": {"content": content}}]})
    assert (reading.verdict, reading.text) == (Verdict.OK, text)


@table_test(
    ("body", "detail"),
    [
        (b"", "empty body"),
        (b" \r\n", "empty body"),
        (b"<html>ok</html>", "html instead of json"),
        (b"\n<!DOCTYPE html>", "html instead of json"),
        (b"ok", "invalid json"),
        (b'{"choices": [', "invalid json"),
        (b'{"choices": []} {}', "invalid json"),
        (b'{"x": "\xff"}', "invalid json"),
        (b"[1]", "not a chat completion"),
        (b"5", "not a chat completion"),
        (b"null", "not a chat completion"),
        (b'"text"', "not a chat completion"),
        ({"choices": "x"}, "not a chat completion"),
        ({"choices": [5]}, "not a chat completion"),
        ({"choices": [CHOICE | {"finish_reason": 5}]}, "not a chat completion"),
        ({"choices": [CHOICE | {"message": "x"}]}, "not a chat completion"),
        ({"choices": [CHOICE | {"message": {"content": 42}}]}, "not a chat completion"),
        ({}, "no choices"),
        ({"choices": []}, "no choices"),
        ({"choices": None}, "no choices"),
        ({"choices": [CHOICE | {"message": None}]}, "no message"),
        ({"choices": [{"text": "old", "finish_reason": "stop"}]}, "no message"),
        ({"choices": [CHOICE | {"finish_reason": None}]}, "no finish_reason"),
        ({"choices": [CHOICE | {"finish_reason": ""}]}, "no finish_reason"),
        ({"choices": [CHOICE, {"message": {}}]}, "no finish_reason"),
    ],
)
@table_test("status", [200, 201, 204, 206])
def test_an_incomplete_chat_completion_is_broken(body, detail, status):
    reading = read(body, status=status)
    assert (reading.verdict, reading.detail) == (Verdict.BROKEN, detail)
    assert reading.maybe_processed


def test_a_choice_that_ended_in_an_error_is_an_error():
    failed = CHOICE | {"finish_reason": "error"}
    assert read({"choices": [failed]}).verdict is Verdict.SERVER_ERROR
    assert read({"choices": [CHOICE, failed]}).verdict is Verdict.SERVER_ERROR
    named = failed | {"error": {"code": 429, "message": "x"}}
    assert read({"choices": [named]}).verdict is Verdict.THROTTLED
    beside = CHOICE | {"error": {"code": 502, "message": "x"}}
    assert read({"choices": [beside]}).verdict is Verdict.SERVER_ERROR


def test_an_error_beside_an_answer_is_an_error():
    assert read(CHAT | {"error": {"code": 503}}).verdict is Verdict.OVERLOADED
    assert read({"error": {"code": 503}, "choices": "x"}).verdict is Verdict.OVERLOADED
    assert read({"object": "error", "code": 400}, Shape.JSON).verdict is Verdict.INVALID
    assert (
        read({"type": "error", "code": "insufficient_quota"}, Shape.JSON).verdict is Verdict.BILLING
    )


@table_test(
    ("data", "detail"),
    [
        ([], "no data"),
        (None, "no data"),
        ([{}], "no embedding"),
        ([{"embedding": None}], "no embedding"),
        ([{"embedding": []}], "no embedding"),
        ([{"embedding": ""}], "no embedding"),
        ([{"embedding": 5}], "no embedding"),
        ([{"embedding": [{"not": "a number"}]}], "no embedding"),
        ([{"embedding": [None, 0.1]}], "no embedding"),
        ([{"embedding": ["0.1"]}], "no embedding"),
        ([{"embedding": [[0.1]]}], "no embedding"),
        ([{"embedding": [True]}], "no embedding"),
        ([{"embedding": " "}], "no embedding"),
        ([{"embedding": "<html>"}], "no embedding"),
        ([{"embedding": {"a": 1}}], "no embedding"),
        ([*EMBEDDINGS["data"], {"embedding": []}], "no embedding"),
        (5, "not a list of embeddings"),
    ],
)
def test_invalid_embeddings_are_broken(data, detail):
    reading = read({"data": data}, Shape.EMBEDDINGS)
    assert (reading.verdict, reading.detail) == (Verdict.BROKEN, detail)


def test_a_blank_embedding_list_is_broken():
    assert read(b'{"data":[{"embedding":[ ]}]}', Shape.EMBEDDINGS).detail == "no embedding"


@given(st.sampled_from(Shape), st.integers(0, 1_000), st.booleans())
def test_a_cut_body_is_never_ok(shape, at, ascii_only):
    body = json.dumps(WHOLE[shape], ensure_ascii=ascii_only).encode()
    cut = body[: at % len(body)]
    assert read(cut, shape).verdict is Verdict.BROKEN


@given(st.sampled_from(Shape), st.integers(0, 1_000), st.integers(0x80, 0xFF))
def test_a_body_with_a_bad_byte_is_never_ok(shape, at, byte):
    body = bytearray(json.dumps(WHOLE[shape]).encode())
    body[at % len(body)] = byte
    assert read(bytes(body), shape).verdict is Verdict.BROKEN


@table_test(
    "body",
    [
        {"error": {"message": "busy"}},
        {"type": "error", "error": {"type": "overloaded_error"}, "request_id": "r"},
        {"object": "error", "message": "busy", "id": "e"},
    ],
)
def test_an_error_is_not_taken_for_a_resource(body):
    assert read(body, Shape.RESOURCE) == read(body, Shape.JSON)
    assert read(body, Shape.RESOURCE).verdict is not Verdict.OK


@table_test("name", ["object", "id", "status"])
def test_a_resource_may_contain_an_error(name):
    body = {name: "x", "error": {"code": "rate_limit_exceeded", "message": "no"}}
    assert read(body, Shape.RESOURCE).verdict is Verdict.OK
    assert read([body], Shape.RESOURCE).verdict is Verdict.OK


NOTHING = [
    {},
    {"message": "", "type": "", "param": "", "code": None},
    {"code": 0, "message": None, "details": [], "metadata": {}},
]


@table_test("error", NOTHING)
def test_an_empty_error_object_is_no_error(error):
    """A bug: some providers always send the object, and fill it in after an error."""
    assert read(CHAT | {"error": error}).verdict is Verdict.OK
    assert read({"choices": [CHOICE | {"error": error}]}).verdict is Verdict.OK
    assert read(EMBEDDINGS | {"error": error}, Shape.EMBEDDINGS).verdict is Verdict.OK
    assert read(MODELS | {"error": error}, Shape.JSON).verdict is Verdict.OK
    beside = {"error": error, "choices": [CHOICE | {"error": {"code": 503}}]}
    assert read(beside).verdict is Verdict.OVERLOADED
    assert read({"error": error}).detail == "no choices"
    assert read({"choices": [CHOICE | {"error": error, "finish_reason": "error"}]}).verdict is (
        Verdict.SERVER_ERROR
    )


def test_an_error_with_one_value_is_an_error():
    for error in ({"message": "x"}, {"message": "", "code": 1}, {"type": "x"}, "x", 5, [0]):
        assert read(CHAT | {"error": error}).verdict is Verdict.SERVER_ERROR


@table_test("embedding", [[1], [-0.5], [0, 1e-7], "/+zM", "_-zM", "zczMPQ=="])
def test_numbers_and_base64_are_embeddings(embedding):
    assert read({"data": [{"embedding": embedding}]}, Shape.EMBEDDINGS).verdict is Verdict.OK
    spaced = json.dumps({"data": [{"embedding": embedding}]}, indent=2).replace("/", "\\/")
    assert read(spaced.encode(), Shape.EMBEDDINGS).verdict is Verdict.OK


def test_fewer_choices_than_requested_are_reported():
    """A retry is useless: the server would ignore `n` again, and each answer is billed."""
    one, three = {"choices": [CHOICE]}, {"choices": [CHOICE] * 3}
    assert read(one, choices=1).verdict is Verdict.OK
    reading = read(one, choices=2)
    assert (reading.verdict, reading.detail) == (Verdict.OK, "1 of 2 choices")
    assert read(three, choices=2).detail is None
    assert read({"choices": []}, choices=2).detail == "no choices"
    assert read(MODELS, Shape.JSON, choices=2).verdict is Verdict.OK


def test_every_input_needs_an_embedding():
    assert read(EMBEDDINGS, Shape.EMBEDDINGS, inputs=2).verdict is Verdict.OK
    assert read(EMBEDDINGS, Shape.EMBEDDINGS, inputs=None).verdict is Verdict.OK
    for inputs in (1, 3):
        reading = read(EMBEDDINGS, Shape.EMBEDDINGS, inputs=inputs)
        detail = f"2 of {inputs} embeddings"
        assert (reading.verdict, reading.detail) == (Verdict.BROKEN, detail)
        assert reading.maybe_processed


@table_test(
    "message", [{"role": "assistant", "content": None}, {"content": ""}, {"role": "assistant"}, {}]
)
def test_an_empty_message_is_ok(message):
    """A retry would be billed again, for probably the same answer (docs/verdicts.md)."""
    reading = read({"choices": [{"message": message, "finish_reason": "stop"}]})
    assert (reading.verdict, reading.text, reading.finish_reason) == (Verdict.OK, "", "stop")


@table_test(
    ("shape", "field"),
    [
        (Shape.CHAT, "choices"),
        (Shape.COMPLETION, "choices"),
        (Shape.EMBEDDINGS, "data"),
        (Shape.RESPONSES, "output"),
        (Shape.MESSAGES, "content"),
    ],
)
def test_a_list_of_a_million_items_is_refused_before_it_is_parsed(shape, field):
    body = f'{{"{field}":['.encode() + b"{}," * 10**6 + b"{}]}"
    read_body(body, shape, None, 1)  # one-time allocations do not count
    tracemalloc.start()
    reading = read_body(body, shape, None, 1)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (reading.verdict, "items in one list" in reading.detail) == (Verdict.BROKEN, True)
    assert most < len(body)


def test_a_large_answer_with_many_objects_is_ok():
    choice = {
        "message": {"content": "{}" * 200_000},
        "finish_reason": "stop",
        "logprobs": {"content": [{"token": "x", "top_logprobs": [{}] * 20}] * 1000},
    }
    body = json.dumps({"choices": [choice]}).encode()
    assert read_body(body, Shape.CHAT, None, 1).verdict is Verdict.OK
