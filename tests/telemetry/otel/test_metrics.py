"""Metrics as the SDK receives them: those of Prometheus, and those of the semantic conventions."""

import json

import pytest
from clients import KEY, PAYLOAD, QUICK, SAY, client_of
from scrapes import read, value
from sockets import answer, failing, served
from stage import OK, TARGET, policy
from traces import Traces

from stormbreak.core.engine import Engine
from stormbreak.core.tenant import TenantLimits
from stormbreak.drivers.flow_stepper import Stepper
from stormbreak.errors import InvalidRequestError
from stormbreak.events import CallCancelled, CallEnded, Committed, Sent
from stormbreak.telemetry import attach
from stormbreak.telemetry.otel.metrics import SECONDS_BOUNDS
from stormbreak.types import Call, Target

DURATION = "gen_ai.client.operation.duration"
FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
NOW = ("attempts_in_flight", "tenant_calls_in_flight", "tenant_calls_sent_total")


def as_prometheus(traces):
    """The samples that a collector exports to Prometheus, by the OpenTelemetry specification."""
    found = {}
    for name, metric in traces.metrics().items():
        if not name.startswith("stormbreak."):
            continue
        unit = {"s": "_seconds", "": ""}[metric.unit]
        named = name.replace(".", "_") + unit
        for point in metric.data.data_points:
            labels = frozenset(point.attributes.items())
            if hasattr(point, "bucket_counts"):
                found[f"{named}_count", labels] = point.count
                found[f"{named}_sum", labels] = point.sum
                total = 0
                for bound, count in zip(
                    [*point.explicit_bounds, float("inf")], point.bucket_counts, strict=True
                ):
                    total += count
                    le = "+Inf" if bound == float("inf") else str(float(bound))
                    found[f"{named}_bucket", labels | {("le", le)}] = total
            elif hasattr(metric.data, "is_monotonic"):
                found[f"{named}_total", labels] = point.value
            else:
                found[named, labels] = point.value
    return found


def test_opentelemetry_exports_the_same_samples_as_prometheus(play):
    _, _, metrics, traces = play
    direct, through = read(metrics.exposition()[1]), as_prometheus(traces)
    moves = {
        "stormbreak_cooldown_remaining_seconds",
        "stormbreak_retry_budget",
    }  # they change with time

    assert set(through) == set(direct)
    assert {key: value for key, value in through.items() if key[0] not in moves} == {
        key: pytest.approx(value) for key, value in direct.items() if key[0] not in moves
    }
    assert len(through) > 100


def test_a_collection_reads_an_engine_once(monkeypatch):
    traces, reads = Traces(), []
    engine = Engine(policy(), tenants={"acme": TenantLimits(max_in_flight=9)})
    attach(engine, traces.listener)
    stepper = Stepper(engine, clock=lambda: 1.0, chance=lambda: 0.5)
    snapshot = Engine.snapshot

    def counted(self, now=None, **more):
        reads.extend([now] if now is None else [])  # the driver calls it again, with the time
        return snapshot(self, now, **more)

    found = []
    for number in range(3):
        flow, _ = stepper.start(Call(number, TARGET, tenant="acme"))
        with monkeypatch.context() as patched:
            patched.setattr(Engine, "snapshot", counted)
            samples = as_prometheus(traces)
        found += [(len(reads), *(value(samples, f"stormbreak_{name}") for name in NOW))]
        stepper.step(flow, OK)

    assert found == [(1, 1, 1, 0), (2, 1, 1, 1), (3, 1, 1, 2)]


def test_operation_durations_count_calls_by_error(play):
    _, events, _, traces = play
    points = traces.points(DURATION)
    ended = [event for event in events if isinstance(event, CallEnded)]
    by_error = {dict(labels).get("error.type", "ok"): point for labels, point in points.items()}

    assert sum(point.count for point in points.values()) == len(ended)
    assert set(by_error) == {event.verdict.value for event in ended}
    assert {point.explicit_bounds for point in points.values()} == {SECONDS_BOUNDS}


