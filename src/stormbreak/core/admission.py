"""Admission to one target: a call leaves now, waits in the queue, or is rejected.

A call leaves when every gate is ready for it at the same time. Then all gates are taken in one step, the breaker's
probe last. A waiting call holds nothing. The queue is bounded; `queue_order` decides which call is next. The
transitions of a call:

| from | to | when | by |
|---|---|---|---|
| arrival | granted | no call waits, and every gate is ready | `enter`, `try_enter` |
| arrival | rejected | its time is over, a gate is closed too long, or too many calls are ahead (`_make_room`) | `enter` |
| arrival | queued | otherwise | `enter` |
| queued | granted | it is next, and every gate is ready | `pump` |
| queued | rejected | it is next, but its money or its answer would come too late (`_veto`, `_cannot_finish`) | `pump` |
| queued | rejected | its time is over | `check` |
| queued | rejected | a gate that just closed will hold it for too long | `sweep` |
| queued | rejected | another call needs its place in a full queue | `_make_room` |
| queued | withdrawn | its caller gave up | `withdraw` |

Within a priority the oldest call is served first. There is one exception: interactive calls are served newest first
while the in-flight limit binds and an overload has made the queue too long to serve all in time. Oldest first, all of
them would then wait until their time is nearly over. In a shorter queue, under a send rate, and after an outage or a
pause, oldest first answers more calls.

When a permit is settled, the queue is pumped in the same step: calls leave while the gates are ready. If only time can
open the gates, one ticket becomes the timer of the whole queue (the timekeeper): its owner checks again at `wake_at`.
If that ticket leaves, another one takes over.
"""

from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Any

from stormbreak.core.breaker import Breaker
from stormbreak.core.diagnosis import Diagnosis
from stormbreak.core.gate import READY, Gate, Permit, SlotGate, SpendingGate
from stormbreak.core.queue_order import Queue, QueuePolicy, Ticket
from stormbreak.core.rate_limit_gate import RateLimitGate
from stormbreak.core.send_rate import AdaptiveSendRate
from stormbreak.types import VERDICT_OK, Call, Outcome, Priority, Rejection

SERVICE_MARGIN = 1.75  # a call is sent only if this many mean service times fit before its deadline
LEARNING = 0.1  # weight of the newest answer in the mean service time
NO_LATENESS_BEFORE = 1.0  # seconds; a call that has waited less is not shed at its turn
PROBES_DECIDE_WITHIN = 1.0  # seconds; minimum `retry_at` of a call rejected by a half-open circuit
STANDING_QUEUE_RATIO = 4  # a queue longer than this many times the limit stands

LATE = "could not be served in time"
TOO_LONG = "the call may not wait that long"


