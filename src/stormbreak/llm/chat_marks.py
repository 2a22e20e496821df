"""What tells how a streamed chat completion goes, without the completion itself."""

import re
from collections.abc import Callable
from typing import Any

from stormbreak.llm.assembly import UNFINISHED, usage_in
from stormbreak.llm.chunk import (
    brings_output,
    delta_of,
    expect_finish_reason,
    expect_index,
    expect_list,
    expect_object,
    text_of,
)

_KEY = b'"finish_reason"'
_NULL = b'"finish_reason":null'
_FINISH = re.compile(rb'"finish_reason"\s*:\s*(?:"[^"]|[^n"\s])')
_ERROR = re.compile(rb'"error"(?!\s*:\s*n)')
_ERROR_FIELD = re.compile(rb"(?:^|[\r\n])error:")


class ChatWatcher:
    """Take chunks, the first ones and whatever is not `quiet`; know what they tell.

    Args:
        choices: how many choices the call asked for (`n`).
    """

    ended = False  # only `[DONE]` says that nothing more will come
    _delta_of: Callable[..., dict[str, Any]] = staticmethod(delta_of)

    def __init__(self, choices: int = 1) -> None:
        self.has_output = False
        self.usage: Any = None
        self.finish_reason: str | None = None  # of the first choice
        self._wanted = choices
        self._reasons: dict[int, str | None] = {}
        self._went_on = False  # after a finish reason, which then means nothing

    @staticmethod
    def quiet(block: bytes) -> bool:
        """Whether whole events can be nothing but output: no reason to finish, no error, no `[DONE]`.

        Keys are looked for as they are written, in quotes: within a text, quotes are escaped.
        """
        return not (  # `find` takes half the time of `in`
            block.find(b"[DONE]") >= 0
            or block.find(b"event:") >= 0
            or (block.find(b"error") >= 0 and _may_be_error(block))
            or (block.count(_KEY) != block.count(_NULL) and _FINISH.search(block))
        )

    def add(self, chunk: dict[str, Any]) -> None:
        """Take one chunk; raise MalformedChunkError."""
        self.usage = self.usage_in(chunk) or self.usage
        for part in map(expect_object, expect_list(chunk.get("choices"))):
            index, reason = (
                expect_index(part.get("index")),
                expect_finish_reason(part.get("finish_reason")),
            )
            delta = self._delta_of(part, begun=self.has_output)
            brought, before = brings_output(delta), self._reasons.get(index)
            self.has_output = self.has_output or brought
            self._went_on = self._went_on or (before is not None and brought)
            self._reasons[index] = reason or before
        self.finish_reason = self._reasons[min(self._reasons)] if self._reasons else None

    def usage_in(self, chunk: dict[str, Any]) -> Any:
        """Find the usage in a chunk."""
        return usage_in(chunk)

    @property
    def reasons(self) -> list[str | None]:
        """Why each choice ended."""
        return list(self._reasons.values())

    def wrong(self, *, done: bool = False) -> str | None:
        """Tell what is missing if nothing more comes; with `[DONE]` the server says itself that nothing does."""
        if self._went_on and not done:
            return UNFINISHED
        reasons = self._reasons.values()
        enough = len(reasons) >= self._wanted or (done and bool(reasons))
        return None if enough and all(reasons) else UNFINISHED


def _may_be_error(block: bytes) -> bool:
    if block.find(b'"error"') >= 0 and _ERROR.search(block):
        return True
    return block.find(b"error:") >= 0 and _ERROR_FIELD.search(block) is not None


class CompletionWatcher(ChatWatcher):
    """The same of a text completion."""

    _delta_of = staticmethod(text_of)
