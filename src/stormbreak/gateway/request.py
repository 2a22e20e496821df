"""The request of a client: its key, endpoint, model, deadline, and the headers that are passed on. Pure."""

import re
from collections.abc import Mapping
from hashlib import blake2b
from math import inf
from types import MappingProxyType
from typing import Any

import msgspec

from stormbreak.errors import ConfigurationError
from stormbreak.gateway.errors import RefusedError
from stormbreak.http.h1.request_parser import Request
from stormbreak.http.request import (
    FIELD_NAMES,
    Parts,
    RequestFields,
    decode_parts,
    read_fields,
)
from stormbreak.llm.endpoints import Shape, shape_of
from stormbreak.llm.stream_reader import FORMATS
from stormbreak.llm.surrogates import UNREADABLE

MODELS, USAGE = "/v1/models", "/v1/usage"
LOOKUPS = (MODELS, USAGE)
ENDPOINTS: Mapping[str, Shape] = MappingProxyType(
    {
        f"/v1/{endpoint}": shape_of(endpoint)
        for endpoint in (
            "chat/completions", "responses", "embeddings", "completions", "messages", "messages/count_tokens",
        )
    }
)  # fmt: skip
"""The endpoints that call a model, by path."""

PASSED = (b"anthropic-version", b"anthropic-beta", b"openai-beta")
"""The request headers that are passed on to the provider."""

_OURS = b"x-stormbreak-"
_DEADLINE = b"x-stormbreak-deadline"
_READ_TIMEOUT = b"x-stainless-read-timeout"
_SECONDS = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?")
_MARGIN = 1.0  # seconds in which an error must reach the SDK before its own timeout ...
_MARGIN_SHARE = 0.1  # ... or this share of that timeout, if it is shorter
_BETA = "beta=true"  # the only query that an SDK sends


class ClientHead(msgspec.Struct, frozen=True):
    """The facts in the head of a request to a model, which a client repeats in later requests. Times are seconds.

    `passed` are headers to pass on. `bound` is for the whole call; `read_timeout` is for a plain answer, the first
    output of a stream, and silence after it.
    """

    endpoint: str
    shape: Shape
    passed: tuple[tuple[str, str], ...]
    bound: float
    read_timeout: float
    idempotency_key: str | None


class ClientRequest(msgspec.Struct, frozen=True):  # its constructor is not written in Python
    """A call to a model. Its repr shows neither key nor prompt.

    `parts` are all fields of the body. `stateful` names a field that refers to an object at the provider. `lasts`: the
    request leaves a job there. `streamed`: the answer is a stream.
    """

    head: ClientHead
    body: bytes
    fields: RequestFields
    parts: Parts
    idempotency_key: str
    stateful: str | None
    lasts: bool
    streamed: bool

    __rich_repr__ = None  # type: ignore[assignment]  # rich would show the fields

    def __repr__(self) -> str:
        return f"ClientRequest({self.head.endpoint!r}, {len(self.body)} bytes)"


_STATE = ("previous_response_id", "conversation", "background")
# An escape may hide a letter.
_REFERRING = (b"file_id", b"container_id", b"item_reference", b"\\u00")
# Fields of messages and items; the arguments of tools may hold anything.
_INSIDE = ("content", "output", "file", "source", "audio", "environment")


class _Name:
    """A name in a JSON object. It equals no other name, so that a decoder keeps a repeated field."""

    __slots__ = ("text",)

    def __init__(self, _kind: type, text: str) -> None:
        self.text = text


_BARE = ("id", "type", "status")  # the fields of an item that only refers to one at the provider
_OF_TOOLS = ("file_id", "file_ids", "vector_store_ids", "container_id", "skill_id")
_IN_TOOLS = (b"file_id", b"vector_store_id", b"container", b"\\u00")

_DECODE_NAMES = msgspec.json.Decoder(dict[_Name, msgspec.Raw], dec_hook=_Name).decode
_SMALL = 2**16  # bytes; for more, counting commas takes longer than reading the names one by one


