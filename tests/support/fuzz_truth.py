"""Decide whether sent bytes may count as an answer, with a simple parser that shares no code with stormbreak.

It is lenient: every way in which an HTTP client may find a body in the bytes counts. A response that is complete in one
of these ways may be accepted; one that is complete in none may not.
"""

import json
import re
import zlib
from contextlib import suppress
from typing import NamedTuple

from fuzz_answers import CHAT, EMBEDDINGS, MESSAGES, RESPONSES

_SURROGATES = re.compile("[\ud800-\udfff]")
_LINES = re.compile(rb"\r\n|\n|\r")
_SIZE = re.compile(rb"\s*([0-9a-fA-F]+)")
UNREADABLE = (ValueError, RecursionError)


class AnswerText(NamedTuple):
    """The text of a complete answer, as a whole and from its deltas; None if unknown."""

    text: str | None
    deltas: str | None = None


def may_be(sent, endpoint, *, choices=1):
    """Every complete answer in the bytes of one or more HTTP responses.

    A stream may be one even if it was not requested.
    """
    found = []
    for body in bodies(sent):
        stripped = body.lstrip(b"\xef\xbb\xbf \t\r\n")
        if endpoint in _STREAMS and stripped[:1] not in (b"{", b"[", b"<", b""):
            value = _STREAMS[endpoint](_events(body), choices)
        else:
            value = _plain(stripped, endpoint, choices)
        found += [value] if value else []
    return found


def bodies(sent):
    """Every body that a client may find: framed by length, by chunks, or by the end; compressed or not."""
    for start in _starts(sent):
        rest = sent[start:]
        head = sent[:start].lower()
        framed = [rest, _chunks(rest), _chunks(rest, lenient=True)]
        framed += [
            rest[: int(size)] for size in re.findall(rb"content-length:\s*(\d{1,9})\b", head)
        ]
        for body in framed:
            yield body
            for bits in (31, 15, -15):
                with suppress(zlib.error):
                    yield _unpacked(body, bits)


def _starts(sent):
    """Possible starts of a body: after any empty line that may end a head."""
    found = [match.end() for match in re.finditer(rb"\r?\n\r?\n|\r\r", sent[:20_000])]
    return found[:3]


def _chunks(rest, *, lenient=False):
    body, at = [], 0
    while (size := _SIZE.match(rest, at)) and (length := min(int(size[1], 16), len(rest))):
        start = rest.find(b"\n", size.end()) + 1
        if not start:
            break
        body.append(rest[start : start + length])
        at = start + length
        if lenient and rest[at : at + 1] == b"\n":
            at += 1
    return b"".join(body)


def _unpacked(body, bits):
    parts, left = [], body
    while left:
        unpacker = zlib.decompressobj(bits)
        try:
            parts.append(unpacker.decompress(left))
        except zlib.error:
            break
        left = unpacker.unused_data
    return b"".join(parts)


def loads(data):
    """Decode JSON, including big numbers and lone surrogates."""
    number = lambda text: int(text) if len(text) < 20 else float("inf")  # noqa: E731
    return json.loads(data.decode(errors="replace"), strict=False, parse_int=number)


def _has_error(value):
    errors = [value.get("error"), *(c.get("error") for c in _objects(value.get("choices")))]
    speak = (any(e.values()) if isinstance(e, dict) else e for e in errors)
    return any(speak) or "error" in (value.get("object"), value.get("type"))


def _objects(value):
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _object(value):
    return value if isinstance(value, dict) else {}


def _text(value):
    return _SURROGATES.sub("\ufffd", value) if isinstance(value, str) else None


def _joined(values):
    values = [value for value in values if value is not None]
    return _text("".join(values)) if all(isinstance(v, str) for v in values) else None


def _plain(body, endpoint, choices):
    try:
        value = loads(body)
    except UNREADABLE:
        return None
    if not isinstance(value, dict) or _has_error(value):
        return None
    if endpoint == CHAT:
        return _completion(value, choices)
    read = {RESPONSES: _response, MESSAGES: _message, EMBEDDINGS: _embedding}.get(endpoint)
    return read(value) if read else AnswerText("")


