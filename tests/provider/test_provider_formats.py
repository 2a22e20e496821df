"""Responses, text completions and Anthropic's Messages: each answer depends only on its request, plain and streamed."""

import json

import pytest
from table_test import table_test

from stormbreak.testing import answer_text

from .conftest import CHAT, unchunk

ASKED = {"model": "m", "input": "tell me"}
CLAUDE = {**CHAT, "max_tokens": 100}
VERSION = ["anthropic-version: 2023-06-01", "x-api-key: any"]


@pytest.fixture
def client(stormbreak_provider, dial):
    return dial(stormbreak_provider("[provider]\nservice = 0.0\n"))


def named_events(response):
    blocks = [block.split(b"\n") for block in unchunk(response.body).split(b"\n\n") if block]
    events = [(name[7:].decode(), json.loads(data[6:])) for name, data in blocks]
    assert all(data["type"] == name for name, data in events)
    return events


# ---------------------------------------------------------------- responses


def test_a_response_has_output_text_and_usage(client):
    body = client.ask(path="/v1/responses", payload=ASKED).json
    [item] = body["output"]
    assert (body["object"], body["status"], item["role"]) == ("response", "completed", "assistant")
    assert item["content"][0]["text"] == answer_text(ASKED)
    assert body["usage"]["total_tokens"] == (
        body["usage"]["input_tokens"] + body["usage"]["output_tokens"]
    )


def test_a_streamed_response_ends_with_the_plain_one(client):
    plain = client.ask(path="/v1/responses", payload=ASKED).json
    events = named_events(client.ask(path="/v1/responses", payload={**ASKED, "stream": True}))
    names = [name for name, _ in events]
    assert (names[0], names[-1]) == ("response.created", "response.completed")
    assert names.count("response.completed") == 1
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    deltas = [data["delta"] for name, data in events if name == "response.output_text.delta"]
    assert "".join(deltas) == answer_text(ASKED)
    assert len(deltas) > 3
    assert events[0][1]["response"]["output"] == []
    assert events[-1][1]["response"] == plain


# ---------------------------------------------------------------- completions


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("prompt", ["once upon", ["once", "upon"], [17, 4]])
def test_a_text_completion_is_equal_plain_and_streamed(client, prompt, echo):
    asked = {"model": "m", "prompt": prompt, "n": 2, "echo": echo}
    count = 4 if prompt == ["once", "upon"] else 2
    body = client.ask(path="/v1/completions", payload=asked).json
    assert body["object"] == "text_completion"
    assert [each["index"] for each in body["choices"]] == [*range(count)]
    prompts = prompt if prompt == ["once", "upon"] else [prompt] if prompt == "once upon" else [""]
    echoed = [one for one in prompts for _ in range(2)] if echo else [""] * count
    texts = [each["text"] for each in body["choices"]]
    assert texts[0] == echoed[0] + answer_text(asked)
    assert [text.split("Answer")[0] for text in texts] == echoed
    assert {each["finish_reason"] for each in body["choices"]} == {"stop"}
    usage = body["usage"]
    assert usage["completion_tokens"] == 14 * count

    streamed = {**asked, "stream": True, "stream_options": {"include_usage": True}}
    stream = unchunk(client.ask(path="/v1/completions", payload=streamed).body)
    *events, end, _ = stream.split(b"\n\n")
    assert end == b"data: [DONE]"
    chunks = [json.loads(event[6:]) for event in events]
    assert chunks[-1]["usage"] == usage
    texts = dict.fromkeys(range(count), "")
    for chunk in chunks[:-1]:
        [choice] = chunk["choices"]
        texts[choice["index"]] += choice["text"]
    assert texts == {each["index"]: each["text"] for each in body["choices"]}


@pytest.mark.parametrize(
    "prompt",
    [..., [], 7, True, ["a"] * 21, [[1]] * 21, ["a", 1], [1, "a"], [True], [1.5], [[]], [[1], "a"], {}],
)  # fmt: skip
def test_a_text_completion_needs_a_prompt(client, prompt):
    asked = {"model": "m"} if prompt is ... else {"model": "m", "prompt": prompt}
    response = client.ask(path="/v1/completions", payload=asked)
    assert (response.status, response.json["error"]["param"]) == (400, "prompt")


