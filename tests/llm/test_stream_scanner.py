"""A scanned stream gets the same verdict as an assembled one."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from streamed import DONE, PING, chat, chunk, event, message, response
from table_test import table_test

from stormbreak.llm import sse
from stormbreak.llm import stream_reader as module
from stormbreak.llm.chat import ChatWatcher
from stormbreak.llm.endpoints import Shape
from stormbreak.llm.messages import MessagesWatcher
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.llm.response_verdict import read_answer
from stormbreak.llm.responses import ResponsesWatcher
from stormbreak.llm.stream_reader import MAX_UNPARSED, StreamAssembler, StreamScanner
from stormbreak.types import Usage, Verdict

TEXTS = ["Hé", "llo", ' "finish_reason":"stop" ', "[DONE] error", "\n\n"]
STREAMS = {
    Shape.CHAT: chat(TEXTS),
    Shape.MESSAGES: message(TEXTS),
    Shape.RESPONSES: response(TEXTS),
}
HEADERS = {"x-request-id": "req_1"}
ERROR = event({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}, "error")
ERRORS = [
    ERROR,
    event({"error": {"code": 429, "message": "try again in 2s"}}),
    event({"type": "error", "code": "insufficient_quota", "message": "x"}),
    event({"code": "slow_down", "message": "x"}, "error"),
]
NOISE = [PING, b": keep-alive\n\n", b"id: 5\nretry: 10\n\n", b"\n\n", b"data:\n\n"]
COUNTED = Usage(input_tokens=9, output_tokens=2, cached_input_tokens=4)


def fed(kind, shape, *chunks, **options):
    reader = kind(shape, **{"headers": HEADERS} | options)
    for one in chunks:
        reader.feed(one)
    return reader


def scan(shape, *chunks, **options):
    return fed(StreamScanner, shape, *chunks, **options).end()[0]


def assembled(shape, *chunks, **options):
    return fed(StreamAssembler, shape, *chunks, **options).end()[0]


def pieces(stream, cuts):
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


def split(stream, size):
    return [stream[at : at + size] for at in range(0, len(stream), size)]


def summary_of(reading):
    """The values on which both must agree; details of failures may differ."""
    known = reading.verdict, reading.code, reading.retry_after, reading.request_id
    return (*known, reading.usage, reading.finish_reason)


@table_test("shape", STREAMS)
@table_test("newline", [b"\n", b"\r", b"\r\n"])
@table_test("size", [1, 7, 200, 1 << 20])
def test_a_whole_stream_is_ok_with_its_usage(shape, newline, size):
    noisy = b"\xef\xbb\xbf" + b"".join([*NOISE[1:4], *STREAMS[shape]])
    reading = scan(shape, *split(noisy.replace(b"\n", newline), size))
    assert summary_of(reading) == summary_of(assembled(shape, *STREAMS[shape]))
    assert (reading.verdict, reading.usage, reading.text) == (Verdict.OK, COUNTED, "")


@table_test("shape", STREAMS)
def test_a_stream_cut_between_events_is_broken(shape):
    """The end is a finish reason, message_stop or response.completed. In a chat, events after it may be missing."""
    events = STREAMS[shape]
    needed = len(events) - (2 if shape is Shape.CHAT else 0)
    for left in range(len(events) + 1):
        whole = left >= needed
        assert (scan(shape, *events[:left]).verdict is Verdict.OK) is whole
        assert (scan(shape, *events[:left], DONE).verdict is Verdict.OK) is whole


@table_test("shape", STREAMS)
def test_the_first_output_and_the_end_are_detected_at_once(shape):
    scanner, assembler = StreamScanner(shape), StreamAssembler(shape)
    for one in STREAMS[shape]:
        scanner.feed(one)
        assembler.feed(one)
        assert (scanner.first_output, scanner.over) == (assembler.first_output, assembler.over)
    assert scanner.first_output
    assert scanner.over
    scanner.feed(ERROR)
    assert scanner.end()[0].verdict is Verdict.OK


@table_test("shape", STREAMS)
@table_test("error", ERRORS)
@table_test("size", [7, 1 << 20])
def test_an_error_event_is_found_before_and_after_output(shape, error, size):
    for before in range(len(STREAMS[shape]) - 1):
        stream = b"".join([*STREAMS[shape][:before], error, *STREAMS[shape][before:]])
        scanner = fed(StreamScanner, shape, *split(stream, size))
        assert scanner.over
        assert scanner.failed
        assert not scanner.is_plain
        assert summary_of(scanner.end()[0]) == summary_of(assembled(shape, stream))
        assert scanner.end()[1] == fed(StreamAssembler, shape, stream).end()[1]
        assert scanner.end()[0].verdict not in {Verdict.OK, Verdict.BROKEN}


def test_the_end_is_found_among_other_events():
    """Also in one piece with later events, and in an event without other hints."""
    events = chat(["a"])
    assert fed(StreamScanner, Shape.CHAT, *events[:-1], DONE + events[1]).over
    terse = {"id": "r", "status": "completed", "output": [], "usage": {"input_tokens": 1}}
    last = event({"type": "response.completed", "response": terse}, "response.completed")
    events = response(["a", "b"])
    assert scan(Shape.RESPONSES, *events[:5], last).usage == Usage(input_tokens=1)
    events = message(["a", "b"])
    assert scan(Shape.MESSAGES, *events[:4], b"".join(events[4:]) + events[4]).verdict is Verdict.OK


def test_white_space_in_the_json_hides_nothing():
    spaced = [
        b'data: {"choices" : [{"index": 0, "delta": {"content": "x"}, "finish_reason": null}]}\n\n'
    ]
    last = [b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason" :\t"length"}]}\n\n']
    usage = [b'data: {"choices": [], "usage" : {"prompt_tokens": 3}}\n\n']
    reading = scan(Shape.CHAT, *spaced * 3, *last, *usage)
    assert (reading.verdict, reading.finish_reason) == (Verdict.OK, "length")
    assert reading.usage == Usage(input_tokens=3)
    assert scan(Shape.CHAT, *spaced * 3).verdict is Verdict.BROKEN
    assert scan(Shape.CHAT, *spaced, b'data: {"error" : "x"}\n\n').verdict is Verdict.SERVER_ERROR


def test_an_event_in_several_lines_is_read():
    lines = (
        b'data: {"choices": [{"index": 0, "delta": {},\ndata: "finish_reason":\ndata: "stop"}]}\n\n'
    )
    assert scan(Shape.CHAT, *chat(["a"])[:2], lines).verdict is Verdict.OK


def test_usage_with_every_chunk_is_decoded_once_and_the_last_counts(monkeypatch):
    def counted(content, tokens, reason=None):
        choice = {"index": 0, "delta": {"content": content}, "finish_reason": reason}
        return event(
            {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": tokens}}
        )

    first, *rest = [counted("x", tokens) for tokens in range(1, 100)]
    scanner = fed(StreamScanner, Shape.CHAT, first)
    monkeypatch.setattr(module, "decoded", None)  # no event is decoded from here on
    for one in rest:
        scanner.feed(one)
    monkeypatch.undo()
    scanner.feed(chunk(None, "stop"))
    assert scanner.end()[0].usage == Usage(input_tokens=3, output_tokens=99)
    last = counted("x", 200, "stop")
    assert scan(Shape.CHAT, first, *rest, last).usage.output_tokens == 200


def test_as_many_choices_as_requested_must_finish():
    both = [chunk("a"), chunk("b", index=1), chunk(None, "stop"), chunk(None, "stop", index=1)]
    assert scan(Shape.CHAT, *both, choices=2).verdict is Verdict.OK
    assert scan(Shape.CHAT, *both[:3], choices=2).verdict is Verdict.BROKEN


def test_a_choice_that_ended_in_an_error_is_an_error():
    reading = scan(Shape.CHAT, *chat(["a"], "error"))
    assert reading.verdict is Verdict.SERVER_ERROR
    assert summary_of(reading) == summary_of(assembled(Shape.CHAT, *chat(["a"], "error")))


@table_test("status", ["completed", "incomplete"])
def test_a_response_that_ended_with_an_error_is_an_error(status):
    stream = response(["a"], status, error={"code": "rate_limit_exceeded", "message": "x"})
    reading = scan(Shape.RESPONSES, *stream)
    assert reading.verdict is Verdict.THROTTLED
    assert summary_of(reading) == summary_of(assembled(Shape.RESPONSES, *stream))


@pytest.mark.parametrize(
    ("size", "newline"), [(7, b"\n"), (7, b"\r\n"), (7, b"\r"), (1 << 22, b"\n")]
)
def test_a_line_without_end_is_bounded(size, newline, monkeypatch):
    if size == 7:  # else it takes long
        monkeypatch.setattr(sse, "LINE_LIMIT", 2**17)
    for before in (0, 3):
        long = b"data: " + b"x" * sse.LINE_LIMIT
        stream = b"".join([*chat(["a", "b"])[:before], long + b"\n\n"]).replace(b"\n", newline)
        reading = scan(Shape.CHAT, *split(stream, size))
        assert (reading.verdict, reading.detail) == (
            Verdict.BROKEN,
            "a line of the stream is too long",
        )


def test_an_image_in_one_line_is_read():
    """Some MiB, among the output, and again in the answer in the last event."""
    first, second, *rest = chat(["a", "b", "x" * (5 * 2**20), "c"])
    for size in (65_536, 1 << 24):
        assert (
            scan(Shape.CHAT, *split(b"".join([first, second, *rest]), size)).verdict is Verdict.OK
        )


def test_mixed_line_ends_are_bounded_and_read():
    """Alternating LF and CRLF make blank lines that the scanner does not look for: it decodes every event."""
    first, second, *events = chat(["x" * 1000] * 1500)
    stream = b"".join([first, second, *(one[:-2] + b"\n\r\n" for one in events)])
    scanner = fed(StreamScanner, Shape.CHAT, first, second)
    for piece in split(stream[len(first + second) :], 1000):
        scanner.feed(piece)
        assert len(scanner._open) <= MAX_UNPARSED
    assert scanner.end()[0].verdict is Verdict.OK
    assert scan(Shape.CHAT, *split(stream[: len(stream) // 2], 1000)).verdict is Verdict.BROKEN


def test_a_stream_is_bounded(monkeypatch):
    stream = b"".join(STREAMS[Shape.CHAT])
    for limit, verdict in ((len(stream), Verdict.OK), (len(stream) - 1, Verdict.BROKEN)):
        monkeypatch.setattr(module, "TOTAL_LIMIT", limit)
        monkeypatch.setattr("stormbreak.llm.stream_reader.TOTAL_LIMIT", limit)
        assert scan(Shape.CHAT, *STREAMS[Shape.CHAT]).verdict is verdict


@table_test("shape", Shape)
@table_test("body", [b"", b"<html>", b'{"error": {"code": 503}}', b"{}", b"[1]"])
@table_test("status", [200, 429, 503])
def test_a_plain_body_is_read(shape, body, status):
    scanner = fed(StreamScanner, shape, body, status=status)
    reading = read_answer(HttpResponse(status, HEADERS, body, 0.0), shape)
    assert scanner.is_plain
    assert scanner.end() == (reading, body)


def test_a_stream_of_another_shape_is_final():
    for shape in (Shape.JSON, Shape.EMBEDDINGS):
        assert scan(shape, *STREAMS[Shape.CHAT]).verdict is Verdict.INVALID


@table_test(
    ("watcher", "events"),
    [
        (ChatWatcher, chat(["a", "finish_reason: stop"])[:3]),
        (ChatWatcher, [event({"choices": [], "usage": None, "error": None})]),
        (MessagesWatcher, [*message(["a"])[1:4], PING]),
        (ResponsesWatcher, response(["a"])[2:6]),
    ],
)
def test_output_events_are_quiet(watcher, events):
    assert all(map(watcher.quiet, events))


def test_quiet_output_is_never_decoded(monkeypatch):
    for shape, events in STREAMS.items():
        texts = [one for one in events if "Hé".encode() in one or b"llo" in one]
        scanner = fed(StreamScanner, shape, *events[: events.index(texts[0]) + 1])
        with monkeypatch.context() as patch:
            patch.setattr(module, "decoded", None)
            for _ in range(10):
                scanner.feed(texts[1])
                for piece in split(texts[1] * 2, 7):
                    scanner.feed(piece)


# ------------------------------------------------------------------ agreement

UNSEEN = (
    "invalid json in an event",
    "not a part of a",
)  # within one output event: the caller reads it
TEXT = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(TEXTS)
CUTS = st.lists(st.integers(0, 10_000), max_size=20)
NEWLINE = st.sampled_from([b"\n", b"\r\n", b"\r"])


@st.composite
def streams(draw):
    """Draw a stream of one format, and damage it: drop, double or insert events, cut the end."""
    shape = draw(st.sampled_from(list(STREAMS)))
    texts = draw(st.lists(TEXT, min_size=1, max_size=5))
    made = {Shape.CHAT: chat, Shape.MESSAGES: message, Shape.RESPONSES: response}[shape]
    events = (
        made(texts, *draw(st.sampled_from([(), ("incomplete",), ("failed",)])))
        if (shape is Shape.RESPONSES)
        else made(texts, *draw(st.sampled_from([(), ("length",), ("error",)])))
    )
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(events)))
        match draw(st.sampled_from(["drop", "double", "insert", "end"])):
            case "drop":
                events[at : at + 1] = []
            case "double":
                events[at:at] = events[at : at + 1]
            case "insert":
                events.insert(at, draw(st.sampled_from([*ERRORS, *NOISE, DONE])))
            case _:
                del events[at:]
    stream = b"".join(events).replace(b"\n", draw(NEWLINE))
    return shape, stream[: draw(st.none() | st.integers(0, len(stream)))]


MANY = settings(max_examples=max(150, settings.default.max_examples))


def unseen(reading):
    return reading.verdict is Verdict.BROKEN and (reading.detail or "").startswith(UNSEEN)


@MANY
@given(streams(), CUTS)
def test_scanner_and_assembler_agree(drawn, cuts):
    shape, stream = drawn
    scanner = fed(StreamScanner, shape, *pieces(stream, cuts))
    assembler = fed(StreamAssembler, shape, stream)
    expected, found = assembler.end()[0], scanner.end()[0]
    if not unseen(expected):
        assert summary_of(found) == summary_of(expected)
        assert scanner.first_output == assembler.first_output
    assert summary_of(found) == summary_of(scan(shape, *split(stream, 1)))


@MANY
@given(
    st.sampled_from(list(STREAMS)),
    st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=3)), min_size=1, max_size=3),
    CUTS,
)
@example(Shape.CHAT, [(0, b"")], [])
def test_damaged_bytes_never_make_a_success(shape, damages, cuts):
    stream = bytearray(b"".join(STREAMS[shape]))
    for where, byte in damages:
        at = where % len(stream)
        stream[at : at + 1] = byte
    found = scan(shape, *pieces(bytes(stream), cuts))
    expected = assembled(shape, bytes(stream))
    if expected.verdict is Verdict.OK:
        assert summary_of(found) == summary_of(expected)
    elif found.verdict is Verdict.OK:
        # the scanner may not see choices that were not requested
        assert unseen(expected) or (shape is Shape.CHAT and "finish_reason" in expected.detail)


@settings(deadline=None)
@given(
    st.sampled_from(Shape),
    st.lists(
        st.binary(max_size=40)
        | st.sampled_from([*(e for one in STREAMS.values() for e in one), *ERRORS, *NOISE, DONE])
    ),
    st.integers(0, 700),
)
def test_no_bytes_raise(shape, chunks, status):
    assert scan(shape, *chunks, status=status).verdict in Verdict
    assert scan(shape, *split(b"".join(chunks), 3), status=status).verdict in Verdict
