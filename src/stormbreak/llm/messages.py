"""Whether a body is a complete answer of Anthropic's Messages API, and what it says if it is."""

from typing import Any

import msgspec

from stormbreak.llm.finish_reasons import refused
from stormbreak.llm.reading import ParsedResponse
from stormbreak.llm.usage import usage_of
from stormbreak.llm.whole import ERROR_INSIDE, SuccessBody, broken, refused_by
from stormbreak.types import Verdict


class _Block(msgspec.Struct):
    type: Any = None
    text: Any = None


class _Message(SuccessBody):
    content: list[_Block] | None = None
    stop_reason: str | None = None


_decode = msgspec.json.Decoder(_Message).decode


def read_message(body: bytes, request_id: str | None, _: int | None) -> ParsedResponse:
    """Read the body of a success; raise what msgspec does."""
    answer = _decode(body)
    if answer.is_error():
        return broken(ERROR_INSIDE, request_id)
    if answer.content is None:
        return broken("no content", request_id)
    if not answer.stop_reason:
        return broken("no stop_reason", request_id)
    brings = any(block.type != "text" or block.text for block in answer.content)
    reason = refused([answer.stop_reason], has_output=brings)
    if reason is not None:
        return refused_by(reason, answer.usage, request_id)
    texts = (block.text for block in answer.content if block.type == "text")
    return ParsedResponse(
        Verdict.OK,
        text="".join(text for text in texts if isinstance(text, str)),
        usage=usage_of(answer.usage),
        finish_reason=answer.stop_reason,
        request_id=request_id,
    )
