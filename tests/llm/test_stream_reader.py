"""Law 15 for streams: complete means that every choice has a finish reason."""

import json
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.llm import stream_reader as module
from stormbreak.llm.endpoints import Shape
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.llm.response_verdict import read_answer
from stormbreak.llm.sse import LINE_LIMIT
from stormbreak.llm.stream_reader import StreamAssembler
from stormbreak.types import Usage, Verdict

DONE = b"data: [DONE]\n\n"
HEADERS = {"content-type": "text/event-stream", "x-request-id": "req_1"}


def event(value, newline=b"\n"):
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + newline * 2


def delta(content=None, finish_reason=None, index=0, **fields):
    fields |= {} if content is None else {"content": content}
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "choices": [{"index": index, "delta": fields, "finish_reason": finish_reason}],
    }


USAGE = {"id": "c", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
EVENTS = [
    event(e)
    for e in (delta("", role="assistant"), delta("Hé"), delta("llo"), delta(None, "stop"), USAGE)
]
STREAM = b"".join([*EVENTS, DONE])


def read(*chunks, shape=Shape.CHAT, **options):
    assembler = StreamAssembler(shape, **{"headers": HEADERS} | options)
    for chunk in chunks:
        assembler.feed(chunk)
    return assembler.end()


def split(stream, size):
    return [stream[at : at + size] for at in range(0, len(stream), size)]


def test_a_stream_is_assembled_to_the_plain_answer():
    reading, body = read(STREAM)
    assert reading.verdict is Verdict.OK
    assert (reading.text, reading.finish_reason, reading.request_id) == ("Héllo", "stop", "req_1")
    assert reading.usage == Usage(input_tokens=3, output_tokens=2)
    assert json.loads(body) == {
        "id": "c",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Héllo"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE["usage"],
    }
    assert read_answer(HttpResponse(200, HEADERS, body, 0.0), Shape.CHAT) == reading


@table_test("newline", [b"\n", b"\r", b"\r\n"])
@table_test("size", [1, 7, 4096])
def test_line_ends_comments_and_chunk_sizes_change_nothing(newline, size):
    noisy = b"\xef\xbb\xbf: hello\n\n" + STREAM.replace(b"data: [", b": ping\n\nid: 5\ndata:[")
    assert read(*split(noisy.replace(b"\n", newline), size)) == read(STREAM)


def test_an_event_may_have_several_lines():
    lines = json.dumps(delta("Hi", "stop"), indent=1).encode().split(b"\n")
    reading, _ = read(b"".join(b"data: " + line + b"\n" for line in lines) + b"\n")
    assert (reading.verdict, reading.text) == (Verdict.OK, "Hi")


def test_a_stream_with_its_finish_reasons_needs_no_done():
    assert read(b"".join(EVENTS)) == read(STREAM)
    reading, _ = read(b"".join(EVENTS[:-1]))
    assert (reading.verdict, reading.usage) == (Verdict.OK, Usage())


@table_test(
    ("stream", "detail"),
    [
        (b"".join(EVENTS[:3]), "stream ended without finish_reason"),
        (b"".join(EVENTS[:3]) + DONE, "stream ended without finish_reason"),
        (DONE, "stream ended without finish_reason"),
        (event(USAGE), "stream ended without finish_reason"),
        (b": ping\n\n", "stream ended without finish_reason"),
        (b"Internal error", "stream cut inside an event"),
        (b"Internal error\n", "stream cut inside an event"),
        (
            event(delta("a", "stop")) + event(delta("b", index=1)),
            "stream ended without finish_reason",
        ),
        (EVENTS[0] + b'data: {"id": \n\n', "invalid json in an event"),
        (EVENTS[0] + b"data: \xff\n\n", "invalid json in an event"),
        (EVENTS[0] + b"data: " + b"[" * 100_000 + b"\n\n", "invalid json in an event"),
        (event(5), "not a part of a chat completion"),
        (event([delta("a", "stop")]), "not a part of a chat completion"),
        (event({"choices": [5]}), "not a part of a chat completion"),
        (b"data: " + b"x" * LINE_LIMIT + b"\n\n", "a line of the stream is too long"),
        (b"", "empty body"),
        (b"\r\n\r\n", "empty body"),
    ],
)
@table_test("size", [7, 1 << 22])
def test_each_broken_stream_has_its_detail(stream, detail, size):
    reading, body = read(*split(stream, max(size, len(stream) // 10_000)))
    assert (reading.verdict, reading.detail, reading.request_id) == (
        Verdict.BROKEN,
        detail,
        "req_1",
    )
    assert reading.maybe_processed
    assert not body.strip()


def test_as_many_choices_as_requested_must_finish():
    one = event(delta("a", "stop")) + DONE
    both = event(delta("a", "stop")) + event(delta("b", "stop", index=1)) + DONE
    cut = one.removesuffix(DONE)
    assert read(cut, choices=2)[0].verdict is Verdict.BROKEN
    assert read(both, choices=2)[0].detail is None


def test_a_plain_answer_to_a_streaming_request_must_be_whole():
    one = b'{"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}'
    assert read(one, choices=2)[0].detail == "1 of 2 choices"
    vectors = b'{"data": [{"embedding": [0.1]}]}'
    assert read(vectors, shape=Shape.EMBEDDINGS, inputs=2)[0].detail == "1 of 2 embeddings"


def test_a_stream_without_text_is_an_empty_message():
    for first in (delta(role="assistant"), delta("", role="assistant")):
        reading, _ = read(event(first) + event(delta(None, "stop")) + DONE)
        assert (reading.verdict, reading.text) == (Verdict.OK, "")


@table_test(
    ("error", "verdict", "code"),
    [
        (
            {"error": {"code": "server_is_overloaded", "message": "x"}},
            Verdict.OVERLOADED,
            "server_is_overloaded",
        ),
        ({"error": {"type": "insufficient_quota"}}, Verdict.BILLING, "insufficient_quota"),
        ({"error": {"code": 429, "message": "try again in 2s"}}, Verdict.THROTTLED, "429"),
        ({"error": {"code": 502}, **delta("", "error")}, Verdict.SERVER_ERROR, "502"),
        ({"error": "boom"}, Verdict.SERVER_ERROR, None),
        ({"type": "error", "code": "insufficient_quota"}, Verdict.BILLING, "insufficient_quota"),
    ],
)
@table_test("before", [0, 2, 5])
def test_an_error_event_counts_as_the_error_it_names(error, verdict, code, before):
    reading, body = read(b"".join(EVENTS[:before]) + event(error) + DONE)
    assert (reading.verdict, reading.code, reading.request_id) == (verdict, code, "req_1")
    assert json.loads(body) == error
    assert reading.retry_after == (2.0 if verdict is Verdict.THROTTLED else None)


def test_an_event_named_error_is_an_error_in_any_form():
    reading, _ = read(EVENTS[0] + b"event: error\n" + event({"code": "slow_down", "message": "x"}))
    assert (reading.verdict, reading.code) == (Verdict.THROTTLED, "slow_down")


def test_a_choice_that_ended_in_an_error_is_an_error():
    reading, body = read(event(delta("a")) + event(delta(None, "error")) + DONE)
    assert (reading.verdict, body) == (Verdict.SERVER_ERROR, b"")


@table_test("size", [1, 4096])
def test_a_plain_answer_to_a_streaming_request_is_read(size):
    _, body = read(STREAM)
    whole = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}
    for status, plain, verdict in (
        (200, body, Verdict.OK),
        (200, json.dumps(whole, indent=1).encode(), Verdict.OK),
        (200, body[:-1], Verdict.BROKEN),
        (200, b"<html>busy</html>", Verdict.BROKEN),
        (200, b'{"error": {"code": 503}}', Verdict.OVERLOADED),
        (200, b"[]", Verdict.BROKEN),
        (429, b'{"error": {"code": "insufficient_quota"}}', Verdict.BILLING),
        (503, b"data: busy\n\n", Verdict.OVERLOADED),
        (502, b"", Verdict.SERVER_ERROR),
    ):
        reading, returned = read(*split(plain, size), status=status)
        assert (reading.verdict, returned) == (verdict, plain)
        assert reading == read_answer(HttpResponse(status, HEADERS, plain, 0.0), Shape.CHAT)


def test_a_stream_of_another_shape_is_final():
    for shape in (Shape.JSON, Shape.EMBEDDINGS):
        reading, body = read(STREAM, shape=shape)
        assert (reading.verdict, body) == (Verdict.INVALID, b"")
        assert reading.detail == f"a stream cannot be made into a {shape.value}"
    assert read(b'{"id": "r"}', shape=Shape.JSON)[0].verdict is Verdict.OK


def test_a_stream_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "TOTAL_LIMIT", len(STREAM))
    assert read(STREAM)[0].verdict is Verdict.OK
    reading, body = read(b"\n", STREAM)
    assert (reading.verdict, body) == (Verdict.BROKEN, b"")
    assert reading.detail == f"longer than {len(STREAM)} bytes"
    assert read(b"{", b" " * len(STREAM), status=500)[0].verdict is Verdict.BROKEN


def test_the_first_output_and_the_end_are_detected():
    assembler = StreamAssembler(Shape.CHAT)
    seen = []
    for chunk in (*EVENTS, DONE, b"data: garbage\n\n"):
        assembler.feed(chunk)
        seen.append((assembler.first_output, assembler.over))
    assert seen == [(False, False)] + [(True, False)] * 4 + [(True, True)] * 2
    assert assembler.end() == assembler.end()
    assert assembler.end()[0].verdict is Verdict.OK


def test_a_failure_ends_the_stream():
    assembler = StreamAssembler(Shape.CHAT)
    assembler.feed(b"data: {\n\n")
    assert assembler.over
    assembler.feed(STREAM)
    assert assembler.end()[0].verdict is Verdict.BROKEN


def test_a_stream_in_tiny_pieces_takes_linear_time():
    text = "x" * 2000
    reading, _ = read(*split(event(delta(text)) * 200 + event(delta(None, "stop")), 7))
    assert reading.text == text * 200


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
PIECES = st.lists(TEXT, min_size=1, max_size=4)


@st.composite
def completions(draw):
    """Draw a completion, its chunks, and the number of its choices."""
    choices, chunks = [], []
    for index in range(draw(st.integers(1, 3))):
        content, calls = draw(PIECES), draw(st.lists(st.tuples(TEXT, PIECES), max_size=2))
        reason = draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"]))
        message = {"role": "assistant", "content": "".join(content)}
        own = [
            delta("", role="assistant", index=index),
            *(delta(text, index=index) for text in content),
        ]
        for at, (name, arguments) in enumerate(calls):
            head = {"index": at, "id": f"call{at}", "type": "function", "function": {"name": name}}
            own.append(delta(index=index, tool_calls=[head]))
            own.extend(
                delta(index=index, tool_calls=[{"index": at, "function": {"arguments": piece}}])
                for piece in arguments
            )
            function = {"name": name, "arguments": "".join(arguments)}
            message.setdefault("tool_calls", []).append(
                {"id": f"call{at}", "type": "function", "function": function}
            )
        chunks.append([*own, delta(None, reason, index=index)])
        choices.append(
            {"index": index, "message": message, "logprobs": None, "finish_reason": reason}
        )
    whole = {"id": "c", "object": "chat.completion", "choices": choices, "usage": USAGE["usage"]}
    return whole, draw(interleaved(chunks)), len(choices)


@st.composite
def interleaved(draw, lists):
    lists, merged = [list(items) for items in lists], []
    while lists:
        at = draw(st.integers(0, len(lists) - 1))
        merged.append(lists[at].pop(0))
        lists = [items for items in lists if items]
    return merged


@settings(deadline=None)
@given(
    completions(),
    st.sampled_from([b"\n", b"\r", b"\r\n"]),
    st.lists(st.integers(0, 10_000), max_size=20),
)
def test_a_completion_in_any_pieces_is_assembled_again(drawn, newline, cuts):
    whole, chunks, choices = drawn
    stream = b"".join(event(chunk, newline) for chunk in [*chunks, USAGE]) + DONE
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(edges)]
    reading, body = read(*pieces, choices=choices)
    assert reading.verdict is (Verdict.FILTERED if is_filtered_whole(whole) else Verdict.OK)
    assert json.loads(body) == whole


def is_filtered_whole(completion):
    """Whether every choice was filtered, and none has any output."""
    return all(
        choice["finish_reason"] == "content_filter"
        and not (choice["message"]["content"] or choice["message"].get("tool_calls"))
        for choice in completion["choices"]
    )


@settings(deadline=None)
@given(completions(), st.integers(0, 10**9))
def test_a_stream_cut_before_its_last_finish_reason_is_never_ok(drawn, at):
    _, chunks, choices = drawn
    answer = b"".join(map(event, chunks))
    # The blank line after the event may be missing: the event is whole.
    cut = answer[: at % (len(answer) - 2)]
    reading, body = read(cut, choices=choices)
    assert (reading.verdict, body) == (Verdict.BROKEN, b"")


@table_test("at", range(len(b"".join(EVENTS[:-1])), len(STREAM)))
def test_a_cut_after_the_last_finish_reason_is_ok_between_events_only(at):
    """Only usage may be lost there, never a part of the answer."""
    reading, _ = read(STREAM[:at])
    rest = STREAM[len(b"".join(EVENTS[:-1])) : at].rstrip(b"\n")
    whole = rest in {b"", EVENTS[-1].rstrip(b"\n"), EVENTS[-1] + DONE.rstrip(b"\n")}
    assert (reading.verdict is Verdict.OK) is whole
    assert reading.text == ("Héllo" if whole else "")


@settings(deadline=None)
@given(
    st.lists(st.binary(max_size=40) | st.sampled_from([*EVENTS, DONE, b"data: ", b"\n\n", b"{}"])),
    st.sampled_from(Shape),
)
def test_no_stream_raises_and_splitting_changes_nothing(chunks, shape):
    reading, body = read(*chunks, shape=shape)
    assert (reading, body) == read(*split(b"".join(chunks), 1), shape=shape)
    if reading.verdict is Verdict.OK:
        assert read_answer(HttpResponse(200, HEADERS, body, 0.0), shape) == reading


def from_deeper_down(frames, call):
    return from_deeper_down(frames - 1, call) if frames else call()


def test_nesting_found_too_deep_at_the_end_does_not_raise():
    for depth in range(500, 1000, 5):
        assembler = StreamAssembler(Shape.CHAT)
        nested = "[" * depth + "]" * depth
        chunk = json.dumps(delta(None, "stop", extra="NESTED")).replace('"NESTED"', nested)
        assembler.feed(b"data: " + chunk.encode() + b"\n\n")
        reading, body = from_deeper_down(60, assembler.end)
        assert (reading.verdict is Verdict.OK) == bool(body)
        assert reading.verdict in {Verdict.OK, Verdict.BROKEN}


@table_test("error", [{}, {"message": "", "type": "", "code": None}])
def test_an_empty_error_object_is_no_error(error):
    events = [event(json.loads(e[6:]) | {"error": error}) for e in EVENTS]
    assert read(b"".join(events) + DONE) == read(STREAM)
    at_choice = delta("a", "stop")
    at_choice["choices"][0]["error"] = error
    assert read(event(at_choice) + DONE)[0].verdict is Verdict.OK
