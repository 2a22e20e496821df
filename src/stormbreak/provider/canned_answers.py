"""Canned answers: fixed answers to requests that a test or a file selects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from stormbreak.errors import ConfigurationError
from stormbreak.provider.field_ranges import Count, check_ranges

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool. Missing `arguments` are made up to fit the schema of the tool in the request."""

    name: str
    arguments: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CannedAnswer:
    """An answer for some requests.

    `match` is a text in the newest messages: those after the last answer. `requests` are numbers of requests; the first
    is 1. Both must fit. A request for `n` answers gets `n` of the `choices`, in turn. Without any text, the answer is
    made up, unless it calls tools.
    """

    match: str | None = None
    requests: tuple[Count, ...] = ()
    text: str | None = None
    choices: tuple[str, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.text is not None and self.choices:
            raise ConfigurationError("text cannot be combined with choices")

    def fits(self, newest: bytes, number: int) -> bool:
        """Whether it answers the request with this number and these new messages, as JSON."""
        if self.requests and number not in self.requests:
            return False
        return self.match is None or _encode(self.match)[1:-1] in newest


def answer_for(
    answers: Sequence[CannedAnswer], payload: Mapping[str, Any], number: int
) -> CannedAnswer | None:
    """Return the first that fits a request, if any does."""
    newest = _newest(payload) if answers else b""
    return next((answer for answer in answers if answer.fits(newest, number)), None)


def _newest(payload: Mapping[str, Any]) -> bytes:
    """Return the messages after the last answer, as JSON."""
    turns = payload.get("messages", payload.get("input", payload.get("prompt")))
    if not isinstance(turns, list):
        return _encode(turns)
    answered = [place for place, turn in enumerate(turns) if _is_answer(turn)]
    return _encode(turns[answered[-1] + 1 :] if answered else turns)


def _is_answer(turn: Any) -> bool:
    return isinstance(turn, dict) and (
        turn.get("role") == "assistant" or turn.get("type") in ("function_call", "reasoning")
    )
