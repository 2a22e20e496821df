"""Redact the parts of a request that a provider repeats: the key, if it can be a secret, and the text.

A successful answer goes unchanged to the caller, to OUTPUT and to the cache. Error bodies, codes, ids and hosts get
into failed files, logs and errors, so they are redacted. Other keys are recognised by their form (`hidden_keys`).
"""

import json
import re
from collections.abc import Container, Iterator
from functools import lru_cache
from typing import Any

import msgspec

from stormbreak.hidden_keys import may_be_secret
from stormbreak.llm.error_tables import is_known
from stormbreak.llm.parsed_response import ParsedResponse
from stormbreak.llm.surrogates import UNREADABLE

REDACTED = b"[...]"
SECRET = 8  # characters; a shorter text is not a secret
MIN_MATCH = 12  # characters of a single word that identifies a text

# bytes of a failed answer; a longer one is dropped, since it takes long to search
KEPT = 64 * 2**10
LONG = 4 * 2**10  # bytes of a request with many words

_WORD = re.compile(rf"[\w-]{{{MIN_MATCH},}}")


def redact(
    parsed: ParsedResponse, body: bytes, *, api_key: str | None, request_body: bytes
) -> tuple[ParsedResponse, bytes]:
    """Redact the key and the text of the request in a failure: its body and its identifiers.

    A code in our own tables is not a secret.
    """
    for form in _forms_of_key(_secret(api_key)):
        body = body.replace(form, REDACTED)
    code, request_id, detail = parsed.code, parsed.request_id, parsed.detail
    if request_id is not None and repeats(request_id, api_key, request_body):
        request_id = None
    if code is not None and not is_known(code) and repeats(code, api_key, request_body):
        code = None
    if detail is not None and repeats(detail, api_key, b""):
        detail = "redirected"
    parsed = parsed._replace(code=code, request_id=request_id, detail=detail)
    return parsed, _without_words(body, request_body)


def repeats(text: str, api_key: str | None, request_body: bytes) -> bool:
    """Whether a text repeats the request, the key, or a good part of the key."""
    if text.encode() in request_body:
        return True
    key, text = _secret(api_key).lower(), text.lower()
    return bool(key) and (key in text or (len(text) >= SECRET and text in key))


@lru_cache(maxsize=64)
def _secret(api_key: str | None) -> str:
    """Return the key if it can be a secret, else an empty text."""
    return api_key if api_key is not None and may_be_secret(api_key) else ""


def _without_words(body: bytes, request_body: bytes) -> bytes:
    """Redact every text of the request, and every long word of a text, in any quoting."""
    if len(body) > KEPT:
        return b""
    texts = set(_texts(request_body))
    starts = _starts(body, many=len(request_body) > LONG)
    words = {
        word
        for text in texts
        for word in _WORD.findall(text)
        if word[:SECRET] in starts or not word.isascii()
    }
    found = [text for text in texts | words if _may_contain(body, text, starts)]
    for text in sorted(found, key=len, reverse=True):
        for form in sorted(
            _forms(text), key=len, reverse=True
        ):  # a quoted form contains the plain one
            body = body.replace(form, REDACTED)
    return body


def _starts(body: bytes, *, many: bool) -> Container[str]:
    """Return the possible starts of plain texts in a body; as a set if `many` will be looked up."""
    shown = body.decode("latin-1")
    return {shown[at : at + SECRET] for at in range(len(shown))} if many else shown


def _may_contain(body: bytes, text: str, starts: Container[str]) -> bool:
    """Whether a body may contain a text in any form. Only its start is checked: an image has a hundred thousand words.

    No form is shorter than the text, and only forms with a backslash differ from it in plain characters.
    """
    if len(text) > len(body):
        return False
    start = text[:SECRET]
    if start.isascii() and start.isprintable() and '"' not in start and "\\" not in start:
        return start in starts
    return b"\\" in body or start.encode(errors="replace") in body


@lru_cache(maxsize=64)
def _forms_of_key(key: str) -> tuple[bytes, ...]:
    """Return the forms of a key in a body, the longest first; few keys have more than one."""
    forms = {key} - {""}
    for _ in range(2):  # in a JSON string, and in JSON quoted in another
        quoted = {json.dumps(form)[1:-1] for form in forms}
        forms |= quoted | {form.replace("/", r"\/") for form in quoted}
    return tuple(form.encode() for form in sorted(forms, key=len, reverse=True))


def _texts(request_body: bytes) -> Iterator[str]:
    """Yield every long enough text of a request, except its model."""
    try:
        request = msgspec.json.decode(request_body)
    except UNREADABLE:
        return
    if isinstance(request, dict):
        request.pop("model", None)
    waiting = [request]
    while waiting:
        value: Any = waiting.pop()
        if isinstance(value, str) and len(value) >= SECRET:
            yield value
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _forms(text: str) -> set[bytes]:
    """Return the forms of a text in a body: plain, in a JSON string, and in JSON quoted in another."""
    once = {json.dumps(text, ensure_ascii=ascii_)[1:-1] for ascii_ in (True, False)}
    twice = {
        json.dumps(form, ensure_ascii=ascii_)[1:-1] for form in once for ascii_ in (True, False)
    }
    return {form.encode(errors="replace") for form in {text} | once | twice}
