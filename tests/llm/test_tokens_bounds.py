"""The most that a request can be billed for. The tests have no tokenizers of models; they use what holds for
all of them: a token is at least one byte of text."""

import json

from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.llm.tokens import (
    PICTURE,
    TEMPLATE,
    TOOLS,
    bound_of,
    input_bound,
    most_of,
    unbounded_by,
)
from stormbreak.types import Usage


def body(**more):
    message = {"role": "user", "content": "hello"}
    return json.dumps({"model": "m", "messages": [message], **more}).encode()


def test_a_bound_is_the_bytes_plus_a_template_plus_the_longest_answer():
    asked = body(max_tokens=100)

    assert bound_of(asked, bound=100) == Usage(
        input_tokens=len(asked) + TEMPLATE, output_tokens=100
    )
    assert bound_of(asked, bound=100, choices=3).output_tokens == 300


@given(st.lists(st.text(), min_size=1), st.booleans())
def test_no_text_has_more_bytes_than_its_bound(texts, ascii_only):
    messages = [{"role": "user", "content": text} for text in texts]
    asked = json.dumps({"model": "m", "messages": messages}, ensure_ascii=ascii_only)
    asked = asked.encode(errors="surrogatepass")
    written = sum(len(text.encode(errors="surrogatepass")) for text in texts)
    around = 10 * len(texts)  # tokens that a template puts around each message

    assert written + around <= input_bound(asked)


@table_test("bound", [None, 0, -1, True, "100", 1.5, 10**8])
def test_without_a_bound_of_the_answer_there_is_none(bound):
    assert bound_of(body(), bound=bound) is None


@table_test("bound", [1, 10**7])
def test_any_positive_number_up_to_ten_million_is_a_bound(bound):
    assert bound_of(body(), bound=bound).output_tokens == bound
    assert bound_of(body(), bound=10**7 + 1) is None


def test_embeddings_have_no_output_tokens():
    assert bound_of(b'{"model":"m","input":"x"}', answers=False).output_tokens == 0


def test_tools_add_to_the_bound():
    tools = body(tools=[{"type": "function", "function": {"name": "f"}}])

    assert input_bound(tools) == len(tools) + TEMPLATE + TOOLS


@table_test(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
        {"type": "image", "source": {"type": "base64", "data": "AAAA"}},
    ],
)
def test_a_picture_adds_its_own_bound(part):
    asked = body(messages=[{"role": "user", "content": [part, part, part]}])

    assert input_bound(asked) >= len(asked) + 3 * PICTURE


@table_test(
    "more",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"input": [{"type": "input_file", "file_id": "file_1"}]},
        {"prediction": {"type": "content", "content": "x"}},
        {"tools": [{"type": "web_search_preview"}]},
        {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
        {"tools": [{"type": "mcp", "server_url": "https://a.example"}]},
        {"mcp_servers": [{"url": "https://a.example"}]},
        {
            "messages": [
                {"content": [{"type": "file", "file": {"file_data": "data:a/b;base64,AA"}}]}
            ]
        },
        {"messages": [{"content": [{"type": "document", "source": {"type": "url", "url": "x"}}]}]},
        {
            "messages": [
                {"content": [{"type": "document_url", "document_url": "https://a.example"}]}
            ]
        },
        {"service_tier": "priority"},
        {"prompt": {"id": "pmpt_1"}},
        {"modalities": ["text", "audio"]},
        {"models": ["dearer"]},
        {"plugins": [{"id": "web"}]},
        {"web_search_options": {}},
        {"search_parameters": {"mode": "on"}},
        {"speed": "fast"},
        {"inference_geo": "us"},
        {"container": "c"},
    ],
)
def test_server_side_content_and_special_billing_have_no_bound(more):
    assert bound_of(body(**more), bound=100) is None


