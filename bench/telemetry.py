"""What it costs per successful call that somebody may listen, and what it costs when somebody does.

The sender returns at once and every subject makes the same calls one after the other, on the same loop, under the
default policy; the calls of an engine to which nobody listens are subtracted round by round. Time is that of the CPU, which
neighbours disturb less. What the possibility alone costs is measured by itself: how often a call asks whether somebody
listens or goes along, times what it takes to ask.

OpenTelemetry is measured with its own SDK, whose spans go to a batch processor and there to an exporter that drops them,
and without one.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

import uvloop
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

import cores
from rounds import Figure, Section, alternate, minus
from stormbreak import Policy, Target
from stormbreak.core.engine import Engine
from stormbreak.core.flow import Send
from stormbreak.core.target_state import Listener
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.telemetry import Logs, Metrics, Tracing, attach
from stormbreak.telemetry.live_state import LiveState
from stormbreak.types import Call, Outcome, Verdict

CALLS = 4_000
ROUNDS = 15
ASKED = 200_000  # times in a round
SPAN = 600.0  # seconds; the deadline of every call

_OK = Outcome(Verdict.OK)
_TARGET = Target("bench", "model")

Calls = Callable[[int], Coroutine[Any, Any, None]]


class _Subject(NamedTuple):
    name: str
    listeners: tuple[Listener, ...]
    note: str = ""


def _subjects() -> list[_Subject]:
    """Who listens; more exporters are more lines here."""
    return [
        _Subject("nobody listens", (), "subtracted from the others"),
        _Subject(
            "somebody who does nothing", (_ignores_retry_after,), "three events are built and told"
        ),
        _Subject("logs", (Logs(),), "a call that succeeds at once has no line"),
        _Subject("Prometheus", (Metrics(),), "three counters, two histograms"),
        _Subject("logs and Prometheus", (Logs(), Metrics())),
        _Subject("the watch of a port", (LiveState(),), "which a batch always has"),
        _Subject("OpenTelemetry without an SDK", (Tracing(),), "the global providers do nothing"),
        _Subject("OpenTelemetry, not sampled", (_traced(ALWAYS_OFF),), "metrics only"),
        _Subject("OpenTelemetry, all sampled", (_traced(ALWAYS_ON),), "two spans, and metrics"),
    ]


class _Dropped(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002
        return SpanExportResult.SUCCESS


def _traced(sampler: Sampler) -> Tracing:
    spans = TracerProvider(sampler)
    spans.add_span_processor(BatchSpanProcessor(_Dropped()))
    return Tracing(spans, MeterProvider([InMemoryMetricReader()]))


def _ignores_retry_after(_: object) -> None:
    pass


async def _sender(_: Send) -> Outcome:
    return _OK


def _calls(engine: Engine) -> Calls:
    driver = AsyncioDriver(engine)
    clock = time.monotonic

    async def calls(count: int) -> None:
        for _ in range(count):
            number, until = engine.number(), clock() + SPAN
            await driver.run(Call(number, _TARGET, until, 20.0, operation="chat"), _sender)

    return calls


def _listened_to() -> Section:
    subjects = _subjects()
    engines = [Engine(Policy()) for _ in subjects]
    for engine, subject in zip(engines, subjects, strict=True):
        attach(engine, *subject.listeners)
    everybody = [_calls(engine) for engine in engines]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        async def timed(calls: Calls) -> float:
            began = time.process_time()
            await calls(CALLS)
            return (time.process_time() - began) / CALLS * 1e6

        def measure(calls: Calls) -> float:
            gc.collect()
            return runner.run(timed(calls))

        alone, *others = alternate(everybody, measure, rounds=ROUNDS)
    figures = [Figure(subjects[0].name, "us", alone, note=subjects[0].note)]
    for subject, taken in zip(subjects[1:], others, strict=True):
        figures.append(Figure(subject.name, "us", minus(taken, alone), note=subject.note))
    return Section("What listeners add to a successful call, uvloop", figures)


class _Counting(Engine):
    """Has no listeners and no context_listener, and counts how often somebody asks whether it has."""

    asked = 0

    def __getattribute__(self, name: str) -> Any:
        if name in ("listeners", "context_listener"):
            _Counting.asked += 1
        return super().__getattribute__(name)


def _asked_per_call() -> int:
    engine = _Counting(Policy())
    calls = _calls(engine)
    asyncio.run(calls(1))  # which makes the lane
    _Counting.asked = 0
    asyncio.run(calls(1))
    return _Counting.asked


def _possibility() -> Section:
    engine, times = Engine(Policy()), range(ASKED)

    def asking() -> float:
        began = time.process_time()
        for _ in times:
            if engine.listeners:
                raise AssertionError
        return (time.process_time() - began) / ASKED * 1e6

    def passing() -> float:
        began = time.process_time()
        for _ in times:
            pass
        return (time.process_time() - began) / ASKED * 1e6

    count = _asked_per_call()
    asked, passed = alternate([asking, passing], lambda measure: measure(), rounds=ROUNDS)
    samples = tuple(count * each for each in minus(asked, passed))
    figure = Figure("that somebody may listen", "us", samples, "<= 0.2", f"asked {count} times")
    return Section("What it costs a successful call that somebody may listen", [figure])


def sections() -> list[Section]:
    """Measure with and without listeners."""
    cores.pin(cores.CLIENT)
    try:
        return [_possibility(), _listened_to()]
    finally:
        cores.unpin()
