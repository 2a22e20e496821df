"""The Responses API, plain and streamed: only `completed` and `incomplete` are complete."""

import json

from readings import Reader
from streamed import event, response, typed, whole_response
from table_test import table_test

from stormbreak.llm.endpoints import Shape, shape_of
from stormbreak.types import TREATMENTS, Usage, Verdict

TEXTS = ["Hé", "llo"]
STREAM = response(TEXTS)
READER = Reader(Shape.RESPONSES)
CUT = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}


def test_a_plain_response_is_read():
    counted = Usage(input_tokens=9, output_tokens=2, cached_input_tokens=4)
    READER.check_plain(whole_response(TEXTS), "Héllo", "completed", counted)


def test_only_the_text_of_messages_is_the_answer():
    output = [
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]},
        {"type": "message", "content": [{"type": "refusal", "refusal": "No"}, 5]},
        {"type": "message", "content": [{"type": "output_text", "text": "a"}]},
        {"type": "function_call", "name": "f", "arguments": "{}"},
        {"type": "message", "content": [{"type": "output_text", "text": "b"}]},
    ]
    assert READER.plain(whole_response([]) | {"output": output}).text == "ab"


def test_a_response_that_ended_early_is_ok():
    reading = READER.plain(whole_response(TEXTS) | CUT)
    assert (reading.verdict, reading.finish_reason) == (Verdict.OK, "max_output_tokens")
    reading, _ = READER.streamed(*response(TEXTS, **CUT))
    assert (reading.verdict, reading.finish_reason) == (Verdict.OK, "max_output_tokens")


@table_test(
    ("change", "detail"),
    [
        ({"status": None}, "no status"),
        ({"status": "new"}, "no status"),
        ({"output": None}, "no output"),
        ({"output": "x"}, "not a response"),
        ({"status": 5}, "not a response"),
    ],
)
def test_an_incomplete_plain_response_is_broken(change, detail):
    READER.check_none(whole_response(TEXTS) | change, detail)


@table_test("status", ["queued", "in_progress"])
def test_a_background_response_is_not_retried(status):
    reading = READER.plain(whole_response([], status))
    assert not TREATMENTS[reading.verdict].retry
    assert reading.maybe_processed


def test_a_failed_response_is_the_error_it_names():
    error = {"code": "rate_limit_exceeded", "message": "try again in 2s"}
    reading = READER.plain(whole_response([], "failed", error=error))
    assert (reading.verdict, reading.retry_after) == (Verdict.THROTTLED, 2.0)
    assert READER.plain(whole_response([], "failed")).verdict is Verdict.SERVER_ERROR
    reading, _ = READER.streamed(*response([], "failed", error=error))
    assert (reading.verdict, reading.retry_after) == (Verdict.THROTTLED, 2.0)
    assert READER.streamed(*response([], "failed"))[0].verdict is Verdict.SERVER_ERROR


def test_a_stream_is_assembled_to_the_plain_response():
    READER.check_becomes(STREAM, whole_response(TEXTS))


def test_an_output_missing_at_the_end_is_filled_from_its_items():
    emptied = typed("response.completed", response=whole_response(TEXTS) | {"output": []})
    assert READER.streamed(*STREAM[:-1], emptied)[1] == whole_response(TEXTS)
    assert READER.streamed(STREAM[0], emptied)[1]["output"] == []


@table_test("left", range(len(STREAM)))
def test_a_stream_without_its_end_is_broken(left):
    READER.check_cut(STREAM[:left])


@table_test(
    "error",
    [
        {"type": "error", "code": "insufficient_quota", "message": "x", "param": None},
        {"type": "error", "error": {"type": "insufficient_quota", "message": "x"}},
    ],
)
@table_test("before", range(len(STREAM) - 1))
def test_an_error_event_counts_as_the_error_it_names(error, before):
    """`response.created` comes first, then the error: no output yet, so a fallback may follow."""
    assembler, _ = READER.fed(*STREAM[:before], event(error, "error"))
    reading, body = assembler.end()
    assert (reading.verdict, reading.code) == (Verdict.BILLING, "insufficient_quota")
    assert json.loads(body) == error
    assert assembler.first_output is (before > 4)


def test_the_first_output_is_a_delta():
    READER.check_first_output(STREAM, before=4, after=5)


@table_test(
    "odd",
    [
        event({"no": "type"}),
        event([]),
        STREAM[0],  # a second stream begins
        typed("response.completed", response="x"),
        typed("response.completed"),
        typed("response.completed", response=whole_response([], "in_progress")),
        typed("response.completed", response=whole_response([]) | {"output": "x"}),
        typed("response.output_item.done", output_index="x", item={}),
    ],
)
def test_a_malformed_event_breaks_the_stream(odd):
    READER.check_malformed([*STREAM[:5], odd, *STREAM[5:]], "not a part of a response")


@table_test(
    ("endpoint", "shape"),
    [
        ("/v1/responses", Shape.RESPONSES),
        ("responses?x=1", Shape.RESPONSES),
        ("https://api.anthropic.com/v1/messages", Shape.MESSAGES),
        ("/messages/", Shape.MESSAGES),
        ("/v1/messages/count_tokens", Shape.JSON),
        ("/v1/messages/batches", Shape.JSON),
        ("/v1/threads/t_1/messages", Shape.JSON),
        ("/v1/responses/resp_1", Shape.JSON),
    ],
)
def test_each_endpoint_has_its_shape(endpoint, shape):
    assert shape_of(endpoint) is shape
