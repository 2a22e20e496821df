"""A listener that adds up the cost of attempts: for answers, wasted, and saved.

An attempt is billed when it ends. The usage of an answer gives its cost. A failed attempt is free, unless it may have
been processed: then it costs anything up to its bound, like an overtaken or cancelled attempt. Memory is bounded by the
calls in progress and by the number of names of each kind. A forked child starts with empty bills.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from stormbreak import events
from stormbreak.cost.accounts import Bills, Ledger, Purpose
from stormbreak.cost.price_source import EXACT, PriceOf
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import new_lock
from stormbreak.errors import ConfigurationError
from stormbreak.events import Event
from stormbreak.types import CACHE, DEGRADED, Labels, Target, Usage, Verdict

MAX_NAMES = 100  # names of one kind with their own bill
MAX_CALLS = 100_000  # calls in progress; beyond this, the oldest counts as cancelled

OVERTAKEN, CANCELLED, CUT = "overtaken", "cancelled", "cut"
"""Reasons of waste other than verdicts. A cut attempt had begun to reach its caller."""


@dataclass(slots=True, eq=False)
class _Attempt:
    """An attempt in progress."""

    purpose: Purpose
    bound: Usage | None
    committed: bool = False


@dataclass(slots=True, eq=False)
class _Call:
    """A call in progress: the `cost` of its answer, and its last fallback."""

    first: Purpose
    labels: Labels = ()
    attempts: dict[int, _Attempt] = field(default_factory=dict)
    cost: Decimal | None = None
    fallback: str = ""


class Meter:
    """Adds up the cost of the attempts of one engine. May be called from any thread.

    Args:
        price_of: the prices, by provider and model.
        max_names: names of one kind (targets, models, tenants, labels) with their own bill; the rest share one.
        detailed: also keep bills by model, priority, tenant and label, not only by target and waste.
    """

    def __init__(
        self, price_of: PriceOf, *, max_names: int = MAX_NAMES, detailed: bool = True
    ) -> None:
        self._price_of = price_of
        self._max_names = max_names
        self._detailed = detailed
        self._engine: object = None
        self._lock = new_lock()
        self._reset()
        reset_in_child(self._reset)
        self._handlers: dict[type, Callable[..., None]] = {
            events.Labelled: self._labelled,
            events.Sent: self._sent,
            events.Committed: self._committed,
            events.Returned: self._returned,
            events.Overtaken: self._overtaken,
            events.FellBack: self._fell_back,
            events.CallEnded: self._ended,
            events.CallCancelled: self._cancelled,
        }

    def _reset(self) -> None:
        """Start with empty bills, also in a forked child: the parent has the old ones."""
        self._ledger = Ledger(self._price_of, self._max_names, detailed=self._detailed)
        self._calls: OrderedDict[int, _Call] = OrderedDict()

    def watch(self, engine: object) -> None:
        """Bind the meter to one engine: numbers of calls are unique within it.

        Raises ConfigurationError if it is bound to another one.
        """
        if self._engine is not None and self._engine is not engine:
            raise ConfigurationError(
                "a meter counts for one engine: make a new one for this engine"
            )
        self._engine = engine

    def __call__(self, event: Event) -> None:
        handler = self._handlers.get(type(event))
        if handler is not None:
            with self._lock:
                handler(event)

    def snapshot(self) -> Bills:
        with self._lock:
            return self._ledger.snapshot(
                (attempt.purpose.target, attempt.bound)
                for call in self._calls.values()
                for attempt in call.attempts.values()
            )

    def _labelled(self, event: events.Labelled) -> None:
        call = self._call(event.call, event.target)
        call.labels = event.labels
        call.first = call.first._replace(labels=event.labels)

    def _sent(self, event: events.Sent) -> None:
        call = self._call(event.call, event.target)
        purpose = Purpose(event.target, event.priority, event.tenant, call.labels)
        call.attempts[event.attempt] = _Attempt(purpose, event.bound)
        call.first = purpose._replace(target=call.first.target)

    def _committed(self, event: events.Committed) -> None:
        call = self._calls.get(event.call)
        if call is not None and event.attempt in call.attempts:
            call.attempts[event.attempt].committed = True

    def _returned(self, event: events.Returned) -> None:
        attempt = self._end_attempt(event)
        if attempt is None:
            return
        purpose, usage = attempt.purpose, event.usage
        if event.verdict is Verdict.OK:
            self._calls[event.call].cost = self._ledger.add(purpose, usage, attempt.bound)
        elif usage is not None or event.maybe_processed:
            self._waste(attempt, event.verdict.value, usage)
        else:
            self._ledger.add_free(purpose)

    def _overtaken(self, event: events.Overtaken) -> None:
        attempt = self._end_attempt(event)
        if attempt is not None:
            self._waste(attempt, OVERTAKEN)

    def _end_attempt(self, event: events.Returned | events.Overtaken) -> _Attempt | None:
        call = self._calls.get(event.call)
        return None if call is None else call.attempts.pop(event.attempt, None)

    def _fell_back(self, event: events.FellBack) -> None:
        self._call(event.call, event.target).fallback = event.to

    def _ended(self, event: events.CallEnded) -> None:
        call = self._calls.pop(event.call, None)
        if call is None:
            return
        self._cancel_attempts(call)
        if event.verdict is Verdict.OK and call.fallback and event.usage is not None:
            self._save(call, event.usage)

    def _cancelled(self, event: events.CallCancelled) -> None:
        call = self._calls.pop(event.call, None)
        if call is not None:
            self._cancel_attempts(call)

    def _cancel_attempts(self, call: _Call) -> None:
        for attempt in call.attempts.values():
            self._waste(attempt, CANCELLED)

    def _waste(self, attempt: _Attempt, why: str, usage: Usage | None = None) -> None:
        purpose = attempt.purpose._replace(wasted=CUT if attempt.committed else why)
        self._ledger.add(purpose, usage, attempt.bound)

    def _save(self, call: _Call, usage: Usage) -> None:
        """Count the saving of an answer from elsewhere."""
        first_cost = self._ledger.cost(call.first.target, usage)
        if first_cost is None or call.fallback == DEGRADED:
            return
        if call.fallback == CACHE:
            self._ledger.add_savings(call.first, cache=first_cost)
        elif call.cost is not None:
            self._ledger.add_savings(call.first, fallback=EXACT.subtract(first_cost, call.cost))

    def _call(self, number: int, target: Target) -> _Call:
        call = self._calls.get(number)
        if call is None:
            if len(self._calls) >= MAX_CALLS:
                self._cancel_attempts(self._calls.popitem(last=False)[1])
            call = self._calls[number] = _Call(Purpose(target))
        return call
