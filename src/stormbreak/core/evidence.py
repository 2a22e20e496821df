"""Signs of congestion, and when the last one was.

Three of them: answers (or first outputs) are late against what is usual; failures pile up; a call has waited
in the queue for over a second. Isolated errors, long answers beside short ones and a calm burst are none.

Lateness is a running score (a CUSUM): each attempt votes once, when it reaches the age that is still usual,
up if it has not been answered by then and down if it has; hung attempts vote, too. What is turned away or
ended by ourselves does not vote, nor what left before anything was usual. A late vote at the top of the score
is evidence.

Failures come faster than answers. So at a cold start, when all that has ended are failures, the attempts still
under way count as answers to be.
"""

from collections import deque
from math import inf

from stormbreak.core.flight import Flight, Landing

TOP_TOTAL, TOP_FIRST = 8, 5  # late votes in excess that are evidence
VOTERS = 1_024  # attempts that wait to vote, at most: beyond that a part of them speaks for all
ERRORS = 5.0  # failures in excess that are evidence: a sustained share of more than a third
FORGIVEN = 0.5  # of a failure, by a success
CONSPICUOUS = 2.0  # failures in excess that stand out
STANDING = 1.0  # seconds in the queue


class Evidence:
    """Collects the signs."""

    __slots__ = ("_cold", "_errors", "_late", "_voters", "at", "errors_at", "late_at", "votes_at")

    def __init__(self) -> None:
        self._voters: deque[Flight] = deque()
        self._cold = 0  # attempts under way that left before anything was usual
        self._late = 0
        self._errors = 0.0
        self.votes_at = inf  # when the next attempt has a vote
        self.at = -inf  # the last evidence of any kind
        self.late_at = -inf  # the last late vote that was evidence
        self.errors_at = -inf  # when failures last stood out, evidence or not

    def sent(self, flight: Flight, usual: float | None) -> None:
        """An attempt leaves; it will vote at the `usual` age."""
        if usual is None:
            flight.cold = True
            self._cold += 1
            return
        if len(self._voters) == VOTERS:
            return
        if not self._voters:
            self.votes_at = flight.sent_at + usual
        self._voters.append(flight)

    def vote(self, now: float, usual: float, *, streams: bool) -> None:
        """Let all vote who have reached the usual age."""
        voters = self._voters
        while voters:
            votes_at = voters[0].sent_at + usual
            if votes_at > now:
                self.votes_at = votes_at
                return
            self._count(voters.popleft(), now, usual, streams=streams)
        self.votes_at = inf

    def landed(self, flight: Flight, now: float) -> None:
        """An attempt ended."""
        landing = flight.landing
        if flight.cold:
            self._cold -= 1
        if landing is Landing.ANSWERED:
            if self._errors:
                self._errors = max(0.0, self._errors - FORGIVEN)
        elif landing is not Landing.CUT:
            hoped_for = FORGIVEN * self._cold
            self._errors = min(ERRORS + hoped_for, self._errors + 1)
            if self._errors >= CONSPICUOUS + hoped_for:
                self.errors_at = now
            if self._errors >= ERRORS + hoped_for:
                self.at = now

    def waited(self, longest: float, now: float) -> None:
        """The oldest call in the queue has waited so long."""
        if longest > STANDING:
            self.at = now

    def start_over(self) -> None:
        """Forget who was to vote, because lateness is measured by something else from now on."""
        self._voters.clear()
        self._late = 0
        self.votes_at = inf

    def _count(self, flight: Flight, now: float, usual: float, *, streams: bool) -> None:
        landing = flight.landing
        if landing is Landing.REFUSED or landing is Landing.CUT:
            return
        here = flight.first_at if streams else flight.ended_at
        if here is None and landing is Landing.ANSWERED:
            here = flight.ended_at  # all of it came in one piece
        if here is not None and here - flight.sent_at <= usual and landing is not Landing.LATE:
            if self._late:
                self._late -= 1
            return
        top = TOP_FIRST if streams else TOP_TOTAL
        self._late = min(top, self._late + 1)
        if self._late == top:
            self.late_at = self.at = now
