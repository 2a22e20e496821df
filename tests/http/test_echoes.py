import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stormbreak.http.echoes import without_echoes
from stormbreak.llm.reading import Reading
from stormbreak.types import Verdict

KEY = "sk-canarykey123456789"
PROMPT = 'our secret "plan"\nfor the élysée'
ASKED = json.dumps(
    {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": PROMPT}]}
).encode()


def left_of(body, verdict=Verdict.INVALID, asked=ASKED):
    return without_echoes(Reading(verdict), body, api_key=KEY, asked=asked)[1]


@pytest.mark.parametrize("ascii_", [True, False])
@pytest.mark.parametrize(
    "said",
    [
        {"error": {"message": f"no such thing: {PROMPT}"}},
        {"error": {"message": ASKED.decode()}},
        {"error": {"message": json.dumps({"content": PROMPT}, ensure_ascii=False)}},
        {"error": {"message": f"Bearer {KEY} may not ask {PROMPT}", "param": [PROMPT]}},
    ],
)
def test_an_error_body_repeats_neither_key_nor_prompt(said, ascii_):
    body = left_of(json.dumps(said, ensure_ascii=ascii_).encode()).decode()

    assert KEY not in body
    assert "secret" not in body
    assert "plan" not in body
    assert json.loads(body)["error"]


def test_what_is_no_echo_stays():
    body = b'{"error": {"message": "The model gpt-4.1-mini does not exist", "role": "user"}}'

    assert left_of(body) == body


def test_an_answer_may_quote_the_prompt_but_never_the_key():
    body = json.dumps({"choices": [{"message": {"content": f"{PROMPT} {KEY}"}}]}).encode()
    reading, left = without_echoes(
        Reading(Verdict.OK, text=f"{PROMPT} {KEY}"), body, api_key=KEY, asked=ASKED
    )

    assert json.loads(left)["choices"][0]["message"]["content"] == f"{PROMPT} [...]"
    assert reading.text == f"{PROMPT} [...]"


@given(st.text(min_size=8), st.booleans())
@example('"000000Ä', False)  # found: what was left of it, a lone backslash, was no JSON
def test_whatever_the_prompt_is(prompt, ascii_):
    asked = json.dumps({"messages": [{"content": prompt}]}).encode(errors="surrogatepass")
    said = json.dumps({"error": f"<{prompt}>"}, ensure_ascii=ascii_)
    body = left_of(said.encode(errors="replace"), asked=asked)

    if "\\ud" not in json.dumps(prompt):
        assert json.loads(body) == {"error": "<[...]>"}


@given(st.binary(), st.binary())
def test_no_bytes_raise(body, asked):
    left_of(body, asked=asked)


def test_an_endless_failure_is_not_kept():
    assert left_of(b"x" * 70_000) == b""
