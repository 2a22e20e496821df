import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormbreak.llm.assembly import ChatAssembly
from stormbreak.llm.pieces import MalformedChunkError


def assembled(*chunks):
    assembly = ChatAssembly()
    for chunk in chunks:
        assembly.add(chunk)
    return assembly.result()


def choice(delta, **fields):
    return {"choices": [{"index": 0, "delta": delta, **fields}]}


def message(*deltas):
    return assembled(*map(choice, deltas))["choices"][0]["message"]


def test_the_answer_has_the_form_of_an_unstreamed_one():
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


def test_text_of_every_kind_grows():
    assert message(
        {"reasoning_content": "a"}, {"reasoning_content": "b"}, {"refusal": "c"}, {"refusal": "d"}
    ) == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "ab",
        "refusal": "cd",
    }


def test_the_role_does_not_grow():
    assert (
        message({"role": "assistant"}, {"role": "assistant", "content": "a"})["role"] == "assistant"
    )


def test_lists_grow():
    found = message({"annotations": [1]}, {"annotations": None}, {"annotations": [2]})
    assert found["annotations"] == [1, 2]


def call(index=None, name=None, arguments=None, **fields):
    function = {
        key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None
    }
    at = {} if index is None else {"index": index}
    return {"tool_calls": [{**at, **fields, "function": function}]}


def whole_call(name, function, arguments):
    return {"id": name, "type": "function", "function": {"name": function, "arguments": arguments}}


def test_tool_calls_grow_by_index():
    found = message(
        {"content": None},
        call(1, "g", "", id="b", type="function"),
        call(0, "f", "", id="a", type="function"),
        call(0, None, '{"x"'),
        call(1, "", "{}", id=""),  # some providers repeat what they already said as empty text
        call(0, None, ":1}"),
    )
    assert found["tool_calls"] == [whole_call("a", "f", '{"x":1}'), whole_call("b", "g", "{}")]


def test_text_beside_a_tool_call_is_kept():
    found = message({"content": "Let me see", **call(0, "f", "{}", id="a", type="function")})
    assert found["content"] == "Let me see"
    assert found["tool_calls"] == [whole_call("a", "f", "{}")]


@pytest.mark.parametrize("index", [None, 0])
def test_tool_calls_of_one_index_are_told_apart_by_id(index):
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


def test_choices_are_put_in_order():
    whole = assembled(
        {
            "choices": [
                {"index": 1, "delta": {"content": "b"}},
                {"index": 0, "delta": {"content": "a"}},
            ]
        },
    )
    assert [(c["index"], c["message"]["content"]) for c in whole["choices"]] == [(0, "a"), (1, "b")]


def test_every_choice_must_say_why_it_ended():
    one, two = ChatAssembly(), ChatAssembly(2)
    for assembly in one, two:
        assert assembly.wrong()
        assembly.add(choice({"content": "a"}))
        assert assembly.wrong()
        assembly.add(choice({}, finish_reason="stop"))
        assembly.add(choice({}, finish_reason=None))
    assert one.wrong() is None
    assert two.wrong()
    one.add({"choices": [{"index": 1, "delta": {}}]})
    assert one.wrong()


