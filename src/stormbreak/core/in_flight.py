"""One attempt in flight, as the automatic limit sees it."""

from enum import Enum
from typing import Any

from stormbreak.types import TREATMENTS, Outcome, Verdict


class Completion(Enum):
    """How an attempt ended, as far as it says something about load."""

    ANSWERED = "answered"
    REFUSED = "refused"  # turned away, reset or broken: its time says nothing
    LATE = "late"  # timed out
    CUT = "cut"  # by us, or for a reason of its own: a wrong request, a pause that the server named


class InFlight:
    """The token of one attempt. With `streams`, its first output will be told; `first_at` is when it came.

    `block` belongs to the baseline; `counted` to the diagnosis.
    """

    __slots__ = ("block", "counted", "first_at", "landing", "sent_at", "streams")

    def __init__(self, sent_at: float, *, streams: bool = False) -> None:
        self.sent_at = sent_at
        self.streams = streams
        self.first_at: float | None = None
        self.landing: Completion | None = None
        self.block: Any = None
        self.counted = False

    def land(self, outcome: Outcome) -> Completion:
        """End, and tell what that says about load."""
        verdict = outcome.verdict
        if verdict is Verdict.OK:
            landing = Completion.ANSWERED
        else:
            told = verdict is Verdict.THROTTLED and outcome.retry_after is not None
            if told or outcome.own_deadline or not TREATMENTS[verdict].retry:
                landing = Completion.CUT
            else:
                landing = Completion.LATE if verdict is Verdict.TIMEOUT else Completion.REFUSED
        self.landing = landing
        return landing
