import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.batch.store.output_line import (
    Failure,
    Response,
    count_lines,
    entries,
    failure_line,
    success_line,
)
from stormbreak.batch.store.reader import read_answers
from stormbreak.errors import ConfigurationError
from stormbreak.types import Verdict

FAILURE = Failure(
    code="rate_limit", message="429", verdict=Verdict.THROTTLED, attempts=20, retry_at=17.5
)


def answered(body, custom_id="a"):
    line = success_line(custom_id, Response(status_code=200, request_id="req", body=body))
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    return line


def test_success_line_uses_the_openai_batch_output_format():
    line = json.loads(answered(b'{"choices":[]}'))
    assert line.pop("id").startswith("batch_req_")
    assert line == {
        "custom_id": "a",
        "response": {"status_code": 200, "request_id": "req", "body": {"choices": []}},
        "error": None,
    }


def test_failure_line_contains_error_verdict_attempts_and_response():
    response = Response(status_code=429, body=b'{"error":{"code":"rate_limit"}}')
    line = json.loads(failure_line("a", FAILURE, response))
    assert line["error"] == {
        "code": "rate_limit",
        "message": "429",
        "verdict": "throttled",
        "attempts": 20,
        "maybe_processed": 0,
        "retry_at": 17.5,
    }
    assert line["response"] == {
        "status_code": 429,
        "request_id": None,
        "body": {"error": {"code": "rate_limit"}},
    }
    assert json.loads(failure_line("a", FAILURE))["response"] is None


def test_every_line_has_a_unique_id():
    assert len({json.loads(answered(b"{}"))["id"] for _ in range(100)}) == 100


def test_a_body_is_written_byte_for_byte():
    body = b'{ "n": 1.50e0, "s": "\\u00e9\\n" }'
    assert body in answered(body)


@table_test("newline", [b"\n", b"\r\n", b"\r"])
def test_a_multiline_body_loses_only_its_whitespace(newline):
    body = newline.join([b"{", b'  "n": 1.50e0,', b'  "s": "a \\n b"', b"}"])
    assert b'{"n":1.50e0,"s":"a \\n b"}' in answered(body)


@table_test(
    ("body", "kept"),
    [
        (b"", None),
        (b"<html>\n502</html>", "<html>\n502</html>"),
        (b'{"cut": "of', '{"cut": "of'),
        (b'{"a": "\xff"}', '{"a": "\ufffd"}'),
        (b"{} {}", "{} {}"),
        (b"1,2", "1,2"),
        (b" \t", " \t"),
        (b'{"text": "half \\ud83d"}', {"text": "half ?"}),
        (b'{"nan": NaN}', '{"nan": NaN}'),
        (b'{"n": 1e999, "s": "1e999", "m": -1E+400}', {"n": "1e999", "s": "1e999", "m": "-1E+400"}),
        (b'{"n": %b, "m": 1.5e0}' % (b"7" * 5000), {"n": "7" * 5000, "m": 1.5}),
        (b'[-%b, "\\ud83d\\n"]' % (b"7" * 5000), ["-" + "7" * 5000, "?\n"]),
        (b"1" * 4300, int("1" * 4300)),
        (b'{"n": 1e999', '{"n": 1e999'),
        (b"1e999.5-", "1e999.5-"),
        (b"[" * 501 + b"]" * 501, "[" * 501 + "]" * 501),
        (b"[" * 100_000, "[" * 100_000),
    ],
)
def test_a_body_that_is_not_portable_json_becomes_a_string_or_is_repaired(body, kept, tmp_path):
    line = answered(body)
    assert json.loads(line)["response"]["body"] == kept
    (tmp_path / "out").write_bytes(line + line)
    assert len(list(entries(tmp_path / "out"))) == 2


@pytest.mark.parametrize("size", [0, 2**20])
def test_only_numbers_too_large_for_a_reader_are_quoted(tmp_path, size):
    """Also in a large body, which is not decoded as a whole."""
    text = b"1e999 \\" + b'"' + b"a" * size
    body = b'{"t": "%b", "n": %b, "ok": 1.50e+00, "tiny": 1e-999}' % (text, b"9" * 5000)
    kept = b'{"t": "%b", "n": "%b", "ok": 1.50e+00, "tiny": 1e-999}' % (text, b"9" * 5000)
    line = answered(body)
    assert kept in line
    (tmp_path / "out").write_bytes(line)
    (read,) = read_answers(tmp_path / "out")
    assert read.json() == json.loads(kept)
    assert body.replace(b"9" * 5000, b"9" * 300) in answered(body.replace(b"9" * 5000, b"9" * 300))


