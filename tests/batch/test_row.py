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


def test_parse_row_reads_the_openai_batch_format():
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
def test_the_url_selects_the_endpoint(url, body, endpoint):
    assert parse(batch(url=url, body=body)).endpoint == endpoint


def test_a_row_of_bare_messages_keeps_its_other_keys():
    row = parse({"custom_id": "b", **CHAT, "temperature": 0.5, "max_tokens": 3})
    assert row.custom_id == "b"
    assert json.loads(row.body) == {**CHAT, "temperature": 0.5, "max_tokens": 3}


ARTICLE = {"temperature": 0.7, "max_tokens": 1000}


@table_test(
    ("given", "sent"),
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
def test_defaults_fill_missing_fields_of_a_chat(given, sent, form):
    lines = {
        "batch": batch(body=CHAT | given),
        "messages": CHAT | given,
        "prompt": {"prompt": CANARY, "model": "own"} | given,
    }
    line = json.dumps(lines[form]).encode()
    row = parse_row(line, index=0, number=1, model=None, defaults=ARTICLE)

    assert CHAT | sent == json.loads(row.body)


def test_defaults_do_not_change_embeddings_and_complete_chats():
    embedded = {"model": "own", "input": "x", "b": 1.50}
    line = json.dumps(batch(url="/v1/embeddings", body=embedded)).encode()
    assert embedded == json.loads(
        parse_row(line, index=0, number=1, model=None, defaults=ARTICLE).body
    )
    body = b'{ "model":"own", "messages":[{"role":"user"}], "temperature":1.50e0, "max_tokens": 1 }'
    line = b'{"url":"/v1/chat/completions","body":' + body + b"}"
    assert body == parse_row(line, index=0, number=1, model=None, defaults=ARTICLE).body


def test_a_bare_prompt_becomes_a_message_with_the_line_number_as_id():
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
def test_a_bare_prompt_is_written_in_the_format_of_its_url(url, asked):
    row = parse({"prompt": "hé", "url": url, "max_tokens": 9})
    assert json.loads(row.body) == asked | {"max_tokens": 9, "model": "fallback"}


@table_test("line", [batch(), CHAT, {"model": "own", "prompt": "x"}])
def test_the_model_of_the_row_overrides_the_option(line):
    assert json.loads(parse(line).body)["model"] == "own"


def test_the_model_option_applies_to_rows_without_a_model():
    body = {"messages": CHAT["messages"]}
    assert json.loads(parse(batch(body=body)).body)["model"] == "fallback"


def test_large_numbers_keep_all_digits_when_fields_are_added():
    row = parse(b'{"prompt":"x","seed":123456789012345678901234567890,"t":0.10}')
    assert b'"seed":123456789012345678901234567890' in row.body
    assert b'"t":0.10' in row.body


@table_test(
    ("line", "message"),
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
def test_row_errors_name_the_problem_without_the_prompt(line, message):
    with pytest.raises(RowError) as raised:
        parse(line)
    assert message in str(raised.value)
    assert CANARY not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_row_without_any_model_is_rejected():
    with pytest.raises(RowError, match="has no model, and --model is not given"):
        parse({"prompt": "x"}, model=None)


def test_custom_ids_have_at_most_512_characters():
    assert parse({"prompt": "x", "custom_id": "é" * 512}).custom_id == "é" * 512
    with pytest.raises(RowError) as raised:
        parse({"prompt": "x", "custom_id": "\x1b[31m" * 200_000})
    assert "has 1,000,000 characters, more than 512" in str(raised.value)
    assert len(str(raised.value)) < 200
    assert str(raised.value).isprintable()


def test_the_repr_of_a_row_hides_the_prompt():
    assert CANARY not in repr(parse(batch()))


@given(st.binary(max_size=60))
def test_any_bytes_parse_or_raise_row_error(line):
    message = ""
    try:
        json.loads(parse(line).body)
    except RowError as error:
        message = str(error)
    assert message.isprintable()


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
def test_any_object_parses_or_raises_row_error(line):
    message = ""
    try:
        parse(line)
    except RowError as error:
        message = str(error)
    assert message.isprintable()


@table_test(
    ("wrong", "message"),
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
def test_fields_that_the_client_reads_are_validated(wrong, message, form):
    row = CHAT | wrong
    with pytest.raises(RowError, match=f"^{message}$"):
        parse(batch(body=row) if form == "body" else row)


@table_test("fine", [{"stream": None}, {"stream": False}, {"n": None}, {"n": 2}])
def test_null_counts_as_absent(fine):
    assert json.loads(parse(CHAT | fine).body) == CHAT | fine


def test_streamed_embeddings_are_rejected():
    with pytest.raises(RowError, match="embeddings are not streamed"):
        parse(batch(url="/v1/embeddings", body={"input": "x", "stream": True}))
    assert parse(batch(url="/v1/embeddings", body={"input": "x", "stream": False}))
