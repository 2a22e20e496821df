"""A bucket that fills at a steady rate, by virtual scheduling.

Nothing is counted. What was taken is a time: `full_at`, when the bucket would be full again if nobody took
anything more. Taking moves it on by what the amount is worth in seconds; an amount may be taken when it would leave
`full_at` no further ahead than the bucket is deep. This is the generic cell rate algorithm (ITU-T I.371, 1993) with a
weight. An amount larger than the whole bucket may be taken when the bucket is full, and is then paid off.

So of takes that are never given back, at most `depth * rate + rate * t` lie within any t seconds (or the largest take, where
that is more than the bucket holds).

Giving back comes in two forms. `settle` gives back what was reserved too much: averages are kept, and a window holds
more than it should by at most what was given back in it. `refund` is for what never happened at all, and keeps the
bound for every window: of the time that the amount was worth, what is still ahead is given back, and what has gone by
is gone, as it would be in a bucket that overflows.
"""

from math import inf


class Bucket:
    """Holds `depth` seconds of a flow of `rate` per second. It begins full."""

    def __init__(self, rate: float, depth: float) -> None:
        self._seconds = 1 / rate  # that one is worth
        self._depth = max(depth, self._seconds)
        self.full_at = 0.0  # when it is full again, if nobody takes any more
        self._returned_unused = 0.0  # seconds, ever

    def ready_at(self, amount: float) -> float:
        """The time from which `amount` may be taken; whoever asks earlier may be told an earlier time later."""
        spare = self._depth - amount * self._seconds
        return self.full_at - spare if spare > 0 else self.full_at

    def turn_at(self, ahead: float) -> float:
        """The time from which one may be taken after `ahead` others, each of one."""
        return self.ready_at(1) + ahead * self._seconds

    def take(self, amount: float, now: float) -> float:
        """Take `amount`, and return a receipt for `refund`."""
        full_at = max(self.full_at, now) + amount * self._seconds
        self.full_at = full_at
        return full_at + self._returned_unused

    def settle(self, amount: float, *, latest: float = inf) -> None:
        """Give back `amount` that was not used; a negative one was used beyond what was taken.

        The debt that makes is paid off at `latest`, whatever it is: one wrong count closes nothing for ever.
        """
        full_at = self.full_at - amount * self._seconds
        self.full_at = min(full_at, max(self.full_at, latest))

    def refund(self, amount: float, receipt: float, now: float) -> None:
        """Give back an amount that was taken for nothing, as far as its time has not gone by.

        What others got back meanwhile has moved that time; it is taken for earlier than it may be, never for later.
        """
        ahead = receipt - self._returned_unused - now
        seconds = min(amount * self._seconds, max(0.0, ahead))
        self.full_at -= seconds
        self._returned_unused += seconds
