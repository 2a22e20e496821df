"""Whether bytes that were sent may be taken for an answer: judged by a simple parser that shares nothing with ours.

It is lenient: each way in which an HTTP client may cut a body out of the bytes counts, and what is complete in any of
them may be accepted. What is complete in none of them may not.
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


class Said(NamedTuple):
    """What a complete answer says: the answer as a whole, and as its deltas say it; None where nobody can tell."""

    text: str | None
    deltas: str | None = None


def may_be(sent, endpoint, *, choices=1):
    """Every complete answer that can be read out of the bytes of one HTTP answer, or of several.

    A stream may be one whether or not it was asked for.
    """
    found = []
    for body in bodies(sent):
        stripped = body.lstrip(b"\xef\xbb\xbf \t\r\n")
        if endpoint in _STREAMS and stripped[:1] not in (b"{", b"[", b"<", b""):
            said = _STREAMS[endpoint](_events(body), choices)
        else:
            said = _plain(stripped, endpoint, choices)
        found += [said] if said else []
    return found


def bodies(sent):
    """Every body that a client may find: framed by its length, by chunks, or by the end; packed or not."""
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
    """Where a body may begin: after any empty line of what may be heads."""
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
    """Decode JSON, big numbers and halves of characters included."""
    number = lambda text: int(text) if len(text) < 20 else float("inf")  # noqa: E731
    return json.loads(data.decode(errors="replace"), strict=False, parse_int=number)


def _has_error(said):
    errors = [said.get("error"), *(c.get("error") for c in _objects(said.get("choices")))]
    speak = (any(e.values()) if isinstance(e, dict) else e for e in errors)
    return any(speak) or "error" in (said.get("object"), said.get("type"))


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
        said = loads(body)
    except UNREADABLE:
        return None
    if not isinstance(said, dict) or _has_error(said):
        return None
    if endpoint == CHAT:
        return _completion(said, choices)
    read = {RESPONSES: _response, MESSAGES: _message, EMBEDDINGS: _embedding}.get(endpoint)
    return read(said) if read else Said("")


def _completion(said, choices):
    of = _objects(said.get("choices"))
    ends = [isinstance(c.get("message"), dict) and c.get("finish_reason") for c in of]
    whole = of and len(of) >= choices and all(ends)
    return Said(_text(of[0]["message"].get("content"))) if whole else None


def _message(said):
    whole = isinstance(said.get("content"), list) and said.get("stop_reason")
    parts = (b.get("text") for b in _objects(said.get("content")) if b.get("type") == "text")
    return Said(_joined(parts)) if whole else None


def _embedding(said):
    data = _objects(said.get("data"))
    return Said("") if len(data) == 1 and data[0].get("embedding") else None


def _response(said, items=()):
    if said.get("status") not in ("completed", "incomplete"):
        return None
    if said.get("output") is None and not items:
        return None
    output = said["output"] or items if "output" in said else items
    parts = (
        p
        for i in _objects(output)
        if i.get("type") == "message"
        for p in _objects(i.get("content"))
    )
    return Said(_joined(p.get("text") for p in parts if p.get("type") == "output_text"))


def _events(body):
    """The data of each event, decoded; what cannot be decoded is left out; nothing after `[DONE]`."""
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
                said = loads(joined)
                if isinstance(said, dict):
                    yield said


def _chat_stream(events, choices):
    texts, reasons = {}, {}
    for said in events:
        if _has_error(said):
            return None
        for part in _objects(said.get("choices")):
            index = part.get("index") or 0
            if type(index) is not int:
                continue
            texts.setdefault(index, []).append(_object(part.get("delta")).get("content"))
            reasons[index] = part.get("finish_reason") or reasons.get(index)
    if sum(map(bool, reasons.values())) < choices:
        return None
    return Said(_joined(texts[min(texts)]), _joined(texts.get(0, [])))


def _response_stream(events, _):
    deltas, items = [], {}
    for said in events:
        kind = said.get("type")
        if _has_error(said) or kind in ("response.failed", "error"):
            return None
        if kind == "response.output_text.delta":
            deltas.append(said.get("delta"))
        elif kind == "response.output_item.done":
            index = said.get("output_index", len(items))
            items[index if isinstance(index, int) else -1] = said.get("item")
        elif kind in ("response.completed", "response.incomplete"):
            last = _object(said.get("response"))
            last |= {"status": last.get("status") or kind.removeprefix("response.")}
            whole = _response(last, [items[at] for at in sorted(items)])
            if whole is None and last.get("output") is None and any(deltas):
                whole = Said(_joined(deltas))  # all that there is of it
            return whole and whole._replace(deltas=_joined(deltas))
    return None


def _message_stream(events, _):
    blocks, deltas, begun, reason = {}, [], False, None
    for said in events:
        kind = said.get("type")
        if _has_error(said) or kind == "error":
            return None
        if kind == "message_start":
            begun = True
        elif kind == "content_block_start":
            blocks.setdefault(said.get("index"), []).append(
                _object(said.get("content_block")).get("text")
            )
        elif kind == "content_block_delta":
            text = _object(said.get("delta")).get("text")
            blocks.setdefault(said.get("index"), []).append(text)
            deltas.append(text)
        elif kind == "message_delta":
            reason = _object(said.get("delta")).get("stop_reason") or reason
        elif kind == "message_stop":
            whole = begun and reason
            texts = [text for block in blocks.values() for text in block]
            return Said(_joined(texts), _joined(deltas)) if whole else None
    return None


_STREAMS = {CHAT: _chat_stream, RESPONSES: _response_stream, MESSAGES: _message_stream}
