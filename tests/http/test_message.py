"""One HTTP/1.1 response as bytes: what is one, what is not, and in whatever pieces it comes."""

import pytest

from stormbreak.http.h1.message import (
    MAX_HEAD,
    MAX_HEADERS,
    CutResponseError,
    MalformedResponseError,
    ResponseParser,
    given_names,
    request_head,
)

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = OK + b"Content-Length: 5\r\n\r\nhello"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

MALFORMED = {
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "the same length twice": OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": OK + b"Content-Length: 5, 5\r\n\r\nhello",
    "length and chunked": OK
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "chunked and length": OK
    + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "a negative length": OK + b"Content-Length: -5\r\n\r\nhello",
    "a length with a sign": OK + b"Content-Length: +5\r\n\r\nhello",
    "a length in words": OK + b"Content-Length: five\r\n\r\nhello",
    "a length in hex": OK + b"Content-Length: 0x5\r\n\r\nhello",
    "an empty length": OK + b"Content-Length:\r\n\r\nhello",
    "a length with a blank in it": OK + b"Content-Length: 5 5\r\n\r\nhello",
    "a length beyond 64 bits": OK + b"Content-Length: 99999999999999999999\r\n\r\nhello",
    "a folded header": OK + b"X: a\r\n b\r\nContent-Length: 5\r\n\r\nhello",
    "a folded length": OK + b"Content-Length:\r\n 5\r\n\r\nhello",
    "bare LF behind the status": OK[:-2] + b"\nContent-Length: 5\r\n\r\nhello",
    "bare LF behind a header": OK + b"Content-Length: 5\n\r\nhello",
    "bare LF as the end of the head": OK + b"Content-Length: 5\r\n\nhello",
    "bare CR in a value": OK + b"X: a\rb\r\nContent-Length: 5\r\n\r\nhello",
    "NUL in a value": OK + b"X: a\0b\r\nContent-Length: 5\r\n\r\nhello",
    "NUL in a name": OK + b"X\0: a\r\nContent-Length: 5\r\n\r\nhello",
    "NUL in the reason": b"HTTP/1.1 200 O\0K\r\nContent-Length: 5\r\n\r\nhello",
    "a blank before the colon": OK + b"Content-Length : 5\r\n\r\nhello",
    "a blank in a name": OK + b"Content Length: 5\r\n\r\nhello",
    "no colon": OK + b"Content-Length\r\n\r\nhello",
    "no name": OK + b": 5\r\nContent-Length: 5\r\n\r\nhello",
    "a blank line in front": b"\r\n" + LENGTH,
    "bare LF in front": b"\n" + LENGTH,
    "HTTP/2.0 as text": LENGTH.replace(b"1.1", b"2.0"),
    "HTTP/0.9": LENGTH.replace(b"1.1", b"0.9"),
    "HTTP/1.2": LENGTH.replace(b"1.1", b"1.2"),
    "http/1.1": LENGTH.replace(b"HTTP", b"http"),
    "RTSP": LENGTH.replace(b"HTTP/1.1", b"RTSP/1.0"),
    "ICE": LENGTH.replace(b"HTTP/1.1", b"ICE/1.0"),
    "two digits of a status": LENGTH.replace(b"200", b"20"),
    "four digits of a status": LENGTH.replace(b"200", b"2000"),
    "a status in words": LENGTH.replace(b"200", b"two"),
    "two blanks before the status": LENGTH.replace(b" 200", b"  200"),
    "another protocol": b"HTTP/1.1 101 Switch\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a request": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "gzip, chunked": CHUNKED.replace(b"chunked", b"gzip, chunked") + b"5\r\nhello\r\n0\r\n\r\n",
    "chunked, gzip": CHUNKED.replace(b"chunked", b"chunked, gzip") + b"hello",
    "chunked twice": CHUNKED.replace(b"chunked", b"chunked, chunked") + b"5\r\nhello\r\n0\r\n\r\n",
    "two lines of chunked": OK
    + b"Transfer-Encoding: chunked\r\n" * 2
    + b"\r\n5\r\nhello\r\n0\r\n\r\n",
    "identity": CHUNKED.replace(b"chunked", b"identity") + b"hello",
    "a vertical tab before chunked": CHUNKED.replace(b" ch", b" \x0bch")
    + b"5\r\nhello\r\n0\r\n\r\n",
    "a chunk size in C": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "a chunk size with a blank": CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n",
    "a negative chunk size": CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
    "no chunk size": CHUNKED + b"\r\nhello\r\n0\r\n\r\n",
    "a chunk size that is none": CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",
    "a chunk size beyond 64 bits": CHUNKED + b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "LF in a chunk extension": CHUNKED + b"5;a=\n\r\nhello\r\n0\r\n\r\n",
    "bare LF behind a chunk size": CHUNKED + b"5\nhello\r\n0\r\n\r\n",
    "bare LF behind a chunk": CHUNKED + b"5\r\nhello\n0\r\n\r\n",
    "a chunk that is too long": CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n",
    "a trailer that is none": CHUNKED + b"5\r\nhello\r\n0\r\nX\0: a\r\n\r\n",
}


