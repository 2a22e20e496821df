"""The spans of one engine's calls: one for each call, and below it one for each attempt.

A call's span begins under the span that was current where the call was made, which is asked once, at its beginning: what
follows may happen on other threads. Decisions are events on it. An attempt's span is current while the attempt is being
sent, and lasts until its answer has come: that of a stream until its end.

Spans are of the kind "client"; only that of the call names a `gen_ai.operation.name`, so that whoever counts operations
counts calls. Functions are no models: their spans have names and targets only.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

from opentelemetry.context import get_current
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

from stormbreak.core.flow import Send
from stormbreak.drivers.forks import reset_in_child
from stormbreak.events import (
    CallCancelled,
    CallEnded,
    CallRejected,
    Committed,
    Event,
    FellBack,
    Overtaken,
    Returned,
    Sent,
)
from stormbreak.telemetry.labels import kind_of
from stormbreak.telemetry.otel import conventions as names
from stormbreak.telemetry.otel.current import Current
from stormbreak.telemetry.otel.genai import GenAi
from stormbreak.telemetry.otel.told import TOLD, name_and_attributes
from stormbreak.telemetry.otel.under_way import ActiveSpan, UnderWay
from stormbreak.telemetry.tame import tame
from stormbreak.types import FALLBACK, TARGET, Call, Target, Verdict


class Spans:
    """A listener to one engine, and the companion of its calls.

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
        self._calls = UnderWay(most, _give_up)
        reset_in_child(self._forget)

    def _forget(self) -> None:
        self._calls.forget()

    def close(self) -> None:
        """End all spans that are open, as unfinished; none is made from now on."""
        self._calls.close()

    def begins(self, call: Call, now: float) -> None:
        """StartCall the span of a call, under the one that is current here."""
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