def test_each_call_and_each_sent_attempt_has_a_span(play):
    _, events, _, traces = play
    over = [event for event in events if isinstance(event, CallEnded | CallCancelled)]
    sent = [event for event in events if isinstance(event, Sent)]
    calls = traces.below(None)
    known = {span.context.span_id for span in calls}
    attempts = [span for span in traces.spans if span.parent is not None]

    assert (len(calls), len(attempts)) == (len(over), len(sent))
    assert {span.parent.span_id for span in attempts} <= known
    assert sum(event.attempts for event in over if isinstance(event, CallEnded)) == sum(
        span.attributes["stormbreak.attempts"] for span in calls
    )


async def test_the_duration_of_an_operation_includes_waiting():
    traces = Traces()
    scripts = [failing(503)], [0.05, answer()], [failing(400)]
    async with served(*scripts) as server, client_of(server, QUICK, api_key=KEY) as client:
        attach(client, traces.listener)
        await client.chat(SAY)
        with pytest.raises(InvalidRequestError):
            await client.chat(SAY)
    port, points = server.port, traces.points(DURATION)
    common = {
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", f"127.0.0.1:{port}"),
        ("gen_ai.request.model", "m"),
        ("server.address", "127.0.0.1"),
        ("server.port", port),
    }

    assert set(points) == {frozenset(common), frozenset({*common, ("error.type", "invalid")})}
    (waited,) = [span.attributes["stormbreak.waited"] for span in traces.below(None)][:1]
    assert points[frozenset(common)].sum >= waited > 0


async def test_a_stream_records_the_time_to_its_first_chunk(stormbreak_provider):
    traces, events = Traces(), []
    async with client_of(stormbreak_provider("calm", speed=100), api_key=KEY) as client:
        attach(client, traces.listener, events.append)
        async with client.stream("chat/completions", PAYLOAD) as stream:
            async for _ in stream:
                pass
    (took,) = [event.took for event in events if isinstance(event, Committed)]
    (point,) = traces.points(FIRST_CHUNK).values()

    assert (point.count, point.sum >= took) == (1, True)


async def test_token_usage_counts_attempts_that_report_usage():
    traces = Traces()
    usage = {"prompt_tokens": 9, "completion_tokens": 3}
    body = {"choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}], "usage": usage}
    whole = answer(json.dumps(body).encode())
    scripts = failing(503), whole, whole, answer()  # the last one has no usage
    async with served(*scripts) as server, client_of(server, QUICK, api_key=KEY) as client:
        attach(client, traces.listener)
        answers = [await client.chat(SAY) for _ in range(3)]
    points = traces.points("gen_ai.client.token.usage")
    counts = {
        dict(labels)["gen_ai.token.type"]: (point.count, point.sum)
        for labels, point in points.items()
    }

    assert [each.attempts for each in answers] == [2, 1, 1]
    assert counts == {"input": (2, 18), "output": (2, 6)}


def test_guarded_functions_have_no_model_operation():
    traces, engine = Traces(), Engine(policy())
    attach(engine, traces.listener)
    stepper = Stepper(engine, clock=lambda: 1.0, chance=lambda: 0.5)
    stepper.step(stepper.start(Call(1, Target("work", "")))[0], OK)

    assert traces.points(DURATION) == {}
    assert [dict(labels) for labels in traces.points("stormbreak.calls")] == [
        {"target": "work", "verdict": "ok"}
    ]


def test_a_cancelled_call_has_no_duration():
    traces, engine = Traces(), Engine(policy())
    attach(engine, traces.listener)
    stepper = Stepper(engine, clock=lambda: 1.0, chance=lambda: 0.5)
    stepper.close(stepper.start(Call(1, TARGET, operation="chat"))[0])

    assert traces.points(DURATION) == {}
    assert len(traces.points("stormbreak.calls")) == 1


def test_the_number_of_models_in_metrics_is_bounded():
    traces, engine = Traces(max_targets=3), Engine(policy())
    attach(engine, traces.listener)
    stepper = Stepper(engine, clock=lambda: 1.0, chance=lambda: 0.5)
    for number in range(1, 20):
        call = Call(number, Target("acme", f"model\n{number}" + "x" * 500), operation="chat")
        stepper.step(stepper.start(call)[0], OK)
    models = {dict(labels)["gen_ai.request.model"] for labels in traces.points(DURATION)}

    assert len(models) == 4
    assert "other" in models
    assert all(len(model) <= 80 and model.isprintable() for model in models)
    assert len(traces.points("stormbreak.calls")) == 4
