"""The intended responses of a fuzzed server: whole answers of every format, and real errors of providers."""

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import streamed
from hypothesis import strategies as st

TEXTS = ("Hello", " there", ' "quoted" {x}', "\n", "ünï", "\N{GRINNING FACE}", " [DONE]", "data: 1")
DATA = Path(__file__).parent.parent / "llm" / "data"
SAMPLES = json.loads((DATA / "provider_errors.json").read_text())
LIMITS = json.loads((DATA / "ratelimit_headers.json").read_text())
NOTES = [list(one["headers"].items()) for one in (*SAMPLES, *LIMITS) if one["headers"]]
CHAT, RESPONSES, MESSAGES, EMBEDDINGS, OTHER = ENDPOINTS = (
    "chat/completions",
    "responses",
    "messages",
    "embeddings",
    "moderations",
)
STREAMED = {
    CHAT: streamed.chat,
    RESPONSES: streamed.response,
    MESSAGES: streamed.message,
}
ODD = [
    ("retry-after", value)
    for value in ("1e999", "-1", "9" * 400, "Wed, 21 Oct 2015 07:28:00 GMT", "Jan 32", "\xe9", "")
] + [
    ("retry-after-ms", "1" * 99),
    ("ratelimit", '"a";r=0;t=' + "9" * 300),
    ("x-ratelimit-reset-requests", "9" * 200 + "h"),
    ("x-ratelimit-remaining-requests", "0"),
    ("anthropic-ratelimit-requests-reset", "9999-99-99T99:99:99Z"),
    ("date", "Thu, 01 Jan 1970 99:00:00 GMT"),
    ("x-request-id", "x" * 4000),
    ("x-should-retry", "false"),
    ("location", "//user:pw@[::1/%00"),
    ("content-type", "text/html; charset=\x7f"),
    ("x-folded", "a\r\n b"),
    ("x-long", "l" * 7000),
    ("set-cookie", "=;=;="),
    ("connection", "close"),
    ("content-type", "text/event-stream"),
]

WELL_FORMED = frozenset(ODD) - {
    ("x-folded", "a\r\n b"),
    ("content-type", "text/html; charset=\x7f"),
}


@dataclass(frozen=True)
class Meant:
    """A response before it is broken; `text` is its text, None for an error."""

    status: int
    body: bytes
    text: str | None
    notes: tuple = ()
    streamed: bool = False


def plain(endpoint, texts):
    text = "".join(texts)
    if endpoint == CHAT:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"id": "c", "choices": [choice], "usage": streamed.CHAT_USAGE}
    if endpoint == RESPONSES:
        return streamed.whole_response(texts)
    if endpoint == MESSAGES:
        return streamed.whole_message(texts)
    if endpoint == EMBEDDINGS:
        return {"object": "list", "data": [{"index": 0, "embedding": [0.1, -2e-3, 7]}]}
    return {"id": "m", "results": [{"flagged": False, "of": text}]}


@st.composite
def meant(draw, endpoint, *, wants_stream):
    """A valid answer most of the time; otherwise an error of a provider or of a proxy."""
    texts = draw(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=4))
    kind = draw(st.sampled_from(["good", "good", "good", "other way", "error", "page"]))
    streams = endpoint in STREAMED and (wants_stream != (kind == "other way"))
    if kind == "error":
        one = draw(st.sampled_from(SAMPLES))
        body = b"" if one["body"] is None else json.dumps(one["body"]).encode()
        inside = draw(st.sampled_from([one["status"], 200]))
        return Meant(inside, body, None, tuple(one["headers"].items()))
    if kind == "page":
        pages = [b"", b"<html>busy</html>", b"null", b"[]", b"{}", b"data: {}\n\n", b"\xff\xfe{"]
        return Meant(
            draw(st.sampled_from([200, 204, 302, 502])), draw(st.sampled_from(pages)), None
        )
    text = "".join(texts) if endpoint in STREAMED else ""
    if streams:
        body = b"".join(STREAMED[endpoint](texts))
        readable = wants_stream
        return Meant(200, body, text if readable else None, streamed=True)
    ascii_ = draw(st.booleans())
    return Meant(200, json.dumps(plain(endpoint, texts), ensure_ascii=ascii_).encode(), text)


def packed(body, coding):
    return {"gzip": gzip.compress, "deflate": zlib.compress}.get(coding, bytes)(body)


def framed(meant, body, notes, *, framing, coding):
    """The bytes of a whole HTTP response; `body` may already be cut or broken, and is framed unchanged."""
    body = packed(body, coding)
    named = [("content-type", "text/event-stream" if meant.streamed else "application/json")]
    named += notes
    named += [("content-encoding", coding)] if coding else []
    if framing == "length":
        named.append(("content-length", str(len(body))))
    elif framing == "chunked":
        named.append(("transfer-encoding", "chunked"))
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in _parts(body))
        body += b"0\r\n\r\n"
    lines = [f"HTTP/1.1 {meant.status} So", *(f"{name}: {value}" for name, value in named)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def _parts(body, size=61):
    return [body[at : at + size] for at in range(0, len(body), size)]
