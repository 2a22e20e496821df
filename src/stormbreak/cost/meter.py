"""A listener that says what attempts cost: of use, for nothing, and what was saved.

An attempt is put on the bill when it ends. An answer costs what its usage says. What is no answer costs nothing, unless
it may have been processed: then it costs anything up to its bound, and so does an attempt that another has overtaken, or
whose call was given up. Memory is bounded by the calls under way, and by so many values of each kind. A forked child begins
with an empty bill.
"""

from collections import OrderedDict
from collections.abc import Callable
from decimal import Decimal

from stormbreak.cost.bill import Bills
from stormbreak.cost.books import LedgerByPurpose, Purpose
from stormbreak.cost.price_table import EXACT, PriceOf
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import new_lock
from stormbreak.errors import ConfigurationError
from stormbreak.events import (
    CallCancelled,
    CallEnded,
    Committed,
    Event,
    FellBack,
    Labelled,
    Overtaken,
    Returned,
    Sent,
)
from stormbreak.types import CACHE, DEGRADED, Labels, Target, Usage, Verdict

MOST = 100  # values of one kind that have a bill of their own
MOST_CALLS = 100_000  # under way; of more, the oldest is taken for given up

OVERTAKEN, CANCELLED, CUT = "overtaken", "cancelled", "cut"
"""Why an attempt was wasted, where it is no verdict. What was cut had begun to reach its caller."""


class _Attempt:
    """One under way."""

    __slots__ = ("bound", "committed", "purpose")

    def __init__(self, sent: Sent, labels: Labels) -> None:
        self.purpose = Purpose(sent.target, sent.priority, sent.tenant, labels)
        self.bound = sent.bound
        self.committed = False


class _Call:
    """One under way; `cost` is that of its answer, `fell_to` where it went last."""

    __slots__ = ("attempts", "cost", "fell_to", "first", "labels")

    def __init__(self, first: Target) -> None:
        self.first = Purpose(first)
        self.labels: Labels = ()
        self.attempts: dict[int, _Attempt] = {}
        self.cost: Decimal | None = None
        self.fell_to = ""


class Meter:
    """Adds up what the attempts on one engine cost. May be called from any thread.

    Args:
        price_of: the prices, by provider and model.
        most: values of one kind (targets, models, tenants, labels) that have a bill of their own; the rest share one.
    """

    def __init__(self, price_of: PriceOf, *, most: int = MOST) -> None:
        self._price_of = price_of
        self._most = most
        self._engine: object = None
        self._lock = new_lock()
        self._begin()
        reset_in_child(self._begin)
        self._hear: dict[type, Callable[..., None]] = {
            Labelled: self._labelled,
            Sent: self._sent,
            Committed: self._committed,
            Returned: self._returned,
            Overtaken: self._overtaken,
            FellBack: self._fell_back,
            CallEnded: self._ended,
            CallCancelled: self._cancelled,
        }

    def _begin(self) -> None:
        """Begin anew, as in a child process: what was spent before it is on the bill of its parent."""
        self._ledgers = LedgerByPurpose(self._price_of, self._most)
        self._calls: OrderedDict[int, _Call] = OrderedDict()

    def watch(self, engine: object) -> None:
        """Take note of whose events these are: numbers of calls are those of one engine.

        Raises:
            ConfigurationError: it is another than before.
        """
        if self._engine is not None and self._engine is not engine:
            raise ConfigurationError("a meter counts for one engine: make another for this one")
        self._engine = engine

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        hear = self._hear.get(type(event))
        if hear is not None:
            with self._lock:
                hear(event)

    def snapshot(self) -> Bills:
        """The bills so far."""
        with self._lock:
            return self._ledgers.shown(
                (attempt.purpose.target, attempt.bound)
                for call in self._calls.values()
                for attempt in call.attempts.values()
            )

    def _labelled(self, event: Labelled) -> None:
        call = self._call(event.call, event.target)
        call.labels = event.labels
        call.first = call.first._replace(labels=event.labels)

    def _sent(self, event: Sent) -> None:
        call = self._call(event.call, event.target)
        attempt = call.attempts[event.attempt] = _Attempt(event, call.labels)
        call.first = attempt.purpose._replace(target=call.first.target)

    def _committed(self, event: Committed) -> None:
        call = self._calls.get(event.call)
        if call is not None and event.attempt in call.attempts:
            call.attempts[event.attempt].committed = True

    def _returned(self, event: Returned) -> None:
        attempt = self._over(event)
        if attempt is None:
            return
        purpose, usage = attempt.purpose, event.usage
        if event.verdict is Verdict.OK:
            self._calls[event.call].cost = self._ledgers.billed(purpose, usage, attempt.bound)
        elif usage is not None or event.maybe_processed:
            self._waste(attempt, event.verdict.value, usage)
        else:
            self._ledgers.free(purpose)

    def _overtaken(self, event: Overtaken) -> None:
        attempt = self._over(event)
        if attempt is not None:
            self._waste(attempt, OVERTAKEN)

    def _over(self, event: Returned | Overtaken) -> _Attempt | None:
        call = self._calls.get(event.call)
        return None if call is None else call.attempts.pop(event.attempt, None)

    def _fell_back(self, event: FellBack) -> None:
        self._call(event.call, event.target).fell_to = event.to

    def _ended(self, event: CallEnded) -> None:
        call = self._calls.pop(event.call, None)
        if call is None:
            return
        self._give_up(call)
        if event.verdict is Verdict.OK and call.fell_to and event.usage is not None:
            self._save(call, event.usage)

    def _cancelled(self, event: CallCancelled) -> None:
        call = self._calls.pop(event.call, None)
        if call is not None:
            self._give_up(call)

    def _give_up(self, call: _Call) -> None:
        for attempt in call.attempts.values():
            self._waste(attempt, CANCELLED)

    def _waste(self, attempt: _Attempt, why: str, usage: Usage | None = None) -> None:
        purpose = attempt.purpose._replace(wasted=CUT if attempt.committed else why)
        self._ledgers.billed(purpose, usage, attempt.bound)

    def _save(self, call: _Call, usage: Usage) -> None:
        """Put down what an answer from elsewhere saved."""
        at_first = self._ledgers.cost(call.first.target, usage)
        if at_first is None or call.fell_to == DEGRADED:
            return
        if call.fell_to == CACHE:
            self._ledgers.saved(call.first, cache=at_first)
        elif call.cost is not None:
            self._ledgers.saved(call.first, fallback=EXACT.subtract(at_first, call.cost))

    def _call(self, number: int, target: Target) -> _Call:
        call = self._calls.get(number)
        if call is None:
            if len(self._calls) >= MOST_CALLS:
                self._give_up(self._calls.popitem(last=False)[1])
            call = self._calls[number] = _Call(target)
        return call
