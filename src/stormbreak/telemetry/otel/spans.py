"""OpenTelemetry spans of one engine's calls: one for each call, and below it one for each attempt.

A call's span begins under the span that was current where the call was made, which is asked once, at its beginning: what
follows may happen on other threads. Decisions are events on it. An attempt's span is current while the attempt is being
sent, and lasts until its answer has come: that of a stream until its end.

Spans are of the kind "client"; only that of the call names a `gen_ai.operation.name`, so that whoever counts operations
counts calls. Functions are no models: their spans have names and targets only.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from types import MappingProxyType
from typing import Any

from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

from stormbreak.core.flow import Send
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import new_lock
from stormbreak.escape import tame
from stormbreak.events import (
    CallCancelled,
    CallEnded,
    CallRejected,
    Committed,
    Event,
    FallbackRefused,
    FellBack,
    Hedged,
    HedgeRefused,
    Overtaken,
    Queued,
    RetryPlanned,
    RetryRefused,
    Returned,
    Sent,
)
from stormbreak.telemetry.event_text import name_of
from stormbreak.telemetry.labels import kind_of
from stormbreak.telemetry.otel import conventions as names
from stormbreak.telemetry.otel.metrics import GenAi
from stormbreak.types import FALLBACK, TARGET, Call, Target, Verdict

# ---------------------------------------------------------------- current span

_HERE: ContextVar[None] = ContextVar("stormbreak.otel.here")


class Current:
    """A span as the current one, for one `with`.

    The block may be left in another context than it was entered in, as when the garbage collector ends a coroutine or a
    generator: the span was never current there, and nothing is put back.
    """

    __slots__ = ("_entered", "_here", "_span")

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> None:
        self._here: Token[None] = _HERE.set(None)
        self._entered: Token[Context] = attach(set_span_in_context(self._span))

    def __exit__(self, *_: object) -> None:
        try:
            _HERE.reset(self._here)
        except ValueError:  # of another context
            return
        detach(self._entered)


# ---------------------------------------------------------------- active spans
# The calls of one engine whose span has not ended. A call that never ends, such as one of an event
# loop that stood still for ever, must not be kept for ever: beyond a bound the oldest make way.


class ActiveSpan:
    """A call: its span, the context under which those of its attempts are, and what is open of these, by number."""

    __slots__ = ("attempts", "began", "context", "operation", "source", "span")

    def __init__(self, span: Span, context: Context, *, operation: str, began: float) -> None:
        self.span = span
        self.context = context
        self.operation = operation
        self.began = began  # on the clock of the engine
        self.source = TARGET
        self.attempts: dict[int, Span] = {}


class ActiveCalls:
    """At most `most` calls, by number; `overdue` is given one that has to make way. From any thread."""

    def __init__(self, most: int, overdue: Callable[[ActiveSpan], None]) -> None:
        self._most = most
        self._overdue = overdue
        # The garbage collector may come with a signal handler or a finalizer in the middle of this.
        self._lock = new_lock()
        self.forget()

    def forget(self) -> None:
        """Forget them all: in a child process they never end."""
        self._calls: dict[int, ActiveSpan] = {}

    def close(self) -> None:
        """Give up all of them, and from now on each that comes."""
        with self._lock:
            self._most = 0
            calls, self._calls = self._calls, {}
        for call in calls.values():
            self._overdue(call)

    def add(self, number: int, call: ActiveSpan) -> None:
        """Keep a call."""
        oldest: ActiveSpan | None = None
        with self._lock:
            self._calls[number] = call
            if len(self._calls) > self._most:
                oldest = self._calls.pop(next(iter(self._calls)))
        if oldest is not None:
            self._overdue(oldest)

    def find(self, number: int) -> ActiveSpan | None:
        """The call of this number."""
        return self._calls.get(number)

    def take(self, number: int) -> ActiveSpan | None:
        """The same, which is then no longer kept."""
        with self._lock:
            return self._calls.pop(number, None)


# ---------------------------------------------------------------- span events

TOLD = (
    Queued,
    CallRejected,
    Hedged,
    HedgeRefused,
    Overtaken,
    RetryPlanned,
    RetryRefused,
    FellBack,
    FallbackRefused,
)
"""Others begin or end a span, or are about a target."""

_DIGEST = re.compile(r"#[0-9a-f]{8}$")  # that of the key, behind a target
_ATTRIBUTES = {
    "attempt": names.ATTEMPT,
    "verdict": names.VERDICT,
    "gate": names.GATE,
    "held_by": names.GATE,
    "policy": names.POLICY,
    "reason": names.REASON,
    "free": names.FREE,
    "maybe_processed": names.MAYBE_PROCESSED,
    "to": names.TO,
}


def name_and_attributes(event: Event) -> tuple[str, names.Attributes]:
    """The name of an event and what it says; `stormbreak.seconds` is how long something takes or took, from then."""
    told: names.Attributes = {}
    for field, name in _ATTRIBUTES.items():
        value = getattr(event, field, None)
        if value is not None:
            told[name] = _plain(value)
    seconds = _seconds(event)
    if seconds is not None:
        told[names.SECONDS] = seconds
    return name_of(event), told


def _plain(value: Any) -> names.Value:
    if isinstance(value, Verdict):
        return value.value
    return tame(_DIGEST.sub("", value)) if isinstance(value, str) else value


def _seconds(event: Event) -> float | None:
    if isinstance(event, Hedged):
        return event.after
    if isinstance(event, Overtaken):
        return event.took
    until = None
    if isinstance(event, RetryPlanned):
        until = event.until
    elif isinstance(event, CallRejected):
        until = event.retry_at
    return None if until is None else max(0.0, until - event.at)


# ---------------------------------------------------------------- spans


class Spans:
    """A listener to one engine, and the context_listener of its calls.

    Args:
        tracer: makes the spans.
        measures: hears how long operations took.
        labels: the names of those labels of calls that become attributes.
        most: calls under way of which spans are kept.
    """

    def __init__(
        self, tracer: Tracer, measures: GenAi, *, labels: frozenset[str], most: int
    ) -> None:
        self._tracer = tracer
        self._measures = measures
        self._labels = labels
        self._calls = ActiveCalls(most, _give_up)
        reset_in_child(self._forget)

    def _forget(self) -> None:
        self._calls.forget()

    def close(self) -> None:
        """End all spans that are open, as unfinished; none is made from now on."""
        self._calls.close()

    def begins(self, call: Call, now: float) -> None:
        """Begin the span of a call, under the one that is current here."""
        context, target = get_current(), call.target
        attributes = names.where(target) | {names.PRIORITY: call.priority.name.lower()}
        if call.operation:
            attributes[names.OPERATION] = call.operation
            if call.delivers:
                attributes[names.STREAM] = True
        for name, value in call.labels:
            if name in self._labels:
                attributes[names.LABEL + name] = value
        name = f"{call.operation or 'call'} {tame(target.model or target.provider)}"
        span = self._tracer.start_span(name, context, _kind(target), attributes)
        below = set_span_in_context(span, context)
        self._calls.add(call.number, ActiveSpan(span, below, operation=call.operation, began=now))

    def around(self, number: int, sent: Send) -> AbstractContextManager[object]:
        """Make the span of an attempt the current one."""
        call = self._calls.find(number)
        if call is None:  # it began before anybody listened
            return nullcontext()
        return Current(call.attempts.get(sent.attempt, call.span))

    def __call__(self, event: Event) -> None:
        """Put an event where it belongs."""
        number = getattr(event, "call", None)
        if number is None:  # it is about a target
            return
        ends = isinstance(event, CallEnded | CallCancelled)
        call = self._calls.take(number) if ends else self._calls.find(number)
        if call is None:
            return
        if isinstance(event, TOLD) and call.span.is_recording():
            call.span.add_event(*name_and_attributes(event))
        act = _ACTS.get(type(event))
        if act is not None:
            act(self, call, event)

    def _sent(self, call: ActiveSpan, event: Sent) -> None:
        if not call.span.is_recording():  # nor would this be
            return
        attributes = names.where(event.target) | {names.ATTEMPT: event.attempt}
        if event.attempt > 1:
            attributes[names.RESENDS] = event.attempt - 1
        name = f"attempt {tame(event.target.model or event.target.provider)}"
        call.attempts[event.attempt] = self._tracer.start_span(
            name, call.context, _kind(event.target), attributes
        )

    def _returned(self, call: ActiveSpan, event: Returned) -> None:
        if event.usage is not None:
            self._measures.used(event.usage, event.target, call.operation)
        span = call.attempts.pop(event.attempt, None)
        if span is None:
            return
        if event.status is not None:
            span.set_attribute(names.STATUS_CODE, event.status)
        if event.code is not None:
            span.set_attribute(names.CODE, tame(event.code))
        _end(span, event.verdict, event.detail)

    def _committed(self, call: ActiveSpan, event: Committed) -> None:
        seconds = event.at - call.began
        call.span.set_attribute(names.FIRST_CHUNK, seconds)
        span = call.attempts.get(event.attempt)
        if span is not None:
            span.add_event("attempt.committed", {names.SECONDS: event.took})
        self._measures.began(seconds, event.target, call.operation)

    def _overtaken(self, call: ActiveSpan, event: Overtaken) -> None:
        span = call.attempts.pop(event.attempt, None)
        if span is not None:
            _end(span, Verdict.CANCELLED)

    def _fell_back(self, call: ActiveSpan, event: FellBack) -> None:
        to = kind_of(event.to)
        call.source = FALLBACK if to == TARGET else to

    def _rejected(self, call: ActiveSpan, event: CallRejected) -> None:
        call.span.set_attribute(names.POLICY, event.policy)

    def _ended(self, call: ActiveSpan, event: CallEnded) -> None:
        span, verdict = call.span, event.verdict
        _end_attempts(call)
        span.set_attributes(
            {
                names.ATTEMPTS: event.attempts,
                names.WAITED: event.waited,
                names.MAYBE_PROCESSED: event.maybe_processed,
            }
        )
        if verdict is Verdict.OK:
            span.set_attribute(names.SOURCE, call.source)
        if event.usage is not None:
            span.set_attributes(names.used(event.usage))
        _end(span, verdict)
        self._measures.ended(event.at - call.began, event.target, call.operation, verdict)

    def _cancelled(self, call: ActiveSpan, _: CallCancelled) -> None:
        _end_attempts(call)
        _end(call.span, Verdict.CANCELLED)


_ACTS: Mapping[type, Callable[[Spans, ActiveSpan, Any], None]] = MappingProxyType(
    {
        Sent: Spans._sent,  # noqa: SLF001 - of the class above
        Returned: Spans._returned,  # noqa: SLF001
        Committed: Spans._committed,  # noqa: SLF001
        Overtaken: Spans._overtaken,  # noqa: SLF001
        FellBack: Spans._fell_back,  # noqa: SLF001
        CallRejected: Spans._rejected,  # noqa: SLF001
        CallEnded: Spans._ended,  # noqa: SLF001
        CallCancelled: Spans._cancelled,  # noqa: SLF001
    }
)


def _kind(target: Target) -> SpanKind:
    return SpanKind.CLIENT if target.model else SpanKind.INTERNAL


def _end(span: Span, verdict: Verdict, detail: str | None = None) -> None:
    """End a span. What was given up by its caller is no error, for nobody knows what would have come of it."""
    span.set_attribute(names.VERDICT, verdict.value)
    if verdict not in (Verdict.OK, Verdict.CANCELLED):
        span.set_attribute(names.ERROR_TYPE, verdict.value)
        said = verdict.value if detail is None else f"{verdict.value}: {detail}"
        span.set_status(Status(StatusCode.ERROR, said))
    span.end()


def _end_attempts(call: ActiveSpan) -> None:
    """End the attempts that were under way when their call was given up."""
    while call.attempts:
        _end(call.attempts.popitem()[1], Verdict.CANCELLED)


def _give_up(call: ActiveSpan) -> None:
    """End what nobody will hear of again, or too late."""
    _end_attempts(call)
    call.span.set_attribute(names.UNFINISHED, True)
    call.span.end()
