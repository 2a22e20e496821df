"""The metrics of events: which metric, with which labels, and how much; and the Grafana dashboard.

All exporters of metrics use this table, so that they report the same. Every metric has the label `target`, and
those that are named here; what they may say is in `labels`. Money is in none.
"""

from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from stormbreak.events import (
    CallCancelled,
    CallEnded,
    CallRejected,
    CircuitChanged,
    Committed,
    CooldownStarted,
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
    WouldHave,
)
from stormbreak.telemetry.labels import (
    DIFFERENCES,
    FALLBACK_GATES,
    HEDGE_GATES,
    MECHANISMS,
    POLICIES,
    QUEUE_GATES,
    RETRY_GATES,
    STATES,
    TOKENS,
    VERDICTS,
    kind_of,
    one_of,
)
from stormbreak.types import Usage, Verdict

ATTEMPTS_TAKE = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds of buckets, in seconds: from an answer that was at hand to a model that thinks."""

CALLS_WAIT = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0, 300.0, 900.0)


class Family(NamedTuple):
    """One metric: a histogram of seconds if it has `buckets`, else a counter."""

    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "calls": Family("Calls that ended, by what they came to.", ("verdict",)),
        "calls_queued": Family("Calls that could not leave at once, by what held them.", ("gate",)),
        "rejected": Family("Calls that were not sent (any more), by who refused.", ("policy",)),
        "call_wait_seconds": Family(
            "What calls spent unserved: queue, cooldown, backoff.", (), CALLS_WAIT
        ),
        "maybe_processed": Family(
            "Attempts that may have been processed, and billed, besides the answer."
        ),
        "attempts_sent": Family("Attempts that left."),
        "attempts": Family("Attempts that ended, by what they came to.", ("verdict",)),
        "tokens": Family(
            "Tokens of attempts, as the provider counted them; those cached or written to a cache are input.",
            ("kind",),
        ),
        "attempts_overtaken": Family("Attempts given up because another was answered first."),
        "attempt_duration_seconds": Family("How long attempts took.", ("ok",), ATTEMPTS_TAKE),
        "first_output_seconds": Family(
            "How long the first output of streams took.", (), ATTEMPTS_TAKE
        ),
        "retries": Family(
            "Further attempts that were allowed, by what the one before came to.",
            ("reason", "free"),
        ),
        "retries_refused": Family("Further attempts that were refused.", ("gate",)),
        "hedges": Family("Attempts sent beside a slow one."),
        "hedges_refused": Family("Slow attempts that got none beside them.", ("gate",)),
        "fallbacks": Family("Calls that went on elsewhere.", ("to", "reason")),
        "fallbacks_refused": Family("Calls that did not go on elsewhere.", ("to", "gate")),
        "circuit_transitions": Family(
            "Circuits that moved from one state to another.", ("before", "after")
        ),
        "cooldowns": Family("Times that a target asked to be left alone."),
        "shadow": Family(
            "What a policy in the shadow would have done.", ("mechanism", "difference")
        ),
    }
)
"""By name, which exporters put their own prefix before and suffix behind."""

MetricUpdate: TypeAlias = tuple[str, tuple[str, ...], float]
"""The name of a metric, the values of its labels but for the target, and how much."""


def measured(event: Event) -> tuple[MetricUpdate, ...]:
    """What an event comes to; most are one, labels come to nothing."""
    measure = _MEASURES.get(type(event))
    return () if measure is None else measure(event)


def _sent(_: Sent) -> tuple[MetricUpdate, ...]:
    return (("attempts_sent", (), 1),)


def _returned(event: Returned) -> tuple[MetricUpdate, ...]:
    ok = "true" if event.verdict is Verdict.OK else "false"
    told = (
        ("attempts", (event.verdict.value,), 1),
        ("attempt_duration_seconds", (ok,), event.took),
    )
    return told if event.usage is None else (*told, *_used(event.usage))


def _used(usage: Usage) -> Iterator[MetricUpdate]:
    cache = usage.cached_input_tokens, usage.cache_write_tokens
    counts = usage.input_tokens, usage.output_tokens, *cache
    for kind, count in zip(TOKENS, counts, strict=True):
        if count > 0:
            yield "tokens", (kind,), count


def _ended(event: CallEnded) -> tuple[MetricUpdate, ...]:
    told = (
        ("calls", (event.verdict.value,), 1),
        ("call_wait_seconds", (), event.waited),
    )
    if event.maybe_processed:
        return (*told, ("maybe_processed", (), event.maybe_processed))
    return told


def _retried(event: RetryPlanned) -> tuple[MetricUpdate, ...]:
    reason = one_of(VERDICTS, event.verdict)
    return (("retries", (reason, "true" if event.free else "false"), 1),)


def _fell_back(event: FellBack) -> tuple[MetricUpdate, ...]:
    return (("fallbacks", (kind_of(event.to), event.verdict.value), 1),)


def _not_fallen_back(event: FallbackRefused) -> tuple[MetricUpdate, ...]:
    gate = one_of(FALLBACK_GATES, event.gate)
    return (("fallbacks_refused", (kind_of(event.to), gate), 1),)


def _moved(event: CircuitChanged) -> tuple[MetricUpdate, ...]:
    states = one_of(STATES, event.before), one_of(STATES, event.after)
    return (("circuit_transitions", states, 1),)


def _differed(event: WouldHave) -> tuple[MetricUpdate, ...]:
    what = one_of(MECHANISMS, event.mechanism), one_of(DIFFERENCES, event.what)
    return (("shadow", what, 1),)


_MEASURES: Mapping[type, Callable[[Any], tuple[MetricUpdate, ...]]] = MappingProxyType(
    {
        Sent: _sent,
        Returned: _returned,
        CallEnded: _ended,
        CallCancelled: lambda _: (("calls", (Verdict.CANCELLED.value,), 1),),
        Queued: lambda event: (("calls_queued", (one_of(QUEUE_GATES, event.held_by),), 1),),
        CallRejected: lambda event: (("rejected", (one_of(POLICIES, event.policy),), 1),),
        Committed: lambda event: (("first_output_seconds", (), event.took),),
        Overtaken: lambda _: (("attempts_overtaken", (), 1),),
        Hedged: lambda _: (("hedges", (), 1),),
        HedgeRefused: lambda event: (("hedges_refused", (one_of(HEDGE_GATES, event.gate),), 1),),
        RetryPlanned: _retried,
        RetryRefused: lambda event: (("retries_refused", (one_of(RETRY_GATES, event.gate),), 1),),
        FellBack: _fell_back,
        FallbackRefused: _not_fallen_back,
        CircuitChanged: _moved,
        CooldownStarted: lambda _: (("cooldowns", (), 1),),
        WouldHave: _differed,
    }
)


# ---------------------------------------------------------------- Grafana dashboard
# A test checks its queries against the real metrics.


def dashboard() -> str:
    """The dashboard as JSON, to be imported into Grafana."""
    return (files("stormbreak.telemetry") / "grafana.json").read_text("utf-8")
