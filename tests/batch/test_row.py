import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.batch.input.row import RowError, parse_row

CANARY = "CANARY-PROMPT"
CHAT = {"model": "own", "messages": [{"role": "user", "content": CANARY}]}


def parse(line, model="fallback"):
    line = line if isinstance(line, bytes) else json.dumps(line).encode()
    return parse_row(line, index=4, number=7, model=model)


def batch(**changes):
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
    return {key: value for key, value in (line | changes).items() if value is not ...}


def test_the_openai_batch_format():
    row = parse(batch())
    assert (row.index, row.custom_id, row.endpoint) == (4, "a", "/chat/completions")
    assert json.loads(row.body) == CHAT


def test_a_body_is_passed_on_byte_for_byte():
    body = b'{ "model":"own", "messages":[{"role":"user","content":"\\u00e9"}], "x": 1.50e0 }'
    row = parse(b'{"url":"/v1/chat/completions","body":' + body + b"}")
    assert row.body == body


@table_test(
    ("url", "body", "endpoint"),
    [
        ("/v1/chat/completions", CHAT, "/chat/completions"),
        ("/chat/completions", CHAT, "/chat/completions"),
        ("/v1/embeddings", {"input": "x"}, "/embeddings"),
        ("/embeddings", {"input": ["x"]}, "/embeddings"),
        ("/v1/responses", {"input": "x", "stream": True}, "/responses"),
        ("/responses", {"prompt": {"id": "stored"}}, "/responses"),
        ("/v1/messages", CHAT | {"max_tokens": 9, "stream": True}, "/messages"),
        ("/messages", CHAT | {"max_tokens": 9}, "/messages"),
        ("/v1/chat/completions", CHAT | {"background": True}, "/chat/completions"),
    ],
)
def test_endpoints(url, body, endpoint):
    assert parse(batch(url=url, body=body)).endpoint == endpoint


def test_lone_messages_take_their_further_keys_along():
    row = parse({"custom_id": "b", **CHAT, "temperature": 0.5, "max_tokens": 3})
    assert row.custom_id == "b"
    assert json.loads(row.body) == {**CHAT, "temperature": 0.5, "max_tokens": 3}


ARTICLE = {"temperature": 0.7, "max_tokens": 1000}


@table_test(
    ("said", "sent"),
    [
        ({}, ARTICLE),
        ({"temperature": 0}, {"temperature": 0, "max_tokens": 1000}),
        ({"max_tokens": 5}, {"temperature": 0.7, "max_tokens": 5}),
        ({"max_completion_tokens": 5}, {"temperature": 0.7, "max_completion_tokens": 5}),
        ({"max_tokens": None}, {"temperature": 0.7, "max_tokens": None}),
        ({"max_tokens": 5, "temperature": None}, {"max_tokens": 5, "temperature": None}),
    ],
)
@table_test("form", ["batch", "messages", "prompt"])
def test_defaults_stand_in_where_a_chat_does_not_say(said, sent, form):
    lines = {
        "batch": batch(body=CHAT | said),
        "messages": CHAT | said,
        "prompt": {"prompt": CANARY, "model": "own"} | said,
    }
    line = json.dumps(lines[form]).encode()
    row = parse_row(line, index=0, number=1, model=None, defaults=ARTICLE)

    assert CHAT | sent == json.loads(row.body)


def test_no_defaults_in_what_is_no_chat_and_in_what_says_it_all():
    embedded = {"model": "own", "input": "x", "b": 1.50}
    line = json.dumps(batch(url="/v1/embeddings", body=embedded)).encode()
    assert embedded == json.loads(
        parse_row(line, index=0, number=1, model=None, defaults=ARTICLE).body
    )
    body = b'{ "model":"own", "messages":[{"role":"user"}], "temperature":1.50e0, "max_tokens": 1 }'
    line = b'{"url":"/v1/chat/completions","body":' + body + b"}"
    assert body == parse_row(line, index=0, number=1, model=None, defaults=ARTICLE).body


def test_a_lone_prompt_becomes_a_message_and_the_line_number_its_id():
    row = parse({"prompt": 'say "hé"', "temperature": 0})
    assert (row.custom_id, row.endpoint) == ("row-7", "/chat/completions")
    assert json.loads(row.body) == {
        "messages": [{"role": "user", "content": 'say "hé"'}],
        "temperature": 0,
        "model": "fallback",
    }


@table_test(
    ("url", "asked"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hé"}]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hé"}]}),
        ("/v1/responses", {"input": "hé"}),
        ("/v1/embeddings", {"input": "hé"}),
    ],
)
def test_a_lone_prompt_is_put_in_the_words_of_its_url(url, asked):
    row = parse({"prompt": "hé", "url": url, "max_tokens": 9})
    assert json.loads(row.body) == asked | {"max_tokens": 9, "model": "fallback"}


@table_test("line", [batch(), CHAT, {"model": "own", "prompt": "x"}])
def test_the_model_of_the_row_wins(line):
    assert json.loads(parse(line).body)["model"] == "own"


def test_the_model_of_the_command_stands_in():
    body = {"messages": CHAT["messages"]}
    assert json.loads(parse(batch(body=body)).body)["model"] == "fallback"


def test_numbers_beyond_floats_survive_the_filling_in():
    row = parse(b'{"prompt":"x","seed":123456789012345678901234567890,"t":0.10}')
    assert b'"seed":123456789012345678901234567890' in row.body
    assert b'"t":0.10' in row.body


