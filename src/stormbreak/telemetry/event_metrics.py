"""The metrics of events, one table for all exporters; and the Grafana dashboard over them.

Every metric has the label `target`, and the labels named here; `labels` has their values. Only the gateway has metrics
of money.
"""

from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from typing import Any, NamedTuple, TypeAlias

from stormbreak import events
from stormbreak.events import Event
from stormbreak.telemetry.labels import (
    FALLBACK_GATES,
    HEDGE_GATES,
    MECHANISMS,
    POLICIES,
    QUEUE_GATES,
    RETRY_GATES,
    SHADOW_DECISIONS,
    STATES,
    TOKENS,
    VERDICTS,
    kind_of,
    one_of,
)
from stormbreak.types import Usage, Verdict

ATTEMPT_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds of buckets, from a cached answer to a reasoning model."""

WAIT_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0, 300.0, 900.0)


class Family(NamedTuple):
    """One metric: with `buckets` a histogram of seconds, else a counter."""

    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


FAMILIES: Mapping[str, Family] = {
    "calls": Family("Calls that ended.", ("verdict",)),
    "calls_queued": Family("Calls that were queued, by the gate that held them.", ("gate",)),
    "calls_rejected": Family("Calls rejected without sending anything further.", ("policy",)),
    "call_wait_seconds": Family("Time of calls in queue, cooldown and backoff.", (), WAIT_SECONDS),
    "attempts_sent": Family("Attempts sent."),
    "attempts": Family("Attempts that ended.", ("verdict",)),
    "attempts_maybe_processed": Family(
        "Attempts without an answer that the provider may have processed and billed."
    ),
    "attempts_superseded": Family("Attempts dropped because another was answered first."),
    "attempt_duration_seconds": Family("Duration of attempts.", ("ok",), ATTEMPT_SECONDS),
    "time_to_first_output_seconds": Family(
        "Time to the first output of streams.", (), ATTEMPT_SECONDS
    ),
    "tokens": Family(
        "Tokens of attempts, as the provider counted them; cache tokens are part of the input.",
        ("kind",),
    ),
    "retries": Family(
        "Retries scheduled, by the verdict of the attempt before.", ("reason", "free")
    ),
    "retries_refused": Family("Retries refused.", ("gate",)),
    "hedges": Family("Hedged attempts sent."),
    "hedges_refused": Family("Hedged attempts refused.", ("gate",)),
    "fallbacks": Family("Calls that fell back.", ("to", "reason")),
    "fallbacks_refused": Family("Fallbacks refused.", ("to", "gate")),
    "circuit_transitions": Family("Circuit state changes.", ("from_state", "to_state")),
    "cooldowns": Family("Cooldowns started."),
    "shadow_decisions": Family(
        "Decisions that a shadow policy would have made differently.",
        ("mechanism", "decision"),
    ),
}
"""Metrics by name, without the exporter's prefix and suffix."""

MetricUpdate: TypeAlias = tuple[str, tuple[str, ...], float]
"""The name of a metric, the values of its labels except the target, and the amount."""


def updates_of(event: Event) -> tuple[MetricUpdate, ...]:
    """Return the metric updates of an event; most events have one, some none."""
    update = _UPDATES.get(type(event))
    return () if update is None else update(event)


def _count(name: str, *labels: str) -> tuple[MetricUpdate, ...]:
    return ((name, labels, 1),)


def _bool(fact: bool) -> str:  # noqa: FBT001
    return "true" if fact else "false"


def _returned(event: events.Returned) -> tuple[MetricUpdate, ...]:
    ok = _bool(event.verdict is Verdict.OK)
    return (
        ("attempts", (event.verdict.value,), 1),
        ("attempt_duration_seconds", (ok,), event.took),
        *(() if event.usage is None else _tokens(event.usage)),
    )


def _tokens(usage: Usage) -> Iterator[MetricUpdate]:
    cache = usage.cached_input_tokens, usage.cache_write_tokens
    for kind, count in zip(TOKENS, (usage.input_tokens, usage.output_tokens, *cache), strict=True):
        if count > 0:
            yield "tokens", (kind,), count


def _ended(event: events.CallEnded) -> tuple[MetricUpdate, ...]:
    updates = ("calls", (event.verdict.value,), 1), ("call_wait_seconds", (), event.waited)
    if event.maybe_processed:
        return (*updates, ("attempts_maybe_processed", (), event.maybe_processed))
    return updates


_UPDATES: Mapping[type, Callable[[Any], tuple[MetricUpdate, ...]]] = {
    events.Queued: lambda e: _count("calls_queued", one_of(QUEUE_GATES, e.held_by)),
    events.CallRejected: lambda e: _count("calls_rejected", one_of(POLICIES, e.policy)),
    events.CallEnded: _ended,
    events.CallCancelled: lambda _: _count("calls", Verdict.CANCELLED.value),
    events.Sent: lambda _: _count("attempts_sent"),
    events.Returned: _returned,
    events.Committed: lambda e: (("time_to_first_output_seconds", (), e.took),),
    events.Overtaken: lambda _: _count("attempts_superseded"),
    events.Hedged: lambda _: _count("hedges"),
    events.HedgeRefused: lambda e: _count("hedges_refused", one_of(HEDGE_GATES, e.gate)),
    events.RetryPlanned: lambda e: _count("retries", one_of(VERDICTS, e.verdict), _bool(e.free)),
    events.RetryRefused: lambda e: _count("retries_refused", one_of(RETRY_GATES, e.gate)),
    events.FellBack: lambda e: _count("fallbacks", kind_of(e.to), e.verdict.value),
    events.FallbackRefused: lambda e: _count(
        "fallbacks_refused", kind_of(e.to), one_of(FALLBACK_GATES, e.gate)
    ),
    events.CircuitChanged: lambda e: _count(
        "circuit_transitions", one_of(STATES, e.before), one_of(STATES, e.after)
    ),
    events.CooldownStarted: lambda _: _count("cooldowns"),
    events.WouldHave: lambda e: _count(
        "shadow_decisions", one_of(MECHANISMS, e.mechanism), one_of(SHADOW_DECISIONS, e.what)
    ),
}


def dashboard() -> str:
    """Return the Grafana dashboard as JSON. A test runs its queries against the real metrics."""
    return (files("stormbreak.telemetry") / "grafana.json").read_text("utf-8")
