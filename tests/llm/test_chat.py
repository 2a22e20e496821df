"""A chat completion is assembled from its chunks; an invalid chunk is refused."""

import pytest
from chunks import assembled, call, choice, message, whole_call
from table_test import table_test

from stormbreak.llm.chat import ChatAssembly
from stormbreak.llm.stream_deltas import MalformedChunkError


def test_the_assembled_answer_has_the_form_of_a_plain_one():
    head = {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 5,
        "model": "m",
        "obfuscation": "x",
    }
    whole = assembled(
        head | choice({"role": "assistant", "content": "", "refusal": None}, finish_reason=None),
        head | choice({"content": "Hel"}, finish_reason=None, content_filter_results={"hate": 0}),
        head | choice({"content": "lo"}) | {"system_fingerprint": "fp", "id": "c2", "usage": None},
        head | choice({}, finish_reason="stop"),
        head | {"choices": [], "usage": {"prompt_tokens": 1}},
    )
    assert whole == {
        "id": "c1",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "system_fingerprint": "fp",
        "choices": [
            {
                "index": 0,
                "content_filter_results": {"hate": 0},
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1},
    }


def test_text_of_every_kind_is_joined():
    assert message(
        {"reasoning_content": "a"}, {"reasoning_content": "b"}, {"refusal": "c"}, {"refusal": "d"}
    ) == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "ab",
        "refusal": "cd",
    }


def test_the_role_is_not_joined():
    assert (
        message({"role": "assistant"}, {"role": "assistant", "content": "a"})["role"] == "assistant"
    )


def test_lists_are_joined():
    found = message({"annotations": [1]}, {"annotations": None}, {"annotations": [2]})
    assert found["annotations"] == [1, 2]


def test_tool_calls_are_joined_by_index():
    found = message(
        {"content": None},
        call(1, "g", "", id="b", type="function"),
        call(0, "f", "", id="a", type="function"),
        call(0, None, '{"x"'),
        call(1, "", "{}", id=""),  # some providers repeat a field as empty text
        call(0, None, ":1}"),
    )
    assert found["tool_calls"] == [whole_call("a", "f", '{"x":1}'), whole_call("b", "g", "{}")]


def test_text_beside_a_tool_call_is_kept():
    found = message({"content": "Let me see", **call(0, "f", "{}", id="a", type="function")})
    assert found["content"] == "Let me see"
    assert found["tool_calls"] == [whole_call("a", "f", "{}")]


@table_test("index", [None, 0])
def test_tool_calls_of_one_index_are_distinguished_by_id(index):
    found = message(
        call(index, "f", "{}", id="a", type="function"),
        call(index, "g", "{", id="b", type="function"),
        call(index, None, "}", id="b"),
    )
    assert found["tool_calls"] == [whole_call("a", "f", "{}"), whole_call("b", "g", "{}")]


def test_token_probabilities_are_appended():
    whole = assembled(
        choice({"content": "a"}, logprobs={"content": [{"token": "a"}], "refusal": None}),
        choice({"content": "b"}, logprobs={"content": [{"token": "b"}], "refusal": None}),
        choice({}, logprobs=None),
    )
    assert whole["choices"][0]["logprobs"] == {
        "content": [{"token": "a"}, {"token": "b"}],
        "refusal": None,
    }


def test_choices_are_sorted_by_index():
    whole = assembled(
        {
            "choices": [
                {"index": 1, "delta": {"content": "b"}},
                {"index": 0, "delta": {"content": "a"}},
            ]
        },
    )
    assert [(c["index"], c["message"]["content"]) for c in whole["choices"]] == [(0, "a"), (1, "b")]


def test_every_choice_needs_a_finish_reason():
    one, two = ChatAssembly(), ChatAssembly(2)
    for assembly in one, two:
        assert assembly.missing(done=True)
        assembly.add(choice({"content": "a"}))
        assert assembly.missing(done=True)
        assembly.add(choice({}, finish_reason="stop"))
        assembly.add(choice({}, finish_reason=None))
    assert one.missing(done=True) is None
    assert two.missing(done=False)
    assert two.missing(done=True) is None
    one.add({"choices": [{"index": 1, "delta": {}}]})
    assert one.missing(done=True)


@table_test(
    ("chunk", "output"),
    [
        (choice({"role": "assistant", "content": ""}), False),
        (choice({}, finish_reason="stop"), False),
        ({"choices": [], "usage": {}}, False),
        (choice({"content": "a"}), True),
        (choice({"refusal": "a"}), True),
        (choice({"reasoning_content": "a"}), True),
        (choice({"content": [{"type": "text"}]}), True),
        (choice(call(0, "f")), True),
    ],
)
def test_output_is_detected(chunk, output):
    assembly = ChatAssembly()
    assembly.add(chunk)
    assert assembly.has_output is output


@table_test(
    "chunks",
    [
        [{"choices": 5}],
        [{"choices": [5]}],
        [{"choices": [{"index": "0"}]}],
        [{"choices": [{"index": -1}]}],
        [{"choices": [{"index": True}]}],
        [choice(5)],
        [choice({}, finish_reason=5)],
        [choice({}, logprobs=[1])],
        [choice({"tool_calls": {}})],
        [choice({"tool_calls": [5]})],
        [choice({"tool_calls": [{"index": "0"}]})],
        [choice({"tool_calls": [{"function": "f"}]})],
        [choice({"content": "a"}), choice({"content": {"b": 1}})],
        [choice({"x": "a"}), choice({"x": ["b"]})],
        [choice({"x": ["b"]}), choice({"x": "a"})],
        [choice({"x": {"y": 1}}), choice({"x": "a"})],
        [choice({"x": {"y": {}}}), choice({"x": {"y": 1}}), choice({"x": {"y": "a"}})],
        [choice({"x": 1}), choice({"x": "a"})],
        [choice({"x": "a"}), choice({"x": 1})],
        [choice({"type": "a"}), choice({"type": {"b": 1}})],
    ],
)
def test_an_invalid_chunk_is_refused(chunks):
    with pytest.raises(MalformedChunkError):
        assembled(*chunks)


def test_chunks_are_not_modified():
    first = choice({"x": [1], "y": {"z": [1]}})
    assembled(first, first)
    assert first == choice({"x": [1], "y": {"z": [1]}})
