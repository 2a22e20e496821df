"""The calls of a live storm: the prompts that a program is given (docs/live.md), and what the provider saw of each call."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import msgspec

from stormbreak.provider.formats.base import ParsedRequest
from stormbreak.storm.measures import Record, quantile

_PROMPT_TOKENS = 40  # about; the other tokens of a call are its answer


class Bounds(NamedTuple):
    """The fields of every call besides its prompt."""

    model: str
    deadline: float  # real seconds
    timeout: float


class Prompts:
    """Prompts with a mark: a body that contains the mark, in any format, belongs to that call."""

    def __init__(self, of: str) -> None:
        self._of = of
        self._mark = re.compile(rb"call (\d{1,9}) of " + re.escape(of.encode()))

    def prompt(self, number: int) -> str:
        return f"call {number} of {self._of}: say something about the weather."

    def number_in(self, body: bytes) -> int | None:
        """Return the call that a body belongs to; with several marks, as in a conversation, the last. None: no mark."""
        found = self._mark.findall(body)
        return int(found[-1]) if found else None

    def line(self, number: int, bounds: Bounds, *, called: int, tokens: int = 0) -> bytes:
        """Encode the line for a call; the program sees `called` as its number."""
        fields = {"call": called, "prompt": self.prompt(number), **bounds._asdict()}
        if tokens:
            fields["max_tokens"] = max(1, tokens - _PROMPT_TOKENS)
        return msgspec.json.encode(fields) + b"\n"


# ---------------------------------------------------------------- observed calls
# Pure. The measures come from these records, not from what a program reports. A call was answered in time if a good
# answer was written completely, to an open connection, by its deadline. Any other call counts as ended at its deadline,
# since only the program knows when it gave up.

Name: TypeAlias = int | str  # the number of a call, or the digest of its body


@dataclass(slots=True, eq=False)
class ObservedCall:
    """The attempts of one call; times are scenario seconds."""

    requested_at: float  # first request
    attempts: int = 0
    answered_at: float | None = None  # first answer

    def record(self, arrived: float, deadline: float) -> Record:
        """Return the record of this call, if it arrived at `arrived`."""
        in_time = self.answered_at is not None and self.answered_at <= arrived + deadline
        ended = self.answered_at if in_time else arrived + deadline
        assert ended is not None
        return Record(arrived, ended, in_time, self.attempts, max(0.0, self.requested_at - arrived))


class Observations:
    """The observer of a storm. `matched_by` returns the call of a request; None: no call."""

    def __init__(self, matched_by: Callable[[ParsedRequest], Name | None]) -> None:
        self._matched_by = matched_by
        self.calls: dict[Name, ObservedCall] = {}
        self.unmatched_requests = 0  # requests for no call
        self.attempts: list[int] = []  # in each second
        self.answers = 0  # first answers of calls

    def received(self, request: ParsedRequest, at: float) -> None:
        second = int(at)
        self.attempts.extend([0] * (second + 1 - len(self.attempts)))
        self.attempts[second] += 1
        name = self._matched_by(request)
        if name is None:
            self.unmatched_requests += 1
        else:
            self.calls.setdefault(name, ObservedCall(at)).attempts += 1

    def answered(self, request: ParsedRequest, at: float) -> None:
        name = self._matched_by(request)
        call = None if name is None else self.calls.get(name)
        if call is not None and call.answered_at is None:
            call.answered_at = at
            self.answers += 1

    def has_answered(self, name: Name) -> bool:
        return name in self.calls and self.calls[name].answered_at is not None

    def for_sent_calls(self, times: Sequence[float], deadline: float) -> list[Record]:
        """Return the calls that were given to the program at `times`; numbers start at 1."""
        never = ObservedCall(0.0)
        return [
            self.calls.get(number, never).record(arrived, deadline)
            for number, arrived in enumerate(times, 1)
        ]

    def for_unknown_calls(self, until: float, deadline: float) -> list[Record]:
        """Return the program's own calls before `until`: each arrived with its first request."""
        calls = sorted(self.calls.values(), key=lambda call: call.requested_at)
        return [
            call.record(call.requested_at, deadline) for call in calls if call.requested_at < until
        ]


def waits(records: Sequence[Record], start: float) -> tuple[float, float]:
    """Return the median and 99th percentile of the seconds until the first request of a call, if it had one."""
    ordered = sorted(call.queued for call in records if call.attempts and call.arrived >= start)
    return quantile(ordered, 0.5) or 0.0, quantile(ordered, 0.99) or 0.0