@table_test(
    ("plain", "escaped"),
    [
        (b'"web_search"', rb'"web\u005fsearch"'),
        (b'"type"', rb'"\u0074\u0079pe"'),
        (b'"file_id"', rb'"file\u005Fid"'),
        (b'"image_url"', rb'"im\u0061ge_url"'),
        (b'"functions"', rb'"functio\u006es"'),
        (b'"ttl"', rb'"tt\u006c"'),
    ],
)
def test_an_escaped_name_counts_like_a_plain_one(plain, escaped):
    parts = {
        b'"web_search"': {"type": "web_search"},
        b'"type"': {"type": "web_search"},
        b'"file_id"': {"file_id": "x"},
        b'"image_url"': {"type": "image_url", "image_url": "x"},
        b'"functions"': {"functions": []},
        b'"ttl"': {"ttl": "1h"},
    }
    asked = body(x=parts[plain], max_tokens=5)
    hidden = asked.replace(plain, escaped)
    assert json.loads(hidden) == json.loads(asked)

    bound, as_hidden = (bound_of(each.ljust(500), bound=5) for each in (asked, hidden))

    assert as_hidden == bound != bound_of(body(max_tokens=5).ljust(500), bound=5)


def test_a_text_about_escapes_has_a_bound():
    text = r"say \"file\u005fid\": 1 and \\u0066 "

    assert input_bound(body(messages=[{"role": "user", "content": text}])) is not None


def test_a_null_reference_has_a_bound():
    assert input_bound(body(previous_response_id=None)) is not None


def test_the_unbounded_value_is_named():
    assert unbounded_by(body(conversation="c")) == "conversation"
    assert unbounded_by(body(tools=[{"type": "web_search_preview"}])) == "web_search"
    assert unbounded_by(body(x=[{"file_id": "f"}])) == "file_id"
    assert unbounded_by(body()) is None


@table_test(
    "more",
    [
        {"prompt": "a text"},
        {"modalities": ["text"]},
        {"service_tier": "flex"},
        {"speed": "standard"},
        {"inference_geo": "global"},
        {
            "tools": [
                {"function": {"parameters": {"properties": {"container": {"type": "string"}}}}}
            ]
        },
    ],
)
def test_options_without_extra_cost_have_a_bound(more):
    assert input_bound(body(**more)) is not None


def test_a_text_about_unbounded_options_has_a_bound():
    text = 'they say {"file_id": "x"} and "type": "web_search"'

    assert input_bound(body(messages=[{"role": "user", "content": text}])) is not None


def marked(**ttl):
    part = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral", **ttl}}
    return body(system=[part])


@table_test("ttl", ["1h", "24h", "12h", "1H", ""])
def test_a_long_cache_ttl_bounds_all_tokens_as_one_hour_writes(ttl):
    asked = marked(ttl=ttl)
    bound = bound_of(asked, bound=100)

    assert bound.cache_write_tokens == bound.cache_write_1h_tokens == input_bound(asked)


@table_test(
    "asked",
    [
        body(),
        marked(),
        marked(ttl="5m"),
        body(prompt_cache_options={"ttl": "30m"}),
        body(messages=[{"role": "user", "content": 'say {"ttl": "1h"}'}]),
        body(tools=[{"function": {"parameters": {"properties": {"ttl": {"type": "string"}}}}}]),
    ],
)
def test_other_requests_have_no_one_hour_writes(asked):
    assert bound_of(asked, bound=100).cache_write_1h_tokens == 0


def test_a_cache_ttl_is_found_with_any_white_space():
    assert bound_of(b'{"cache_control":{"ttl":"1h"}}', bound=1).cache_write_1h_tokens
    assert bound_of(b'{"cache_control": {"ttl" :\n "1h"}}', bound=1).cache_write_1h_tokens


def test_most_of_takes_the_maximum_of_each_count():
    long, kept = (
        Usage(input_tokens=90, output_tokens=5),
        Usage(input_tokens=7, cache_write_tokens=7),
    )
    assert most_of(long, kept) == Usage(input_tokens=90, output_tokens=5, cache_write_tokens=7)
    assert most_of(long, None, kept) is None