class TargetQueue:
    """The gates in the order of taking, and the queue before them."""

    def __init__(  # noqa: PLR0913 - keywords are cheap to read
        self,
        gates: Sequence[Gate],
        slots: SlotGate,
        diagnosis: Diagnosis,
        policy: QueuePolicy,
        wake: Callable[[Ticket], None],
        *,
        pacing: Sequence[AdaptiveSendRate | RateLimitGate] = (),
        circuit: Breaker | None = None,
        spending: SpendingGate | None = None,
        is_calm: Callable[[float], bool] = lambda _: False,
        ask_fleet: Callable[[Call, float], float] | None = None,
    ) -> None:
        """Serve through `gates`; the other gates are some of them.

        `is_calm(now)`: whether all gates except the slots are ready for any call, and stay so until a failure or
        `end_calm`. `ask_fleet(call, now)` is called when `call` waits; afterwards some gate may be ready earlier. It
        returns when to ask again.
        """
        self._gates = tuple(gates)
        self._ready_ats = tuple(gate.ready_at for gate in gates if gate is not diagnosis)
        self._takes = tuple((place, gate.take) for place, gate in enumerate(gates) if gate.takes)
        in_reverse = [*enumerate(gates)][::-1]
        self._settles = tuple((place, gate.settle) for place, gate in in_reverse)
        successes = [
            (place, gate.on_success) for place, gate in in_reverse if gate.on_success is not None
        ]
        self._on_success = tuple(successes)
        self._on_calm_success = tuple(each for each in successes if self._gates[each[0]].takes)
        self.slots = slots
        self._diagnosis = diagnosis
        self._diagnosis_place = self._gates.index(diagnosis)
        self._policy = policy
        self._wake = wake
        self._pacing = tuple(pacing)
        self._circuit = circuit
        self._spending = spending
        self._is_calm = is_calm
        self._calm = False  # known to be calm: saves asking each gate
        self._ask_fleet = ask_fleet
        self._queue = Queue(policy)
        self._timekeeper: Ticket | None = None
        self._stands = False  # more calls wait behind the limit than it serves soon
        self._is_overload = False  # the queue began to stand while only the limit held it
        self._newest_first = False  # of interactive calls: not all can be served in time
        self._newest_call: Call | None = None  # the subject of a snapshot of an empty queue
        self.sharing: list[TargetQueue] | None = None  # queues with the same slots, oldest first
        self.service = 0.0  # mean seconds from leaving to a complete answer; 0 while unknown

    @property
    def queued(self) -> int:
        return self._queue.size

    def enter(self, call: Call, now: float, expires_at: float) -> Permit | Ticket | Rejection:
        """Leave at once if every gate is ready and no call waits; else queue, or reject with a reason."""
        self._newest_call = call
        queue = self._queue
        if now >= expires_at:
            return self._shed(call, now)
        if queue.size:
            self.pump(now)  # time may have opened a gate, and room in the queue with it
        else:
            self.slots.tick(now, 0.0)
        if not queue.size:
            if not self._calm:
                self._calm = self._is_calm(now)
            slots = self.slots
            free = self._calm and slots.in_flight < slots.limit
            if free or self._ready_at(call, now) <= now:
                return self._grant(call, now)
        waiting = queue.size
        refusal = self._refusal(call, now, expires_at) or self._make_room(call, now, expires_at)
        if refusal is not None:
            return refusal
        ticket = Ticket(self.withdraw, call, now, expires_at)
        queue.push(ticket)
        if waiting and queue.size > waiting:  # the calls ahead are still held, as just checked
            self.slots.tick(now, now - queue.oldest_at())
            self._choose_order(now)
            if self._next() is not ticket:
                return ticket
        self.pump(now)
        return ticket.permit or ticket.rejection or ticket

    def try_enter(self, call: Call, now: float) -> Permit | None:
        """Leave at once if every gate is ready and no call waits; else return None."""
        return self._grant(call, now) if self.is_free(call, now) else None

    def is_free(self, call: Call, now: float) -> bool:
        """Whether every gate is ready and no call waits."""
        return not self._queue.size and self._ready_at(call, now) <= now

    def renew(self, permit: Permit, call: Call, now: float) -> bool:
        """Reserve money again if the period of the permit's reservation is over; return whether it is reserved."""
        spending, tokens = self._spending, permit.tokens
        if spending is None or tokens is None:
            return True
        place = self._gates.index(spending)
        if spending.is_current(tokens[place], now):
            return True
        self.pump(now)  # calls that wait for this period come first
        if not self.is_free(call, now):
            return False
        tokens[place] = spending.take(call, now)
        return True

    def check(self, ticket: Ticket, now: float) -> None:
        """Check `ticket` again, after a wake-up or at its time."""
        if ticket is self._timekeeper:
            self._timekeeper, ticket.check_at = None, None
        if ticket.permit is None:  # granting a permit has already pumped
            self.pump(now)
        if not ticket.decided and now >= ticket.expires_at:
            self._reject(ticket, self._shed(ticket.call, now))
            self.pump(now)
        ticket.due = False

    def withdraw(self, ticket: Ticket, now: float) -> None:
        """Withdraw a waiting ticket; if it was the timer, another one takes over."""
        if ticket in self._queue:
            self._discard(ticket)
            self.pump(now)

    def pump(self, now: float) -> None:
        """Let calls leave while every gate is ready; if time will open a gate, set the timer of a ticket."""
        queue = self._queue
        self.slots.tick(now, now - queue.oldest_at() if queue.size else 0.0)
        self._choose_order(now)
        while queue.size:
            ticket = self._next()
            ready_at = self._ready_at(ticket.call, now)
            if ready_at > now:
                veto = self._spending and self._veto(self._spending, ticket, now)
                if veto:
                    self._reject(ticket, veto)
                    continue
                if self._ask_fleet is not None:
                    ask_at = self._ask_fleet(ticket.call, now)
                    ready_at = self._ready_at(ticket.call, now)
                    ready_at = ask_at if ready_at == inf else ready_at
                if ready_at == inf and self._spending is not None:
                    ready_at = self._spending.recheck_at()
                if now < ready_at != inf:
                    self._set_timekeeper(ready_at)
                return
            if self._cannot_finish(ticket, now):
                self._reject(ticket, self._shed(ticket.call, now))
                continue
            queue.serve(ticket)
            self._clear_timekeeper(ticket)
            ticket.permit = self._grant(ticket.call, now)
            self._wake(ticket)

    def _veto(self, spending: SpendingGate, ticket: Ticket, now: float) -> Rejection | None:
        """Return a rejection if the money for a call will not come, or only with the next period, which is too late."""
        call, veto = ticket.call, spending.veto(ticket.call, now)
        if veto is None and ticket.expires_at < spending.ready_at(call, now) < inf:
            return self._rejection(spending, TOO_LONG, call, now)
        return veto

    def recover(self, tickets: Iterable[Ticket], permits: int, now: float) -> None:
        """Repair the state after an interrupt in the middle of a step: `tickets` wait, and `permits` permits are held.

        Anything else that a gate took for the interrupted call counts as used.
        """
        self._queue = Queue(self._policy)
        self._timekeeper = None
        self._calm = self._stands = self._newest_first = False
        for ticket in sorted(tickets, key=lambda ticket: ticket.queued_at):
            ticket.check_at = None
            self._queue.push(ticket)
        self.slots.in_flight = permits
        self.pump(now)

    def end_calm(self) -> None:
        """Ask every gate again: one of them has changed."""
        self._calm = False

    def sweep(self, now: float) -> None:
        """Reject every waiting call that a newly closed gate will hold for longer than the call may wait."""
        for ticket in list(self._queue):
            refusal = self._refusal(ticket.call, now, ticket.expires_at)
            if refusal is not None:
                self._reject(ticket, refusal)

    def settle(self, permit: Permit, outcome: Outcome, now: float, uniform: float) -> None:
        """Give every gate its token back, the last taken first, and let the next calls leave."""
        tokens, permit.tokens = permit.tokens, None
        if tokens is None:
            return
        took, service = now - permit.sent_at, self.service
        if outcome.verdict is VERDICT_OK:
            for place, on_success in self._on_calm_success if self._calm else self._on_success:
                on_success(tokens[place], outcome, now, uniform)
            self.service += (took - service) * (LEARNING if service else 1.0)
        else:
            self._calm = False
            for place, settle in self._settles:
                settle(tokens[place], outcome, now, uniform)
            if outcome.own_deadline and took > service:
                self.service += (took - service) * (LEARNING if service else 1.0)
        if self.sharing is not None:
            self.pump_all(now)
        elif self._queue.size:
            self.pump(now)
        else:
            self.slots.tick(now, 0.0)

    def share_slots(self, before: "TargetQueue") -> None:
        """Replace a queue with the same limiter: a slot freed in one queue may be used in the other."""
        queues = [before] if before.sharing is None else before.sharing
        queues[:] = [*(each for each in queues if each.queued), self]
        self.sharing = before.sharing = queues

    def pump_all(self, now: float) -> None:
        """Let calls leave here, and in queues with the same slots."""
        for queue in self.sharing or ():
            queue.pump(now)

    def first_output(self, tokens: list[Any], now: float) -> None:
        """Record the first output of an attempt: one more slot is proven, and a call may leave."""
        self._diagnosis.first_output(tokens[self._diagnosis_place], now)
        self.pump(now)

    def held_by(self, call: Call, now: float) -> str:
        """Return the gate that holds the next call, or `call`, the longest; "queue" if other calls hold it."""
        gate = self._holding_gate(self._next().call if self._queue.size else call, now)
        return "queue" if gate is None else gate.name

    def observed_call(self) -> Call | None:
        """The call of a snapshot: the next one in the queue, or else the newest."""
        return self._next().call if self._queue.size else self._newest_call

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return the number of waiting calls, the age of the oldest, the gate that holds them, and when it opens.

        Times are in seconds from now; None if unknown. A gate that is closed for longer than calls may wait also holds
        calls, although none is in the queue.
        """
        call = self.observed_call()
        gate = None if call is None else self._holding_gate(call, now)
        until = inf if gate is None or call is None else gate.ready_at(call, now)
        holds = self.queued or self._policy.max_pause < until - now < inf
        return {
            "queued": self.queued,
            "queue_age": now - self._queue.oldest_at() if self._queue.size else 0.0,
            "held_by": ("queue" if gate is None else gate.name) if holds else None,
            "held_for": until - now if holds and until != inf else None,
        }

    def _next(self) -> Ticket:
        return self._queue.peek(newest_first=self._newest_first)

    def _holding_gate(self, call: Call, now: float) -> Gate | None:
        """Return the gate that will be closed the longest; if two wait for an event, not the slots."""
        holds, until = None, now
        for gate in self._gates:
            ready_at = gate.ready_at(call, now)
            if ready_at > until or (ready_at == until > now and holds is self.slots):
                holds, until = gate, ready_at
        return holds

    def _ready_at(self, call: Call, now: float) -> float:
        if self._calm:
            return self.slots.ready_at(call, now)
        latest = READY
        for gate_ready_at in self._ready_ats:
            ready_at = gate_ready_at(call, now)
            if ready_at > latest:  # noqa: PLR1730 - on the way of every call
                latest = ready_at
        return latest

    def _grant(self, call: Call, now: float) -> Permit:
        tokens: list[Any] = [now] * len(self._gates)
        for place, take in self._takes:
            tokens[place] = take(call, now)
        return Permit(self, tokens, now)

    def _choose_order(self, now: float) -> None:
        """Choose newest first if a queue stands because of an overload, and is too long to serve all in time.

        A queue that began to stand while another gate was closed is no overload: the target can serve it.
        """
        queue, stood = self._queue, self._stands
        if queue.size <= STANDING_QUEUE_RATIO * self.slots.limit or not self.slots.binds(now):
            self._stands = self._newest_first = False
            return
        oldest = queue.first()
        self._stands = not any(gate.paces(oldest.call, now) for gate in self._pacing)
        if not self._stands:
            self._newest_first = False
            return
        if not stood:
            gate = self._holding_gate(oldest.call, now)
            self._is_overload = gate in {None, self.slots}
        if self._is_overload and not self._newest_first:
            wait = self._time_until_turn(queue.size, now, slots=self.slots.limit)
            self._newest_first = wait > oldest.expires_at - oldest.queued_at

    def _refusal(self, call: Call, now: float, expires_at: float) -> Rejection | None:
        veto = self._spending and self._spending.veto(call, now)
        if veto:
            return veto
        for gate in self._gates:
            if gate is self.slots:  # a slot may become free sooner
                continue
            ready_at = gate.ready_at(call, now)
            if ready_at <= now:
                continue
            if gate is self._circuit:
                half_open = self._circuit.state_text(now) == "half-open"
                if call.fail_fast:
                    if half_open:  # its probes will probably decide sooner
                        ready_at = min(ready_at, now + max(PROBES_DECIDE_WITHIN, self.service))
                    return Rejection(gate.name, self._circuit_text(now), _known(ready_at))
                if half_open:
                    continue
            if ready_at != inf and ready_at > min(expires_at, now + self._policy.max_pause):
                return self._rejection(gate, TOO_LONG, call, now)
        return None

    def _make_room(self, call: Call, now: float, expires_at: float) -> Rejection | None:
        ahead = self._queue.ahead_of(call)
        wait = self._time_until_turn(ahead, now, slots=self.slots.limit)
        newest_first = call.priority is Priority.INTERACTIVE and self._newest_first
        # Computed with the largest limit: a limit learned in one episode says little about the next, and a rejection
        # cannot be undone.
        soonest = self._time_until_turn(ahead, now, slots=self.slots.max_limit)
        if now + soonest > expires_at and not newest_first:
            return Rejection("shed", LATE, now + wait)
        if self._queue.size < self._policy.max_size:
            return None
        displaced = self._queue.victim_for(call, newest_first=self._newest_first)
        if displaced is None:
            return Rejection("queue", f"{self.queued} calls are waiting", now + wait)
        urgent = call.priority < displaced.call.priority
        whose = "a more urgent call" if urgent else "a tenant with fewer calls waiting"
        self._reject(displaced, Rejection("queue", f"made room for {whose}"))
        return None

    def _time_until_turn(self, ahead: float, now: float, *, slots: float) -> float:
        by_slots = self.service * (ahead + 1) / slots
        return max([by_slots, *(gate.time_to_send(ahead + 1, now) for gate in self._pacing)])

    def _cannot_finish(self, ticket: Ticket, now: float) -> bool:
        if now >= ticket.expires_at:
            return True
        deadline_at = ticket.call.deadline_at
        if deadline_at is None or now - ticket.queued_at < NO_LATENESS_BEFORE:
            return False
        return now + SERVICE_MARGIN * self.service > deadline_at

    def _shed(self, call: Call, now: float) -> Rejection:
        """Reject a call that ran out of time, with the gate that held it and the time to retry."""
        gate = self._holding_gate(call, now)
        if gate is None or gate is self.slots:
            wait = self.service * (self.queued + 1) / self.slots.limit
            return Rejection("shed", LATE, now + wait)
        return self._rejection(gate, LATE, call, now)

    def _rejection(self, gate: Gate, reason: str, call: Call, now: float) -> Rejection:
        if gate is self._circuit:
            reason = f"{reason}: {self._circuit_text(now)}"
        return Rejection(_policy_of(gate), reason, _known(gate.ready_at(call, now)))

    def _circuit_text(self, now: float) -> str:
        assert self._circuit is not None
        return f"the circuit is {self._circuit.state_text(now)}"

    def _reject(self, ticket: Ticket, rejection: Rejection) -> None:
        self._discard(ticket)
        ticket.rejection = rejection
        self._wake(ticket)

    def _discard(self, ticket: Ticket) -> None:
        self._queue.discard(ticket)
        self._clear_timekeeper(ticket)

    def _clear_timekeeper(self, ticket: Ticket) -> None:
        if ticket is self._timekeeper:
            self._timekeeper = None

    def _set_timekeeper(self, at: float) -> None:
        keeper = self._timekeeper or self._queue.first()
        if keeper.check_at is None or keeper.check_at > at:
            keeper.check_at = at
            self._timekeeper = keeper
            self._wake(keeper)


def _policy_of(gate: Gate) -> str:
    return "shed" if gate.name == "pace" else gate.name


def _known(ready_at: float) -> float | None:
    return None if ready_at == inf else ready_at
