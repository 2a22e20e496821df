"""Redact what a provider repeats of a request: the one place for it.

A good answer goes to the caller, to OUTPUT and to the cache as it came: nothing in it is redacted. Everything else that a
provider writes (error bodies, codes, ids, hosts) ends up in failed files, logs and errors: there the key is redacted, if it
can be a secret, and so is the text of the request.
"""

import json
import re
from collections.abc import Container, Iterator
from functools import lru_cache
from typing import Any

import msgspec

from stormbreak.key_patterns import may_be_secret
from stormbreak.llm.error_tables import is_known
from stormbreak.llm.models import ParsedResponse
from stormbreak.llm.surrogates import UNREADABLE

GONE = b"[...]"
SECRET = 8  # characters; anything shorter than that keeps no secret
MIN_MATCH = 12  # characters of a single word that may tell whose text it is from

KEPT = (
    64 * 2**10
)  # bytes of a failed answer; a longer one explains nothing and takes long to look through

LONG = 4 * 2**10  # bytes of a request that holds many words

_WORD = re.compile(rf"[\w-]{{{MIN_MATCH},}}")


def redact(
    parsed: ParsedResponse, body: bytes, *, api_key: str | None, asked: bytes
) -> tuple[ParsedResponse, bytes]:
    """Redact the key and the text of the request `asked` in a failure: its body and its identifiers."""
    for form in _forms_of_key(_secret(api_key)):
        body = body.replace(form, GONE)
    return redact_identifiers(parsed, api_key, asked), _without_words(body, asked)


def redact_identifiers(parsed: ParsedResponse, api_key: str | None, asked: bytes) -> ParsedResponse:
    """Drop ids and codes that repeat the key or the request; a code that our own tables know is no secret."""
    key = _secret(api_key).lower()
    code, request_id, detail = parsed.code, parsed.request_id, parsed.detail
    if request_id is not None and _repeats(request_id, key, asked):
        request_id = None
    if code is not None and not is_known(code) and _repeats(code, key, asked):
        code = None
    if detail is not None and _repeats(detail, key, b""):
        detail = "redirected"
    if (code, request_id, detail) == (parsed.code, parsed.request_id, parsed.detail):
        return parsed
    return parsed._replace(code=code, request_id=request_id, detail=detail)


@lru_cache(maxsize=64)
def _secret(api_key: str | None) -> str:
    """The key, where it can be a secret; else nothing."""
    return api_key if api_key is not None and may_be_secret(api_key) else ""


def _repeats(text: str, key: str, asked: bytes) -> bool:
    """Whether `text` repeats the request, the key, or a good part of the key."""
    if text.encode() in asked:
        return True
    text = text.lower()
    return bool(key) and (key in text or (len(text) >= SECRET and text in key))


def _without_words(body: bytes, asked: bytes) -> bytes:
    """Drop every text of the request, and every long word of one, however it is quoted."""
    if len(body) > KEPT:
        return b""
    texts = set(_texts(asked))
    starts = _starts(body, many=len(asked) > LONG)
    words = {
        word
        for text in texts
        for word in _WORD.findall(text)
        if word[:SECRET] in starts or not word.isascii()
    }
    found = [said for said in texts | words if _may_stand(said, body, starts)]
    for said in sorted(found, key=len, reverse=True):
        for form in sorted(_forms(said), key=len, reverse=True):  # a bare one is a part of a quoted
            body = body.replace(form, GONE)
    return body


def _starts(body: bytes, *, many: bool) -> Container[str]:
    """What plain texts that stand in a body may start with; where `many` will be looked up, as a set."""
    shown = body.decode("latin-1")
    return {shown[at : at + SECRET] for at in range(len(shown))} if many else shown


def _may_stand(said: str, body: bytes, starts: Container[str]) -> bool:
    """Whether a text may stand in a body in any form, by how it starts: an image is a hundred thousand words.

    No form is shorter than the text, and none but those with a backslash differs from it in what is plain.
    """
    if len(said) > len(body):
        return False
    start = said[:SECRET]
    if start.isascii() and start.isprintable() and '"' not in start and "\\" not in start:
        return start in starts
    return b"\\" in body or start.encode(errors="replace") in body


@lru_cache(maxsize=64)
def _forms_of_key(key: str) -> tuple[bytes, ...]:
    """The key as it may stand in a body, the longest first; few keys have any but one form."""
    forms = {key} - {""}
    for _ in range(2):  # in a JSON string, and in JSON that is quoted in another
        quoted = {json.dumps(form)[1:-1] for form in forms}
        forms |= quoted | {form.replace("/", r"\/") for form in quoted}
    return tuple(form.encode() for form in sorted(forms, key=len, reverse=True))


def _texts(asked: bytes) -> Iterator[str]:
    """Every text of a request that is long enough to be one; its model is none."""
    try:
        request = msgspec.json.decode(asked)
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
    """`text` as it may stand in a body: as it is, in a JSON string, and in JSON that is quoted in another."""
    once = {json.dumps(text, ensure_ascii=ascii_)[1:-1] for ascii_ in (True, False)}
    twice = {
        json.dumps(form, ensure_ascii=ascii_)[1:-1] for form in once for ascii_ in (True, False)
    }
    return {form.encode(errors="replace") for form in {text} | once | twice}
