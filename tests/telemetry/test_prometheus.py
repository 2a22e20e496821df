import gc
import threading

import prometheus_client
import pytest
from forking import in_child
from happenings import one_of_each
from metering import price_of, usage
from scrapes import by, labels_of, read, value
from stage import OK, SERVER_ERROR, TARGET, policy, retry_in

from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.tenant import TenantLimits
from stormbreak.cost.spend_gate import SpendAccounts
from stormbreak.drivers.flow_stepper import Stepper
from stormbreak.errors import ConfigurationError
from stormbreak.events import CallEnded, Committed, Returned, Sent
from stormbreak.telemetry import Metrics, attach
from stormbreak.telemetry.event_metrics import FAMILIES
from stormbreak.types import Call, Outcome, Target, Usage, Verdict

FIRST, SECOND = Target("acme", "large", "00000001"), Target("acme", "large", "00000002")


def scraped(metrics):
    return read(metrics.exposition()[1])


def stepper_on(metrics, chosen=None, **tenants):
    chosen = chosen or policy(limit=FixedLimit(max_in_flight=2))
    engine = Engine(chosen, SpendAccounts(price_of), tenants=tenants)
    attach(engine, metrics)
    return Stepper(engine, clock=lambda: 100.0, chance=lambda: 0.5)


def test_each_event_is_counted():
    metrics = Metrics()
    for event in one_of_each():
        metrics(event)
    samples = scraped(metrics)

    assert {
        (name, *sorted(dict(has).values())): amount
        for (name, has), amount in samples.items()
        if name.endswith("_total")
    } == {
        ("stormbreak_calls_total", "acme/large", "overloaded"): 1,
        ("stormbreak_calls_total", "acme/large", "cancelled"): 1,
        ("stormbreak_calls_queued_total", "acme/large", "limit"): 1,
        ("stormbreak_calls_rejected_total", "acme/large", "breaker"): 1,
        ("stormbreak_attempts_maybe_processed_total", "acme/large"): 1,
        ("stormbreak_attempts_sent_total", "acme/large"): 1,
        ("stormbreak_attempts_total", "acme/large", "overloaded"): 1,
        ("stormbreak_tokens_total", "acme/large", "input"): 12,
        ("stormbreak_tokens_total", "acme/large", "output"): 7,
        ("stormbreak_tokens_total", "acme/large", "cache_read"): 5,
        ("stormbreak_tokens_total", "acme/large", "cache_creation"): 4,
        ("stormbreak_attempts_superseded_total", "acme/large"): 1,
        ("stormbreak_retries_total", "acme/large", "false", "overloaded"): 1,
        ("stormbreak_retries_refused_total", "acme/large", "budget"): 1,
        ("stormbreak_hedges_total", "acme/large"): 1,
        ("stormbreak_hedges_refused_total", "acme/large", "load"): 1,
        ("stormbreak_fallbacks_total", "acme/large", "overloaded", "target"): 1,
        ("stormbreak_fallbacks_refused_total", "acme/large", "cache", "nothing found"): 1,
        ("stormbreak_circuit_transitions_total", "acme/large", "closed", "open"): 1,
        ("stormbreak_cooldowns_total", "acme/large"): 1,
        ("stormbreak_shadow_decisions_total", "acme/large", "breaker", "open"): 1,
    }


def test_tokens_that_are_not_reported_have_no_sample():
    metrics = Metrics()
    metrics(Returned(3.0, 1, TARGET, 1, Verdict.OK, 200, None, 1.0, usage=Usage(output_tokens=7)))
    metrics(Returned(3.0, 2, TARGET, 1, Verdict.OK, 200, None, 1.0))

    assert by(scraped(metrics), "stormbreak_tokens_total", "kind") == {"output": 7}


