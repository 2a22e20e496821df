"""Anthropic's Messages API: read a complete answer; assemble or watch a streamed one."""

from typing import Any

import msgspec

from stormbreak.llm.finish_reasons import refused
from stormbreak.llm.parsed_response import ParsedResponse
from stormbreak.llm.stream_deltas import (
    JsonAccumulator,
    MalformedChunkError,
    StreamAssembly,
    StreamWatcher,
    brings_output,
    expect_finish_reason,
    expect_index,
    expect_object,
)
from stormbreak.llm.success_body import ERROR_INSIDE, SuccessBody, broken, refused_by
from stormbreak.llm.surrogates import UNREADABLE
from stormbreak.llm.tokens import usage_of
from stormbreak.types import Verdict


class _Block(msgspec.Struct):
    type: Any = None
    text: Any = None


class _Message(SuccessBody):
    content: list[_Block] | None = None
    stop_reason: str | None = None


_decode = msgspec.json.Decoder(_Message).decode


def read_message(body: bytes, request_id: str | None, _: int | None) -> ParsedResponse:
    """Read the body of a success; raise what msgspec raises."""
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


# ---------------------------------------------------------------- streamed messages
# `message_start` has the message without its content; each block begins with `content_block_start`, grows by
# `content_block_delta` and ends with `content_block_stop`; `message_delta` has the stop reason, and `message_stop` ends
# the stream. `ping` and unknown events are ignored.

END = "message_stop"
_INPUT = "partial_json"
_OWN = frozenset({"type", "delta", "usage"})
_OF_MESSAGE = ("message_start", "content_block_start", "content_block_delta", "message_delta")


class MessagesWatcher(StreamWatcher):
    """Watches the stream: begun, output, usage, stop reason, end."""

    def __init__(self, choices: int = 1) -> None:
        super().__init__(choices)
        self.usage = {}  # empty until the output is counted: the first event counts only the input
        self._counts: dict[str, Any] = {}
        self._begun = False

    @staticmethod
    def quiet(block: bytes) -> bool:
        """Whether whole events can only be content, or pings."""
        return not (  # `find` takes half the time of `in`
            block.find(b"message_") >= 0 or block.find(b"error") >= 0 or block.find(b"[DONE]") >= 0
        )

    def add(self, data: dict[str, Any]) -> None:
        kind = data.get("type")
        if kind in _OF_MESSAGE and self._begun is (kind == "message_start"):
            raise MalformedChunkError  # two streams in one, or the middle of one
        if kind == "message_start":
            self._begun = True
            self._count(expect_object(data.get("message")))
        elif kind in {"content_block_start", "content_block_delta"}:
            field = "content_block" if kind == "content_block_start" else "delta"
            self.has_output = brings_output(expect_object(data.get(field))) or self.has_output
        elif kind == "message_delta":
            reason = expect_finish_reason(expect_object(data.get("delta") or {}).get("stop_reason"))
            self.finish_reason = reason or self.finish_reason
            self._count(data)
            if expect_object(data.get("usage") or {}).get("output_tokens") is not None:
                self.usage = self._counts
        elif kind == END:
            self.ended = True

    def missing(self, *, done: bool = False) -> str | None:  # noqa: ARG002 - the format has its own end
        if not self._begun:
            return "stream ended without message_start"
        if not self.finish_reason:
            return "stream ended without stop_reason"
        return None if self.ended else "stream ended without message_stop"

    def _count(self, data: dict[str, Any]) -> None:
        """Take the counts: a later one replaces an earlier one."""
        counts = expect_object(data.get("usage") or {})
        self._counts |= {name: count for name, count in counts.items() if count is not None}


class MessageAssembly(MessagesWatcher, StreamAssembly):
    """Assembles the message; `result` is the body of the same answer without streaming."""

    def __init__(self, choices: int = 1) -> None:
        super().__init__(choices)
        self._message: dict[str, Any] = {}
        self._end: dict[str, Any] = {}
        self._blocks: dict[int, list[_StreamedBlock]] = {}

    def add(self, data: dict[str, Any]) -> None:
        super().add(data)
        kind = data.get("type")
        if kind == "message_start":
            self._message = data["message"]
        elif kind == "content_block_start":
            self._start(expect_index(data.get("index")), data["content_block"])
        elif kind == "content_block_delta":
            blocks = self._blocks.get(expect_index(data.get("index")))
            if not blocks:
                raise MalformedChunkError
            blocks[-1].add(data["delta"])
        elif kind == "message_delta":
            beside = {name: value for name, value in data.items() if name not in _OWN}
            self._end |= beside | (data.get("delta") or {})

    def _start(self, index: int, start: dict[str, Any]) -> None:
        """Begin a block. Ollama reuses an index: if the block has grown or differs, this is another block."""
        blocks = self._blocks.setdefault(index, [])
        if not (blocks and blocks[-1].start == start):
            blocks.append(_StreamedBlock(start))

    def result(self) -> dict[str, Any]:
        blocks = (block for index in sorted(self._blocks) for block in self._blocks[index])
        content = [block.result() for block in blocks]
        return self._message | {"content": content} | self._end | {"usage": self.usage}


class _StreamedBlock:
    """One block of content. The input of a tool comes as fragments of JSON text."""

    def __init__(self, start: dict[str, Any]) -> None:
        self._pieces = JsonAccumulator()
        self._pieces.add(start)
        self._input: list[str] = []
        self.start: dict[str, Any] | None = start  # until something is added
        self._is_text = False

    def add(self, delta: dict[str, Any]) -> None:
        self.start = None
        self._is_text |= delta.get("type") == "text_delta"
        more = {name: piece for name, piece in delta.items() if name != "type"}
        if "citation" in more:
            more["citations"] = [more.pop("citation")]
        text = more.pop(_INPUT, "")
        if not isinstance(text, str):
            raise MalformedChunkError
        self._input.append(text)
        self._pieces.add(more)

    def result(self) -> dict[str, Any]:
        block = self._pieces.result()
        if self._is_text and block.get("type") is None:  # else its text would be lost
            block["type"] = "text"
        text = "".join(self._input)
        return block | {"input": _parsed(text)} if text else block


def _parsed(text: str) -> Any:
    """Parse the input of a tool; invalid JSON is kept in the form of Anthropic's documentation."""
    try:
        return msgspec.json.decode(text)
    except UNREADABLE:
        return {"INVALID_JSON": text}