def credentials(headers: Mapping[bytes, bytes]) -> tuple[bytes | None, bytes | None]:
    """Return the two headers in which SDKs send a key."""
    return headers.get(b"authorization"), headers.get(b"x-api-key")


def client_key(authorization: bytes | None, x_api_key: bytes | None) -> bytes | None:
    if authorization is None:
        return None if x_api_key is None else x_api_key.strip()
    scheme, _, key = authorization.partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else None


def check_route(request: Request) -> None:
    path, method = request.path, request.method
    if path in ENDPOINTS:
        allowed = "POST"
    elif path in LOOKUPS:
        allowed = "GET"
    else:
        raise RefusedError(404, "unknown_url", f"{method} {path[:100]} is not served here")
    if method != allowed:
        raise RefusedError(405, "method_not_allowed", f"only {allowed} is allowed here")


def read_head(request: Request, key_name: str) -> ClientHead:
    """Read the head of a request to one of the `ENDPOINTS`. Raises RefusedError if it cannot be forwarded."""
    headers = request.headers
    if b"content-encoding" in headers:
        raise RefusedError(400, "content_encoding", "send the body without content-encoding")
    query = f"?{_BETA}" if request.query == _BETA else ""
    return ClientHead(
        request.path.removeprefix("/v1/") + query,
        ENDPOINTS[request.path],
        tuple((name.decode(), _text(name, headers[name])) for name in PASSED if name in headers),
        _bound(headers),
        _read_timeout(headers.get(_READ_TIMEOUT)),
        _idempotency_key(headers.get(b"idempotency-key"), key_name),
    )


def read_request(head: ClientHead, body: bytes, request_id: str) -> ClientRequest:
    """Read a request. `request_id`, which is unique, is its idempotency key if it has none.

    Raises RefusedError if it cannot be forwarded.
    """
    try:
        fields, parts = _read_body(body)
    except ConfigurationError as error:
        raise RefusedError(400, "invalid_body", str(error)) from None
    shape = head.shape
    stateful, lasts = _state(parts) if shape is Shape.RESPONSES else (None, False)
    streamed = bool(fields.stream) and shape in FORMATS
    key = head.idempotency_key or request_id
    return ClientRequest(head, body, fields, parts, key, stateful, lasts, streamed)


def _read_body(body: bytes) -> tuple[RequestFields, Parts]:
    """Read all fields of the body, and decode those that the gateway uses.

    A field that is repeated, or whose letter case differs from the API's, is refused: a provider may read it
    differently.
    """
    try:
        parts = decode_parts(body)
    except UNREADABLE:
        read_fields(body)  # says why
        raise RefusedError(400, "invalid_body", "the body is not readable") from None
    used = FIELD_NAMES.intersection(parts)
    fields = read_fields(msgspec.json.encode({name: parts[name] for name in used}))
    if not _is_plain(body, parts):
        names = [name.text for name in _DECODE_NAMES(body)]
        folded = set(map(str.casefold, names))
        if len(folded) < len(names) or not FIELD_NAMES.intersection(folded) <= used:
            message = "the body repeats a field, or has an API field in capital letters"
            raise RefusedError(400, "invalid_body", message)
    return fields, parts


def _is_plain(body: bytes, parts: Parts) -> bool:
    """Whether no field is repeated or in capital letters; False may be wrong.

    A repeated field is in the parts only once. If the body has no whitespace between the parts, it is then longer than
    they need; otherwise it has one comma too many.
    """
    names = "".join(parts)
    if not names.isascii() or names != names.lower():
        return False
    if len(body) == len(names) + sum(map(len, parts.values())) + 4 * len(parts) + 1:
        return True
    between = body.count(b",") - b"".join(parts.values()).count(b",") if len(body) <= _SMALL else -1
    return between == len(parts) - 1


