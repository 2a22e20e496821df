"""The messages between a member of a fleet and its store: a `Report` and an `Answer` about one scope.

Both consist of numbers alone; a Lua script takes and returns them as flat lists. Times are seconds relative to the
sending or the receipt of the message, never points in time: each side has its own clock. Money is whole micro-dollars.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self, TypeVar

T = TypeVar("T")

NONE = -1.0  # stands for a missing time

HOLD, LIFT = 1.0, 2.0  # news of a cooldown


class RateReport(NamedTuple):
    """A rate limit (`per_minute` 0: none), and the wish of a member: `want` units, of which `least` at one instant.

    `owed` are the units used without a lease since the member joined, less those given back.
    """

    per_minute: float = 0.0
    burst: float = 0.0
    want: float = 0.0
    least: float = 0.0
    owed: float = 0.0


class SlotReport(NamedTuple):
    """A limit of attempts in flight (0: none), the numbers in flight and wanted, and the cap that the member knows."""

    limit: float = 0.0
    in_flight: float = 0.0
    want: float = 0.0
    cap: float = 0.0


class CooldownReport(NamedTuple):
    """A member's own news: HOLD or LIFT, the age of the attempt that brought it, and the seconds left of the hold."""

    kind: float = 0.0
    age: float = 0.0
    left: float = 0.0


class SpendReport(NamedTuple):
    """A spend limit (0: none), and the account of one member in the period `started`.

    A `period` of 0 never ends; a negative one is minus the place of an hour, day or month among the `CALENDARS`, from 1.
    `granted`, `returned` and `spent` never decrease. `needed` is the allowance (granted less returned) needed now.
    `noted` and `elsewhere` come from the last answer: the spending that the store knew of this member, and of the
    others.
    """

    limit: float = 0.0
    period: float = 0.0
    started: float = 0.0
    ends_in: float = NONE
    granted: float = 0.0
    returned: float = 0.0
    spent: float = 0.0
    needed: float = 0.0
    noted: float = 0.0
    elsewhere: float = 0.0


class Report(NamedTuple):
    """The state and the wants of one member. `epoch` is that of the last answer; `leaves`: this is its last report."""

    epoch: float = 0.0
    leaves: float = 0.0
    requests: RateReport = RateReport()
    tokens: RateReport = RateReport()
    slots: SlotReport = SlotReport()
    cooldown: CooldownReport = CooldownReport()
    spend: SpendReport = SpendReport()

    def numbers(self) -> list[float]:
        return [
            self.epoch, self.leaves, *self.requests, *self.tokens, *self.slots, *self.cooldown, *self.spend,
        ]  # fmt: skip


class RateLease(NamedTuple):
    """Units of a rate: `lump` of them at one instant in `lump_in` s, then `units`, one every `spacing` s from `first_in`.

    A time in the past is negative. Ask for the rest after `again` seconds, not earlier.
    """

    lump_in: float = 0.0
    lump: float = 0.0
    first_in: float = 0.0
    spacing: float = 0.0
    units: float = 0.0
    again: float = 0.0


class SpendAnswer(NamedTuple):
    """The money `granted` to a member in total, the known spending of others, and the rest to grant."""

    started: float = 0.0
    ends_in: float = NONE
    granted: float = 0.0
    elsewhere: float = 0.0
    left: float = 0.0


class Answer(NamedTuple):
    """The leases of one member, with the number of `members`, and the `cooldown` left (0: none)."""

    epoch: float = 0.0
    members: float = 0.0
    requests: RateLease = RateLease()
    tokens: RateLease = RateLease()
    cap: float = 0.0
    cooldown: float = 0.0
    spend: SpendAnswer = SpendAnswer()

    @classmethod
    def of(cls, numbers: Sequence[float | str | bytes]) -> Self:
        read = iter(map(float, numbers))
        return cls(
            next(read), next(read), _read(RateLease, read), _read(RateLease, read),
            next(read), next(read), _read(SpendAnswer, read),
        )  # fmt: skip


def _read(kind: type[T], numbers: Iterator[float]) -> T:
    return kind(*(next(numbers) for _ in kind.__annotations__))


TIMEOUT = 1.0  # seconds until a store must answer; a later answer closes the connection


class StoreError(Exception):
    """The store did not answer; the text is short and has no secrets."""


class Message(NamedTuple):
    """A report of one member in one scope."""

    scope: str
    member: str
    report: Report