@pytest.mark.parametrize(
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
def test_output_is_noticed(chunk, output):
    assembly = ChatAssembly()
    assembly.add(chunk)
    assert assembly.has_output is output


@pytest.mark.parametrize(
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
        [choice({"tool_calls": [{"index": None}]})],
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
def test_what_is_no_chunk_is_refused(chunks):
    with pytest.raises(MalformedChunkError):
        assembled(*chunks)


# ------------------------------------------------------------ pieces of pieces


def test_the_arguments_of_a_function_call_grow():
    """Found: each piece replaced the one before, and the answer counted as complete."""
    found = message(
        {"content": None, "function_call": {"name": "get_weather", "arguments": ""}},
        {"function_call": {"arguments": '{"city":'}},
        {"function_call": {"name": "get_weather", "arguments": '"Paris"}'}},
    )
    assert found["function_call"] == {"name": "get_weather", "arguments": '{"city":"Paris"}'}


def test_audio_grows():
    found = message(
        {"audio": {"id": "a1", "transcript": "Hel"}},
        {"audio": {"id": "a1", "transcript": "lo", "data": "AAAA"}},
        {"audio": {"data": "BBBB", "expires_at": 9}},
    )
    assert found["audio"] == {
        "id": "a1",
        "transcript": "Hello",
        "data": "AAAABBBB",
        "expires_at": 9,
    }


def test_fields_that_nobody_knows_grow_by_kind():
    found = message(
        {"x": {"a": "b", "c": [1], "d": {"e": "f"}, "g": 1, "h": None, "i": "", "j": True}},
        {"x": {"a": "c", "c": [2], "d": {"e": "g"}, "g": 2, "h": 3, "i": {"k": 1}, "j": False}},
        {"x": {"a": None, "c": "", "d": [], "g": 0}},
        {"x": {}},
        {"x": None},
        {"x": ""},
    )
    assert found["x"] == {
        "a": "bc",
        "c": [1, 2],
        "d": {"e": "fg"},
        "g": 2,
        "h": 3,
        "i": {"k": 1},
        "j": True,
    }


def test_a_custom_tool_call_grows():
    at = {"index": 0}
    found = message(
        {"tool_calls": [at | {"id": "a", "type": "custom", "custom": {"name": "f", "input": "x"}}]},
        {"tool_calls": [at | {"custom": {"input": "y"}}]},
    )
    whole = {"id": "a", "type": "custom", "custom": {"name": "f", "input": "xy"}}
    assert found["tool_calls"] == [whole]


def test_a_name_in_pieces_is_joined_and_a_repeated_one_is_not():
    found = message(call(0, "get_", id="a"), call(0, "weather"), call(0, "get_weather"))
    assert found["tool_calls"][0]["function"] == {"name": "get_weather"}


THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}


@pytest.mark.parametrize(
    ("pieces", "content"),
    [
        ([[THOUGHT], "Pa", "ris"], [THOUGHT, {"type": "text", "text": "Paris"}]),
        (["", [THOUGHT], "", "x"], [THOUGHT, {"type": "text", "text": "x"}]),
        (["a", "b", [THOUGHT], []], [{"type": "text", "text": "ab"}, THOUGHT]),
        (
            ["a", [THOUGHT], "b", None, "c", [THOUGHT]],
            [
                {"type": "text", "text": "a"},
                THOUGHT,
                {"type": "text", "text": "bc"},
                THOUGHT,
            ],
        ),
        (["a", []], "a"),
        ([[], "a"], "a"),
    ],
)
def test_content_may_be_parts_and_text(pieces, content):
    """Mistral thinks in parts and speaks in text."""
    assert message(*({"content": piece} for piece in pieces))["content"] == content


def test_what_stands_beside_a_delta_is_merged_and_its_text_is_not_joined():
    safe = {"hate": {"filtered": False, "severity": "safe"}}
    whole = assembled(
        choice({"content": "a"}, content_filter_results=safe, token_ids=[1], stop_reason="x"),
        choice({"content": "b"}, content_filter_results=safe, token_ids=[2], stop_reason="y"),
        choice({}, content_filter_results={}),
        choice({}, content_filter_results={"violence": {"severity": "low"}}),
    )["choices"][0]
    assert whole["content_filter_results"] == safe | {"violence": {"severity": "low"}}
    assert (whole["token_ids"], whole["stop_reason"]) == ([1, 2], "y")


def test_chunks_are_left_as_they_were():
    first = choice({"x": [1], "y": {"z": [1]}})
    assembled(first, first)
    assert first == choice({"x": [1], "y": {"z": [1]}})


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
TOKENS = st.lists(
    st.fixed_dictionaries({"token": TEXT, "logprob": st.floats(-9, 0)}), min_size=1, max_size=4
)
FUNCTION = st.fixed_dictionaries({"name": TEXT, "arguments": TEXT})
MESSAGES = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.none() | TEXT},
    optional={
        "refusal": TEXT,
        "reasoning_content": TEXT,
        "function_call": FUNCTION,
        "audio": st.fixed_dictionaries(
            {"id": TEXT, "data": TEXT, "transcript": TEXT, "expires_at": st.integers(1)}
        ),
        "annotations": st.lists(st.fixed_dictionaries({"url": TEXT}), min_size=1, max_size=3),
        "tool_calls": st.lists(
            st.tuples(st.uuids().map(str), FUNCTION).map(
                lambda drawn: {"id": drawn[0], "type": "function", "function": drawn[1]}
            ),
            min_size=1,
            max_size=3,
        ),
    },
)
WHOLE = {"id", "type", "role", "name"}