def test_metrics_have_their_documented_labels():
    metrics = Metrics()
    for event in one_of_each():
        metrics(event)
    found = labels_of(scraped(metrics))

    for name, family in FAMILIES.items():
        if family.buckets:
            assert found[f"stormbreak_{name}_count"] == {"target", *family.labels}
            assert found[f"stormbreak_{name}_bucket"] == {"target", "le", *family.labels}
        else:
            assert found[f"stormbreak_{name}_total"] == {"target", *family.labels}


def test_durations_are_counted_in_buckets():
    metrics = Metrics()
    metrics(Returned(1.0, 1, TARGET, 1, Verdict.OK, 200, None, 0.3))
    metrics(Returned(1.0, 2, TARGET, 1, Verdict.TIMEOUT, None, None, 61.0))
    metrics(Committed(1.0, 3, TARGET, 1, 0.07))
    metrics(CallEnded(1.0, 1, TARGET, Verdict.OK, 1, 1.5))
    samples = scraped(metrics)
    taken = "stormbreak_attempt_duration_seconds"

    assert value(samples, f"{taken}_bucket", ok="true", le="0.25") == 0
    assert value(samples, f"{taken}_bucket", ok="true", le="0.5") == 1
    assert value(samples, f"{taken}_sum", ok="false") == 61.0
    assert value(samples, "stormbreak_time_to_first_output_seconds_sum") == 0.07
    assert value(samples, "stormbreak_call_wait_seconds_sum") == 1.5


def test_gauges_show_the_state_of_each_target():
    metrics = Metrics()
    stepper = stepper_on(metrics, Policy(limit=FixedLimit(max_in_flight=2)))
    flows = [stepper.start(Call(number, FIRST))[0] for number in range(5)]
    samples = scraped(metrics)

    assert value(samples, "stormbreak_attempts_in_flight", target="acme/large") == 2
    assert value(samples, "stormbreak_concurrency_limit", target="acme/large") == 2
    assert value(samples, "stormbreak_queue_length", target="acme/large") == 3
    assert value(samples, "stormbreak_retry_budget", target="acme/large") == 0.5
    assert value(samples, "stormbreak_cooldown_remaining_seconds", target="acme/large") == 0
    assert by(samples, "stormbreak_circuits", "state") == {
        "closed": 1, "half_open": 0, "isolated": 0, "open": 0,
    }  # fmt: skip

    stepper.step(flows[0], retry_in(8.0))
    stepper.between_steps(lambda engine, now: engine.target_state(FIRST).isolate(now))
    samples = scraped(metrics)

    assert (
        value(samples, "stormbreak_cooldown_remaining_seconds", target="acme/large") == 10
    )  # spread
    assert by(samples, "stormbreak_circuits", "state") == {
        "closed": 0, "half_open": 0, "isolated": 1, "open": 0,
    }  # fmt: skip
    for flow in flows:
        stepper.close(flow)


def test_tenants_with_limits_have_gauges():
    metrics = Metrics()
    stepper = stepper_on(
        metrics,
        acme=TenantLimits(rpm=60, max_in_flight=1, spend=SpendPolicy(max_usd=2.0)),
        spare=TenantLimits(tpm=1000),
    )
    for number, tenant in enumerate(("spare", "acme", "acme", "nobody")):
        call = Call(number, FIRST, tenant=tenant, bound=usage(into=500_000))
        flow, _ = stepper.start(call)
        if tenant == "spare":
            stepper.step(flow, Outcome(Verdict.OK, usage=usage(into=30, out=12)))
    samples = scraped(metrics)

    assert {
        name.removeprefix("stormbreak_tenant_"): by(samples, name, "tenant")
        for name in dict.fromkeys(name for name, _ in samples)
        if "tenant" in name and "age" not in name
    } == {
        "calls_in_flight": {"acme": 1, "spare": 0},
        "max_in_flight": {"acme": 1},
        "queue_length": {"acme": 1, "spare": 0},
        "calls_sent_total": {"acme": 0, "spare": 1},
        "tokens_used_total": {"acme": 0, "spare": 42},
        "rpm": {"acme": 60},
        "tpm": {"spare": 1000},
        "spend_usd": {"acme": 0.5},
        "spend_limit_usd": {"acme": 2},
    }


