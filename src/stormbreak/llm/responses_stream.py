"""A streamed answer of the Responses API: its last event carries the whole.

`response.completed` and `response.incomplete` end a stream, `response.failed` fails it. What comes before is for
those who show it as it comes; the first delta is the first output, not `response.created`.
"""

import re
from typing import Any

from stormbreak.llm.chunk import expect_finish_reason, expect_index, expect_list, expect_object
from stormbreak.llm.complaint import ProviderError, find_error
from stormbreak.llm.followers import WatchedAssembly
from stormbreak.llm.pieces import MalformedChunkError

ENDS = {"response.completed": "completed", "response.incomplete": "incomplete"}
_FAILED = "response.failed"
_LASTS = (*ENDS, _FAILED)
TEXT = "response.output_text.delta"
_ITEM = "response.output_item.done"
_TELLS = re.compile(rb"response\.(?:created|completed|incomplete|failed)")


def error_in_event(said: object, *, is_error: bool) -> ProviderError | None:
    """Find the error in an event, also the one inside a response that failed, or says that it has not."""
    if isinstance(said, dict) and said.get("type") in _LASTS:
        found = find_error(said.get("response"), is_error=False)
        return found or (ProviderError() if said["type"] == _FAILED else None)
    return find_error(said, is_error=is_error)


class ResponsesWatcher:
    """What tells how the stream goes: output, and the response that ends it."""

    def __init__(self, _: int = 1) -> None:
        self.has_output = False
        self.usage: Any = None
        self.finish_reason: str | None = None
        self.response: dict[str, Any] | None = None
        self._begun = False

    @property
    def ended(self) -> bool:
        """Whether the whole response has come."""
        return self.response is not None

    @staticmethod
    def quiet(block: bytes) -> bool:
        """Whether whole events can be nothing but output."""
        return not (  # `find` takes half the time of `in`
            block.find(b"error") >= 0 or block.find(b"[DONE]") >= 0 or _TELLS.search(block)
        )

    def add(self, said: dict[str, Any]) -> None:
        """Take the data of one event; raise MalformedChunkError."""
        kind = said.get("type")
        if not isinstance(kind, str):
            raise MalformedChunkError
        if kind in ENDS:
            self._end(expect_object(said.get("response")), ENDS[kind])
        elif kind == "response.created":
            if self._begun:  # two streams in one
                raise MalformedChunkError
            self._begun = True
        elif kind == _ITEM or (kind.endswith(".delta") and said.get("delta")):
            self.has_output = True

    def usage_in(self, said: dict[str, Any]) -> Any:  # noqa: ARG002 - the same for every format
        """Find the usage in an event; here it is in none that is quiet."""
        return None

    @property
    def reasons(self) -> list[str | None]:
        """Why it ended."""
        return [self.finish_reason]

    def wrong(self, *, done: bool = False) -> str | None:  # noqa: ARG002 - the format has an end of its own
        """Tell what is missing if nothing more comes."""
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
        self.usage = response.get("usage")
        self.finish_reason = expect_finish_reason(details.get("reason")) or status


class ResponseAssembly(WatchedAssembly):
    """The response itself.

    Some servers leave its `output` empty at the end, or out: then it is the items that came, or else the text.
    """

    def __init__(self, _: int = 1) -> None:
        self._watcher: ResponsesWatcher = ResponsesWatcher()
        self._items: dict[int, Any] = {}
        self._texts: list[str] = []

    def add(self, said: dict[str, Any]) -> None:
        """Take the data of one event; raise MalformedChunkError."""
        self._watcher.add(said)
        kind = said["type"]
        if kind == _ITEM and said.get("item") is not None:
            self._items[expect_index(said.get("output_index"), len(self._items))] = said["item"]
        elif kind == TEXT and isinstance(said.get("delta"), str):
            self._texts.append(said["delta"])

    def result(self) -> dict[str, Any]:
        """Give the response as its unstreamed body would be."""
        response = self._watcher.response
        assert response is not None
        items = [self._items[index] for index in sorted(self._items)]
        return response | {"output": response["output"] or items or self._message()}

    def _message(self) -> list[Any]:
        text = "".join(self._texts)
        content = [{"type": "output_text", "text": text, "annotations": []}]
        message = {"type": "message", "role": "assistant", "status": "completed"}
        return [message | {"content": content}] if text else []
