"""The parser of HTTP/1.1 responses: valid and malformed ones, in any pieces."""

from contextlib import suppress

import pytest
from malformed_responses import CHUNKED, LENGTH, MALFORMED, OK
from table_test import table_test

from stormbreak.http.h1.response_parser import (
    MAX_HEAD,
    MAX_HEADERS,
    CutResponseError,
    MalformedResponseError,
    ResponseParser,
    given_names,
    request_head,
)


def fed(*pieces, method="POST"):
    parser = ResponseParser(method)
    for piece in pieces:
        parser.feed(piece)
    return parser


def one_by_one(data):
    return [data[i : i + 1] for i in range(len(data))]


def test_malformed_responses_are_rejected_in_any_pieces():
    assert len(MALFORMED) >= 45
    for name, data in MALFORMED.items():
        ways = [[data], one_by_one(data), *([data[:i], data[i:]] for i in range(1, len(data)))]
        for pieces in ways:
            parser = ResponseParser()
            try:
                for piece in pieces:
                    parser.feed(piece)
                parser.end()
            except (MalformedResponseError, CutResponseError):
                assert not parser.complete, name
            else:
                raise AssertionError(name)


def test_a_response_cut_at_any_byte_is_incomplete():
    for whole in (LENGTH, CHUNKED + b"3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nX: y\r\n\r\n"):
        for size in range(len(whole)):
            parser = fed(whole[:size]) if size else ResponseParser()
            with pytest.raises(CutResponseError):
                parser.end()
            assert not parser.complete
        parser = fed(*one_by_one(whole))
        assert parser.complete
        assert parser.reusable
        assert parser.take() == b"hello"


def test_the_repr_of_a_parser_shows_nothing_of_the_response():
    assert "hello" not in repr(fed(LENGTH))


@table_test("callback", ["on_header", "on_headers_complete", "on_body", "on_message_complete"])
def test_an_exception_of_a_signal_handler_in_a_callback_is_no_malformed_response(callback):
    def interrupt(*_):
        raise raised

    kind = type("Interrupted", (ResponseParser,), {callback: interrupt})
    for raised in (KeyboardInterrupt, TimeoutError):
        with pytest.raises(raised):
            kind().feed(LENGTH)
        with suppress(KeyError):
            try:
                {}["key"]
            finally:  # found: while a caller handled an exception, the interrupt was lost
                with pytest.raises(KeyboardInterrupt):
                    kind().feed(LENGTH)


def test_a_malformed_body_in_the_same_packet_does_not_lose_the_head():
    parser = ResponseParser()
    with pytest.raises(MalformedResponseError):
        parser.feed(
            b"HTTP/1.1 429 No\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
        )
    assert (parser.status, parser.headers["retry-after"], parser.complete) == (429, "7", False)


def test_surplus_bytes_make_the_connection_unusable_but_not_the_response():
    for more in (LENGTH, b"tail", b"\r\n", b"HTTP/1.1 2"):
        together = [LENGTH + more] if more.strip() else []  # llhttp skips blank lines
        for pieces in (together, [LENGTH, more]):
            if not pieces:
                continue
            parser = fed(*pieces)
            assert parser.complete, more
            assert not parser.reusable, more
            assert (parser.status, parser.take()) == (200, b"hello")


def test_interim_responses_are_skipped_and_bounded():
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    parser = fed(hint * 3 + LENGTH)
    assert (parser.status, parser.headers, parser.complete) == (200, {"content-length": "5"}, True)
    with pytest.raises(MalformedResponseError):
        fed(*[hint] * MAX_HEADERS, hint)


@table_test("status", ["000", "099", "102", "104", "199"])
def test_an_interim_response_has_no_body(status):
    """Found: the bytes stayed unread, and a task that waited for the head was woken again and again."""
    for more in (b"Content-Length: 2\r\n\r\n{}", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"):
        with pytest.raises(MalformedResponseError):
            fed(b"HTTP/1.1 %b No\r\n" % status.encode() + more)


def test_the_size_of_a_head_is_bounded():
    for line in (b"X: " + b"y" * MAX_HEAD, b"X: y\r\n" * MAX_HEADERS + b"X: y"):
        for pieces in ([OK + line + b"\r\n\r\n"], one_by_one(OK + line + b"\r\n\r\n")):
            with pytest.raises(MalformedResponseError):
                fed(*pieces)


@table_test("begin", [b"5;a=", b"5\r\nhello\r\n0\r\nX: ", b"5\r\nhello\r\n0\r\n"])
def test_a_chunk_extension_and_a_trailer_are_bounded(begin):
    """Found: a trailer of 20 MB took 5 s, and as much memory as it had bytes."""
    with pytest.raises(MalformedResponseError):
        fed(CHUNKED, begin, *[b"x" * (MAX_HEAD // 2)] * 3)


def test_framing_bytes_are_bounded_only_between_two_pieces_of_the_body():
    parser = fed(CHUNKED, *[b"1;a=" + b"x" * (MAX_HEAD // 2) + b"\r\ny\r\n"] * 4, b"0\r\n\r\n")
    assert (parser.complete, parser.take()) == (True, b"yyyy")


def test_a_body_without_a_length_ends_with_the_connection():
    parser = fed(OK + b"\r\nhel", b"lo")
    assert not parser.complete
    parser.end()
    assert parser.complete
    assert not parser.reusable
    assert parser.take() == b"hello"
    with pytest.raises(CutResponseError):
        fed(OK + b"\r\nhel").end(cleanly=False)


def test_responses_without_a_body_are_complete_with_their_head():
    for status in (204, 304):
        parser = fed(b"HTTP/1.1 %d X\r\n\r\n" % status)
        assert (parser.status, parser.complete, parser.reusable) == (status, True, True)
    parser = fed(LENGTH[:-5], method="HEAD")
    assert (parser.complete, parser.reusable, parser.take()) == (True, False, b"")


def test_http_1_0_and_connection_close_are_not_reusable():
    for data in (LENGTH.replace(b"1.1", b"1.0"), OK + b"Connection: close\r\n" + LENGTH[len(OK) :]):
        parser = fed(data)
        assert parser.complete
        assert not parser.reusable


def test_repeated_response_headers_keep_all_values():
    parser = fed(OK + b"Set-Cookie: a\r\nSET-COOKIE: b\r\nX: \xff\r\nContent-Length: 0\r\n\r\n")
    assert parser.repeated == {"set-cookie": ("a", "b")}
    assert parser.headers == {"set-cookie": "b", "x": "\udcff", "content-length": "0"}


def head_of(headers, *more):
    return request_head("POST", "/v1/x", "h:1", headers, given_names(tuple(headers)), more)


def test_the_head_of_a_request_has_its_own_host_and_framing():
    assert head_of({"A": "b"}, "Content-Length: 2") == (
        b"POST /v1/x HTTP/1.1\r\nHost: h:1\r\nA: b\r\nContent-Length: 2\r\n\r\n"
    )
    assert head_of({"host": "other"}) == b"POST /v1/x HTTP/1.1\r\nhost: other\r\n\r\n"
    assert b"9" not in head_of({"content-length": "9"}, "Content-Length: 2")
    assert b"gzip" not in head_of({"transfer-encoding": "gzip"}, "Transfer-Encoding: chunked")


def test_a_request_header_with_a_line_break_is_rejected():
    for text in ("a\r\nX: y", "a\nb", "a\rb", "a\0b"):
        for headers in ({"A": text}, {text: "b"}):
            with pytest.raises(ValueError, match="line break"):
                head_of(headers)
