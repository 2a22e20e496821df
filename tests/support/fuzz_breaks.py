"""Ways to break bytes: each maps bytes to other bytes."""

import re

from hypothesis import strategies as st

DEEP = b'[{"a":' * 20_000
INTRUDERS = [
    b"\x00",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\\ud83d",
    b"\r\n",
    b"\n\n",
    b"\r",
    b"\xef\xbb\xbf",
    b"9" * 5000,
    b"1e999",
    b"-",
    b'"',
    b"}",
    b"data: [DONE]\n\n",
    b'data: {"error": {"message": "no", "code": 429}}\n\n',
    b"event: error\ndata: {}\n\n",
    b": ping\n\n",
    b"id: 1\nretry: 99999999999999999999\n\n",
    b'"finish_reason":"stop"',
    b"0\r\n\r\n",
    b"ffffffffffffffffff\r\n",
    b"-5\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"transfer-encoding: chunked\r\ncontent-length: 5\r\n",
    DEEP,
    b"x" * 70_000,
]
KINDS = (
    "cut",
    "cut between events",
    "drop an event",
    "void",
    "again",
    "flip",
    "double",
    "drop",
    "insert",
    "splice",
    "newlines",
    "move",
)
CUTS = frozenset({"cut", "cut between events"})
_TELLS = re.compile(rb'"(stop|end_turn|completed|message_stop|response\.completed)"|\[DONE\]')


def broken(data, kind, where, size, intruder):
    """Break `data` in one way; `where` is a share of its length."""
    at = int(where * len(data))
    end = at + size
    before, part, after = data[:at], data[at:end], data[end:]
    flipped = bytes(255 - byte for byte in part[: 1 + size % 2])
    event, rest = max(0, before.rfind(b"\n\n") + 2), data.find(b"\n\n", at) + 2
    return {
        "cut": before,
        "cut between events": data[:event],
        "drop an event": data[:event] + data[rest:],
        "void": _TELLS.sub(b"null", data),
        "again": data + (data if size % 2 else part + after),
        "flip": before + flipped + data[at + len(flipped) :],
        "double": before + part + part + after,
        "drop": before + after,
        "insert": before + intruder + part + after,
        "splice": before + data[-size:] + data,
        "newlines": data.replace(b"\n", (b"\r\n", b"\r", b"\n\n")[size % 3]),
        "move": after + before if size % 2 else before + after + part,
    }[kind]


@st.composite
def breaks(draw, most):
    """At most this number of ways to break bytes, often none."""
    ways = st.tuples(
        st.sampled_from(KINDS),
        st.floats(0.0, 1.0),
        st.integers(1, 120),
        st.sampled_from(INTRUDERS),
    )
    return tuple(draw(st.lists(ways, max_size=most)))


def all_of(ways, data):
    for way in ways:
        data = broken(data, *way)
    return data
