"""The queue of one target: the only way to it.

A call leaves when every gate agrees at one instant; then all are taken in one step, the breaker's probe
last. Nothing is held while waiting. The queue is bounded, served by priority, and sheds at once what cannot be
served within its patience and deadline: on arrival, when a gate closes for longer than that, or at its turn.

Within a priority the oldest is served first. Interactive calls are served newest first while the in-flight
limit binds and a queue stands: then there are more calls than can be served, and those that have waited long
would only be served too late. Not so under a send rate, where oldest first answers more.

Who is next, by priority and by fair shares between tenants, is a matter of the `queueing`.

Who pumps: whatever changes a gate (a settled permit) pumps in the same step. When only time can open the
gates, one ticket keeps time for the whole queue: its owner looks again at `wake_at`. If it leaves, another
takes over.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from stormbreak.core.diagnosis import Diagnosis
from stormbreak.core.gate import OPEN, Circuit, Gate, PacingGate, SlotGate, VetoGate
from stormbreak.core.permit import Permit
from stormbreak.core.queue_order import Queue, QueuePolicy
from stormbreak.core.ticket import Ticket
from stormbreak.types import Call, Outcome, Priority, Rejection, Verdict

SERVICE_MARGIN = 1.75  # a call is sent only if this many mean service times fit before its deadline
LEARNING = 0.1  # weight of the newest answer in the mean service time
NO_LATENESS_BEFORE = 1.0  # seconds; whoever waited less is not shed at its turn
PROBES_DECIDE_WITHIN = (
    1.0  # seconds that probes are given at least, before a rejected call comes back
)
STANDING_QUEUE_RATIO = 4  # times the limit: a queue this long stands

LATE = "could not be served in time"
TOO_LONG = "the call may not wait that long"


class TargetQueue:
    """Gates in the order in which they are taken, and the queue in front of them."""

    def __init__(  # noqa: PLR0913 - keywords are cheap to read
        self,
        gates: Sequence[Gate],
        slots: SlotGate,
        diagnosis: Diagnosis,
        policy: QueuePolicy,
        wake: Callable[[Ticket], None],
        *,
        spacings: Sequence[PacingGate] = (),
        circuit: Circuit | None = None,
        weigh: Callable[[Call], None] | None = None,
        spending: VetoGate | None = None,
    ) -> None:
        """Served through `gates`, of which `slots` is one, all of `spacings` are some, and `circuit` may be one.

        `weigh(call)` tells a gate that asks how heavy a call is which one it will be asked about; `spending` says what will
        never leave, and when to look again.
        """
        self._gates = tuple(gates)
        self._ready_ats = tuple(gate.ready_at for gate in gates if gate is not diagnosis)
        self._takes = tuple(gate.take for gate in gates)
        self._settles = _last_first(gates, lambda _: True)
        self._settles_well = _last_first(gates, lambda gate: gate.settles_success)
        self._slots = slots
        self._slots_gate = self._gates[self._gates.index(slots)]
        self._diagnosis = diagnosis
        self._observer = self._gates.index(diagnosis)
        takes = list(self._takes)
        takes[self._observer] = diagnosis.take_streaming
        self._take_streaming = tuple(takes)
        self._policy = policy
        self._wake = wake
        self._spacings = tuple(spacings)
        self._circuit = circuit
        self._reserve_for = weigh
        self._spend_gate = spending
        self._queue = Queue(policy)
        self._timekeeper: Ticket | None = None
        self.service = 0.0  # mean seconds from leaving to a complete answer; 0 while unknown

    @property
    def queued(self) -> int:
        """How many calls wait."""
        return self._queue.size

    def enter(self, call: Call, now: float, expires_at: float) -> Permit | Ticket | Rejection:
        """Leave at once if every gate agrees and nobody waits; else queue, or say why not."""
        if now >= expires_at:
            return self._shed_rejection(now)
        if self._queue.size:
            self.pump(now)  # time may have opened a gate, and room in the queue with it
        else:
            self._slots.tick(now, 0.0)
        if not self._queue.size and self._ready_at(call, now) <= now:
            return self._grant(call, now)
        refusal = self._refusal(call, now, expires_at) or self._make_room(call, now, expires_at)
        if refusal is not None:
            return refusal
        ticket = Ticket(self.withdraw, call, now, expires_at)
        self._queue.push(ticket)
        self.pump(now)
        return ticket.permit or ticket.rejection or ticket

    def slip_in(self, call: Call, now: float) -> Permit | None:
        """Leave at once if every gate agrees and nobody waits; else not at all."""
        if self._queue.size or self._ready_at(call, now) > now:
            return None
        return self._grant(call, now)

    def check(self, ticket: Ticket, now: float) -> None:
        """Look again for `ticket`, because it was woken or its time has come."""
        if ticket is self._timekeeper:
            self._timekeeper, ticket.check_at = None, None
        self.pump(now)
        if not ticket.decided and now >= ticket.expires_at:
            self._reject(ticket, self._shed_rejection(now))
            self.pump(now)
        ticket.due = False

    def withdraw(self, ticket: Ticket, now: float) -> None:
        """Take back a ticket that still waits; if it kept time, another will."""
        if ticket in self._queue:
            self._discard(ticket)
            self.pump(now)

    def pump(self, now: float) -> None:
        """Let leave whoever may, and see to it that somebody looks again when time opens a gate."""
        queue = self._queue
        self._slots.tick(now, now - queue.oldest_at() if queue.size else 0.0)
        while queue.size:
            ticket = queue.peek(stands=self._has_standing_queue(now))
            ready_at = self._ready_at(ticket.call, now)
            if ready_at > now:
                never = self._spend_gate and self._spend_gate.veto(ticket.call, now)
                if never:
                    self._reject(ticket, never)
                    continue
                if ready_at == inf and self._spend_gate is not None:
                    ready_at = self._spend_gate.recheck_at()
                if ready_at != inf:
                    self._set_timekeeper(ready_at)
                return
            if self._cannot_finish(ticket, now):
                self._reject(ticket, self._shed_rejection(now))
                continue
            queue.serve(ticket)
            self._clear_timekeeper(ticket)
            ticket.permit = self._grant(ticket.call, now)
            self._wake(ticket)

    def sweep(self, now: float) -> None:
        """Reject every waiting call that a gate, just closed, will keep for longer than it may wait."""
        for ticket in list(self._queue):
            refusal = self._refusal(ticket.call, now, ticket.expires_at)
            if refusal is not None:
                self._reject(ticket, refusal)

    def settle(
        self, tokens: list[Any], taken_at: float, outcome: Outcome, now: float, uniform: float
    ) -> None:
        """Give every gate its token back, last taken first, and let leave whoever may now."""
        well = outcome.verdict is Verdict.OK
        for place, settle in self._settles_well if well else self._settles:
            settle(tokens[place], outcome, now, uniform)
        took = now - taken_at
        if well or (outcome.own_deadline and took > self.service):
            self.learn(took)
        self.pump(now)

    def first(self, tokens: list[Any], now: float) -> None:
        """Take note that an attempt begins to put out: a slot more is proven, and somebody may leave."""
        self._diagnosis.first(tokens[self._observer], now)
        self.pump(now)

    def learn(self, took: float) -> None:
        """Remember how long an answer takes."""
        self.service += (took - self.service) * (LEARNING if self.service else 1.0)

    def held_by(self, now: float) -> str:
        """Name of the gate that holds the queue the longest; "queue" where it is others waiting."""
        gate = self._held_by(now)
        return "queue" if gate is None else gate.name

    def snapshot(self, now: float) -> dict[str, Any]:
        """How many calls wait, for which gate, and for how many seconds, where its time is known.

        A gate that is closed for too long to wait for holds calls, too, though none is in the queue.
        """
        gate = self._held_by(now)
        until = inf if gate is None else gate.ready_at(now)
        holds = self.queued or self._policy.max_pause < until - now < inf
        return {
            "queued": self.queued,
            "held_by": self.held_by(now) if holds else None,
            "held_for": until - now if holds and until != inf else None,
        }

    def _held_by(self, now: float) -> Gate | None:
        """The gate that will be closed the longest; of two that wait for an event, not the slots."""
        gate = max(self._gates, key=lambda gate: (gate.ready_at(now), gate is not self._slots_gate))
        return gate if gate.ready_at(now) > now else None

    def _ready_at(self, call: Call, now: float) -> float:
        if self._reserve_for is not None:
            self._reserve_for(call)
        latest = OPEN
        for gate_ready_at in self._ready_ats:
            ready_at = gate_ready_at(now)
            if ready_at > latest:  # noqa: PLR1730 - on the way of every call
                latest = ready_at
        return latest

    def _grant(self, call: Call, now: float) -> Permit:
        takes = self._take_streaming if call.streams else self._takes
        return Permit(self, [take(now) for take in takes], now)

    def _has_standing_queue(self, now: float) -> bool:
        """Whether more calls wait than can be served."""
        return (
            self._queue.size > STANDING_QUEUE_RATIO * self._slots.limit
            and self._slots.binds(now)
            and not any(spacing.in_force(now) for spacing in self._spacings)
        )

    def _refusal(self, call: Call, now: float, expires_at: float) -> Rejection | None:
        never = self._spend_gate and self._spend_gate.veto(call, now)
        if never:
            return never
        if self._reserve_for is not None:
            self._reserve_for(call)
        for gate in self._gates:
            ready_at = gate.ready_at(now)
            if ready_at <= now or gate is self._slots_gate:  # a slot may come free sooner
                continue
            if gate is self._circuit:
                half_open = self._circuit.standing(now) == "half-open"
                if call.fail_fast:
                    if half_open:  # its probes will probably decide sooner
                        ready_at = min(ready_at, now + max(PROBES_DECIDE_WITHIN, self.service))
                    return Rejection(gate.name, self._circuit_text(now), _known(ready_at))
                if half_open:
                    continue
            if ready_at != inf and ready_at > min(expires_at, now + self._policy.max_pause):
                return self._rejection(gate, TOO_LONG, now)
        return None

    def _make_room(self, call: Call, now: float, expires_at: float) -> Rejection | None:
        ahead = self._queue.ahead_of(call)
        wait = self._time_until_turn(ahead, now, slots=self._slots.limit)
        stands = self._has_standing_queue(now)
        newest_first = call.priority is Priority.INTERACTIVE and stands
        if now + self._soonest(ahead, now) > expires_at and not newest_first:
            return Rejection("shed", LATE, now + wait)
        if self._queue.size < self._policy.max_size:
            return None
        displaced = self._queue.victim_for(call, stands=stands)
        if displaced is None:
            return Rejection("queue", f"{self.queued} calls are waiting", now + wait)
        urgent = call.priority < displaced.call.priority
        whose = "a more urgent call" if urgent else "a tenant with fewer calls waiting"
        self._reject(displaced, Rejection("queue", f"made room for {whose}"))
        return None

    def _soonest(self, ahead: float, now: float) -> float:
        """Seconds until the turn of a call with so many `ahead`, if the limit grows to its most at once.

        A limit in the middle of an episode says little of what it will be in the next: who is turned away
        for it cannot be called back.
        """
        return self._time_until_turn(ahead, now, slots=self._slots.most)

    def _time_until_turn(self, ahead: float, now: float, *, slots: float) -> float:
        by_slots = self.service * (ahead + 1) / slots
        return max(
            [by_slots, *(spacing.time_to_send(ahead + 1, now) for spacing in self._spacings)]
        )

    def _cannot_finish(self, ticket: Ticket, now: float) -> bool:
        if now >= ticket.expires_at:
            return True
        deadline_at = ticket.call.deadline_at
        if deadline_at is None or now - ticket.queued_at < NO_LATENESS_BEFORE:
            return False
        return now + SERVICE_MARGIN * self.service > deadline_at

    def _shed_rejection(self, now: float) -> Rejection:
        """Say that the time is over, which gate took it, and when to come back."""
        gate = self._held_by(now)
        if gate is None or gate is self._slots_gate:
            wait = self.service * (self.queued + 1) / self._slots.limit
            return Rejection("shed", LATE, now + wait)
        return self._rejection(gate, LATE, now)

    def _rejection(self, gate: Gate, reason: str, now: float) -> Rejection:
        if gate is self._circuit:
            reason = f"{reason}: {self._circuit_text(now)}"
        return Rejection(_policy_of(gate), reason, _known(gate.ready_at(now)))

    def _circuit_text(self, now: float) -> str:
        assert self._circuit is not None
        return f"the circuit is {self._circuit.standing(now)}"

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
        keeper = self._timekeeper or next(iter(self._queue))
        if keeper.check_at is None or keeper.check_at > at:
            keeper.check_at = at
            self._timekeeper = keeper
            self._wake(keeper)


def _last_first(
    gates: Sequence[Gate], chosen: Callable[[Gate], bool]
) -> tuple[tuple[int, Callable[..., None]], ...]:
    """Where the tokens of the chosen gates stand, and who takes them back."""
    return tuple((i, gate.settle) for i, gate in reversed([*enumerate(gates)]) if chosen(gate))


def _policy_of(gate: Gate) -> str:
    return "shed" if gate.name == "pace" else gate.name


def _known(ready_at: float) -> float | None:
    return None if ready_at == inf else ready_at
