"""A queue alone, with gates that a test controls."""

from stage import OK, TARGET

from stormbreak.core.admission import TargetQueue
from stormbreak.core.concurrency_limit import FixedLimit, FixedLimiter
from stormbreak.core.diagnosis import Diagnosis
from stormbreak.core.gate import READY
from stormbreak.core.queue_order import QueuePolicy
from stormbreak.types import TREATMENTS, Call

INF = float("inf")


class Barrier:
    """A gate that opens when the test says so, and records its calls."""

    takes = True

    def __init__(self, name="barrier", log=None):
        self.name = name
        self.opens_at = READY
        self.log = [] if log is None else log

    def ready_at(self, _call, now):
        return self.opens_at if self.opens_at > now else READY

    def take(self, _call, _now):
        self.log.append(("take", self.name))
        return self.name

    def settle(self, token, outcome, now, uniform):
        self.log.append(("settle", token, outcome.verdict.value))

    on_success = settle


class Indifferent(Barrier):
    """A gate that ignores success."""

    on_success = None


class Turnstile(Barrier):
    """A gate that closes for a second after each call."""

    def take(self, call, now):
        self.opens_at = now + 1.0
        return super().take(call, now)


class Scale(Barrier):
    """A gate that opens as many seconds after zero as the call has tokens."""

    def ready_at(self, call, now):
        return float(call.tokens) if call.tokens > now else READY


class TickRecorder(FixedLimiter):
    """Slots that record what the queue reports about time."""

    def __init__(self, slots=1):
        super().__init__(FixedLimit(max_in_flight=slots))
        self.ticks = []

    def tick(self, now, waited):
        self.ticks.append((now, waited))


class Growing(FixedLimiter):
    """A limit that is small now."""

    max_limit = None

    def __init__(self, *, limit, most):
        super().__init__(FixedLimit(max_in_flight=limit))
        self.max_limit = most


class GatedQueue:
    """A queue with barriers and `slots` slots."""

    def __init__(self, *, slots=1, size=100, barriers=1, kind=Barrier, spacings=()):
        self.log = []
        self.barriers = [kind(f"barrier{n}", self.log) for n in range(barriers)]
        self.barrier = self.barriers[0]
        self.slots = (
            FixedLimiter(FixedLimit(max_in_flight=slots)) if isinstance(slots, int) else slots
        )
        self.woken = []
        self.numbers = iter(range(1, 1000))
        diagnosis = Diagnosis(TREATMENTS)
        gates = [*self.barriers, self.slots, diagnosis]
        self.admission = TargetQueue(
            gates,
            self.slots,
            diagnosis,
            QueuePolicy(max_size=size),
            self.wake,
            pacing=spacings,
        )

    def wake(self, ticket):
        ticket.due = True
        self.woken.append(ticket)

    def enter(self, now=0.0, *, expires_at=INF, **call):
        return self.admission.enter(Call(next(self.numbers), TARGET, **call), now, expires_at)

    def learn(self, seconds):
        admission = self.admission
        admission.service += (seconds - admission.service) * (0.1 if admission.service else 1.0)


def free(place, now=0.0, outcome=OK):
    place.settle(outcome, now, 0.5)
