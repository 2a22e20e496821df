import json

from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.cache.memory import cache_key

SECRET = b"s" * 32
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.7}


URL = "https://here.example/v1"


def key(body=BODY, *, secret=SECRET, base_url=URL, endpoint="chat/completions", api_key="k"):
    return cache_key(secret, base_url, endpoint, json.dumps(body).encode(), api_key)


@table_test(
    "other",
    [
        key({**BODY, "model": "n"}),
        key({**BODY, "temperature": 0.8}),
        key({**BODY, "messages": [{"role": "user", "content": "ho"}]}),
        key(api_key="l"),
        key(api_key=None),
        key(endpoint="responses"),
        key(base_url="https://there.example/v1"),
        key(secret=b"t" * 32),
    ],
)
def test_every_input_of_an_answer_changes_its_cache_key(other):
    assert other != key()


@table_test(
    "same",
    [
        key(dict(reversed(BODY.items()))),
        key({**BODY, "stream": True, "stream_options": {"include_usage": True}}),
        key(endpoint="/chat/completions"),
        key(base_url=f"{URL}/"),
    ],
)
def test_key_order_and_streaming_do_not_change_the_cache_key(same):
    assert same == key()


def test_parts_of_a_cache_key_are_separated():
    assert key(endpoint="ab", api_key="c") != key(endpoint="a", api_key="bc")


@given(body=st.binary() | st.from_regex(rb'[\[{"0-9a-z:,\]}]*', fullmatch=True))
def test_cache_key_accepts_any_body(body):
    made = cache_key(SECRET, URL, "chat/completions", body, None)
    assert made is None or len(made) == 32
