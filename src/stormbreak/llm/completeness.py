"""Whether the body of a success is a complete answer (law 15), and what it contains.

A status of 200 proves nothing: a body may be empty, cut, the HTML of a proxy, or unrelated JSON. Each shape has one
reader. It decodes the body once, into the few fields that matter, and checks the rest for syntax only. The Responses
and the Messages API have their own modules.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from stormbreak.llm.endpoints import Shape
from stormbreak.llm.error_fields import is_error_value
from stormbreak.llm.finish_reasons import reason_of, refused
from stormbreak.llm.messages import read_message
from stormbreak.llm.parsed_response import ParsedResponse, without_mark
from stormbreak.llm.responses import read_response
from stormbreak.llm.stream_deltas import brings_output
from stormbreak.llm.success_body import ERROR_INSIDE, SuccessBody, broken, refused_by
from stormbreak.llm.surrogates import UNREADABLE, replace_lone_surrogates
from stormbreak.llm.tokens import usage_of
from stormbreak.types import Verdict

# base64 may begin with an escaped slash
_EMBEDDING = re.compile(rb'\[\s*-?[0-9]|"[A-Za-z0-9+/_\\-]')
_NO_NUMBERS = (b"n", b"t", b"f", b'"', b"{")  # the start of every other JSON value
_REFUSED = "refused by its finish reason"

_OF_MODELS = (Shape.CHAT, Shape.RESPONSES, Shape.MESSAGES, Shape.EMBEDDINGS)
MAX_ITEMS = 10_000
"""Maximum choices or other items of one answer; providers allow 128 choices and 2,048 inputs."""
_LARGE = 2**18  # bytes; smaller bodies are not checked
_LISTS: Mapping[Shape, str] = {
    Shape.CHAT: "choices",
    Shape.COMPLETION: "choices",
    Shape.EMBEDDINGS: "data",
    Shape.RESPONSES: "output",
    Shape.MESSAGES: "content",
}


class _Message(msgspec.Struct):
    content: str | list[Any] | dict[str, Any] | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    finish_reason: str | None = None
    error: Any = None


class _Chat(SuccessBody):
    choices: list[_Choice] | None = None
    request_id: Any = None


class _TextChoice(msgspec.Struct):
    text: Any = None
    finish_reason: str | None = None
    error: Any = None


class _Completion(SuccessBody):
    choices: list[_TextChoice] | None = None
    content: Any = None


class _Item(msgspec.Struct):
    embedding: msgspec.Raw = msgspec.Raw(b"null")
    index: Any = None


class _Embeddings(SuccessBody):
    data: list[_Item] | None = None


class _Resource(SuccessBody):
    id: Any = None
    status: Any = None

    def is_error(self) -> bool:
        """Whether it is an error. A failed job with an error field is not one."""
        named = any((self.object, self.id, self.status))
        return super().is_error() and ("error" in (self.object, self.type) or not named)


def read_body(
    body: bytes, shape: Shape, request_id: str | None, wanted: int | None
) -> ParsedResponse:
    """Read the body of a success: OK if it is complete, else its defect.

    `wanted`: the number of choices or embeddings that the request asked for; None if unknown.
    """
    if body.startswith(BOM_UTF8):
        body = without_mark(body)
    try:
        if not body.isascii():
            body.decode()  # the decoder does not check strings that it skips
        if len(body) > _LARGE and _has_too_many(body, shape, wanted):
            return broken(f"more than {MAX_ITEMS} items in one list", request_id)
        return _READERS[shape](body, request_id, wanted)
    except msgspec.ValidationError:
        return broken(f"not a {shape.value}", request_id)
    except UNREADABLE:
        whole = replace_lone_surrogates(body)
        if whole != body:
            return read_body(whole, shape, request_id, wanted)
        return broken(_unreadable(body), request_id)


def _has_too_many(body: bytes, shape: Shape, wanted: int | None) -> bool:
    """Whether the list that a reader decodes is longer than MAX_ITEMS.

    Each item takes about 100 bytes: a body of 32 MiB with empty items took 4 s and 1.2 GB.
    """
    field = _LISTS.get(shape)
    if field is None or body.count(b"{") <= MAX_ITEMS:
        return False
    if shape is Shape.EMBEDDINGS and (wanted is None or wanted > MAX_ITEMS):
        return False  # local servers take any number of inputs
    return _probe(field)(body)


@lru_cache(maxsize=len(Shape))
def _probe(field: str) -> Callable[[bytes], bool]:
    """Make a decoder that reads one list up to the first excess item, and skips the rest."""
    items = [(f"item_{at}", msgspec.Raw, msgspec.Raw()) for at in range(MAX_ITEMS + 1)]
    few = msgspec.defstruct("_Few", items, array_like=True)
    decode = msgspec.json.Decoder(msgspec.defstruct("_Probe", [(field, few | None, None)])).decode

    def probe(body: bytes) -> bool:
        found = getattr(decode(body), field)
        return found is not None and bool(bytes(getattr(found, items[-1][0])))

    return probe


def read_any(body: bytes) -> ParsedResponse:
    """Read the body of a success of unknown shape; a body that fits no shape is not OK."""
    parsed = (read_body(body, shape, None, None) for shape in _OF_MODELS)
    whole = (each for each in parsed if each.verdict is Verdict.OK)
    return next(whole, broken("of no known format", None))


def _unreadable(body: bytes) -> str:
    start = body.lstrip()[:1]
    if not start:
        return "empty body"
    return "html instead of json" if start == b"<" else "invalid json"


_decode_chat = msgspec.json.Decoder(_Chat).decode
_decode_completion = msgspec.json.Decoder(_Completion).decode
_decode_embeddings = msgspec.json.Decoder(_Embeddings).decode
_decode_resource = msgspec.json.Decoder(_Resource).decode
_decode_whole = msgspec.json.Decoder(SuccessBody).decode


def _chat(body: bytes, request_id: str | None, wanted: int | None) -> ParsedResponse:
    answer = _decode_chat(body)
    if answer.is_error():
        return broken(ERROR_INSIDE, request_id)
    if not answer.choices:
        if answer.choices is None and isinstance(answer.request_id, str):  # xAI's form
            # another attempt would start, and bill, another answer
            detail = "the answer is deferred: deferred calls are not followed"
            return broken(detail, request_id)._replace(verdict=Verdict.INVALID)
        return broken("no choices", request_id)
    is_refused = False
    for choice in answer.choices:
        problem = _problem(choice)
        if problem is _REFUSED:
            is_refused = True
        elif problem is not None:
            return broken(problem, request_id)
    if is_refused:
        reasons = [each.finish_reason for each in answer.choices]
        reason = refused(reasons, has_output=_has_output(body))
        if reason is not None:
            return refused_by(reason, answer.usage, request_id)
    first = answer.choices[0]
    content = None if first.message is None else first.message.content
    return ParsedResponse(
        Verdict.OK,
        detail=_too_few(len(answer.choices), wanted) if wanted != 1 else None,
        text=content if isinstance(content, str) else _text_of_parts(content),
        usage=usage_of(answer.usage),
        finish_reason=first.finish_reason,
        request_id=request_id,
    )


def _too_few(count: int, wanted: int | None) -> str | None:
    """Describe fewer choices than asked for: the server does not know `n`, so a retry would not help."""
    return f"{count} of {wanted} choices" if wanted is not None and count < wanted else None


def _problem(choice: _Choice) -> str | None:
    if is_error_value(choice.error):
        return ERROR_INSIDE
    reason = reason_of(choice.finish_reason) if choice.finish_reason else None
    if reason is not None and reason.verdict is not Verdict.OK:
        return _REFUSED
    if choice.message is None:
        return "no message"
    return None if choice.finish_reason else "no finish_reason"


def _has_output(body: bytes) -> bool:
    """Whether any message of a completion has content."""
    messages = (choice.get("message") for choice in msgspec.json.decode(body)["choices"])
    return any(isinstance(each, dict) and brings_output(each) for each in messages)


def _completion(body: bytes, request_id: str | None, wanted: int | None) -> ParsedResponse:
    """Read a text completion. Some servers send no finish reason; old llama.cpp has its own form."""
    answer = _decode_completion(body)
    choices = answer.choices
    if answer.is_error() or any(is_error_value(each.error) for each in choices or ()):
        return broken(ERROR_INSIDE, request_id)
    if not choices:
        if not isinstance(answer.content, str):
            return broken("no choices", request_id)
        return ParsedResponse(
            Verdict.OK, text=answer.content, usage=usage_of(answer.usage), request_id=request_id
        )
    reasons = [each.finish_reason for each in choices]
    texts = [each.text for each in choices]
    reason = refused(reasons, has_output=any(texts))
    if reason is not None:
        return refused_by(reason, answer.usage, request_id)
    if not all(isinstance(text, str) for text in texts):
        return broken("no text", request_id)
    return ParsedResponse(
        Verdict.OK,
        detail=_too_few(len(choices), wanted),
        text=texts[0],
        usage=usage_of(answer.usage),
        finish_reason=choices[0].finish_reason,
        request_id=request_id,
    )


def _text_of_parts(content: object) -> str:
    """Join the text of a message that comes in parts; anything else has no text."""
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


def _embeddings(body: bytes, request_id: str | None, wanted: int | None) -> ParsedResponse:
    answer = _decode_embeddings(body)
    if answer.is_error():
        return broken(ERROR_INSIDE, request_id)
    if not answer.data:
        return broken("no data", request_id)
    if not all(map(_is_embedding, answer.data)):
        return broken("no embedding", request_id)
    if wanted is not None and len(answer.data) != wanted:
        return broken(f"{len(answer.data)} of {wanted} embeddings", request_id)
    places = [item.index for item in answer.data if type(item.index) is int]  # Gemini leaves out 0
    if len(set(places)) < len(places):
        return broken("two embeddings with the same index", request_id)
    return ParsedResponse(Verdict.OK, usage=usage_of(answer.usage), request_id=request_id)


def _is_embedding(item: _Item) -> bool:
    """Whether it is a list of numbers, or their base64, without decoding the numbers."""
    raw = bytes(item.embedding)
    if _EMBEDDING.match(raw) is None:
        return False
    if not raw.startswith(b"["):
        return True
    return raw.find(b"[", 1) < 0 and all(raw.find(other) < 0 for other in _NO_NUMBERS)


def _json(body: bytes, request_id: str | None, _: int | None) -> ParsedResponse:
    answer = _decode_whole(body)
    if answer.is_error():
        return broken(ERROR_INSIDE, request_id)
    return ParsedResponse(Verdict.OK, usage=usage_of(answer.usage), request_id=request_id)


def _resource(body: bytes, request_id: str | None, _: int | None) -> ParsedResponse:
    """Read the answer to a lookup: lists, too, and jobs in any state."""
    if not body.lstrip().startswith(b"{"):
        msgspec.json.decode(body)
    elif _decode_resource(body).is_error():
        return broken(ERROR_INSIDE, request_id)
    return ParsedResponse(Verdict.OK, request_id=request_id)


_READERS: Mapping[Shape, Callable[[bytes, str | None, int | None], ParsedResponse]] = {
    Shape.CHAT: _chat,
    Shape.COMPLETION: _completion,
    Shape.EMBEDDINGS: _embeddings,
    Shape.RESPONSES: read_response,
    Shape.MESSAGES: read_message,
    Shape.JSON: _json,
    Shape.RESOURCE: _resource,
}
