"""A chat completion, put together from the chunks of its stream.

Chunks carry deltas, which are joined as `pieces` says; tool calls are joined by their index. What stands
beside the delta of a choice is no delta: there, text replaces the text before. A whole message stands for the deltas
of a choice that had none. What comes out has the form
of the answer that the same call would have got unstreamed; fields that nobody knows here pass through.
Around the choices, the first real value wins: some streams begin with a chunk that knows nothing yet.
"""

from typing import Any

from stormbreak.llm.chunk import as_index, as_list, as_object, as_reason, delta_of
from stormbreak.llm.pieces import Pieces

UNFINISHED = "stream ended without finish_reason"
_OWN = frozenset({"choices", "usage", "object", "obfuscation", "error"})
_TAKEN = frozenset({"index", "delta", "message"})


class ChatAssembly:
    """Collect chunks; `result` is the completion so far."""

    ended = False  # only `[DONE]` says that nothing more will come

    def __init__(self, choices: int = 1) -> None:
        self.has_output = False
        self._wanted = choices
        self._top: dict[str, Any] = {}
        self._usage: Any = None
        self._choices: dict[int, _Choice] = {}

    def add(self, chunk: dict[str, Any]) -> None:
        """Take one chunk; raise MalformedChunkError."""
        _fill(self._top, {name: value for name, value in chunk.items() if name not in _OWN})
        self._usage = usage_in(chunk) or self._usage
        for part in map(as_object, as_list(chunk.get("choices"))):
            choice = self._choices.setdefault(as_index(part.get("index", 0)), _Choice())
            self.has_output |= choice.add(part)

    def wrong(self) -> str | None:
        """Tell what is missing: as many choices as were wanted must come, and each say why it ended."""
        whole = len(self._choices) >= self._wanted and all(
            choice.finish_reason for choice in self._choices.values()
        )
        return None if whole else UNFINISHED

    def result(self) -> dict[str, Any]:
        """Give the completion as its unstreamed body would be."""
        whole = self._top | {
            "object": "chat.completion",
            "choices": [self._choices[index].result(index) for index in sorted(self._choices)],
        }
        return whole | {"usage": self._usage} if self._usage else whole


class _ToolCall:
    """One tool call, whose arguments come in pieces."""

    def __init__(self, index: int, name: object) -> None:
        self.index = index
        self.id = name
        self._pieces = Pieces()

    def add(self, delta: dict[str, Any]) -> None:
        self.id = self.id or delta.get("id")
        as_object(delta.get("function") or {})
        self._pieces.add({name: piece for name, piece in delta.items() if name != "index"})

    def result(self) -> dict[str, Any]:
        return self._pieces.result()


class _ToolCalls:
    """The tool calls of a message.

    Pieces belong together by index; some providers send none, or the same for all: a new id is a new call.
    """

    def __init__(self) -> None:
        self._calls: list[_ToolCall] = []
        self._open: dict[int, _ToolCall] = {}

    def add(self, deltas: list[Any]) -> bool:
        """Take the deltas of one chunk and tell whether there were any."""
        for position, delta in enumerate(map(as_object, deltas)):
            index, name = as_index(delta.get("index", position)), delta.get("id")
            call = self._open.get(index)
            if call is None or (name and call.id and name != call.id):
                call = self._open[index] = _ToolCall(index, name)
                self._calls.append(call)
            call.add(delta)
        return bool(deltas)

    def result(self) -> dict[str, Any]:
        calls = sorted(self._calls, key=lambda call: call.index)
        return {"tool_calls": [call.result() for call in calls]} if calls else {}


class _Choice:
    """One choice: its message, its tool calls, and why it ended."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self._begun = False
        self._message = Pieces()
        self._calls = _ToolCalls()
        self._logprobs = Pieces()
        self._rest = Pieces(joins=False)

    def add(self, part: dict[str, Any]) -> bool:
        """Take this choice's part of a chunk and tell whether it brought output."""
        rest = {name: value for name, value in part.items() if name not in _TAKEN}
        delta = dict(delta_of(part, begun=self._begun))
        self.finish_reason = as_reason(rest.pop("finish_reason", None)) or self.finish_reason
        self._logprobs.add(as_object(rest.pop("logprobs", None) or {}))
        self._rest.add({name: value for name, value in rest.items() if value is not None})
        called = self._calls.add(as_list(delta.pop("tool_calls", None)))
        brought = self._message.add(delta) or called
        self._begun |= brought
        return brought

    def result(self, index: int) -> dict[str, Any]:
        message = {"role": "assistant", "content": None}
        return {
            "index": index,
            **self._rest.result(),
            "message": message | self._message.result() | self._calls.result(),
            "logprobs": self._logprobs.result() or None,
            "finish_reason": self.finish_reason,
        }


def _fill(whole: dict[str, Any], more: dict[str, Any]) -> None:
    """Add what is not there yet: the first real value wins; "", 0 and the like are none."""
    for name, value in more.items():
        so_far = whole.get(name)
        if isinstance(value, dict) and (isinstance(so_far, dict) or not so_far):
            if not isinstance(so_far, dict):
                so_far = whole[name] = {}
            _fill(so_far, value)
        elif not so_far and (value or name not in whole):
            whole[name] = value


def usage_in(chunk: dict[str, Any]) -> Any:
    """Find the usage in a chunk; Groq has its own place for it, in the last one."""
    own = chunk.get("x_groq")
    return chunk.get("usage") or (own.get("usage") if isinstance(own, dict) else None)
