"""One line of INPUT, and the request that it describes.

A line has one of two forms: the OpenAI Batch format (`custom_id, method, url, body`), or a plain body (`{"messages":
[...], ...}` or `{"prompt": "...", ...}`), whose other keys go into the request. The rows of a file may have different
urls.

A body is decoded once, into the fields that stormbreak needs; the bytes that are sent are those of the line if
possible. Errors never repeat the content of a line, except ids and urls: a prompt may be a secret.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

from msgspec import UNSET, DecodeError, Raw, Struct, UnsetType, ValidationError
from msgspec.json import Decoder, encode

from stormbreak.escape import quote
from stormbreak.http.request import RequestFields

ID_LIMIT = 512  # characters of a custom_id
CHAT = "/chat/completions"
RESPONSES = "/responses"
MESSAGES = "/messages"
EMBEDDINGS = "/embeddings"

_FORMS = ("body", "messages", "prompt")
_BOUNDS = frozenset({"max_tokens", "max_completion_tokens"})  # two names of the same limit
_NO_DEFAULTS: Mapping[str, float] = MappingProxyType({})
_OBJECT_EACH = "a JSON object, of which each line holds one"
_TYPES = {
    "custom_id": "a string", "method": "a string", "url": "a string", "prompt": "a string", "model": "a string",
    "messages": "an array of objects", "max_tokens": "a whole number", "n": "a whole number",
    "stream": "true or false", "background": "true or false",
}  # fmt: skip


class _Line(Struct):
    custom_id: str | UnsetType = UNSET
    method: str | UnsetType = UNSET
    url: str | UnsetType = UNSET
    body: Raw | UnsetType = UNSET
    messages: Raw | UnsetType = UNSET
    prompt: str | UnsetType = UNSET


class _Body(RequestFields):
    model: str | UnsetType = UNSET  # type: ignore[assignment]  # filled in before anyone else sees it


class _ChatBody(_Body, kw_only=True):
    messages: list[dict[str, Raw]]


class _MessagesBody(_ChatBody, kw_only=True):
    max_tokens: int


class _ResponsesBody(_Body, kw_only=True):
    input: Raw | UnsetType = UNSET
    prompt: Raw | UnsetType = UNSET  # the provider has stored the prompt, so no input is needed
    background: bool | None = None


class _EmbeddingsBody(_Body, kw_only=True):
    input: Raw


_LINE = Decoder(_Line)
_FIELDS = Decoder(dict[str, Raw])
_BODIES: Mapping[str, Decoder[Any]] = {
    CHAT: Decoder(_ChatBody),
    RESPONSES: Decoder(_ResponsesBody),
    MESSAGES: Decoder(_MessagesBody),
    EMBEDDINGS: Decoder(_EmbeddingsBody),
}
ENDPOINTS: Mapping[str, str] = {
    prefix + endpoint: endpoint for prefix in ("/v1", "") for endpoint in _BODIES
}

_T = TypeVar("_T")


class RowError(ValueError):
    """A line that is not a request, or a row that cannot become one; the message says why, the caller adds where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One request. `endpoint` has no `/v1`; `body` is a JSON object; `fields` are those that the client reads."""

    index: int  # counts the rows from 0, without blank lines
    custom_id: str
    endpoint: str
    body: bytes = field(repr=False)
    fields: RequestFields = field(repr=False)


def parse_row(
    line: bytes,
    *,
    index: int,
    number: int,
    model: str | None,
    defaults: Mapping[str, float] = _NO_DEFAULTS,
) -> Row:
    """Read the row on line `number`. A row without a model gets `model`; a chat gets the `defaults` that it lacks.

    Raises RowError if the line is not a request.
    """
    try:
        line.decode()  # the JSON decoder lets invalid UTF-8 pass inside a raw value
    except UnicodeDecodeError as error:
        raise RowError(f"invalid UTF-8 at byte {error.start}") from None
    head = _parse(_LINE, line, f"is not {_OBJECT_EACH}")
    custom_id = _custom_id(head.custom_id, number)
    _check_form(head)
    endpoint = _endpoint(head)
    body = _spelled_out(line, endpoint) if head.body is UNSET else bytes(head.body)
    fields = _parse(_BODIES[endpoint], body, "body must be an object")
    _check(fields, endpoint)
    added = _missing(fields, body, model, defaults if endpoint == CHAT else _NO_DEFAULTS)
    if added:
        body = encode(_FIELDS.decode(body) | added)
        for name in added.keys() & set(fields.__struct_fields__):
            setattr(fields, name, added[name])
    return Row(index=index, custom_id=custom_id, endpoint=endpoint, body=body, fields=fields)


def _parse(decoder: Decoder[_T], text: bytes, no_object: str) -> _T:
    try:
        return decoder.decode(text)
    except ValidationError as error:
        raise RowError(_wrong_type(str(error), no_object)) from None
    except DecodeError as error:
        raise RowError(_broken(text, str(error))) from None
    except RecursionError:
        raise RowError("is nested too deeply") from None


def _wrong_type(complaint: str, no_object: str) -> str:
    """Explain the decoder's error, which names a field but never a value."""
    if missing := re.search(r"missing required field `(\w+)`", complaint):
        return f"has no {missing[1]} in its body"
    name = re.search(r"`\$\.(\w+)", complaint)
    return f"{name[1]} must be {_TYPES[name[1]]}" if name else no_object


