"""What a program is given for each call, and how the call is known again in what the program sends.

A call is a line of JSON on the program's standard input: `call` (its number; 0 before the storm), `prompt`, `model`,
`deadline` and `timeout` (real seconds from now, for the call and for an attempt), and `max_tokens` where the scenario
says how long calls are.
"""

import re
from typing import NamedTuple

import msgspec

_PROMPT_TOKENS = 40  # about; what a call has beyond them is its answer


class Bounds(NamedTuple):
    """What every call is told beside its prompt."""

    model: str
    deadline: float  # real seconds
    timeout: float


class Prompts:
    """Texts that hold a mark; a body that holds the text, in whatever format, is of that call."""

    def __init__(self, of: str) -> None:
        self._of = of
        self._mark = re.compile(rb"call (\d{1,9}) of " + re.escape(of.encode()))

    def prompt(self, number: int) -> str:
        """The prompt of a call."""
        return f"call {number} of {self._of}: say something about the weather."

    def number_in(self, body: bytes) -> int | None:
        """Which call a body is of; of several, as in a conversation, the last. None: of none."""
        found = self._mark.findall(body)
        return int(found[-1]) if found else None

    def line(self, number: int, bounds: Bounds, *, called: int, tokens: int = 0) -> bytes:
        """The line that asks for a call; to the program its number is `called`."""
        said = {"call": called, "prompt": self.prompt(number), **bounds._asdict()}
        if tokens:
            said["max_tokens"] = max(1, tokens - _PROMPT_TOKENS)
        return msgspec.json.encode(said) + b"\n"
