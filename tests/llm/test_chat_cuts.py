"""A chat completion cut into any chunks is assembled to the same completion."""

import json
from itertools import pairwise

from chunks import assembled
from hypothesis import given
from hypothesis import strategies as st

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
    """Draw the pieces of a value, some of which are empty."""
    if isinstance(value, dict):
        return draw(cut_object(value))
    if name in WHOLE or not isinstance(value, str | list):
        return [value]
    inner = draw(st.lists(st.integers(0, len(value)), max_size=3))
    return [value[a:b] for a, b in pairwise([0, *sorted(inner), len(value)])]


@st.composite
def cut_object(draw, whole):
    """Draw deltas of an object: each has the next pieces of some fields."""
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
    """Draw choices, and their chunks."""
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
def test_a_completion_cut_into_any_chunks_is_assembled_again(drawn):
    choices, parts = drawn
    found = assembled(*(json.loads(json.dumps({"choices": [part]})) for part in parts))
    assert found["choices"] == choices
