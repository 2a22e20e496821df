"""The parser of HTTP/1.1 requests: valid and malformed ones, in any pieces."""

import gc
from itertools import pairwise
from weakref import ref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed_requests import IN_CHUNKS, MALFORMED, head
from table_test import table_test

from stormbreak.http.h1.request_parser import (
    CHUNKED,
    MAX_HEAD,
    MAX_HEADERS,
    UNTIL_CLOSE,
    RequestParser,
    UnreadableError,
    response_head,
)

MAX_BODY = 1 << 20


LENGTH = head(b"Content-Length: 5")
PLAIN = b"POST /v1/x?a=b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
PARTS = (
    b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;ext=1\r\nabc\r\n6\r\nd\r\n\r\ne\r\n0\r\nTrailer: x\r\n\r\n"
)
BARE = b"\r\nGET / HTTP/1.0\r\nhost: h\r\n\r\n"
LAST = b"HEAD /v1/models HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def read_all(pieces, max_body=MAX_BODY):
    parser, requests = RequestParser(max_body=max_body), []
    for piece in pieces:
        parser.feed(piece)
        while (request := parser.next()) is not None:
            requests.append(request)
    return requests


def one_by_one(data):
    return [data[i : i + 1] for i in range(len(data))]


def cuts(data):
    return [[data], one_by_one(data), *([data[:i], data[i:]] for i in range(1, len(data)))]


def test_malformed_requests_are_rejected_in_any_pieces():
    assert len(MALFORMED) >= 45
    for name, data in MALFORMED.items():
        for pieces in [*cuts(data), *cuts(PLAIN + data)]:
            parser, requests = RequestParser(max_body=MAX_BODY), []
            with pytest.raises(UnreadableError) as refused:  # noqa: PT012 - any of the pieces
                for piece in pieces:
                    parser.feed(piece)
                    while (request := parser.next()) is not None:
                        requests.append(request)
                raise AssertionError(name)
            assert refused.value.status == 400, name
            bodies = [request.body for request in requests]
            assert bodies == [b"hello"] * b"".join(pieces).startswith(PLAIN), name
            parser.feed(PLAIN)
            with pytest.raises(UnreadableError):
                parser.next()


@given(st.lists(st.integers(0, len(PLAIN + PARTS + BARE)), max_size=12))
def test_requests_are_parsed_the_same_in_any_pieces(cut):
    data = PLAIN + PARTS + BARE
    edges = [0, *sorted(cut), len(data)]
    requests = read_all(data[start:end] for start, end in pairwise(edges))
    assert [(r.method, r.path, r.query, r.version, r.body, r.keep_alive) for r in requests] == [
        ("POST", "/v1/x", "a=b", "1.1", b"hello", True),
        ("POST", "/c", "", "1.1", b"abcd\r\n\r\ne", True),
        ("GET", "/", "", "1.0", b"", False),
    ]


def outcome_of(pieces):
    """Return the requests in these bytes, and whether the parser rejected the rest."""
    parser, requests = RequestParser(max_body=MAX_BODY), []
    try:
        for piece in pieces:
            parser.feed(piece)
            while (request := parser.next()) is not None:
                requests.append(request)
    except UnreadableError:
        return requests, True
    return requests, False