def _broken(line: bytes, complaint: str) -> str:
    if at := re.search(r"\(byte (\d+)\)", complaint):
        return f"broken JSON at byte {at[1]}" if at[1] != "0" else f"is not {_OBJECT_EACH}"
    try:
        json.loads(line)
    except ValueError:
        return f"broken JSON: ends early, at byte {len(line.rstrip())}"
    except RecursionError:  # this parser allows fewer levels than msgspec, from Python 3.14 on
        return "is nested too deeply"
    return r"broken JSON: a \u escape of half a character (lone surrogate)"


def _custom_id(custom_id: str | UnsetType, number: int) -> str:
    if custom_id is UNSET:
        return f"row-{number}"
    if not custom_id:
        raise RowError("custom_id is empty")
    if len(custom_id) > ID_LIMIT:
        long = f"custom_id {quote(custom_id)} has {len(custom_id):,} characters"
        raise RowError(f"{long}, more than {ID_LIMIT}")
    return custom_id


def _check_form(head: _Line) -> None:
    if (head.body is UNSET) + (head.messages is UNSET) + (head.prompt is UNSET) == 2:
        return
    forms = [form for form in _FORMS if getattr(head, form) is not UNSET]
    if not forms:
        raise RowError('has none of "body", "messages", "prompt"')
    raise RowError(f'has "{forms[0]}" and "{forms[1]}": one is enough')


def _endpoint(head: _Line) -> str:
    method, url = head.method, head.url
    if method is not UNSET and method.upper() != "POST":
        raise RowError(f"method must be POST, got {quote(method)}")
    if url is UNSET:
        if head.body is not UNSET:
            raise RowError("has no url")
        return CHAT
    if url not in ENDPOINTS:
        *others, last = (f"/v1{endpoint}" for endpoint in _BODIES)
        raise RowError(f"url must be {', '.join(others)} or {last}, got {quote(url)}")
    return ENDPOINTS[url]


def _spelled_out(line: bytes, endpoint: str) -> bytes:
    """Make the body of a line without one: drop the line's own keys; rename a lone prompt as the endpoint wants it."""
    fields = _FIELDS.decode(line)
    for name in ("custom_id", "method", "url"):
        fields.pop(name, None)
    if (raw := fields.pop("prompt", None)) is not None:
        if endpoint in (CHAT, MESSAGES):
            fields["messages"] = Raw(b'[{"role":"user","content":' + bytes(raw) + b"}]")
        else:
            fields["input"] = raw
    return encode(fields)


def _check(fields: _Body, endpoint: str) -> None:
    if isinstance(fields, _ChatBody) and not fields.messages:
        raise RowError("messages is empty")
    if isinstance(fields, _ResponsesBody):
        if fields.input is UNSET and fields.prompt is UNSET:
            raise RowError("has no input in its body")
        if fields.background:
            raise RowError("background is true, but a batch waits for every answer")
    if fields.stream and endpoint == EMBEDDINGS:
        raise RowError("stream is true, but embeddings are not streamed")
    if fields.model == "":
        raise RowError("model is empty")


def _missing(
    fields: _Body, body: bytes, model: str | None, defaults: Mapping[str, float]
) -> dict[str, str | float]:
    """Return the model, and the defaults that a chat does not set (null sets); two names of one limit are one."""
    added: dict[str, str | float] = {}
    if defaults:
        names = set(_FIELDS.decode(body))
        names |= _BOUNDS if names & _BOUNDS else set()
        added |= {name: value for name, value in defaults.items() if name not in names}
    if fields.model is UNSET:
        if not model:
            raise RowError("has no model, and --model is not given")
        added["model"] = model
    return added
