"""Anthropic's Messages API, plain and streamed: complete means a stop_reason and, streamed, message_stop."""

from readings import Reader
from streamed import MESSAGE_USAGE, PING, event, message, typed, whole_message
from table_test import table_test

from stormbreak.llm.endpoints import Shape
from stormbreak.types import Usage, Verdict

TEXTS = ["Hé", "llo"]
STREAM = message(TEXTS)
READER = Reader(Shape.MESSAGES)
COUNTED = Usage(input_tokens=9, output_tokens=2, cached_input_tokens=4)


def block(index, start, *deltas):
    return [
        typed("content_block_start", index=index, content_block=start),
        *(typed("content_block_delta", index=index, delta=delta) for delta in deltas),
        typed("content_block_stop", index=index),
    ]


def test_a_plain_message_is_read():
    READER.check_plain(whole_message(TEXTS), "Héllo", "end_turn", COUNTED)


def test_a_stream_is_assembled_to_the_plain_message():
    READER.check_becomes(STREAM, whole_message(TEXTS))


@table_test("reason", ["max_tokens", "tool_use", "refusal", "pause_turn"])
def test_a_message_that_stopped_early_is_ok(reason):
    assert READER.plain(whole_message(TEXTS, reason)).finish_reason == reason
    assert READER.streamed(*message(TEXTS, reason))[0].finish_reason == reason


@table_test(
    ("change", "detail"),
    [
        ({"stop_reason": None}, "no stop_reason"),
        ({"stop_reason": ""}, "no stop_reason"),
        ({"content": None}, "no content"),
        ({"content": "x"}, "not a message"),
        ({"stop_reason": 5}, "not a message"),
    ],
)
def test_an_incomplete_plain_message_is_broken(change, detail):
    READER.check_none(whole_message(TEXTS) | change, detail)


@table_test("usage", [None, {}, {"output_tokens": None}, {"input_tokens": 5}])
def test_usage_without_final_counts_is_unknown(usage):
    end = typed("message_delta", delta={"stop_reason": "end_turn"}, usage=usage)
    uncounted = [*STREAM[:-2], end, STREAM[-1]]

    assert READER.streamed(*STREAM)[0].usage == COUNTED
    assert READER.streamed(*uncounted)[0].usage == Usage()


def test_thinking_tools_and_citations_are_assembled():
    tool = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    blocks = [
        *block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "Hm"},
            {"type": "thinking_delta", "thinking": "m"},
            {"type": "signature_delta", "signature": "c2ln"},
        ),
        *block(
            1,
            {"type": "text", "text": ""},
            {"type": "text_delta", "text": "See"},
            {"type": "citations_delta", "citation": {"cited_text": "a"}},
            {"type": "citations_delta", "citation": {"cited_text": "b"}},
        ),
        *block(
            2,
            tool,
            {"type": "input_json_delta", "partial_json": ""},
            {"type": "input_json_delta", "partial_json": '{"a": '},
            {"type": "input_json_delta", "partial_json": "[1]}"},
        ),
        *block(3, tool),
        *block(4, tool, {"type": "input_json_delta", "partial_json": '{"a'}),
    ]
    _, body = READER.streamed(STREAM[0], *blocks, *STREAM[-2:])
    assert body["content"] == [
        {"type": "thinking", "thinking": "Hmm", "signature": "c2ln"},
        {"type": "text", "text": "See", "citations": [{"cited_text": "a"}, {"cited_text": "b"}]},
        tool | {"input": {"a": [1]}},
        tool,
        tool | {"input": {"INVALID_JSON": '{"a'}},
    ]


@table_test("left", range(len(STREAM)))
def test_a_stream_without_its_end_is_broken(left):
    READER.check_cut(STREAM[:left])


@table_test(
    ("events", "detail"),
    [
        (STREAM[1:], "not a part of a message"),
        (STREAM[:-2] + STREAM[-1:], "stream ended without stop_reason"),
        (STREAM[:-1], "stream ended without message_stop"),
        ([PING, STREAM[-1]], "stream ended without message_start"),
        (STREAM[:1] + STREAM, "not a part of a message"),
        (STREAM[:4] + STREAM, "not a part of a message"),  # a second stream begins
        (STREAM[:1] + STREAM[3:], "not a part of a message"),  # the start of a block is missing
    ],
)
def test_missing_and_extra_events_are_reported(events, detail):
    assert READER.streamed(*events)[0].detail == detail


@table_test("before", range(len(STREAM) - 1))
def test_an_error_event_counts_as_the_error_it_names(before):
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}
    reading, body = READER.streamed(*STREAM[:before], event(error, "error"))
    assert (reading.verdict, reading.code) == (Verdict.OVERLOADED, "overloaded_error")
    assert body == error


def test_events_after_the_end_change_nothing():
    error = event({"type": "error", "error": {"type": "overloaded_error"}}, "error")
    assert READER.streamed(*STREAM, error) == READER.streamed(*STREAM)


def test_the_first_output_is_content():
    READER.check_first_output(STREAM, before=3, after=5)


@table_test(
    ("start", "output"),
    [
        ({"type": "text", "text": ""}, False),
        ({"type": "thinking", "thinking": ""}, False),
        ({"type": "tool_use", "id": "t", "name": "look", "input": {}}, True),
        ({"type": "redacted_thinking", "data": "x"}, True),
    ],
)
def test_a_block_that_begins_with_content_is_output(start, output):
    begun = typed("content_block_start", index=0, content_block=start)
    assert READER.fed(STREAM[0], begun)[0].first_output is output


@table_test(
    "odd",
    [
        typed("content_block_delta", index=0, delta={"type": "text_delta", "text": 5}),
        typed("content_block_delta", index=0, delta={"partial_json": 5}),
        typed("content_block_delta", index="0", delta={"type": "text_delta", "text": "x"}),
        typed("content_block_delta", index=0, delta="x"),
        typed("message_delta", delta={"stop_reason": 5}),
        typed("message_delta", delta={}, usage="x"),
        event([], "message_delta"),
    ],
)
def test_a_malformed_event_breaks_the_stream(odd):
    READER.check_malformed([*STREAM[:4], odd, *STREAM[4:]], "not a part of a message")


def test_unknown_events_are_ignored():
    new = typed("new_kind", x=1)
    assert READER.streamed(*STREAM[:4], new, *STREAM[4:]) == READER.streamed(*STREAM)


def test_usage_covers_the_whole_stream():
    assert READER.streamed(*STREAM)[1]["usage"] == MESSAGE_USAGE
    assert READER.streamed(*STREAM)[0].usage == COUNTED
