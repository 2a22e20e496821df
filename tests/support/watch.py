"""A diagnosis with a clock that the test moves."""

from stage import OK, SERVER_ERROR, TARGET

from stormbreak.core.diagnosis import Diagnosis
from stormbreak.core.stalls import Stalls
from stormbreak.types import TREATMENTS, Call


class Watch:
    """A diagnosis with a clock, and attempts that the test sends and ends."""

    def __init__(self, treatments=TREATMENTS, *, limited=False):
        self.stalls = Stalls()
        self.diagnosis = Diagnosis(treatments, limited=limited, stalls=self.stalls)
        self.now = 100.0

    def send(self, count=1, *, streams=False):
        call = Call(0, TARGET, streams=streams)
        return [self.diagnosis.take(call, self.now) for _ in range(count)]

    def end(self, flights, outcome=OK):
        for flight in flights:
            self.diagnosis.settle(flight, outcome, self.now, 0.5)

    def first(self, flights):
        for flight in flights:
            self.diagnosis.first_output(flight, self.now)

    def stall(self, *, stalled):
        """Set whether this process has not run for a second."""
        if stalled:
            self.stalls.beat(self.now - 1.0, lambda: True)
        else:
            self.stalls.rest()

    def wait(self, seconds):
        self.now += seconds
        self.diagnosis.check(self.now)
        return self

    def fail(self, count=1, outcome=SERVER_ERROR):
        """`count` attempts, one after the other, that fail at once."""
        for _ in range(count):
            self.now += 0.01
            self.end(self.send(), outcome)
        return self

    def answer(self, count=1, *, took=0.1):
        """`count` answered attempts, one after the other."""
        for _ in range(count):
            self.now += 0.01
            flights = self.send()
            self.now += took
            self.end(flights)
        return self

    def know(self, *, streams=False):
        """Learn the usual times: a second for a whole answer, 0.3 s for a first output."""
        flights = self.send(32, streams=streams)
        self.now += 0.3
        self.first(flights)
        self.now += 0.7
        self.end(flights)
        return self.wait(1.0)

    def late(self, count, *, streams=False):
        """`count` late answers."""
        flights = self.send(count, streams=streams)
        self.now += 2.0
        self.first(flights)
        self.end(flights)
        return self

    @property
    def is_dead(self):
        return self.diagnosis.is_dead(self.now)

    @property
    def is_healthy(self):
        return self.diagnosis.is_healthy(self.now)

    @property
    def cause(self):
        return self.diagnosis.cause(self.now)
