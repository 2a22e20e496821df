"""How known and unknown fields of a chat completion are joined from chunks."""

from chunks import assembled, call, choice, message
from table_test import table_test


def test_the_arguments_of_a_function_call_are_joined():
    """A bug: each piece replaced the previous one, and the answer counted as complete."""
    found = message(
        {"content": None, "function_call": {"name": "get_weather", "arguments": ""}},
        {"function_call": {"arguments": '{"city":'}},
        {"function_call": {"name": "get_weather", "arguments": '"Paris"}'}},
    )
    assert found["function_call"] == {"name": "get_weather", "arguments": '{"city":"Paris"}'}


def test_audio_is_joined():
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


def test_unknown_delta_fields_are_joined_by_type():
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


def test_a_custom_tool_call_is_joined():
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


@table_test(
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
def test_content_may_mix_parts_and_text(pieces, content):
    """Mistral sends thinking as parts and the answer as text."""
    assert message(*({"content": piece} for piece in pieces))["content"] == content


def test_fields_beside_a_delta_are_merged_and_not_joined():
    safe = {"hate": {"filtered": False, "severity": "safe"}}
    whole = assembled(
        choice({"content": "a"}, content_filter_results=safe, token_ids=[1], stop_reason="x"),
        choice({"content": "b"}, content_filter_results=safe, token_ids=[2], stop_reason="y"),
        choice({}, content_filter_results={}),
        choice({}, content_filter_results={"violence": {"severity": "low"}}),
    )["choices"][0]
    assert whole["content_filter_results"] == safe | {"violence": {"severity": "low"}}
    assert (whole["token_ids"], whole["stop_reason"]) == ([1, 2], "y")


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


def test_the_first_non_empty_value_of_the_head_wins():
    """A bug: the first chunk of Azure, which is empty, set the id of the answer."""
    head = {"id": "c1", "created": 5, "model": "m"}
    whole = assembled(AZURE, head | choice({"content": "a"}), {"id": "c2", "created": 6})
    assert {name: whole[name] for name in head} == head
    assert whole["prompt_filter_results"] == AZURE["prompt_filter_results"]
    assert whole["system_fingerprint"] == ""


def test_a_nested_head_is_filled_in():
    whole = assembled(
        {"x": {"id": "a", "y": {"z": 0}}}, {"x": {"id": "b", "y": {"z": 1}, "seed": 2}}, {"x": None}
    )
    assert whole["x"] == {"id": "a", "y": {"z": 1}, "seed": 2}


SPENT = {"prompt_tokens": 5, "completion_tokens": 2}


@table_test(
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


def test_an_odd_x_groq_field_is_passed_through():
    assert "usage" not in assembled({"x_groq": 5})
    assert assembled({"x_groq": 5})["x_groq"] == 5
