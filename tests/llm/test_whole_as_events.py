"""A plain answer written as events: assembled, they are the same answer."""

import json

import pytest
from table_test import table_test

from stormbreak.llm.endpoints import Shape
from stormbreak.llm.stream_reader import StreamAssembler
from stormbreak.llm.whole_as_events import whole_as_events
from stormbreak.types import Verdict

CALL = {"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
CHAT = {
    "id": "c",
    "object": "chat.completion",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "h\u00e9",
                "tool_calls": [CALL, CALL | {"id": "u"}],
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
        },
        {
            "index": 1,
            "message": {"role": "assistant", "content": "ho"},
            "logprobs": None,
            "finish_reason": "stop",
        },
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}
COMPLETION = {
    "id": "c",
    "object": "text_completion",
    "choices": [{"index": 0, "text": "hi", "finish_reason": "stop", "logprobs": None}],
}
MESSAGE = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "text", "text": "hi"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1]}},
        {"type": "redacted_thinking", "data": "x"},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 5, "output_tokens": 7},
}
RESPONSE = {
    "id": "r",
    "object": "response",
    "status": "completed",
    "output": [
        {"id": "a", "type": "reasoning", "summary": []},
        {
            "id": "b",
            "type": "message",
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": "hi", "annotations": []},
                {"type": "refusal", "refusal": "no"},
            ],
        },
    ],
    "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
}
ANSWERS = [
    (Shape.CHAT, CHAT),
    (Shape.COMPLETION, COMPLETION),
    (Shape.MESSAGES, MESSAGE),
    (Shape.RESPONSES, RESPONSE),
    (Shape.RESPONSES, RESPONSE | {"status": "incomplete"}),
]


@table_test("shape, answer", ANSWERS)
def test_events_of_an_answer_are_assembled_to_the_same_answer(shape, answer):
    choices = len(answer.get("choices", ())) or 1
    assembler = StreamAssembler(shape, choices=choices)
    events = whole_as_events(shape, json.dumps(answer).encode())
    assembler.feed(events)
    parsed, body = assembler.end()
    assert (parsed.verdict, assembler.is_plain) == (Verdict.OK, False)
    assert answer == json.loads(body)


@table_test("index", [0, None])
def test_tool_calls_get_unique_indices(index):
    """Some servers give every call the index 0 or none: SDKs join such calls, or raise."""
    calls = [CALL | {"index": index}, CALL | {"index": index}]
    body = json.dumps({"choices": [{"index": 0, "message": {"tool_calls": calls}}]}).encode()
    chunk = json.loads(whole_as_events(Shape.CHAT, body).split(b"\n")[0].removeprefix(b"data: "))
    assert [each["index"] for each in chunk["choices"][0]["delta"]["tool_calls"]] == [0, 1]


def test_the_end_of_a_message_has_the_details_of_a_refusal():
    """The anthropic SDK takes them from the end, and ignores those of the start."""
    body = json.dumps(MESSAGE | {"stop_details": {"type": "refusal"}}).encode()
    end = whole_as_events(Shape.MESSAGES, body).split(b"event: message_delta\ndata: ")[1]
    assert json.loads(end.split(b"\n")[0])["delta"]["stop_details"] == {"type": "refusal"}


def test_a_filtered_choice_may_have_no_message():
    events = whole_as_events(
        Shape.CHAT, b'{"choices":[{"index":0,"finish_reason":"content_filter"}]}'
    )
    assert b'"delta":{}' in events
    assert events.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("body", [b"{}", b"[]", b"not json", b'{"choices":[3]}', b'{"choices":3}'])
def test_an_unknown_answer_is_not_converted(body):
    assert whole_as_events(Shape.CHAT, body) is None
    assert whole_as_events(Shape.EMBEDDINGS, body) is None