EDITS = st.lists(
    st.tuples(
        st.integers(0, len(PLAIN + PARTS + BARE)),
        st.integers(0, 3),
        st.one_of(
            st.binary(max_size=3),
            st.sampled_from(
                [b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\0", b":", b"0\r\n\r\n", BARE]
            ),
        ),
    ),
    max_size=4,
)


AGAIN = b"POST /v1/x HTTP/1.1\r\nHost: h\r\ncontent-LENGTH: %d\r\nx: y\r\n\r\n"


@given(st.integers(0, 400), st.integers(0, 3), st.binary(max_size=3), st.integers(0, 120))
def test_a_repeated_head_is_parsed_as_if_it_were_the_first(at, removed, added, cut):
    first = AGAIN % 3 + b"abc"
    again = AGAIN % 12 + b"hello, again"
    changed = again[:at] + added + again[at + removed :]
    for second in (again, changed):
        alone = outcome_of([second])
        known = outcome_of([first, first, second[:cut], second[cut:]])
        (begun,), _ = outcome_of([first])
        assert known == ([begun, begun, *alone[0]], alone[1])
        assert outcome_of([first + first + second]) == known


def test_requests_with_equal_heads_share_headers_but_not_bodies():
    bodies = [b"abc", b"", b"x" * MAX_BODY, b"hello"]
    requests = read_all([AGAIN % len(body) + body for body in bodies])
    assert bodies == [request.body for request in requests]
    assert requests[1].headers is requests[2].headers is requests[0].headers
    assert requests[0].headers == {b"host": b"h", b"x": b"y"}
    with pytest.raises(UnreadableError) as refused:
        read_all([AGAIN % 0, AGAIN % (MAX_BODY + 1)])
    assert refused.value.status == 413


@table_test("line", [b"Expect: 100-continue", b"Connection: close"])
def test_a_repeated_head_with_expect_or_close_is_parsed_each_time(line):
    data = head(line, b"Content-Length: 2") + b"ab"
    parser = RequestParser(max_body=MAX_BODY)
    for _ in range(1 if b"close" in line else 3):
        parser.feed(data[:-2])
        assert parser.next() is None
        assert parser.continue_wanted is (b"Expect" in line)
        parser.feed(data[-2:])
        assert parser.next().body == b"ab"
    parser.feed(data)
    assert (parser.next() is None) is (b"close" in line)


def test_a_get_with_a_body_is_rejected_also_after_one_without():
    get = b"GET /v1/models HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n"
    assert outcome_of([get % 0, get % 0])[1] is False
    assert outcome_of([get % 0, get % 1 + b"a"])[1] is True


@given(EDITS, st.lists(st.integers(0, 400), max_size=6))
def test_rejection_does_not_depend_on_how_the_bytes_are_cut(edits, cut):
    data = PLAIN + PARTS + BARE
    for at, removed, added in edits:
        data = data[:at] + added + data[at + removed :]
    edges = [0, *sorted(min(each, len(data)) for each in cut), len(data)]
    whole = outcome_of([data])
    assert outcome_of(data[start:end] for start, end in pairwise(edges)) == whole
    assert outcome_of(one_by_one(data)) == whole


def test_a_request_is_complete_exactly_at_its_last_byte():
    for data in (PLAIN, PARTS, BARE, LAST):
        for pieces in cuts(data):
            (request,) = read_all(pieces)
            assert request.headers[b"host"] == b"h"
        for size in range(len(data)):
            assert read_all([data[:size]]) == []


@table_test(
    ("data", "status"),
    [
        (IN_CHUNKS + b"FFFFFFF\r\n" + b"x" * (MAX_BODY + 1), 413),
        (head(b"Content-Length: %d" % (MAX_BODY + 1)), 413),
        (b"GET / HTTP/1.1\r\nHost: h\r\nx: " + b"y" * MAX_HEAD, 431),
        (head(b"x: " + b"y" * (MAX_HEAD - len(head(b"x: ")) + 1)), 431),
        (b"GET /" + b"y" * MAX_HEAD, 431),
        (head(*[b"x: y"] * MAX_HEADERS), 431),
    ],
)
def test_oversized_requests_have_a_413_or_431(data, status):
    with pytest.raises(UnreadableError) as refused:
        read_all([data])
    assert refused.value.status == status


def test_the_largest_allowed_head_and_body_pass():
    (request,) = read_all([head(b"x: " + b"y" * (MAX_HEAD - len(head(b"x: "))))])
    assert len(request.headers[b"x"]) > MAX_HEAD - 100
    (request,) = read_all([head(b"Content-Length: %d" % MAX_BODY) + b"x" * MAX_BODY])
    assert len(request.body) == MAX_BODY
    (request,) = read_all([head(*[b"x: y"] * (MAX_HEADERS - 1))])
    assert request.headers[b"x"].count(b"y") == MAX_HEADERS - 1


@table_test("flood", [b"0" * 64, b"1;" + b"a" * 64 + b"\r\nx\r\n", b"0\r\n" + b"x: y\r\n" * 10])
def test_framing_without_a_body_is_bounded(flood):
    parser = RequestParser(max_body=MAX_BODY)
    parser.feed(IN_CHUNKS)
    assert parser.next() is None
    with pytest.raises(UnreadableError):  # noqa: PT012 - after several of them
        for _ in range(2 * MAX_HEAD // len(flood)):
            parser.feed(flood.removeprefix(b"0\r\n") if parser._fed > 3 else flood)
            assert parser.next() is None


def test_the_parser_buffers_at_most_one_request_of_maximum_size():
    parser = RequestParser(max_body=MAX_BODY)
    parser.feed(b"x" * MAX_BODY)
    with pytest.raises(UnreadableError):
        parser.feed(b"x" * (2 * MAX_HEAD + 1))


def test_a_request_is_not_parsed_before_the_previous_one_is_taken():
    parser = RequestParser(max_body=MAX_BODY)
    parser.feed(PLAIN + b"nonsense\r\n\r\n")
    assert parser.next().body == b"hello"
    assert not parser.is_between
    with pytest.raises(UnreadableError):
        parser.next()


def test_the_parser_reports_its_position_in_a_request():
    parser = RequestParser(max_body=MAX_BODY)
    states = []
    for byte in one_by_one(b"\r\n" + LENGTH + b"hello"):
        parser.feed(byte)
        whole = parser.next()
        states.append("between" if parser.is_between else "body" if parser.in_body else "head")
    assert whole.body == b"hello"
    assert list(dict.fromkeys(states)) == ["head", "between", "body"]  # a lone CR may begin one
    assert states[1:3] == ["between", "head"]
    assert states[-1] == "between"


@table_test(
    ("line", "version", "kept"),
    [
        (b"connection: close", b"1.1", False),
        (b"x: y", b"1.0", False),
        (b"connection: Keep-Alive", b"1.0", True),
        (b"connection: keep-alive", b"1.1", True),
        (b"connection: closeness", b"1.1", True),
    ],
)
def test_keep_alive_follows_the_connection_header_and_version(line, version, kept):
    (request,) = read_all([head(line, first=b"GET / HTTP/" + version)])
    assert request.keep_alive is kept
    assert request.version == version.decode()


@table_test("word", [b"close", b"Close", b"keep-alive, close", b"close ,x"])
@table_test("cut", [False, True])
def test_no_request_is_parsed_after_connection_close(word, cut):
    first, second = head(b"connection: " + word, b"content-length: 2") + b"ab", head()
    requests = read_all([first, second] if cut else [first + second])
    assert [(request.body, request.keep_alive) for request in requests] == [(b"ab", False)]


@table_test("size", [b"5", b"05", b"5;a=b", b'5;a="\t b"', b"0000000000000005"])
def test_a_chunk_size_is_hexadecimal_with_extensions(size):
    (request,) = read_all([IN_CHUNKS + size + b"\r\nhello\r\n0\r\n\r\n"])
    assert request.body == b"hello"


def test_repeated_headers_are_joined_and_empty_ones_are_empty():
    (request,) = read_all([head(b"X: 1", b"Y:", b"x: 2", b"Z: \xff")])
    assert request.headers == {b"host": b"h", b"x": b"1, 2", b"y": b"", b"z": b"\xff"}


def test_expect_100_continue_is_reported_before_the_body():
    parser = RequestParser(max_body=MAX_BODY)
    parser.feed(head(b"Expect: 100-continue", b"Content-Length: 2"))
    assert parser.next() is None
    assert parser.continue_wanted
    begun = parser.begun()
    assert (begun.method, begun.body, parser.begun()) == ("POST", b"", None)
    parser.feed(b"a")
    assert parser.next() is None
    assert not parser.continue_wanted
    parser.feed(b"b")
    assert parser.next().body == b"ab"


def test_a_request_shows_neither_key_nor_prompt():
    (request,) = read_all([head(b"Authorization: Bearer hidden", b"Content-Length: 6") + b"hidden"])
    assert "hidden" not in repr(request)


class _Watched(RequestParser):
    __slots__ = ("__weakref__",)


def test_a_closed_parser_is_freed_without_the_garbage_collector():
    gc.disable()
    try:
        parser = _Watched(max_body=MAX_BODY)
        parser.feed(PLAIN)
        parser.next()
        known = ref(parser)
        parser.close()
        del parser
        assert known() is None
    finally:
        gc.enable()


def test_a_response_head_declares_the_framing_of_its_body():
    for framing, line in ((5, b"content-length: 5"), (CHUNKED, b"transfer-encoding: chunked")):
        lines = response_head(200, "text/plain", framing, [("a", "b")]).split(b"\r\n")
        assert lines[:3] == [b"HTTP/1.1 200 OK", b"content-type: text/plain", line]
        assert lines[4:] == [b"a: b", b"", b""]
    assert b"length" not in response_head(200, "text/plain", UNTIL_CLOSE, [])


@table_test("value", ["a\r\nb: c", "a\nb", "a\rb", "a\0b"])
def test_a_response_header_with_a_line_break_is_rejected(value):
    with pytest.raises(ValueError, match="line break"):
        response_head(200, "text/plain", 0, [("a", value)])
