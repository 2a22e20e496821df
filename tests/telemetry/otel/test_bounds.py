"""The bounds of tracing, and its behaviour when other code fails."""

import gc
import logging
import time
import weakref

import pytest
from forking import in_child
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracerProvider, get_current_span
from stage import INVALID, OK, TARGET, policy
from table_test import table_test
from thread_calls import run_call
from traces import Traces, attributes_of, events_of

from stormbreak.core.engine import Engine
from stormbreak.core.flow import Send
from stormbreak.drivers.chance import draw
from stormbreak.drivers.flow_stepper import shared_stepper
from stormbreak.drivers.thread_driver import ThreadDriver
from stormbreak.errors import ConfigurationError
from stormbreak.telemetry import Tracing, attach
from stormbreak.types import Call


@pytest.fixture
def traces():
    return Traces(max_calls=3)


def engine_of(listener):
    engine = Engine(policy())
    attach(engine, listener)
    return engine


def stepper_on(engine):
    return shared_stepper(engine, clock=time.monotonic, chance=draw)  # as drivers do


def test_the_oldest_of_too_many_open_calls_end_unfinished(traces):
    stepper = stepper_on(engine_of(traces.listener))
    flows = [stepper.start(Call(number, TARGET))[0] for number in range(1, 6)]
    given_up = traces.below(None)

    assert [call.attributes["stormbreak.unfinished"] for call in given_up] == [True] * 2
    assert [len(traces.below(call)) for call in given_up] == [1, 1]
    for flow in flows:
        stepper.step(flow, OK)
    assert len(traces.below(None)) == 5
    assert len(traces.spans) == 2 + 2 + 3 * 2
    assert not stepper.engine.context_listener._calls


def test_calls_of_two_engines_with_equal_numbers_are_separate(traces):
    steppers = [stepper_on(engine_of(traces.listener)) for _ in range(2)]
    flows = [stepper.start(Call(1, TARGET))[0] for stepper in steppers]
    steppers[0].step(flows[0], OK)
    steppers[1].step(flows[1], INVALID)

    assert [attributes_of(call, "stormbreak.verdict") for call in traces.below(None)] == [
        ("ok",), ("invalid",),
    ]  # fmt: skip


def test_an_engine_cannot_be_traced_twice(traces):
    engine = engine_of(traces.listener)
    attach(engine, traces.listener)
    with pytest.raises(ConfigurationError, match="already traced"):
        attach(engine, Tracing())
    run_call(ThreadDriver(engine), Call(1, TARGET), lambda _: OK)

    assert len(traces.spans) == 2


def test_tracing_does_not_keep_an_engine_alive(traces):
    engine = engine_of(traces.listener)
    run_call(ThreadDriver(engine), Call(1, TARGET), lambda _: OK)
    gone = weakref.ref(engine)
    del engine
    gc.collect()

    assert gone() is None


def test_a_call_that_began_before_tracing_has_no_span(traces):
    engine = Engine(policy())
    stepper = stepper_on(engine)
    flow, command = stepper.start(Call(1, TARGET))
    attach(engine, traces.listener)
    with engine.context_listener.around(1, command):
        assert not get_current_span().is_recording()
    stepper.step(flow, OK)

    assert traces.spans == []


@table_test("provider", [NoOpTracerProvider(), TracerProvider(ALWAYS_OFF, shutdown_on_exit=False)])
def test_a_call_that_is_not_sampled_starts_no_attempt_span(provider):
    started = []
    tracing = Tracing(provider)
    tracer = tracing._tracer
    start = tracer.start_span
    tracer.start_span = lambda *args: started.append(args[0]) or start(*args)
    run_call(ThreadDriver(engine_of(tracing)), Call(1, TARGET), lambda _: OK)

    assert started == ["call large"]


def test_tracing_without_an_sdk_does_not_change_a_call():
    assert run_call(ThreadDriver(engine_of(Tracing())), Call(1, TARGET), lambda _: OK).outcome == OK


def test_a_failing_tracer_is_logged_once_and_fails_no_call(caplog):
    class Broken(TracerProvider):
        def get_tracer(self, *args, **more):
            tracer = super().get_tracer(*args, **more)
            tracer.start_span = None
            return tracer

    engine = engine_of(Tracing(Broken(shutdown_on_exit=False)))
    with caplog.at_level(logging.ERROR, "stormbreak"):
        for number in (1, 2):
            assert run_call(ThreadDriver(engine), Call(number, TARGET), lambda _: OK).outcome == OK

    assert len(caplog.records) == 1


def test_a_forked_child_traces_only_its_own_calls(traces):
    engine = engine_of(traces.listener)
    stepper = stepper_on(engine)
    flow, _ = stepper.start(Call(77, TARGET))

    def child():
        run_call(ThreadDriver(engine), Call(engine.number(), TARGET), lambda _: OK)
        return len(traces.spans) == 2 and not engine.context_listener._calls

    assert in_child(child)
    stepper.step(flow, OK)
    assert len(traces.spans) == 2


def test_labels_given_as_one_string_are_rejected():
    with pytest.raises(ConfigurationError, match="a collection of label names"):
        Tracing(labels="feature")


def test_spans_of_odd_targets_have_the_attributes_that_are_valid(traces):
    stepper = stepper_on(engine_of(traces.listener))
    for number, provider in enumerate(["[::1]:8080", "host:99999", "", "openai", "gemini"], 1):
        target = TARGET._replace(provider=provider)
        stepper.step(stepper.start(Call(number, target))[0], OK)
    addresses = [
        attributes_of(call, "server.address", "server.port", "gen_ai.provider.name")
        for call in traces.below(None)
    ]

    assert addresses == [
        ("::1", 8080, "[::1]:8080"),
        (None, None, "host:99999"),
        (None, None, ""),
        (None, None, "openai"),
        (None, None, "gcp.gemini"),
    ]


def test_an_unknown_attempt_uses_the_span_of_its_call(traces):
    engine = engine_of(traces.listener)
    stepper = stepper_on(engine)
    flow, _ = stepper.start(Call(1, TARGET))
    with engine.context_listener.around(1, Send(TARGET, 7, None)):
        assert get_current_span().name == "call large"
    stepper.step(flow, OK)

    assert events_of(traces.only()[0]) == []


def test_an_error_code_is_escaped_and_cut(traces):
    stepper = stepper_on(engine_of(traces.listener))
    outcome = INVALID._replace(code="a\nb" + "c" * 1_000)
    stepper.step(stepper.start(Call(1, TARGET))[0], outcome)
    (attempt,) = traces.only()[1]

    assert attempt.attributes["stormbreak.code"] == "a\\nb" + "c" * 75 + "…"
