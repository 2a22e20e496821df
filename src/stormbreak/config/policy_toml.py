"""Write a policy, or all settings, as TOML: every value, with its unit.

Written by hand: a policy needs four kinds of value and tables, and the units are the reason for the text.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

from stormbreak.config.settings import Settings
from stormbreak.core.policy import Policy
from stormbreak.core.presets import PRESETS
from stormbreak.toml_values import BARE, NONE, join, word_of

# ---------------------------------------------------------------- policy as plain values


def plain(value: Any) -> Any:
    """Tables for parts and mappings, lists for tuples, words for members of an enumeration, "none" for None."""
    if value is None:
        return NONE
    if isinstance(value, Enum):
        return word_of(value)
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if is_dataclass(value):
        used = getattr(value, "fields_by_kind", {}).get(getattr(value, "kind", None))
        names = [field.name for field in fields(value)]
        return {
            name: plain(getattr(value, name))
            for name in names
            if used is None or name in ("kind", *used)
        }
    return value


# ---------------------------------------------------------------- TOML text

_NAMED = re.compile(r"^(targets|pools)\.[^.]+")

UNITS: Mapping[str, str] = MappingProxyType(
    {
        "deadline": "seconds for a call, over all attempts and waits",
        "patience": "seconds a call may spend unserved",
        "attempt_timeout": "seconds for one attempt",
        "idle_timeout": "seconds of silence within one attempt",
        "stall_timeout": "seconds of silence within a stream after its first output",
        "fail_fast": "an open circuit rejects at once",
        "cooldown": "a time named by the server keeps every call away",
        "priority": "who is served first when a queue stands",
        "failures": "verdicts the breaker counts beyond its own",
        "ignored": "verdicts the breaker does not count",
        "retry.max_attempts": "sends, the first included",
        "retry.min_time_left": "seconds that must be left for an attempt",
        "retry.max_wait": "seconds; a longer wait named by the server ends the call",
        "retry.retry_after_jitter": "of a wait named by the server: a fleet spread over so much more",
        "retry.longer_backoff_on": "statuses after which the backoff is one step ahead",
        "retry.backoff.initial_delay": "seconds before the first retry",
        "retry.backoff.max_delay": "seconds at most, before jitter",
        "retry.backoff.factor": "times the delay before",
        "retry.backoff.jitter": "of the delay, up or down",
        "retry.backoff.min_delay": "seconds at least",
        "retry_budget.ratio": "retries that a call earns",
        "retry_budget.capacity": "retries at most",
        "retry_budget.decay_time": "seconds until 63 % of what was earned is gone",
        "retry_budget.low_traffic_calls": "answers; a process with fewer has hardly any traffic",
        "retry_budget.low_traffic_window": "seconds in which they are counted",
        "retry_budget.no_free_retries": "no retry is free",
        "retry_budget.low_traffic_retries": "failures in a row with a free retry there",
        "breaker.mode": "what the breaker may do",
        "breaker.open_duration": "seconds",
        "breaker.open_duration_jitter": "of open_duration, up or down",
        "breaker.open_duration_factor": "times the open time before, after a failed trial",
        "breaker.max_open_duration": "seconds that it grows to",
        "breaker.respect_retry_after": "open at least until a time named by the server",
        "breaker.probes": "calls while half-open",
        "breaker.max_concurrent_probes": "of them at the same time",
        "breaker.success_ratio": "share of them that must succeed",
        "breaker.reopen_on_any_failure": "one failed probe is enough",
        "breaker.probe_lease": "seconds a probe keeps its place",
        "breaker.max_half_open_duration": "seconds until an undecided circuit opens again",
        "breaker.trip.failure_threshold": "failures in a row",
        "breaker.trip.ratio": "of the outcomes, failed or slow",
        "breaker.trip.slow_call_threshold": "seconds from which a call is slow",
        "breaker.trip.min_calls": "outcomes at least",
        "breaker.trip.window_seconds": "seconds that are looked back on",
        "breaker.trip.window_calls": "outcomes that are looked back on",
        "breaker.trip.rules": "each may open the circuit",
        "limit.max_in_flight": "attempts at once at most; of an automatic limit, unless more were proven",
        "limit.initial_in_flight": "attempts at once in the beginning",
        "limit.increase": "attempts more per round trip, while the limit is used",
        "limit.decrease_factor": "of the limit that is left after a sign of congestion",
        "limit.min_in_flight": "attempts at once at least",
        "limit.slow_call_threshold": "seconds; an answer that takes longer is a sign of congestion",
        "limit.headroom_factor": "times what was just served at once, under congestion",
        "limit.headroom": "attempts more than that",
        "adaptive_rate": "429s that pile up teach a send rate",
        "rate_limit.rpm": "requests per minute to one target",
        "rate_limit.tpm": "tokens per minute, prompts and answers together",
        "rate_limit.burst_seconds": "seconds of them that may leave at once",
        "rate_limit.learn_from_headers": "what the headers of answers say of limits is obeyed",
        "process_share": "of quotas, and of a fixed limit, that this process may use",
        "spend.max_usd": "US dollars that all attempts may cost",
        "spend.period": "seconds that this is for; none: as long as the process lives",
        "spend.max_output_tokens": "of an answer that its request does not bound; none: it is refused",
        "queue.max_size": "calls that wait for one target",
        "queue.max_pause": "seconds; a longer pause named by the server rejects",
        "queue.min_share": "of what is served, for each priority that waits",
        "hedge.delay": "seconds",
        "hedge.percentile": "share of the recent attempts that were faster",
        "hedge.max_hedges": "of them for one attempt",
        "fallback": "asked in this order",
        "fallback.on": "verdicts that it is for",
        "fallback.max_wait": "seconds that a call waits at most where it is",
        "fallback.text": "the answer",
        "fallback.order": "which of the targets comes first",
        "fallback.targets": "each in turn",
        "fallback.targets.provider": "by name; none: as before",
        "fallback.targets.base_url": "none: the provider's own",
        "fallback.targets.api_key_env": "the variable that holds the key; none: the provider's own",
        "fallback.targets.model": "none: the model that was asked for",
        "fallback.targets.models": "by the model that was asked for; another one: `model`, or not there at all",
        "fallback.targets.weight": "parts, of a weighted choice",
        "cache.path": "the file; none: in memory",
        "cache.max_age": "seconds that an answer is good for",
        "cache.max_bytes": "of all answers together",
        "shadow": "what decides beside this policy, and is not obeyed",
        "queue.tenant_weights": "calls of a tenant for one of a tenant not named here",
    }
)
"""What the number behind a key counts."""

SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "targets.provider": "by name",
        "targets.base_url": "none: the provider's own",
        "targets.api_key_env": "the variable that holds the key; none: the provider's own",
        "targets.model": "of payloads that name none; in a pool of all",
        "pools.targets": "each by its name",
        "pools.targets.target": "its name",
        "targets.policy": "where none is named, that of the file",
        "targets.allow_http": "a key over plain http to another machine",
        "targets.stream_on_wire": "plain chat completions are sent as streams, and assembled",
        "pools.order": "which of the targets comes first",
        "pools.on": "verdicts for which the others are asked",
        "pools.max_wait": "seconds that a call waits at most where it is",
        "pools.targets.weight": "parts, of a weighted choice",
    }
)
"""What stands behind a key of a target or a pool."""


def describe(policy: Policy) -> str:
    """Write the policy as a file that `load_policy` reads back to an equal one (infinite numbers apart)."""
    return "\n".join(_lines(plain(policy), "")) + "\n"


def describe_settings(settings: Settings) -> str:
    """Write all settings as a file that `load_settings` reads back to equal ones."""
    lines = [*_lines(plain(settings.policy), "")]
    for name, target in settings.targets.items():
        table = plain(target)
        policy = table.pop("policy")
        if target.policy != settings.policy:
            word = next((word for word, one in PRESETS.items() if one == target.policy), None)
            table["policy"] = word or policy
        lines += ["", f"[targets.{name}]", *_lines(table, f"targets.{name}")]
    for name, pool in settings.pools.items():
        lines += ["", f"[pools.{name}]", *_lines(plain(pool), f"pools.{name}")]
    return "\n".join(lines) + "\n"


def _lines(table: Mapping[str, Any], path: str) -> Iterator[str]:
    """Values before tables, as TOML wants it; TOML writes numbers, booleans, words and lists as JSON does."""
    below = {key: value for key, value in table.items() if _is_table(value) or _is_tables(value)}
    for key in (key for key in table if key not in below):
        yield f"{_written(key)} = {_value(table[key])}{_unit(join(path, key))}"
    for key, value in below.items():
        name = join(path, key)
        head = f"[{name}]{_unit(name)}" if _is_table(value) else f"[[{name}]]{_unit(name)}"
        for each in [value] if _is_table(value) else value:
            yield f"\n{head}"
            yield from _lines(each, name)


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_table(item) for item in value)


def _unit(path: str) -> str:
    path = _NAMED.sub(r"\1", path)
    if path in SETTINGS:
        return f"  # {SETTINGS[path]}"
    path = path.removeprefix("targets.policy.")
    path = path.removeprefix("shadow.")  # the same parts, decided beside the real ones
    path = path.replace(".rules.", ".")  # a rule counts the same in a list as on its own
    return f"  # {UNITS[path]}" if path in UNITS else ""


def _value(value: object) -> str:
    """As JSON has it, but no character as a surrogate pair, which TOML does not know, and DEL escaped, which it asks for."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _written(key: str) -> str:
    """A key as it must be written; those that are no field's may be anything printable."""
    return key if BARE.fullmatch(key) else json.dumps(key, ensure_ascii=False)
