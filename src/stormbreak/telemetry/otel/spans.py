"""OpenTelemetry spans of one engine's calls: one for each call, and below it one for each attempt.

The parent of a call's span is the span that was current when the call was made, read once: later steps may run on other
threads. Decisions are events on the call's span. An attempt's span is current while the attempt is being sent, and ends
with its answer; the span of a stream ends with the stream.

Spans have the kind "client". Only the call's span has a `gen_ai.operation.name`, so that the number of operations is the
number of calls. The spans of functions have a name and a target only.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

from stormbreak import events
from stormbreak.core.flow import Send
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import new_lock
from stormbreak.escape import LABEL, shown
from stormbreak.events import Event
from stormbreak.telemetry.event_text import name_of
from stormbreak.telemetry.labels import kind_of
from stormbreak.telemetry.otel import conventions as names
from stormbreak.telemetry.otel.metrics import GenAiMetrics
from stormbreak.types import FALLBACK, TARGET, Call, Target, Verdict

# ---------------------------------------------------------------- current span

_MARKER: ContextVar[None] = ContextVar("stormbreak.otel.marker")


class CurrentSpan:
    """A context manager that makes a span the current one.

    The garbage collector may end a coroutine or a generator in a context other than its own. The span was never current
    there, so nothing is restored.
    """

    __slots__ = ("_entered", "_marker", "_span")

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> None:
        self._marker: Token[None] = _MARKER.set(None)
        self._entered: Token[Context] = attach(set_span_in_context(self._span))

    def __exit__(self, *_: object) -> None:
        try:
            _MARKER.reset(self._marker)
        except ValueError:  # from another context
            return
        detach(self._entered)


@dataclass(slots=True, eq=False)
class ActiveSpan:
    """A call whose span has not ended: that span, the parent context of its attempts, and their open spans by number."""

    span: Span
    context: Context
    operation: str
    began: float  # on the clock of the engine
    source: str = TARGET
    attempts: dict[int, Span] = field(default_factory=dict)


# ---------------------------------------------------------------- span events

SPAN_EVENTS = (
    events.Queued, events.CallRejected, events.Hedged, events.HedgeRefused, events.Overtaken,
    events.RetryPlanned, events.RetryRefused, events.FellBack, events.FallbackRefused,
)  # fmt: skip
"""Events that become span events; the others begin or end a span, or are about a target."""

_DIGEST = re.compile(r"#[0-9a-f]{8}$")  # of the key, after a target
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
    """Return the name and the attributes of an event; `stormbreak.seconds` is its duration or wait."""
    attributes: names.Attributes = {}
    for key, name in _ATTRIBUTES.items():
        value = getattr(event, key, None)
        if value is not None:
            attributes[name] = _attribute(value)
    seconds = _seconds(event)
    if seconds is not None:
        attributes[names.SECONDS] = seconds
    return name_of(event), attributes


def _attribute(value: Any) -> names.Value:
    if isinstance(value, Verdict):
        return value.value
    return shown(_DIGEST.sub("", value), LABEL) if isinstance(value, str) else value


def _seconds(event: Event) -> float | None:
    if isinstance(event, events.Hedged):
        return event.after
    if isinstance(event, events.Overtaken):
        return event.took
    until = (
        event.until if isinstance(event, events.RetryPlanned) else getattr(event, "retry_at", None)
    )
    return None if until is None else max(0.0, until - event.at)


# ---------------------------------------------------------------- spans


class Spans:
    """A listener to one engine, and the context_listener of its calls. Call it from any thread.

    A call may never end, such as one of a stopped event loop: beyond `max_calls` the oldest are ended as unfinished.

    Args:
        tracer: creates the spans.
        measures: records durations and tokens.
        labels: the names of call labels that become attributes.
    """

    def __init__(
        self, tracer: Tracer, measures: GenAiMetrics, *, labels: frozenset[str], max_calls: int
    ) -> None:
        self._tracer = tracer
        self._measures = measures
        self._labels = labels
        self._max_calls = max_calls
        self._lock = new_lock()  # a finalizer or a signal handler may run in the middle of a method
        self._forget()
        reset_in_child(self._forget)

    def _forget(self) -> None:
        """Forget all calls: in a child process they never end."""
        self._calls: dict[int, ActiveSpan] = {}

    def close(self) -> None:
        """End all open spans as unfinished, and end new ones at once."""
        with self._lock:
            self._max_calls = 0
            calls, self._calls = self._calls, {}
        for call in calls.values():
            _end_unfinished(call)

    def begins(self, call: Call, now: float) -> None:
        """Start the span of a call, below the current span."""
        context, target = get_current(), call.target
        attributes = names.target_attributes(target) | {names.PRIORITY: call.priority.name.lower()}
        if call.operation:
            attributes[names.OPERATION] = call.operation
            if call.delivers:
                attributes[names.STREAM] = True
        for name, value in call.labels:
            if name in self._labels:
                attributes[names.CALL_LABEL + name] = value
        name = f"{call.operation or 'call'} {shown(target.model or target.provider, LABEL)}"
        span = self._tracer.start_span(name, context, _kind(target), attributes)
        below = set_span_in_context(span, context)
        oldest: ActiveSpan | None = None
        with self._lock:
            self._calls[call.number] = ActiveSpan(span, below, operation=call.operation, began=now)
            if len(self._calls) > self._max_calls:
                oldest = self._calls.pop(next(iter(self._calls)))
        if oldest is not None:
            _end_unfinished(oldest)

    def around(self, number: int, sent: Send) -> AbstractContextManager[object]:
        """Return a context in which the span of an attempt is the current one."""
        call = self._calls.get(number)
        if call is None:  # it began before we listened
            return nullcontext()
        return CurrentSpan(call.attempts.get(sent.attempt, call.span))

    def __call__(self, event: Event) -> None:
        number = getattr(event, "call", None)
        if number is None:  # the event is about a target
            return
        ends = isinstance(event, events.CallEnded | events.CallCancelled)
        with self._lock:
            call = self._calls.pop(number, None) if ends else self._calls.get(number)
        if call is None:
            return
        if isinstance(event, SPAN_EVENTS) and call.span.is_recording():
            call.span.add_event(*name_and_attributes(event))
        handler = _HANDLERS.get(type(event))
        if handler is not None:
            handler(self, call, event)

    def _sent(self, call: ActiveSpan, event: events.Sent) -> None:
        if not call.span.is_recording():  # not sampled
            return
        attributes = names.target_attributes(event.target) | {names.ATTEMPT: event.attempt}
        if event.attempt > 1:
            attributes[names.RESENDS] = event.attempt - 1
        name = f"attempt {shown(event.target.model or event.target.provider, LABEL)}"
        call.attempts[event.attempt] = self._tracer.start_span(
            name, call.context, _kind(event.target), attributes
        )

    def _returned(self, call: ActiveSpan, event: events.Returned) -> None:
        if event.usage is not None:
            self._measures.record_usage(event.usage, event.target, call.operation)
        span = call.attempts.pop(event.attempt, None)
        if span is None:
            return
        if event.status is not None:
            span.set_attribute(names.STATUS_CODE, event.status)
        if event.code is not None:
            span.set_attribute(names.CODE, shown(event.code, LABEL))
        _end(span, event.verdict, event.detail)

    def _committed(self, call: ActiveSpan, event: events.Committed) -> None:
        seconds = event.at - call.began
        call.span.set_attribute(names.FIRST_CHUNK, seconds)
        span = call.attempts.get(event.attempt)
        if span is not None:
            span.add_event(name_of(event), {names.SECONDS: event.took})
        self._measures.record_first_chunk(seconds, event.target, call.operation)

    def _overtaken(self, call: ActiveSpan, event: events.Overtaken) -> None:
        span = call.attempts.pop(event.attempt, None)
        if span is not None:
            _end(span, Verdict.CANCELLED)

    def _fell_back(self, call: ActiveSpan, event: events.FellBack) -> None:
        to = kind_of(event.to)
        call.source = FALLBACK if to == TARGET else to

    def _rejected(self, call: ActiveSpan, event: events.CallRejected) -> None:
        call.span.set_attribute(names.POLICY, event.policy)

    def _ended(self, call: ActiveSpan, event: events.CallEnded) -> None:
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
            span.set_attributes(names.usage_attributes(event.usage))
        _end(span, verdict)
        self._measures.record_duration(event.at - call.began, event.target, call.operation, verdict)

    def _cancelled(self, call: ActiveSpan, _: events.CallCancelled) -> None:
        _end_attempts(call)
        _end(call.span, Verdict.CANCELLED)


_HANDLERS: Mapping[type, Callable[[Spans, ActiveSpan, Any], None]] = {
    events.Sent: Spans._sent,  # noqa: SLF001 - of the class above
    events.Returned: Spans._returned,  # noqa: SLF001
    events.Committed: Spans._committed,  # noqa: SLF001
    events.Overtaken: Spans._overtaken,  # noqa: SLF001
    events.FellBack: Spans._fell_back,  # noqa: SLF001
    events.CallRejected: Spans._rejected,  # noqa: SLF001
    events.CallEnded: Spans._ended,  # noqa: SLF001
    events.CallCancelled: Spans._cancelled,  # noqa: SLF001
}


def _kind(target: Target) -> SpanKind:
    return SpanKind.CLIENT if target.model else SpanKind.INTERNAL


def _end(span: Span, verdict: Verdict, detail: str | None = None) -> None:
    """End a span. A cancelled call or attempt is not an error: its result is unknown."""
    span.set_attribute(names.VERDICT, verdict.value)
    if verdict not in (Verdict.OK, Verdict.CANCELLED):
        span.set_attribute(names.ERROR_TYPE, verdict.value)
        text = verdict.value if detail is None else f"{verdict.value}: {detail}"
        span.set_status(Status(StatusCode.ERROR, text))
    span.end()


def _end_attempts(call: ActiveSpan) -> None:
    """End the open attempts of a call that was cancelled."""
    while call.attempts:
        _end(call.attempts.popitem()[1], Verdict.CANCELLED)


def _end_unfinished(call: ActiveSpan) -> None:
    _end_attempts(call)
    call.span.set_attribute(names.UNFINISHED, True)
    call.span.end()