def _state(parts: Parts) -> tuple[str | None, bool]:
    """Return the field that refers to an object at the provider, and whether the request leaves a job there."""
    named = [name for name in _STATE if name in parts and _decoded(parts[name])]
    return (named[0] if named else None), "background" in named


def reference_in(request: ClientRequest) -> str | None:
    """Return the field that refers to an object at the provider: at the top level, in the prompt or in a tool."""
    parts, shape = request.parts, request.head.shape
    if request.stateful is not None:
        return request.stateful
    top = {Shape.RESPONSES: "prompt", Shape.MESSAGES: "container"}.get(shape, "")
    if bytes(parts.get(top, b"null")) != b"null":
        return top
    tools = bytes(parts.get("tools", b"")) if shape is Shape.RESPONSES else b""
    if any(word in tools for word in _IN_TOOLS) and (found := _reference_of_tools(_decoded(tools))):
        return found
    prompt = bytes(parts.get("input" if shape is Shape.RESPONSES else "messages", b""))
    if b'"id"' not in prompt and not any(word in prompt for word in _REFERRING):
        return None
    return _reference_in_prompt(
        _decoded(prompt), "item_reference" if shape is Shape.RESPONSES else "id"
    )


def _decoded(part: bytes | msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(part)
    except UNREADABLE:
        raise RefusedError(400, "invalid_body", "the body is not readable") from None


def _reference_in_prompt(prompt: Any, item: str) -> str | None:
    """Return the field that refers to an object at the provider; `item` for an item that is only an id."""
    left = [prompt]
    while left:
        each = left.pop()
        if isinstance(each, list):
            left += each
        elif isinstance(each, dict):
            for name in ("file_id", "container_id"):
                if each.get(name):
                    return name
            if each.get("type") == "item_reference":
                return item
            if each.get("id") and all(each[name] is None for name in each if name not in _BARE):
                return item
            left += [each[name] for name in _INSIDE if name in each]
    return None


def _reference_of_tools(tools: Any) -> str | None:
    """Return the field of a built-in tool that refers to an object; the schemas of functions may hold anything."""
    left = [tools]
    while left:
        each = left.pop()
        if isinstance(each, list):
            left += each
        elif isinstance(each, dict) and each.get("type") not in ("function", "custom"):
            if isinstance(each.get("container"), str):
                return "container"
            for name in _OF_TOOLS:
                if each.get(name):
                    return name
            left += each.values()
    return None


def _text(name: bytes, value: bytes) -> str:
    try:
        return value.decode("ascii")
    except UnicodeDecodeError:
        raise RefusedError(400, "invalid_header", f"{name.decode()} must be ASCII") from None


def _bound(headers: Mapping[bytes, bytes]) -> float:
    """Return the seconds in `x-stormbreak-deadline`; refuse our other headers, since the key decides."""
    bound = inf
    if _OURS not in b"\n".join(headers):  # like nearly all requests
        return bound
    for name, value in headers.items():
        if name == _DEADLINE:
            if _SECONDS.fullmatch(value) is None:
                message = "x-stormbreak-deadline must be seconds, such as 30 or 2.5"
                raise RefusedError(400, "invalid_header", message)
            bound = float(value)
        elif name.startswith(_OURS):
            message = f"{name.decode('ascii', 'replace')[:60]} is not for clients: the key decides"
            raise RefusedError(400, "invalid_header", message)
    return bound


def _read_timeout(value: bytes | None) -> float:
    """Return slightly less than the SDK's own timeout: at its end the SDK would repeat the request."""
    if value is None or _SECONDS.fullmatch(value) is None:
        return inf
    seconds = float(value)
    return seconds - min(_MARGIN, _MARGIN_SHARE * seconds) or inf


def _idempotency_key(value: bytes | None, key_name: str) -> str | None:
    """Return a key that no other client can choose: for a repeated key, a provider may return an earlier answer."""
    if value is None:
        return None
    return blake2b(value, key=key_name.encode()[:64], digest_size=16).hexdigest()
