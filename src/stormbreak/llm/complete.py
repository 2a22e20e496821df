"""Whether the body of a success is a complete answer (law 15), and what it says if it is.

A status of 200 proves nothing: bodies come empty, cut, as HTML of a proxy, as JSON of something else. Each
shape has one reader that decodes once, into the few fields that matter; the rest is checked for syntax only.
Those of the Responses and the Messages API have modules of their own.
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from stormbreak.llm.complaint import speaks
from stormbreak.llm.halves import UNREADABLE, mended
from stormbreak.llm.messages import read_message
from stormbreak.llm.reading import Reading, Shape
from stormbreak.llm.responses import read_response
from stormbreak.llm.usage import usage_of
from stormbreak.llm.whole import ERROR_INSIDE, Whole, broken
from stormbreak.types import Verdict

_EMBEDDING = re.compile(
    rb'\[\s*-?[0-9]|"[A-Za-z0-9+/_\\-]'
)  # base64 may begin with an escaped slash


_OF_MODELS = (Shape.CHAT, Shape.RESPONSES, Shape.MESSAGES, Shape.EMBEDDINGS)
_OF_NO_FORMAT = broken("of no known format", None)


class _Message(msgspec.Struct):
    content: Any = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    finish_reason: str | None = None
    error: Any = None


class _Chat(Whole):
    choices: list[_Choice] | None = None


class _Item(msgspec.Struct):
    embedding: msgspec.Raw = msgspec.Raw(b"null")


class _Embeddings(Whole):
    data: list[_Item] | None = None


class _Resource(Whole):
    id: Any = None
    status: Any = None

    def is_error(self) -> bool:
        """Whether it is an error; a job that failed, and has an error to tell of, is none."""
        named = any((self.object, self.id, self.status))
        return super().is_error() and ("error" in (self.object, self.type) or not named)


def read_body(body: bytes, shape: Shape, request_id: str | None, wanted: int | None) -> Reading:
    """Read the body of a success: OK if it is complete, else what is wrong with it.

    `wanted` is how many choices or embeddings the call asked for; None if that is not known.
    """
    try:
        if not body.isascii():
            body.decode()  # the decoder does not look into strings that it skips
        return _READERS[shape](body, request_id, wanted)
    except msgspec.ValidationError:
        return broken(f"not a {shape.value}", request_id)
    except UNREADABLE:
        whole = mended(body)
        if whole != body:
            return read_body(whole, shape, request_id, wanted)
        return broken(_unreadable(body), request_id)


def read_any(body: bytes) -> Reading:
    """Read the body of a success whose format nobody names; one that fits none is not OK."""
    readings = (read_body(body, shape, None, None) for shape in _OF_MODELS)
    return next((each for each in readings if each.verdict is Verdict.OK), _OF_NO_FORMAT)


def _unreadable(body: bytes) -> str:
    start = body.lstrip()[:1]
    if not start:
        return "empty body"
    return "html instead of json" if start == b"<" else "invalid json"


_decode_chat = msgspec.json.Decoder(_Chat).decode
_decode_embeddings = msgspec.json.Decoder(_Embeddings).decode
_decode_resource = msgspec.json.Decoder(_Resource).decode
_decode_whole = msgspec.json.Decoder(Whole).decode


def _chat(body: bytes, request_id: str | None, wanted: int | None) -> Reading:
    answer = _decode_chat(body)
    if answer.is_error():
        return broken(ERROR_INSIDE, request_id)
    if not answer.choices:
        return broken("no choices", request_id)
    for choice in answer.choices:
        wrong = _wrong(choice)
        if wrong:
            return broken(wrong, request_id)
    if wanted is not None and len(answer.choices) < wanted:
        return broken(f"{len(answer.choices)} of {wanted} choices", request_id)
    first = answer.choices[0]
    assert first.message is not None
    content = first.message.content
    return Reading(
        Verdict.OK,
        text=content if isinstance(content, str) else _text_of_parts(content),
        usage=usage_of(answer.usage),
        finish_reason=first.finish_reason,
        request_id=request_id,
    )


def _wrong(choice: _Choice) -> str | None:
    if (choice.error and speaks(choice.error)) or choice.finish_reason == "error":
        return ERROR_INSIDE
    if choice.message is None:
        return "no message"
    return None if choice.finish_reason else "no finish_reason"


def _text_of_parts(content: object) -> str:
    """Join the text of a message that comes in parts; anything else has no text."""
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


def _embeddings(body: bytes, request_id: str | None, wanted: int | None) -> Reading:
    answer = _decode_embeddings(body)
    if answer.is_error():
        return broken(ERROR_INSIDE, request_id)
    if not answer.data:
        return broken("no data", request_id)
    if not all(map(_is_embedding, answer.data)):
        return broken("no embedding", request_id)
    if wanted is not None and len(answer.data) != wanted:
        return broken(f"{len(answer.data)} of {wanted} embeddings", request_id)
    return Reading(Verdict.OK, usage=usage_of(answer.usage), request_id=request_id)


def _is_embedding(item: _Item) -> bool:
    """Tell a list of numbers, or their base64, from everything else by how it begins."""
    return _EMBEDDING.match(bytes(item.embedding)) is not None


def _json(body: bytes, request_id: str | None, _: int | None) -> Reading:
    answer = _decode_whole(body)
    if answer.is_error():
        return broken(ERROR_INSIDE, request_id)
    return Reading(Verdict.OK, usage=usage_of(answer.usage), request_id=request_id)


def _resource(body: bytes, request_id: str | None, _: int | None) -> Reading:
    """Read what is there to be looked at: lists as well, and whatever became of a job."""
    if not body.lstrip().startswith(b"{"):
        msgspec.json.decode(body)
        return Reading(Verdict.OK, request_id=request_id)
    if _decode_resource(body).is_error():
        return broken(ERROR_INSIDE, request_id)
    return Reading(Verdict.OK, request_id=request_id)


_READERS: Mapping[Shape, Callable[[bytes, str | None, int | None], Reading]] = MappingProxyType(
    {
        Shape.CHAT: _chat,
        Shape.EMBEDDINGS: _embeddings,
        Shape.RESPONSES: read_response,
        Shape.MESSAGES: read_message,
        Shape.JSON: _json,
        Shape.RESOURCE: _resource,
    }
)
