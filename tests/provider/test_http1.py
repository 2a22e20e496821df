"""The reader of requests: any cut of the bytes gives the same requests, and nothing doubtful passes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.provider.http1 import MAX_BODY, MAX_HEAD, Reader, UnreadableError

PLAIN = b"POST /v1/x?a=b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
)
BARE = b"GET / HTTP/1.0\r\n\r\n"


def read_all(pieces):
    reader, requests = Reader(), []
    for piece in pieces:
        reader.feed(piece)
        while (request := reader.next()) is not None:
            requests.append(request)
    return requests


@given(st.lists(st.integers(0, len(PLAIN + CHUNKED + BARE)), max_size=12))
def test_requests_come_out_whole_however_the_bytes_are_cut(cuts):
    data = PLAIN + CHUNKED + BARE
    edges = [0, *sorted(cuts), len(data)]
    requests = read_all(data[start:end] for start, end in pairwise(edges))
    seen = [(r.method, r.path, r.query, r.body, r.keep_alive) for r in requests]
    assert seen == [
        ("POST", "/v1/x", "a=b", b"hello", True),
        ("POST", "/c", "", b"abcde", True),
        ("GET", "/", "", b"", False),
    ]


def head(*lines):
    return b"\r\n".join([b"POST / HTTP/1.1", b"host: h", *lines, b"", b""])


IN_CHUNKS = head(b"transfer-encoding: chunked")


@table_test(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\r\n\r\n", 400),
        (b"GET / HTTP/2\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\n\r\n", 400),
        (head(b"no colon"), 400),
        (head(b"space : x"), 400),
        (head(b"content-length: 5x"), 400),
        (head(b"content-length: -5"), 400),
        (head(b"content-length: 5", b"content-length: 6"), 400),
        (head(b"content-length: 5", b"transfer-encoding: chunked"), 400),
        (head(b"transfer-encoding: gzip"), 400),
        (head(b"transfer-encoding: chunked") + b"-3\r\n", 400),
        (head(b"transfer-encoding: chunked") + b"zz\r\n", 400),
        (head(b"transfer-encoding: chunked") + b"3\r\nabcXX", 400),
        (head(b"transfer-encoding: chunked") + b"1" * 300, 400),
        (head(b"transfer-encoding: chunked") + b"FFFFFFF\r\n", 413),
        (head(b"content-length: %d" % (MAX_BODY + 1)), 413),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * MAX_HEAD, 431),
    ],
)
def test_what_cannot_be_read_is_refused(data, status):
    with pytest.raises(UnreadableError) as caught:
        read_all([data])
    assert caught.value.status == status


def test_no_more_is_held_than_one_largest_request():
    reader = Reader()
    reader.feed(b"x" * MAX_BODY)
    with pytest.raises(UnreadableError):
        reader.feed(b"x" * (2 * MAX_HEAD + 1))


@pytest.mark.parametrize(
    ("line", "version", "kept"),
    [
        (b"connection: close", b"1.1", False),
        (b"x: y", b"1.0", False),
        (b"connection: Keep-Alive", b"1.0", True),
        (b"connection: keep-alive", b"1.1", True),
    ],
)
def test_keep_alive_is_as_the_client_says(line, version, kept):
    [request] = read_all([b"GET / HTTP/" + version + b"\r\nhost: h\r\n" + line + b"\r\n\r\n"])
    assert request.keep_alive is kept


@table_test(
    "data",
    [
        *(IN_CHUNKS + size + b"\r\nhello\r\n0\r\n\r\n" for size in (
            b"0x5", b"+5", b"5_0", b" 5", b"5\x0b", b"", b";a", b"\xb2", b"5 5", b"5;a\nb", b"5;a\rb", b"5;\x00",
            b"0" * 17,
        )),
        head(b"a: b\x00c"),
        head(b"a: b\rc"),
        head(b"a: b\nc: d"),
        head(b"a: b\x7f"),
        head(b"transfer-encoding: \x0bchunked"),
        head(b"transfer-encoding: chunked\x0c"),
        head(b"transfer-encoding: gzip", b"transfer-encoding: chunked"),
        head(b"content-length: \x0b5"),
        head(b"host: other"),
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /\n HTTP/1.1\r\nhost: h\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nhost: h\r\n\r\n",
        b"GET / HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n",
    ],
)  # fmt: skip
def test_what_two_readers_may_read_differently_is_refused(data):
    with pytest.raises(UnreadableError) as refused:
        read_all([data])
    assert refused.value.status == 400


@table_test("size", [b"5", b"05", b"5 ", b"5;a=b", b'5 ; a="\t b"', b"0000000000000005"])
def test_a_chunk_size_is_hexadecimal_with_extensions(size):
    (request,) = read_all([IN_CHUNKS + size + b"\r\nhello\r\n0\r\n\r\n"])
    assert request.body == b"hello"


@table_test("word", [b"close", b"Close", b"keep-alive, close", b"close ,x"])
@table_test("cut", [False, True])
def test_nothing_follows_a_request_that_closes(word, cut):
    first, second = head(b"connection: " + word, b"content-length: 2") + b"ab", head()
    requests = read_all([first, second] if cut else [first + second])
    assert [(request.body, request.keep_alive) for request in requests] == [(b"ab", False)]


def test_a_word_that_holds_another_is_not_it():
    assert [each.keep_alive for each in read_all([head(b"connection: closeness"), head()])] == [
        True
    ] * 2


class _Counting(bytearray):
    """Counts the bytes in which something is looked for."""

    searched = 0

    def find(self, what, start=0, stop=None):
        self.searched += min(len(self), stop or len(self)) - start
        return super().find(what, start, len(self) if stop is None else stop)


@pytest.mark.parametrize(
    "drips",
    [head(b"x: " + b"a" * 8000), IN_CHUNKS + b"0\r\nx: " + b"a" * 8000 + b"\r\n\r\n"],
    ids=["head", "trailer"],
)
def test_what_comes_byte_by_byte_is_not_searched_from_its_beginning_each_time(drips):
    reader, requests = Reader(), []
    reader._buffer = _Counting()
    for byte in drips * 2:
        reader.feed(bytes([byte]))
        while (request := reader.next()) is not None:
            requests.append(request)
    assert [request.body for request in requests] == [b"", b""]
    assert reader._buffer.searched < 2 * 300 * len(
        drips
    )  # a line that begins a chunk has up to 256
