"""The automatic limit and its diagnosis, with a clock that the test moves."""

from stage import OK, SERVER_ERROR, TARGET, retry_in

from stormbreak.core.automatic_limit import AutomaticLimit, AutomaticLimiter
from stormbreak.core.diagnosis import Diagnosis
from stormbreak.types import TREATMENTS, Call


class SlotGate:
    """The gate with a clock; every change ticks, as in the queue."""

    def __init__(self, **policy):
        self.paused = False
        self.diagnosis = Diagnosis(TREATMENTS)
        self.gate = AutomaticLimiter(
            AutomaticLimit(**policy), self.diagnosis, paused=lambda _: self.paused
        )
        self.now = 0.0
        self.tick()

    def tick(self, seconds=0.0, waited=0.0):
        self.now += seconds
        self.gate.tick(self.now, waited)
        return self.gate.limit

    def take(self, count=1, *, streams=False):
        call = Call(0, TARGET, streams=streams)
        taken = []
        for _ in range(count):
            self.gate.take(call, self.now)
            taken.append(self.diagnosis.take(call, self.now))
        self.tick()
        return taken

    def settle(self, flights, outcome=OK):
        for flight in flights:
            self.diagnosis.settle(flight, outcome, self.now, 0.5)
            self.gate.settle(None, outcome, self.now, 0.5)
            self.tick()

    def first(self, flights):
        for flight in flights:
            self.diagnosis.first_output(flight, self.now)
        self.tick()

    def serve(self, seconds, rate=10, took=2.0):
        """Serve a steady load."""
        flying = []
        for _ in range(int(seconds * rate)):
            flying.append((self.now + took, *self.take()))
            self.tick(1 / rate)
            self.settle([flight for ends, flight in flying if ends <= self.now])
            flying = [pair for pair in flying if pair[0] > self.now]
        for ends, flight in flying:
            self.tick(ends - self.now)
            self.settle([flight])

    def stand(self, *, age=0.0):
        """Simulate a 429 `age` seconds ago, so that the target is in doubt, and a queue that waits for slots."""
        self.settle(self.take(), retry_in(1.0))
        self.diagnosis.throttled_at -= age
        self.wait(2.0)

    def wait(self, seconds):
        """Simulate a call that has waited this long without a free slot."""
        in_flight, self.gate.in_flight = self.gate.in_flight, self.gate.limit
        self.tick(0.0, waited=seconds)
        self.gate.in_flight = in_flight

    def fail(self, count=8):
        """Fail more often in a row than chance explains after no failure."""
        self.settle(self.take(count), SERVER_ERROR)


class Mixed(SlotGate):
    """Streamed and plain attempts to one target: first outputs after 0.3 s, whole answers after 4 s."""

    def round(self, *, streamed=0, plain=0):
        streams, others = self.take(streamed, streams=True), self.take(plain)
        self.tick(0.3)
        self.first(streams)
        self.tick(3.7)
        self.settle(streams + others)