@st.composite
def cut(draw, name, value):
    """Draw the pieces that a value may come in, some of which say nothing."""
    if isinstance(value, dict):
        return draw(cut_object(value))
    if name in WHOLE or not isinstance(value, str | list):
        return [value]
    inner = draw(st.lists(st.integers(0, len(value)), max_size=3))
    return [value[a:b] for a, b in pairwise([0, *sorted(inner), len(value)])]


@st.composite
def cut_object(draw, whole):
    """Draw deltas that amount to an object: each brings the next pieces of some of its fields."""
    left = {name: draw(cut(name, value)) for name, value in whole.items() if name != "tool_calls"}
    for index, made in enumerate(whole.get("tool_calls", ())):
        first, *others = draw(cut_object(made))
        pieces = [{"id": made["id"]} | first, *others]
        left["tool_calls", index] = [[{"index": index} | piece] for piece in pieces]
    deltas = []
    while left:
        some = draw(st.sets(st.sampled_from(list(left)), min_size=1))
        delta = {}
        for name in sorted(some, key=str):
            piece = left[name].pop(0)
            if isinstance(name, tuple):
                delta["tool_calls"] = delta.get("tool_calls", []) + piece
            else:
                delta[name] = piece
            if not left[name]:
                del left[name]
        deltas.append(delta)
    return deltas or [{}]


@st.composite
def streams(draw):
    """Draw choices, and the chunks they may come in."""
    choices, chunks = [], []
    for index in range(draw(st.integers(1, 2))):
        whole = draw(MESSAGES)
        tokens = draw(st.none() | st.fixed_dictionaries({"content": TOKENS}))
        reason = draw(st.sampled_from(["stop", "length", "tool_calls", "function_call"]))
        end = {"logprobs": tokens, "finish_reason": reason}
        choices.append({"index": index, "message": whole} | end)
        own = [{"index": index, "delta": delta} for delta in draw(cut_object(whole))]
        own += [
            {"index": index, "delta": {}, "logprobs": piece}
            for piece in (draw(cut_object(tokens)) if tokens else ())
        ]
        chunks += [*own, {"index": index, "delta": {}, "finish_reason": reason}]
    return choices, chunks


@given(streams())
def test_any_completion_cut_in_any_way_is_the_same_again(drawn):
    choices, parts = drawn
    found = assembled(*(json.loads(json.dumps({"choices": [part]})) for part in parts))
    assert found["choices"] == choices


# ------------------------------------------------------------ heads and tails of streams

AZURE = {
    "id": "",
    "object": "",
    "created": 0,
    "model": "",
    "system_fingerprint": "",
    "prompt_filter_results": [{"prompt_index": 0}],
    "choices": [],
}


def test_the_first_real_value_of_the_head_wins():
    """Found: Azure's first chunk, which knows nothing yet, named the answer."""
    head = {"id": "c1", "created": 5, "model": "m"}
    whole = assembled(AZURE, head | choice({"content": "a"}), {"id": "c2", "created": 6})
    assert {name: whole[name] for name in head} == head
    assert whole["prompt_filter_results"] == AZURE["prompt_filter_results"]
    assert whole["system_fingerprint"] == ""


def test_a_head_that_is_nested_is_filled_in():
    whole = assembled(
        {"x": {"id": "a", "y": {"z": 0}}}, {"x": {"id": "b", "y": {"z": 1}, "seed": 2}}, {"x": None}
    )
    assert whole["x"] == {"id": "a", "y": {"z": 1}, "seed": 2}


SPENT = {"prompt_tokens": 5, "completion_tokens": 2}


@pytest.mark.parametrize(
    "last",
    [
        [choice({}, finish_reason="stop") | {"x_groq": {"id": "r", "usage": SPENT}}],
        [choice({}, finish_reason="stop"), {"choices": [], "usage": SPENT}],
        [choice({}, finish_reason="stop"), {"usage": SPENT}, {"choices": None, "usage": None}],
        [choice({}, finish_reason="stop") | {"usage": SPENT, "x_groq": {"usage": {}}}],
    ],
)
def test_usage_may_come_at_the_end_in_several_places(last):
    whole = assembled(choice({"content": "a"}) | {"x_groq": {"id": "r"}}, *last)
    assert whole["usage"] == SPENT
    assert whole["x_groq"]["id"] == "r"


def test_odd_words_of_groq_are_passed_through():
    assert "usage" not in assembled({"x_groq": 5})
    assert assembled({"x_groq": 5})["x_groq"] == 5
