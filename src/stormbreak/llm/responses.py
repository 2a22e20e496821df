"""Whether a body is a complete answer of the Responses API, and what it says if it is.

`completed` and `incomplete` are answers, the second one with the reason why it ended early. One that is not
finished yet, or was cancelled, answers a call for the background: it cannot be followed here, and to ask for it
again would begin, and bill, another one.
"""

from typing import Any

import msgspec

from stormbreak.llm.finish_reasons import refused
from stormbreak.llm.reading import ParsedResponse
from stormbreak.llm.usage import usage_of
from stormbreak.llm.whole import ERROR_INSIDE, SuccessBody, broken, refused_by
from stormbreak.types import Verdict

UNFINISHED = frozenset({"queued", "in_progress", "cancelled"})


class _Item(msgspec.Struct):
    type: Any = None
    content: Any = None


class _Details(msgspec.Struct):
    reason: str | None = None


class _Response(SuccessBody):
    status: str | None = None
    output: list[_Item] | None = None
    incomplete_details: _Details | None = None


_decode = msgspec.json.Decoder(_Response).decode


def read_response(body: bytes, request_id: str | None, _: int | None) -> ParsedResponse:
    """Read the body of a success; raise what msgspec does."""
    answer = _decode(body)
    if answer.is_error() or answer.status == "failed":
        return broken(ERROR_INSIDE, request_id)
    if answer.status in UNFINISHED:
        detail = f"the response is {answer.status}: background calls are not followed"
        return broken(detail, request_id)._replace(verdict=Verdict.INVALID)
    if answer.status not in {"completed", "incomplete"}:
        return broken("no status", request_id)
    if answer.output is None:
        return broken("no output", request_id)
    ended = _reason(answer)
    reason = refused([ended], has_output=any(map(_brings, answer.output)))
    if reason is not None:
        return refused_by(reason, answer.usage, request_id)
    return ParsedResponse(
        Verdict.OK,
        text="".join(map(_text_of, answer.output)),
        usage=usage_of(answer.usage),
        finish_reason=ended,
        request_id=request_id,
    )


def _reason(answer: _Response) -> str | None:
    details = answer.incomplete_details if answer.status == "incomplete" else None
    return (details.reason if details else None) or answer.status


def _brings(item: _Item) -> bool:
    """Whether an item is more than a message with nothing in it."""
    parts = item.content if isinstance(item.content, list) else []
    return item.type != "message" or any(
        part.get("text") or part.get("refusal") for part in parts if isinstance(part, dict)
    )


def _text_of(item: _Item) -> str:
    """Join the text of a message; other items (reasoning, calls) have none that is the answer."""
    parts = item.content if item.type == "message" and isinstance(item.content, list) else []
    texts = (
        part.get("text")
        for part in parts
        if isinstance(part, dict) and part.get("type") == "output_text"
    )
    return "".join(text for text in texts if isinstance(text, str))