@table_test(
    ("asked", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": "2"}, "n"),
        ({"n": True}, "n"),
        ({"best_of": 21}, "best_of"),
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": "low"}, "frequency_penalty"),
        ({"echo": 1}, "echo"),
        ({"suffix": ["x"]}, "suffix"),
        ({"user": 7}, "user"),
        ({"logit_bias": []}, "logit_bias"),
        ({"stop": []}, "stop"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream_options": True, "stream": True}, "stream_options"),
    ],
)
def test_an_invalid_field_of_a_text_completion_gets_a_400_that_names_it(client, asked, param):
    """Found: the provider answered all of these."""
    response = client.ask(path="/v1/completions", payload={"model": "m", "prompt": "x", **asked})
    assert response.status == 400
    error = response.json["error"]
    assert f"'{param}'" in error.pop("message")
    assert error == {"type": "invalid_request_error", "param": param, "code": None}


def test_all_fields_of_a_text_completion_may_be_null_or_at_their_bounds(client):
    largest = {
        "n": 3, "best_of": 3, "logprobs": 5, "max_tokens": 0, "temperature": 2, "top_p": 1.0,
        "presence_penalty": -2.0, "frequency_penalty": 2, "echo": False, "suffix": "", "user": "u",
        "logit_bias": {"50256": -100}, "stop": ["a"] * 4, "stream": False, "seed": 7,
    }  # fmt: skip
    for asked in (largest, dict.fromkeys(largest), {"stream_options": None}, {"prompt": None}):
        payload = {"model": "m", "prompt": [[1, 2], [3]], **asked}
        assert client.ask(path="/v1/completions", payload=payload).status == 200


# ---------------------------------------------------------------- messages


def test_a_message_has_text_and_usage(client):
    body = client.ask(path="/v1/messages", payload=CLAUDE, headers=VERSION).json
    assert (body["type"], body["role"], body["stop_reason"]) == ("message", "assistant", "end_turn")
    assert body["content"] == [{"type": "text", "text": answer_text(CLAUDE)}]
    assert body["usage"]["output_tokens"] > 0


def test_a_streamed_message_has_the_text_of_the_plain_one(client):
    payload = {**CLAUDE, "stream": True}
    events = named_events(client.ask(path="/v1/messages", payload=payload, headers=VERSION))
    names = [name for name, _ in events]
    assert names[:3] == ["message_start", "content_block_start", "ping"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    deltas = [data["delta"]["text"] for name, data in events if name == "content_block_delta"]
    assert "".join(deltas) == answer_text(CLAUDE)
    assert events[-2][1]["delta"]["stop_reason"] == "end_turn"


@pytest.mark.parametrize(
    ("payload", "headers", "message"),
    [
        (CLAUDE, [], "anthropic-version: header is required"),
        (CHAT, VERSION, "max_tokens: a number of at least 1 is required"),
        ({**CLAUDE, "messages": []}, VERSION, "'messages' must be a list that is not empty"),
    ],
)
def test_an_error_of_a_message_has_the_format_of_the_endpoint(client, payload, headers, message):
    response = client.ask(path="/v1/messages", payload=payload, headers=headers)
    assert (response.status, response.json["type"]) == (400, "error")
    assert response.json["error"] == {"type": "invalid_request_error", "message": message}


def test_a_key_is_accepted_in_any_header(stormbreak_provider, dial):
    client = dial(stormbreak_provider("[provider]\nservice = 0\nrequire_key = true"))
    version = "anthropic-version: 2023-06-01"
    response = client.ask(path="/v1/messages", payload=CLAUDE, headers=[version])
    assert (response.status, response.json["error"]["type"]) == (401, "authentication_error")
    for key in ("x-api-key: k", "api-key: k", "authorization: Bearer k"):
        assert client.ask(path="/v1/messages", payload=CLAUDE, headers=[version, key]).status == 200


@pytest.mark.parametrize(
    ("path", "payload"),
    [("/v1/responses", {"model": "m"}), ("/v1/responses", {"model": "m", "input": []})],
)
def test_a_response_needs_an_input(client, path, payload):
    assert client.ask(path=path, payload=payload).status == 400


def test_no_format_repeats_the_prompt(client):
    canary = "canary-7f3a"
    say = [{"role": "user", "content": canary}]
    asked = [
        ("/v1/responses", {"model": "m", "input": canary}, []),
        ("/v1/messages", {"model": "m", "messages": say, "max_tokens": 9}, VERSION),
    ]
    for path, payload, headers in asked:
        for stream in (False, True):
            response = client.ask(path=path, payload={**payload, "stream": stream}, headers=headers)
            assert response.status == 200
            assert canary.encode() not in response.body