@table_test(
    ("line", "said"),
    [
        (b'{"prompt": CANARY-PROMPT}', "broken JSON at byte 11"),
        (b'{"prompt": "CANARY-PROMPT', "broken JSON: ends early, at byte 25"),
        (b'{"prompt": "CANARY-PROMPT"} CANARY-PROMPT', "broken JSON at byte 29"),
        (b'{"prompt": "CANARY-PROMPT \\ud83d"}', "lone surrogate"),
        (b'{"prompt": "CANARY-PROMPT \xff"}', "invalid UTF-8 at byte 26"),
        (b'{"tools": ' + b"[" * 100_000, "nested too deeply"),
        ([CANARY], "not a JSON object"),
        (CANARY, "not a JSON object"),
        ({"content": CANARY}, 'has none of "body", "messages", "prompt"'),
        ({"prompt": CANARY, "messages": []}, 'has "messages" and "prompt"'),
        ({"prompt": [CANARY]}, "prompt must be a string"),
        ({"messages": CANARY}, "messages must be an array of objects"),
        ({"messages": [CANARY]}, "messages must be an array of objects"),
        ({"messages": []}, "messages is empty"),
        ({"prompt": CANARY, "model": 3}, "model must be a string"),
        ({"prompt": CANARY, "model": ""}, "model is empty"),
        ({"prompt": CANARY, "custom_id": 3}, "custom_id must be a string"),
        ({"prompt": CANARY, "custom_id": None}, "custom_id must be a string"),
        ({"prompt": CANARY, "custom_id": ""}, "custom_id is empty"),
        (batch(body=CANARY), "body must be an object"),
        (batch(body={"model": "m", "input": CANARY}), "has no messages in its body"),
        (batch(url="/v1/embeddings"), "has no input in its body"),
        (batch(url="/v1/responses"), "has no input in its body"),
        (batch(url="/v1/messages"), "has no max_tokens in its body"),
        (batch(url="/v1/messages", body={"max_tokens": 9}), "has no messages in its body"),
        (
            batch(url="/v1/messages", body=CHAT | {"max_tokens": CANARY}),
            "max_tokens must be a whole",
        ),
        (
            batch(url="/v1/responses", body={"input": CANARY, "background": True}),
            "background is true, but a batch waits for every answer",
        ),
        (batch(url="/v1/completions"), "or /v1/embeddings, got '/v1/completions'"),
        (batch(url=...), "has no url"),
        (batch(url=5), "url must be a string"),
        (batch(url="/v1/audio\x1b[2J"), r"got '/v1/audio\x1b[2J'"),
        (batch(method="GET"), "method must be POST, got 'GET'"),
        (batch(method=None), "method must be a string"),
    ],
)
def test_what_is_wrong_is_said_without_the_prompt(line, said):
    with pytest.raises(RowError) as raised:
        parse(line)
    assert said in str(raised.value)
    assert CANARY not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_row_without_any_model_is_refused():
    with pytest.raises(RowError, match="names no model, and there is no --model"):
        parse({"prompt": "x"}, model=None)


def test_ids_up_to_512_characters():
    assert parse({"prompt": "x", "custom_id": "é" * 512}).custom_id == "é" * 512
    with pytest.raises(RowError) as raised:
        parse({"prompt": "x", "custom_id": "\x1b[31m" * 200_000})
    assert "has 1,000,000 characters, more than 512" in str(raised.value)
    assert len(str(raised.value)) < 200
    assert str(raised.value).isprintable()


def test_the_prompt_is_not_in_the_repr():
    assert CANARY not in repr(parse(batch()))


@given(st.binary(max_size=60))
def test_any_bytes_are_a_row_or_an_error(line):
    said = ""
    try:
        json.loads(parse(line).body)
    except RowError as error:
        said = str(error)
    assert said.isprintable()


KEYS = ["custom_id", "body", "url", "method", "prompt", "messages"]
VALUES = st.recursive(
    st.sampled_from([None, "POST", "/v1/embeddings", "", 5, True]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["messages", "input", "model"]), inner)
    ),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_any_object_is_a_row_or_an_error(line):
    said = ""
    try:
        parse(line)
    except RowError as error:
        said = str(error)
    assert said.isprintable()


@table_test(
    ("wrong", "complaint"),
    [
        ({"stream": "true"}, "stream must be true or false"),
        ({"stream": 1}, "stream must be true or false"),
        ({"n": "2"}, "n must be a whole number"),
        ({"n": 1.5}, "n must be a whole number"),
        ({"model": 3}, "model must be a string"),
        ({"model": None}, "model must be a string"),
    ],
)
@table_test("form", ["body", "messages"])
def test_what_the_client_reads_is_checked(wrong, complaint, form):
    row = CHAT | wrong
    with pytest.raises(RowError, match=f"^{complaint}$"):
        parse(batch(body=row) if form == "body" else row)


@table_test("fine", [{"stream": None}, {"stream": False}, {"n": None}, {"n": 2}])
def test_null_is_as_good_as_absent(fine):
    assert json.loads(parse(CHAT | fine).body) == CHAT | fine


def test_embeddings_are_not_streamed():
    with pytest.raises(RowError, match="embeddings are not streamed"):
        parse(batch(url="/v1/embeddings", body={"input": "x", "stream": True}))
    assert parse(batch(url="/v1/embeddings", body={"input": "x", "stream": False}))
