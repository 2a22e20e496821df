"""The calls of a live storm: the prompts that a program is given, and what the provider saw of each call.

A call is a line of JSON on the program's standard input: `call` (its number; 0 before the storm), `prompt`, `model`,
`deadline` and `timeout` (real seconds from now, for the call and for an attempt), and `max_tokens` where the scenario
says how long calls are.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from stormbreak.provider.formats.base import Asked
from stormbreak.storm.measures import Record, quantile

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


# ---------------------------------------------------------------- observed calls
# Pure. The measures are taken from these records; nothing here is what a program says of itself. A
# call was answered in time if a good answer had been written whole, to a connection that was still
# there, by its deadline. One that was not counts as ended at its deadline, since nobody outside
# knows when the program gave it up.

Name: TypeAlias = int | str  # the number of a call, or the digest of its body


class ObservedCall:
    """The attempts of one call; times are scenario seconds."""

    __slots__ = ("answered_at", "asked_at", "attempts")

    def __init__(self, asked_at: float) -> None:
        self.asked_at = asked_at  # at first
        self.attempts = 0
        self.answered_at: float | None = None  # at first

    def record(self, arrived: float, deadline: float) -> Record:
        """This call, if it arrived at `arrived`."""
        in_time = self.answered_at is not None and self.answered_at <= arrived + deadline
        ended = self.answered_at if in_time else arrived + deadline
        assert ended is not None
        return Record(arrived, ended, in_time, self.attempts, max(0.0, self.asked_at - arrived))


class Observations:
    """The observer of a storm. `matched_by` tells of which call a request is; None: of none that was given."""

    def __init__(self, matched_by: Callable[[Asked], Name | None]) -> None:
        self._known_by = matched_by
        self.calls: dict[Name, ObservedCall] = {}
        self.strangers = 0  # requests for no call
        self.attempts: list[int] = []  # in each second
        self.answers = 0  # to calls that had none

    def asked(self, asked: Asked, at: float) -> None:
        """Note an attempt."""
        second = int(at)
        self.attempts.extend([0] * (second + 1 - len(self.attempts)))
        self.attempts[second] += 1
        name = self._known_by(asked)
        if name is None:
            self.strangers += 1
            return
        call = self.calls.get(name)
        if call is None:
            call = self.calls[name] = ObservedCall(at)
        call.attempts += 1

    def answered(self, asked: Asked, at: float) -> None:
        """Note an answer."""
        name = self._known_by(asked)
        call = None if name is None else self.calls.get(name)
        if call is not None and call.answered_at is None:
            call.answered_at = at
            self.answers += 1

    def has_answered(self, name: Name) -> bool:
        """Whether that call has its answer."""
        call = self.calls.get(name)
        return call is not None and call.answered_at is not None

    def for_sent_calls(self, times: Sequence[float], deadline: float) -> list[Record]:
        """The calls that were handed to the program at `times`; call number i is the i-th, from 1 on."""
        never = ObservedCall(0.0)
        return [
            self.calls.get(number, never).record(arrived, deadline)
            for number, arrived in enumerate(times, 1)
        ]

    def for_unknown_calls(self, until: float, deadline: float) -> list[Record]:
        """The calls that the program brought before `until`: each arrived when it was first asked for."""
        calls = sorted(self.calls.values(), key=lambda call: call.asked_at)
        return [call.record(call.asked_at, deadline) for call in calls if call.asked_at < until]


def waits(records: Sequence[Record], start: float) -> tuple[float, float]:
    """Median and 99th percentile of the seconds until a call was first asked for, over those that ever were."""
    ordered = sorted(call.queued for call in records if call.attempts and call.arrived >= start)
    return quantile(ordered, 0.5) or 0.0, quantile(ordered, 0.99) or 0.0
