"""Chat and text completions: assembled from the chunks of a stream, or watched while they arrive.

Chunks carry deltas, which a `JsonAccumulator` joins; tool calls are joined by their index. Other fields of a choice
keep their last value. A whole message stands for the deltas of a choice that had none. For fields outside the choices,
the first real value wins, since some streams begin with an empty chunk. Unknown fields are kept.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from stormbreak.llm.stream_deltas import (
    JsonAccumulator,
    StreamAssembly,
    StreamWatcher,
    brings_output,
    delta_of,
    expect_finish_reason,
    expect_index,
    expect_list,
    expect_object,
    text_of,
)
from stormbreak.llm.surrogates import UNREADABLE

UNFINISHED = "stream ended without finish_reason"
_OWN = frozenset({"choices", "usage", "object", "obfuscation", "error"})
_TAKEN = frozenset({"index", "delta", "message", "text"})


# ---------------------------------------------------------------- watchers

_KEY = b'"finish_reason"'
_NULL = b'"finish_reason":null'
_FINISH = re.compile(rb'"finish_reason"\s*:\s*(?:"[^"]|[^n"\s])')
_ERROR = re.compile(rb'"error"(?!\s*:\s*n)')
_ERROR_FIELD = re.compile(rb"(?:^|[\r\n])error:")


class ChatWatcher(StreamWatcher):
    """Watches chunks: the first ones, and all that are not `quiet`. Only `[DONE]` ends the stream."""

    _delta_of: Callable[..., dict[str, Any]] = staticmethod(delta_of)

    def __init__(self, choices: int = 1) -> None:
        super().__init__(choices)
        self._reasons: dict[int, str | None] = {}
        self._first: int | None = None  # the lowest number of a choice
        self._continued = False  # output came after a finish reason

    @staticmethod
    def quiet(block: bytes) -> bool:
        """Whether whole events can only be output: no finish reason, no error, no `[DONE]`.

        Keys are searched with their quotes: within a text, quotes are escaped.
        """
        return not (  # `find` takes half the time of `in`
            block.find(b"[DONE]") >= 0
            or block.find(b"event:") >= 0
            or (block.find(b"error") >= 0 and _may_be_error(block))
            or (block.count(_KEY) != block.count(_NULL) and _FINISH.search(block))
        )

    def add(self, data: dict[str, Any]) -> None:
        """Take one chunk; raise MalformedChunkError."""
        self.usage = self.usage_in(data) or self.usage
        for part in map(expect_object, expect_list(data.get("choices"))):
            index = expect_index(part.get("index"))
            reason = expect_finish_reason(part.get("finish_reason"))
            delta = self._delta_of(part, begun=self.has_output)
            brought, before = brings_output(delta), self._reasons.get(index)
            self.has_output = self.has_output or brought
            self._continued = self._continued or (before is not None and brought)
            self._reasons[index] = reason or before
            self._first = index if self._first is None else min(self._first, index)
        self.finish_reason = None if self._first is None else self._reasons[self._first]

    def usage_in(self, data: dict[str, Any]) -> Any:
        """Find the usage in a chunk; Groq uses another field."""
        own = data.get("x_groq")
        return data.get("usage") or (own.get("usage") if isinstance(own, dict) else None)

    @property
    def reasons(self) -> list[str | None]:
        return list(self._reasons.values())

    def missing(self, *, done: bool = False) -> str | None:
        """Return the missing part, if any: every choice needs a finish reason.

        With `[DONE]`, fewer choices are enough: some servers do not know `n`. A finish reason with more output after it
        does not count: some relays of Gemini write one into every chunk.
        """
        if self._continued and not done:
            return UNFINISHED
        reasons = self._reasons.values()
        enough = len(reasons) >= self._wanted or (done and bool(reasons))
        return None if enough and all(reasons) else UNFINISHED


def _may_be_error(block: bytes) -> bool:
    if block.find(b'"error"') >= 0 and _ERROR.search(block):
        return True
    return block.find(b"error:") >= 0 and _ERROR_FIELD.search(block) is not None


class CompletionWatcher(ChatWatcher):
    """The same for a text completion."""

    _delta_of = staticmethod(text_of)


# ---------------------------------------------------------------- choices


class _ToolCall:
    """One tool call, whose arguments come in fragments."""

    def __init__(self, index: int, name: object) -> None:
        self.index = index
        self.id = name
        self._pieces = JsonAccumulator()

    def is_followed_by(self, delta: dict[str, Any]) -> bool:
        """Whether a delta without an id begins another call, because this call is complete."""
        if delta.get("id"):
            return False
        function = expect_object(delta.get("function") or {})
        more = function.get("arguments")
        if not function.get("name") or not isinstance(more, str) or not more.startswith("{"):
            return False
        so_far = expect_object(self._pieces.result().get("function") or {}).get("arguments")
        return isinstance(so_far, str) and so_far.endswith("}") and _is_json(so_far)

    def add(self, delta: dict[str, Any]) -> None:
        self.id = self.id or delta.get("id")
        expect_object(delta.get("function") or {})
        self._pieces.add({name: piece for name, piece in delta.items() if name != "index"})

    def result(self) -> dict[str, Any]:
        return self._pieces.result()


class _ToolCalls:
    """The tool calls of a message.

    Deltas with one index belong together. Some providers send no index, or the same for all calls: then a new id is a
    new call. Gemini sends no ids either: then a name with the start of arguments, after complete arguments, is a new
    call.
    """

    def __init__(self) -> None:
        self._calls: list[_ToolCall] = []
        self._open: dict[int, _ToolCall] = {}

    def add(self, deltas: list[Any]) -> bool:
        """Take the deltas of one chunk and return whether there were any."""
        for position, delta in enumerate(map(expect_object, deltas)):
            index, name = expect_index(delta.get("index"), position), delta.get("id")
            call = self._open.get(index)
            if call is None or (name and call.id and name != call.id) or call.is_followed_by(delta):
                call = self._open[index] = _ToolCall(index, name)
                self._calls.append(call)
            call.add(delta)
        return bool(deltas)

    def result(self) -> dict[str, Any]:
        calls = sorted(self._calls, key=lambda call: call.index)
        return {"tool_calls": [call.result() for call in calls]} if calls else {}


class _Choice:
    """One choice: its message, its tool calls, and its finish reason."""

    _delta_of: Callable[..., dict[str, Any]] = staticmethod(delta_of)

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self._begun = False
        self._message = JsonAccumulator()
        self._calls = _ToolCalls()
        self._logprobs = JsonAccumulator()
        self._numbers: list[Any] = []  # the bare logprobs of Together
        self._rest = JsonAccumulator(joins=False)

    def add(self, part: dict[str, Any]) -> None:
        rest = {name: value for name, value in part.items() if name not in _TAKEN}
        delta = dict(self._delta_of(part, begun=self._begun))
        self.finish_reason = (
            expect_finish_reason(rest.pop("finish_reason", None)) or self.finish_reason
        )
        self._add_logprobs(rest.pop("logprobs", None))
        self._rest.add({name: value for name, value in rest.items() if value is not None})
        called = self._calls.add(expect_list(delta.pop("tool_calls", None)))
        self._begun |= self._message.add(delta) or called

    def result(self, index: int) -> dict[str, Any]:
        message = {"role": "assistant", "content": None}
        return {
            "index": index,
            **self._rest.result(),
            "message": message | self._message.result() | self._calls.result(),
            **self._end(),
        }

    def _end(self) -> dict[str, Any]:
        logprobs = self._logprobs.result()
        if self._numbers:
            logprobs["token_logprobs"] = self._numbers
        return {"logprobs": logprobs or None, "finish_reason": self.finish_reason}

    def _add_logprobs(self, logprobs: Any) -> None:
        """Take the logprobs of a chunk; Together sends one number."""
        if type(logprobs) in (int, float):
            self._numbers.append(logprobs)
        else:
            self._logprobs.add(expect_object(logprobs or {}))


class _TextChoice(_Choice):
    _delta_of = staticmethod(text_of)

    def result(self, index: int) -> dict[str, Any]:
        return {"text": "", **self._message.result(), "index": index, **self._rest.result()} | (
            self._end()
        )


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except UNREADABLE:
        return False
    return True


# ---------------------------------------------------------------- assemblies


class ChatAssembly(ChatWatcher, StreamAssembly):
    """Collects chunks; `result` is the completion so far."""

    _object = "chat.completion"
    _choice = _Choice

    def __init__(self, choices: int = 1) -> None:
        super().__init__(choices)
        self._top: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}

    def add(self, chunk: dict[str, Any]) -> None:
        super().add(chunk)
        _fill(self._top, {name: value for name, value in chunk.items() if name not in _OWN})
        for part in map(expect_object, expect_list(chunk.get("choices"))):
            index = expect_index(part.get("index"))
            if index not in self._choices:
                self._choices[index] = self._choice()
            self._choices[index].add(part)

    def result(self) -> dict[str, Any]:
        whole = self._top | {
            "object": self._object,
            "choices": [self._choices[index].result(index) for index in sorted(self._choices)],
        }
        return whole | {"usage": self.usage} if self.usage else whole


class TextAssembly(ChatAssembly):
    """The same for a text completion."""

    _object = "text_completion"
    _choice = _TextChoice
    _delta_of = staticmethod(text_of)


def _fill(whole: dict[str, Any], more: dict[str, Any]) -> None:
    """Add missing fields: the first real value wins; "", 0 and the like are not real values."""
    for name, value in more.items():
        so_far = whole.get(name)
        if isinstance(value, dict) and (isinstance(so_far, dict) or not so_far):
            if not isinstance(so_far, dict):
                so_far = whole[name] = {}
            _fill(so_far, value)
        elif not so_far and (value or name not in whole):
            whole[name] = value