def test_counters_of_tenants_never_decrease():
    metrics = Metrics()
    limits = {"acme": TenantLimits(max_in_flight=9)}

    def counts(stepper, calls):
        for number in range(calls):
            flow, _ = stepper.start(Call(number, FIRST, tenant="acme"))
            stepper.step(flow, Outcome(Verdict.OK, usage=usage(into=30, out=12)))
        samples = scraped(metrics)
        return [
            by(samples, f"stormbreak_tenant_{name}_total", "tenant").get("acme")
            for name in ("calls_sent", "tokens_used")
        ]

    def govern(stepper, tenants):
        stepper.between_steps(
            lambda engine, now: engine.govern(engine.policy, {}, now, tenants=tenants)
        )

    one, two = stepper_on(metrics, **limits), stepper_on(metrics, **limits)
    assert counts(one, 3) == [3, 126]
    assert counts(two, 2) == [5, 210]
    govern(one, {})
    assert counts(one, 1) == [5, 210]
    govern(one, limits)
    assert counts(one, 1) == [6, 252]
    del one
    gc.collect()
    assert counts(two, 1) == [7, 294]
    flow, _ = two.start(Call(9, FIRST, tenant="acme"))
    two.step(flow, OK)
    metrics.unwatch(two.engine)
    assert counts(two, 5) == [8, 294]


def test_tenants_above_one_hundred_share_a_label():
    limits = {f"tenant-{number}": TenantLimits(max_in_flight=1) for number in range(130)}
    metrics = Metrics()
    stepper = stepper_on(metrics, **limits)
    found = by(scraped(metrics), "stormbreak_tenant_max_in_flight", "tenant")
    assert (len(found), found["other"]) == (101, 30)
    counts = by(scraped(metrics), "stormbreak_tenant_calls_sent_total", "tenant")
    assert counts.keys() == found.keys()
    del stepper


def test_a_policy_that_is_off_has_no_gauge():
    metrics = Metrics()
    stepper = stepper_on(metrics)
    stepper.start(Call(1, TARGET))
    names = {name for name, _ in scraped(metrics)}

    assert "stormbreak_concurrency_limit" in names
    assert not {"stormbreak_circuits", "stormbreak_retry_budget"} & names


def test_several_engines_and_keys_are_summed_in_one_registry():
    metrics = Metrics()
    steppers = [stepper_on(metrics, Policy(limit=FixedLimit(max_in_flight=2))) for _ in range(3)]
    flows = [
        (stepper, stepper.start(Call(number, target))[0])
        for stepper in steppers
        for number, target in enumerate((FIRST, SECOND))
    ]
    samples = scraped(metrics)

    assert value(samples, "stormbreak_attempts_in_flight", target="acme/large") == 6
    assert value(samples, "stormbreak_concurrency_limit", target="acme/large") == 12
    assert value(samples, "stormbreak_circuits", target="acme/large", state="closed") == 6
    for stepper, flow in flows:
        stepper.step(flow, OK)
    assert value(scraped(metrics), "stormbreak_calls_total", verdict="ok") == 6


def test_metrics_do_not_keep_an_engine_alive():
    metrics = Metrics()
    stepper = stepper_on(metrics)
    stepper.step(stepper.start(Call(1, TARGET))[0], OK)
    assert value(scraped(metrics), "stormbreak_concurrency_limit") == 2
    del stepper
    gc.collect()
    samples = scraped(metrics)

    assert not list(metrics._gauges.engines)
    assert value(samples, "stormbreak_concurrency_limit") == 0
    assert value(samples, "stormbreak_calls_total") == 1  # counters stay


