from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.llm.sse import LINE_LIMIT, Event, EventReader, LineTooLongError


def events(*chunks, end=True):
    reader = EventReader()
    found = [event for chunk in chunks for event in reader.feed(chunk)]
    return found + (list(reader.end()) if end else [])


@table_test("newline", [b"\n", b"\r", b"\r\n"])
@table_test(
    ("lines", "expected"),
    [
        ([b"data: a", b"", b"data: b", b""], [Event(b"", b"a"), Event(b"", b"b")]),
        ([b"data:a", b""], [Event(b"", b"a")]),
        ([b"data:  a", b""], [Event(b"", b" a")]),
        ([b"data: a", b"data: b", b"data:", b""], [Event(b"", b"a\nb\n")]),
        (
            [b"event: error", b"data: a", b"", b"data: b", b""],
            [Event(b"error", b"a"), Event(b"", b"b")],
        ),
        (
            [b": comment", b"data: a", b":", b"id: 1", b"retry: 5", b"what: x", b""],
            [Event(b"", b"a")],
        ),
        ([b"\xef\xbb\xbfdata: a", b""], [Event(b"", b"a")]),
        ([b"", b" ", b"\t\xef\xbb\xbf\xef\xbb\xbf data: a", b""], [Event(b"", b"a")]),
        ([b"data: a", b"", b"\xef\xbb\xbfdata: b", b""], [Event(b"", b"a")]),
        ([b"", b"", b"data", b"", b"event: x", b""], []),
        ([b"data: a:b\tc", b""], [Event(b"", b"a:b\tc")]),
    ],
)
def test_events_are_parsed_with_any_line_ends_and_chunks(lines, expected, newline):
    stream = newline.join(lines) + newline
    assert events(stream) == expected
    assert events(*(stream[at : at + 1] for at in range(len(stream)))) == expected


def test_an_event_is_returned_as_soon_as_it_is_whole():
    reader = EventReader()
    assert list(reader.feed(b"data: a\r\n\r")) == [Event(b"", b"a")]
    assert list(reader.feed(b"\ndata: b\n")) == []
    assert list(reader.feed(b"\n")) == [Event(b"", b"b")]


@table_test(
    ("rest", "expected", "cut"),
    [
        (b"", [], False),
        (b"data: b", [Event(b"", b"b")], False),
        (b"data: b\n", [Event(b"", b"b")], False),
        (b": ping", [], False),
        (b"data:", [], True),
        (b"dat", [], True),
        (b"event: err", [], True),
        (b"event: error\n", [], True),
        (b"data: b\nda", [Event(b"", b"b")], True),
    ],
)
def test_the_rest_at_the_end_of_a_stream_is_an_event_or_cut(rest, expected, cut):
    reader = EventReader()
    list(reader.feed(b"data: a\n\n" + rest))
    assert list(reader.end()) == expected
    assert reader.cut is cut


def test_a_line_is_bounded():
    whole = b"data: " + b"x" * (LINE_LIMIT - 7)
    assert events(whole + b"\n\n") == [Event(b"", whole[6:])]
    with pytest.raises(LineTooLongError):
        events(b"data: " + b"x" * LINE_LIMIT)
    with pytest.raises(LineTooLongError):
        events(b"data: " + b"x" * LINE_LIMIT + b"\n\n")
    with pytest.raises(LineTooLongError):
        events(b"data: ", *[b"x" * 65_536] * (LINE_LIMIT // 65_536 + 1))


PIECES = st.sampled_from(
    [
        b"data:",
        b"data: ",
        b"event: ",
        b":",
        b"a",
        b"\xef\xbb\xbf",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"id",
    ]
)


@given(st.lists(PIECES, max_size=30), st.lists(st.integers(0, 100)))
def test_any_split_gives_the_same_events(pieces, cuts):
    stream = b"".join(pieces)
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    chunks = [stream[a:b] for a, b in pairwise(edges)]
    assert events(*chunks) == events(stream)


WHOLE = st.sampled_from(
    [b"data: a\n\n", b"data: \n\n", b"data:a\n\n", b"data: a\r\n\n", b"data: a\ndata: b\n\n", b"event: x\n", b"\xef\xbb\xbfdata: a\n\n", b"data: \n", b"\n", b"data: c\r", b"event: y\n\n"]
)  # fmt: skip


@given(st.lists(WHOLE, max_size=12))
def test_whole_events_are_parsed_as_byte_by_byte(pieces):
    stream = b"".join(pieces)

    assert events(*pieces) == events(*[stream[at : at + 1] for at in range(len(stream))])


@table_test(
    ("fed", "is_open"),
    [
        (b"", False),
        (b": half a comm", False),
        (b"data: x\n\n: half a comm", False),
        (b"data: x\n\n", False),
        (b"data: x\r\n\r", True),
        (b"data: x\n", True),
        (b"data: x\n: half a comm", True),
        (b"da", True),
        (b"event: ping\n", True),
    ],
)
def test_a_comment_opens_no_event(fed, is_open):
    reader = EventReader()
    list(reader.feed(fed))
    assert reader.is_open is is_open
