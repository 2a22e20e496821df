import json
from base64 import b64encode

from hypothesis import example, given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.http import redact as echoes
from stormbreak.http.redact import redact
from stormbreak.llm.parsed_response import ParsedResponse
from stormbreak.types import Verdict

IMAGE = "data:image/png;base64," + b64encode(bytes(range(256)) * 40).decode()
KEY = "sk-canarykey123456789"
PROMPT = 'our secret "plan"\nfor the élysée'
ASKED = json.dumps(
    {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": PROMPT}]}
).encode()


def left_of(body, verdict=Verdict.INVALID, asked=ASKED):
    return redact(ParsedResponse(verdict), body, api_key=KEY, request_body=asked)[1]


@table_test("ascii_", [True, False])
@table_test(
    "error",
    [
        {"error": {"message": f"no such thing: {PROMPT}"}},
        {"error": {"message": ASKED.decode()}},
        {"error": {"message": json.dumps({"content": PROMPT}, ensure_ascii=False)}},
        {"error": {"message": f"Bearer {KEY} may not ask {PROMPT}", "param": [PROMPT]}},
    ],
)
def test_an_error_body_shows_neither_key_nor_prompt(error, ascii_):
    body = left_of(json.dumps(error, ensure_ascii=ascii_).encode()).decode()

    assert KEY not in body
    assert "secret" not in body
    assert "plan" not in body
    assert json.loads(body)["error"]


def test_text_that_is_not_an_echo_is_kept():
    body = b'{"error": {"message": "The model gpt-4.1-mini does not exist", "role": "user"}}'

    assert left_of(body) == body


def test_a_placeholder_key_is_not_redacted():
    """Guides of local servers use it, and it occurs in unrelated texts."""
    reading = ParsedResponse(Verdict.INVALID, code="anything_is_missing")
    body = b'{"error": {"message": "anything is missing"}}'

    assert redact(reading, body, api_key="anything", request_body=ASKED) == (reading, body)


@given(st.text(min_size=8), st.booleans(), st.sampled_from(["", IMAGE]))
@example('"000000Ä', False, "")  # found: a lone backslash was left, which is not JSON
@example("Straßenbahnhaltestelle", True, IMAGE)
def test_any_prompt_is_redacted_to_valid_json(prompt, ascii_, beside):
    messages = [{"content": prompt}, {"content": beside}]
    asked = json.dumps({"messages": messages}).encode(errors="surrogatepass")
    error = json.dumps({"error": f"<{prompt}>"}, ensure_ascii=ascii_)
    body = left_of(error.encode(errors="replace"), asked=asked)

    if "\\ud" not in json.dumps(prompt):
        assert json.loads(body) == {"error": "<[...]>"}


@table_test("ascii_", [True, False])
@table_test("word", ["Donaudampfschiff", "Straßenbahnhaltestelle", "незабываемыйдень"])
@table_test("beside", ["", IMAGE])
def test_a_long_word_of_the_prompt_is_redacted(word, beside, ascii_):
    asked = json.dumps({"messages": [{"content": f"(so {word}) {beside}"}]}).encode()
    body = json.dumps({"error": f"no {word}!"}, ensure_ascii=ascii_).encode()
    assert json.loads(left_of(body, asked=asked)) == {"error": "no [...]!"}


def test_texts_that_cannot_occur_in_an_error_are_not_searched(monkeypatch):
    """Found: an image has a hundred thousand words, and each failed attempt blocked its loop for a second."""
    looked_for = []
    monkeypatch.setattr(echoes, "_forms", lambda text: looked_for.append(text) or {text.encode()})
    asked = json.dumps({"messages": [{"content": IMAGE}, {"content": PROMPT}]}).encode()
    left_of(b'{"error": "the server is overloaded"}', asked=asked)
    assert looked_for == []


@given(st.binary(), st.binary())
def test_redact_accepts_any_bytes(body, asked):
    left_of(body, asked=asked)


def test_an_oversized_error_body_is_dropped():
    assert left_of(b"x" * 70_000) == b""