def test_an_engine_without_a_driver_has_no_samples():
    metrics, engine = Metrics(), Engine(policy())
    attach(engine, metrics)

    assert scraped(metrics) == {}


def test_a_scrape_does_not_list_pending_calls(monkeypatch):
    metrics = Metrics()
    stepper = stepper_on(metrics)
    stepper.start(Call(1, TARGET))
    monkeypatch.setattr("stormbreak.drivers.flow_stepper.shown", None)  # calling it would fail

    assert value(scraped(metrics), "stormbreak_attempts_in_flight") == 1


def test_a_second_metrics_in_one_registry_is_rejected():
    registry = prometheus_client.CollectorRegistry()
    Metrics(registry)

    with pytest.raises(ConfigurationError, match="already has stormbreak's metrics"):
        Metrics(registry)


def test_a_shared_registry_exports_both_metrics():
    registry = prometheus_client.CollectorRegistry(auto_describe=True)
    prometheus_client.Counter("theirs", "Something else.", registry=registry).inc()
    metrics = Metrics(registry)
    metrics(Sent(1.0, 1, TARGET, 1))
    kind, text = metrics.exposition()

    assert kind.startswith("text/plain")
    assert b"theirs_total 1.0" in text
    assert b'stormbreak_attempts_sent_total{target="acme/large"} 1.0' in text


def test_the_number_of_targets_in_metrics_is_bounded():
    metrics = Metrics(max_targets=5)
    for number in range(500):
        for event in one_of_each(Target("acme", f"model\n{number}")):
            metrics(event)
    samples = scraped(metrics)
    targets = by(samples, "stormbreak_attempts_sent_total", "target")

    assert targets == {f"acme/model\\n{number}": 1 for number in range(5)} | {"other": 495}
    assert len(metrics._children) < 6 * 25


def test_a_retry_is_counted_with_its_reason():
    metrics = Metrics()
    stepper = stepper_on(metrics, policy(breaker=BreakerPolicy()))
    flow, _ = stepper.start(Call(1, TARGET))
    stepper.step(flow, SERVER_ERROR._replace(maybe_processed=True))
    stepper.step(flow, OK)
    samples = scraped(metrics)

    assert value(samples, "stormbreak_retries_total", reason="server_error", free="true") == 1
    assert value(samples, "stormbreak_attempts_sent_total") == 1  # the other one backs off


def test_gauges_show_the_longest_cooldown_and_the_lowest_budget():
    metrics, kept = Metrics(), []
    for seconds in (8, 4):
        stepper = stepper_on(metrics, Policy(limit=FixedLimit(max_in_flight=9)))
        flows = [stepper.start(Call(number, TARGET))[0] for number in range(seconds)]
        stepper.step(flows[0], retry_in(float(seconds)))
        kept += [stepper, flows]
    samples = scraped(metrics)

    assert value(samples, "stormbreak_cooldown_remaining_seconds") == 10.0
    assert value(samples, "stormbreak_retry_budget") == pytest.approx(0.4)


def test_a_forked_child_counts_when_locks_of_the_library_are_held():
    metrics, holds, release = Metrics(), threading.Event(), threading.Event()
    for event in one_of_each():
        metrics(event)
    parts = [metrics.registry]
    for metric in metrics._families.values():
        parts += [metric, *metric._metrics.values()]
        for child in metric._metrics.values():
            parts += [getattr(child, "_value", None) or child._sum, *getattr(child, "_buckets", ())]

    def hold():
        held = [part._lock for part in parts if hasattr(part, "_lock")]
        for lock in held:
            lock.acquire()
        holds.set()
        release.wait(60.0)
        for lock in held:
            lock.release()

    def counts():
        for event in one_of_each():
            metrics(event)
        return value(scraped(metrics), "stormbreak_attempts_sent_total") == 2

    holder = threading.Thread(target=hold)
    holder.start()
    assert holds.wait(20.0)
    try:
        assert in_child(counts)
    finally:
        release.set()
        holder.join()