def test_a_body_full_of_quotes_is_written_in_linear_time():
    body = b'{"n": 1e999, "s": "' + b'\\"' * 200_000
    assert json.loads(answered(body))["response"]["body"].startswith('{"n": 1e999')


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=1), st.binary(max_size=50))
def test_written_lines_can_be_read_back(tmp_path_factory, custom_id, body):
    path = tmp_path_factory.getbasetemp() / "any"
    response = Response(status_code=500, body=body)
    path.write_bytes(answered(body, custom_id) + failure_line(custom_id, FAILURE, response))
    first, second = entries(path)
    assert (first.custom_id, first.verdict) == (custom_id, None)
    assert (second.custom_id, second.verdict) == (custom_id, "throttled")
    assert (second.number, second.offset, second.end) == (2, first.end, path.stat().st_size)


@table_test("torn", [b"", b"\0" * 50, b'{"id":"x","cus', b"\n", b"not JSON\n", b"\xff"])
def test_a_torn_last_line_is_ignored(tmp_path, torn):
    whole = [answered(b"{}") for _ in range(3)]
    (tmp_path / "out").write_bytes(b"".join(whole) + torn)
    assert [entry.raw for entry in entries(tmp_path / "out")] == whole


@pytest.mark.parametrize("broken", [b"\0" * 50, b"{}", b"", b"[]", b'{"custom_id":5,"error":null}'])
def test_a_broken_line_before_the_last_is_an_error(tmp_path, broken):
    (tmp_path / "out").write_bytes(answered(b"{}") + broken + b"\n" + answered(b"{}"))
    with pytest.raises(ConfigurationError, match=r"out:2: not a line of batch output"):
        list(entries(tmp_path / "out"))


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_last_line_in_another_format_is_an_error(tmp_path, end):
    (tmp_path / "out").write_bytes(answered(b"{}") + b'{"prompt":"x"}' + end)
    with pytest.raises(ConfigurationError, match=r"out:2: not a line of batch output"):
        list(entries(tmp_path / "out"))


def test_a_missing_file_has_no_lines_and_a_directory_is_an_error(tmp_path):
    assert list(entries(tmp_path / "none")) == []
    assert count_lines(tmp_path / "none") == 0
    for read in (lambda path: list(entries(path)), count_lines):
        with pytest.raises(ConfigurationError, match="is a directory"):
            read(tmp_path)


def test_lone_surrogates_in_metadata_are_replaced():
    response = Response(
        status_code=200, request_id="req \udcff", answered_by="p/\udcff", body=b"{}"
    )
    line = json.loads(success_line("a", response))
    assert (line["response"]["request_id"], line["answered_by"]) == ("req ?", "p/?")
    line = json.loads(failure_line("a", replace(FAILURE, message="\udcff")))
    assert (line["error"]["message"], line["error"]["retry_at"]) == ("?", 17.5)


def test_the_repr_of_a_response_hides_its_body():
    assert "secret" not in repr(Response(status_code=200, body=b"secret"))


def test_lines_of_earlier_versions_with_a_large_number_are_read(tmp_path):
    big, path = b"9" * 5000, tmp_path / "out"
    body = b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}],"created":%b}' % big
    path.write_bytes(answered(b"{}").replace(b"{}", body, 1))
    assert [entry.custom_id for entry in entries(path)] == ["a"]
    (read,) = read_answers(path)
    assert read.text == "hi"
    assert read.json()["created"] == big.decode()


@pytest.mark.parametrize("response", [b'"text"', b'{"status_code":%b}' % (b"9" * 5000)])
def test_read_answers_names_a_malformed_line(tmp_path, response):
    line = b'{"custom_id":"a","response":%b,"error":null}\n' % response
    (tmp_path / "out").write_bytes(answered(b"{}") + line)
    with pytest.raises(ConfigurationError, match=r"out:2: not a line of batch output"):
        list(read_answers(tmp_path / "out"))