def fed(*pieces, method="POST"):
    parser = ResponseParser(method)
    for piece in pieces:
        parser.feed(piece)
    return parser


def one_by_one(data):
    return [data[i : i + 1] for i in range(len(data))]


def test_malformed_responses_are_refused_in_whatever_pieces_they_come():
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


def test_a_response_that_is_cut_anywhere_is_no_response():
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


def test_the_head_of_an_error_is_kept_when_its_body_is_malformed_in_the_same_packet():
    parser = ResponseParser()
    with pytest.raises(MalformedResponseError):
        parser.feed(
            b"HTTP/1.1 429 No\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
        )
    assert (parser.status, parser.headers["retry-after"], parser.complete) == (429, "7", False)


def test_bytes_behind_a_response_spoil_the_connection_and_not_the_response():
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


def test_a_head_is_bounded():
    for line in (b"X: " + b"y" * MAX_HEAD, b"X: y\r\n" * MAX_HEADERS + b"X: y"):
        for pieces in ([OK + line + b"\r\n\r\n"], one_by_one(OK + line + b"\r\n\r\n")):
            with pytest.raises(MalformedResponseError):
                fed(*pieces)


def test_a_body_may_end_with_the_connection_where_nothing_else_ends_it():
    parser = fed(OK + b"\r\nhel", b"lo")
    assert not parser.complete
    parser.end()
    assert parser.complete
    assert not parser.reusable
    assert parser.take() == b"hello"


def test_responses_without_a_body():
    for status in (204, 304):
        parser = fed(b"HTTP/1.1 %d X\r\n\r\n" % status)
        assert (parser.status, parser.complete, parser.reusable) == (status, True, True)
    parser = fed(LENGTH[:-5], method="HEAD")
    assert (parser.complete, parser.reusable, parser.take()) == (True, False, b"")


def test_http_1_0_and_close_are_not_used_again():
    for data in (LENGTH.replace(b"1.1", b"1.0"), OK + b"Connection: close\r\n" + LENGTH[len(OK) :]):
        parser = fed(data)
        assert parser.complete
        assert not parser.reusable


def test_headers_that_come_several_times_keep_all_values():
    parser = fed(OK + b"Set-Cookie: a\r\nSET-COOKIE: b\r\nX: \xff\r\nContent-Length: 0\r\n\r\n")
    assert parser.repeated == {"set-cookie": ("a", "b")}
    assert parser.headers == {"set-cookie": "b", "x": "\udcff", "content-length": "0"}


def head_of(headers, *more):
    return request_head("POST", "/v1/x", "h:1", headers, given_names(tuple(headers)), more)


def test_the_head_of_a_request():
    assert head_of({"A": "b"}, "Content-Length: 2") == (
        b"POST /v1/x HTTP/1.1\r\nHost: h:1\r\nA: b\r\nContent-Length: 2\r\n\r\n"
    )
    assert head_of({"host": "other"}) == b"POST /v1/x HTTP/1.1\r\nhost: other\r\n\r\n"
    assert b"9" not in head_of({"content-length": "9"}, "Content-Length: 2")
    assert b"gzip" not in head_of({"transfer-encoding": "gzip"}, "Transfer-Encoding: chunked")


def test_a_header_with_a_line_break_is_refused():
    for text in ("a\r\nX: y", "a\nb", "a\rb", "a\0b"):
        for headers in ({"A": text}, {text: "b"}):
            with pytest.raises(ValueError, match="line break"):
                head_of(headers)
