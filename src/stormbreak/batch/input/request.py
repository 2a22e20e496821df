"""One line of INPUT, and the request it stands for.

Two forms are read: the OpenAI Batch format (`custom_id, method, url, body`), and a body of its own
(`{"messages": [...], ...}` or `{"prompt": "...", ...}`), whose further keys pass into the request. The rows of a
file may have different urls.
Values are carried as the bytes they were written in; only what must be known is decoded.
No error repeats what a line says, apart from ids and urls: a prompt may be a secret.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from msgspec import DecodeError, Raw, ValidationError
from msgspec.json import Decoder, encode

from stormbreak.escape import quoted

ID_LIMIT = 512  # characters of a custom_id
CHAT = "/chat/completions"
RESPONSES = "/responses"
MESSAGES = "/messages"
EMBEDDINGS = "/embeddings"

_NEEDED = MappingProxyType(
    {
        CHAT: ("messages",),
        RESPONSES: ("input",),
        MESSAGES: ("messages", "max_tokens"),
        EMBEDDINGS: ("input",),
    }
)
"""What a body must have, by endpoint."""

_ENDPOINTS = MappingProxyType(
    {prefix + endpoint: endpoint for prefix in ("/v1", "") for endpoint in _NEEDED}
)
_BOUNDS = frozenset({"max_tokens", "max_completion_tokens"})  # two names of one thing
_NO_DEFAULTS: Mapping[str, float] = MappingProxyType({})
_FORMS = ("body", "messages", "prompt")
_OBJECT_EACH = "a JSON object, of which each line holds one"

_T = TypeVar("_T")
_Fields = dict[str, Raw]
_OBJECT = Decoder(_Fields)
_STRING = Decoder(str)
_MESSAGES = Decoder(list[_Fields])
_FLAG = Decoder(bool | None)
_NUMBER = Decoder(int | None)
_COUNT = Decoder(int)


class InputRowError(ValueError):
    """A line that is no request; the message says why, the reader adds where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One request. `endpoint` has no `/v1`; `body` is the bytes of a JSON object with a model in it."""

    index: int  # counts the rows from 0, blank lines left out
    custom_id: str
    endpoint: str
    body: bytes = field(repr=False)


def parse_row(
    line: bytes,
    *,
    index: int,
    number: int,
    model: str | None,
    defaults: Mapping[str, float] = _NO_DEFAULTS,
) -> Row:
    """Read the row on line `number`. `model` stands in where the row names none, and so do the `defaults` of a chat."""
    fields = _object(line)
    custom_id = _custom_id(fields.pop("custom_id", None), number)
    form = _form(fields)
    method, url = fields.pop("method", None), fields.pop("url", None)
    endpoint = _endpoint(method, url, needed=form == "body")
    if form == "body":
        given = _typed(_OBJECT, fields["body"], "body must be an object")
    else:
        given = _spelled_out(fields, endpoint)
    _check(given, endpoint)
    body = _with_model(given, model)
    if defaults and endpoint == CHAT:
        body = _with_defaults(body, defaults)
    untouched = form == "body" and body is given
    packed = bytes(fields["body"]) if untouched else encode(body)
    return Row(index=index, custom_id=custom_id, endpoint=endpoint, body=packed)


def _object(line: bytes) -> _Fields:
    try:
        line.decode()  # the JSON decoder lets invalid UTF-8 pass inside a raw value
        return _OBJECT.decode(line)
    except UnicodeDecodeError as error:
        raise InputRowError(f"invalid UTF-8 at byte {error.start}") from None
    except ValidationError:
        raise InputRowError(f"is not {_OBJECT_EACH}") from None
    except DecodeError as error:
        raise InputRowError(_broken(line, str(error))) from None
    except RecursionError:
        raise InputRowError("is nested too deeply") from None


def _broken(line: bytes, complaint: str) -> str:
    if at := re.search(r"\(byte (\d+)\)", complaint):
        return f"broken JSON at byte {at[1]}" if at[1] != "0" else f"is not {_OBJECT_EACH}"
    try:
        json.loads(line)
    except ValueError:
        return f"broken JSON: ends early, at byte {len(line.rstrip())}"
    return r"broken JSON: a \u escape of half a character (lone surrogate)"


def _custom_id(raw: Raw | None, number: int) -> str:
    if raw is None:
        return f"row-{number}"
    custom_id = _typed(_STRING, raw, "custom_id must be a string")
    if not custom_id:
        raise InputRowError("custom_id is empty")
    if len(custom_id) > ID_LIMIT:
        said = f"custom_id {quoted(custom_id)} has {len(custom_id):,} characters"
        raise InputRowError(f"{said}, more than {ID_LIMIT}")
    return custom_id


def _form(fields: _Fields) -> str:
    forms = [form for form in _FORMS if form in fields]
    if not forms:
        raise InputRowError('has none of "body", "messages", "prompt"')
    if len(forms) > 1:
        raise InputRowError(f'has "{forms[0]}" and "{forms[1]}": one is enough')
    return forms[0]


def _endpoint(method: Raw | None, url: Raw | None, *, needed: bool) -> str:
    if method is not None:
        verb = _typed(_STRING, method, "method must be a string")
        if verb.upper() != "POST":
            raise InputRowError(f"method must be POST, got {quoted(verb)}")
    if url is None:
        if needed:
            raise InputRowError("has no url")
        return CHAT
    path = _typed(_STRING, url, "url must be a string")
    if path not in _ENDPOINTS:
        *others, last = (f"/v1{endpoint}" for endpoint in _NEEDED)
        raise InputRowError(f"url must be {', '.join(others)} or {last}, got {quoted(path)}")
    return _ENDPOINTS[path]


def _spelled_out(fields: _Fields, endpoint: str) -> _Fields:
    """Turn a lone prompt into what the endpoint calls it."""
    if (raw := fields.pop("prompt", None)) is not None:
        _typed(_STRING, raw, "prompt must be a string")
        if "messages" in _NEEDED[endpoint]:
            fields["messages"] = Raw(b'[{"role":"user","content":' + bytes(raw) + b"}]")
        else:
            fields["input"] = raw
    return fields


def _check(body: _Fields, endpoint: str) -> None:
    needed = _NEEDED[endpoint]
    stored = endpoint == RESPONSES and "prompt" in body  # a prompt kept there needs no input
    for name in needed:
        if name not in body and not stored:
            raise InputRowError(f"has no {name} in its body")
    if "messages" in needed and not _typed(
        _MESSAGES, body["messages"], "messages must be an array of objects"
    ):
        raise InputRowError("messages is empty")
    if "max_tokens" in needed:
        _typed(_COUNT, body["max_tokens"], "max_tokens must be a whole number")
    _check_delivery(body, endpoint)
    if "model" in body and not _typed(_STRING, body["model"], "model must be a string"):
        raise InputRowError("model is empty")
    if "n" in body:
        _typed(_NUMBER, body["n"], "n must be a whole number")


def _check_delivery(body: _Fields, endpoint: str) -> None:
    """Refuse what would come in a way in which it cannot be taken."""
    if _flag(body, "stream") and endpoint == EMBEDDINGS:
        raise InputRowError("stream is true, but embeddings are not streamed")
    if endpoint == RESPONSES and _flag(body, "background"):
        raise InputRowError("background is true, but a batch waits for every answer")


def _flag(body: _Fields, name: str) -> bool | None:
    return name in body and _typed(_FLAG, body[name], f"{name} must be true or false")


def _with_model(body: _Fields, model: str | None) -> _Fields:
    if "model" in body:
        return body
    if not model:
        raise InputRowError("names no model, and no --model stands in")
    return body | {"model": Raw(encode(model))}


def _with_defaults(body: _Fields, defaults: Mapping[str, float]) -> _Fields:
    """Add what the row does not say, ``null`` included; a bound of the answer by its other name is said, too."""
    said = body.keys() | (_BOUNDS if body.keys() & _BOUNDS else set())
    missing = {name: Raw(encode(value)) for name, value in defaults.items() if name not in said}
    return body | missing if missing else body


def _typed(decoder: Decoder[_T], raw: Raw, complaint: str) -> _T:
    try:
        return decoder.decode(raw)
    except ValidationError:
        raise InputRowError(complaint) from None