def _completion(value, choices):
    of = _objects(value.get("choices"))
    ends = [isinstance(c.get("message"), dict) and c.get("finish_reason") for c in of]
    whole = of and len(of) >= choices and all(ends)
    return AnswerText(_text(of[0]["message"].get("content"))) if whole else None


def _message(value):
    whole = isinstance(value.get("content"), list) and value.get("stop_reason")
    parts = (b.get("text") for b in _objects(value.get("content")) if b.get("type") == "text")
    return AnswerText(_joined(parts)) if whole else None


def _embedding(value):
    data = _objects(value.get("data"))
    return AnswerText("") if len(data) == 1 and data[0].get("embedding") else None


def _response(value, items=()):
    if value.get("status") not in ("completed", "incomplete"):
        return None
    if value.get("output") is None and not items:
        return None
    output = value["output"] or items if "output" in value else items
    parts = (
        p
        for i in _objects(output)
        if i.get("type") == "message"
        for p in _objects(i.get("content"))
    )
    return AnswerText(_joined(p.get("text") for p in parts if p.get("type") == "output_text"))


def _events(body):
    """The decoded data of each event up to `[DONE]`, without undecodable data."""
    data = []
    for line in [*_LINES.split(body.removeprefix(b"\xef\xbb\xbf")), b""]:
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif line.strip() == b"data":
            data.append(b"")
        elif not line and data:
            joined, data = b"\n".join(data), []
            if joined.strip() == b"[DONE]":
                return
            with suppress(*UNREADABLE):
                value = loads(joined)
                if isinstance(value, dict):
                    yield value


def _chat_stream(events, choices):
    texts, reasons = {}, {}
    for value in events:
        if _has_error(value):
            return None
        for part in _objects(value.get("choices")):
            index = part.get("index") or 0
            if type(index) is not int:
                continue
            texts.setdefault(index, []).append(_object(part.get("delta")).get("content"))
            reasons[index] = part.get("finish_reason") or reasons.get(index)
    if sum(map(bool, reasons.values())) < choices:
        return None
    return AnswerText(_joined(texts[min(texts)]), _joined(texts.get(0, [])))


def _response_stream(events, _):
    deltas, items = [], {}
    for value in events:
        kind = value.get("type")
        if _has_error(value) or kind in ("response.failed", "error"):
            return None
        if kind == "response.output_text.delta":
            deltas.append(value.get("delta"))
        elif kind == "response.output_item.done":
            index = value.get("output_index", len(items))
            items[index if isinstance(index, int) else -1] = value.get("item")
        elif kind in ("response.completed", "response.incomplete"):
            last = _object(value.get("response"))
            last |= {"status": last.get("status") or kind.removeprefix("response.")}
            whole = _response(last, [items[at] for at in sorted(items)])
            if whole is None and last.get("output") is None and any(deltas):
                whole = AnswerText(_joined(deltas))  # the deltas are the whole text
            return whole and whole._replace(deltas=_joined(deltas))
    return None


def _message_stream(events, _):
    blocks, deltas, begun, reason = {}, [], False, None
    for value in events:
        kind = value.get("type")
        if _has_error(value) or kind == "error":
            return None
        if kind == "message_start":
            begun = True
        elif kind == "content_block_start":
            blocks.setdefault(value.get("index"), []).append(
                _object(value.get("content_block")).get("text")
            )
        elif kind == "content_block_delta":
            text = _object(value.get("delta")).get("text")
            blocks.setdefault(value.get("index"), []).append(text)
            deltas.append(text)
        elif kind == "message_delta":
            reason = _object(value.get("delta")).get("stop_reason") or reason
        elif kind == "message_stop":
            whole = begun and reason
            texts = [text for block in blocks.values() for text in block]
            return AnswerText(_joined(texts), _joined(deltas)) if whole else None
    return None


_STREAMS = {CHAT: _chat_stream, RESPONSES: _response_stream, MESSAGES: _message_stream}
