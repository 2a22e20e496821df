"""The Responses API: read a complete answer; assemble or watch a streamed one.

`completed` and `incomplete` are answers. An unfinished or cancelled response belongs to a background call, which is not
followed here. It is not retried: another attempt would start and bill another response.
"""

import re
from typing import Any

import msgspec

from stormbreak.llm.error_fields import ProviderError, find_error
from stormbreak.llm.finish_reasons import refused
from stormbreak.llm.parsed_response import ParsedResponse
from stormbreak.llm.stream_deltas import (
    MalformedChunkError,
    StreamAssembly,
    StreamWatcher,
    expect_finish_reason,
    expect_index,
    expect_list,
    expect_object,
)
from stormbreak.llm.success_body import ERROR_INSIDE, SuccessBody, broken, refused_by
from stormbreak.llm.tokens import usage_of
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
    """Read the body of a success; raise what msgspec raises."""
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
    details = answer.incomplete_details if answer.status == "incomplete" else None
    ended = (details.reason if details else None) or answer.status
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


def _brings(item: _Item) -> bool:
    """Whether an item is anything but an empty message."""
    parts = item.content if isinstance(item.content, list) else []
    return item.type != "message" or any(
        part.get("text") or part.get("refusal") for part in parts if isinstance(part, dict)
    )


def _text_of(item: _Item) -> str:
    """Join the text of a message; other items (reasoning, calls) have no answer text."""
    parts = item.content if item.type == "message" and isinstance(item.content, list) else []
    texts = (
        part.get("text")
        for part in parts
        if isinstance(part, dict) and part.get("type") == "output_text"
    )
    return "".join(text for text in texts if isinstance(text, str))


# ---------------------------------------------------------------- streamed responses
# The last event carries the whole response. `response.completed` and `response.incomplete` end a
# stream, `response.failed` fails it. The events before are for display; the first delta is the
# first output, not `response.created`.

ENDS = {"response.completed": "completed", "response.incomplete": "incomplete"}
_FAILED = "response.failed"
_LAST_EVENTS = (*ENDS, _FAILED)
TEXT = "response.output_text.delta"
_ITEM = "response.output_item.done"
_NOT_QUIET = re.compile(rb"response\.(?:created|completed|incomplete|failed)")


def error_in_event(data: object, *, is_error: bool) -> ProviderError | None:
    """Find the error in an event or inside a response, whatever the status of the response."""
    if isinstance(data, dict) and data.get("type") in _LAST_EVENTS:
        found = find_error(data.get("response"), is_error=False)
        return found or (ProviderError() if data["type"] == _FAILED else None)
    return find_error(data, is_error=is_error)


class ResponsesWatcher(StreamWatcher):
    """Watches the stream: output, and the response that ends it."""

    def __init__(self, choices: int = 1) -> None:
        super().__init__(choices)
        self.response: dict[str, Any] | None = None
        self._begun = False

    @staticmethod
    def quiet(block: bytes) -> bool:
        return not (  # `find` takes half the time of `in`
            block.find(b"error") >= 0 or block.find(b"[DONE]") >= 0 or _NOT_QUIET.search(block)
        )

    def add(self, data: dict[str, Any]) -> None:
        kind = data.get("type")
        if not isinstance(kind, str):
            raise MalformedChunkError
        if kind in ENDS:
            self._end(expect_object(data.get("response")), ENDS[kind])
        elif kind == "response.created":
            if self._begun:  # two streams in one
                raise MalformedChunkError
            self._begun = True
        elif kind == _ITEM or (kind.endswith(".delta") and data.get("delta")):
            self.has_output = True

    def missing(self, *, done: bool = False) -> str | None:  # noqa: ARG002 - the format has its own end
        if self.response is None:
            return "stream ended without response.completed"
        bare = self.response["output"] is None and not self.has_output
        return "no output" if bare else None

    def _end(self, response: dict[str, Any], status: str) -> None:
        details = expect_object(response.get("incomplete_details") or {})
        if response.get("status") not in {status, None}:
            raise MalformedChunkError
        output = response.get("output")
        expect_list(output)
        self.response = response | {"status": status, "output": output}
        self.ended = True
        self.usage = response.get("usage")
        self.finish_reason = expect_finish_reason(details.get("reason")) or status


class ResponseAssembly(ResponsesWatcher, StreamAssembly):
    """The response itself.

    Some servers send the final response without `output`: then the items before count, or else the text.
    """

    def __init__(self, choices: int = 1) -> None:
        super().__init__(choices)
        self._items: dict[int, Any] = {}
        self._texts: list[str] = []

    def add(self, data: dict[str, Any]) -> None:
        super().add(data)
        kind = data["type"]
        if kind == _ITEM and data.get("item") is not None:
            self._items[expect_index(data.get("output_index"), len(self._items))] = data["item"]
        elif kind == TEXT and isinstance(data.get("delta"), str):
            self._texts.append(data["delta"])

    def result(self) -> dict[str, Any]:
        response = self.response
        assert response is not None
        items = [self._items[index] for index in sorted(self._items)]
        return response | {"output": response["output"] or items or self._message()}

    def _message(self) -> list[Any]:
        text = "".join(self._texts)
        content = [{"type": "output_text", "text": text, "annotations": []}]
        message = {"type": "message", "role": "assistant", "status": "completed"}
        return [message | {"content": content}] if text else []
