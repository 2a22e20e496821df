"""Write a policy, or all settings, as TOML: every value, with its unit as a comment."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from stormbreak.config.gateway_settings import GatewaySettings
from stormbreak.config.settings import Settings
from stormbreak.core.policy import Policy
from stormbreak.core.presets import PRESETS
from stormbreak.toml_reader import BARE, NONE, join, word_of


def plain(value: Any) -> Any:
    """Convert parts and mappings to tables, tuples to lists, enumeration members to words, None to "none"."""
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


_NAMED = re.compile(r"^(targets|pools|keys|tenants)\.[^.]+")

UNITS: Mapping[str, str] = {
    "deadline": "seconds for a call, over all attempts and waits",
    "patience": "seconds in queue, cooldown and backoff",
    "attempt_timeout": "seconds for one attempt",
    "idle_timeout": "seconds of silence within one attempt",
    "stall_timeout": "seconds of silence within a stream after its first output",
    "fail_fast": "an open circuit rejects at once",
    "cooldown": "a Retry-After holds all calls to the target",
    "priority": "order of service in a queue",
    "failures": "further verdicts that the breaker counts as failures",
    "ignored": "verdicts the breaker does not count",
    "retry.max_attempts": "attempts, the first included",
    "retry.min_time_left": "seconds before the deadline that a retry needs",
    "retry.max_wait": "seconds; a longer Retry-After ends the call",
    "retry.retry_after_jitter": "share of a Retry-After that is added at random",
    "retry.longer_backoff_on": "statuses after which the delay is one step longer",
    "retry.backoff.initial_delay": "seconds before the first retry",
    "retry.backoff.max_delay": "seconds at most, before jitter",
    "retry.backoff.factor": "times the delay before",
    "retry.backoff.jitter": "share of the delay, plus or minus",
    "retry.backoff.min_delay": "seconds at least",
    "retry_budget.ratio": "retries that a call earns",
    "retry_budget.capacity": "retries at most",
    "retry_budget.decay_time": "seconds in which 63 % of unspent retries decay",
    "retry_budget.low_traffic_calls": "answers; a process with fewer has low traffic",
    "retry_budget.low_traffic_window": "seconds in which they are counted",
    "retry_budget.no_free_retries": "no retry is free",
    "retry_budget.low_traffic_retries": "free retries in a row under low traffic",
    "breaker.mode": "mode of the breaker",
    "breaker.open_duration": "seconds",
    "breaker.open_duration_jitter": "share of open_duration, plus or minus",
    "breaker.open_duration_factor": "times the open time before, after a failed trial",
    "breaker.max_open_duration": "seconds after failed trials at most; never less than open_duration",
    "breaker.respect_retry_after": "open at least as long as a Retry-After",
    "breaker.probes": "calls while half-open",
    "breaker.max_concurrent_probes": "probes at once",
    "breaker.success_ratio": "share of the probes that must succeed",
    "breaker.reopen_on_any_failure": "one failed probe reopens",
    "breaker.probe_lease": "seconds a probe keeps its place",
    "breaker.max_half_open_duration": "seconds until an undecided circuit opens again",
    "breaker.trip.failure_threshold": "failures in a row",
    "breaker.trip.ratio": "of the outcomes, failed or slow",
    "breaker.trip.slow_call_threshold": "seconds from which a call is slow",
    "breaker.trip.min_calls": "minimum number of outcomes",
    "breaker.trip.window_seconds": "seconds of the window",
    "breaker.trip.window_calls": "outcomes in the window",
    "breaker.trip.rules": "each can open the circuit",
    "limit.max_in_flight": "attempts at once; `automatic` may exceed it once the target has served as many",
    "limit.initial_in_flight": "attempts at the start",
    "limit.increase": "attempts per round trip while the limit is in use",
    "limit.decrease_factor": "share of the limit kept after congestion",
    "limit.min_in_flight": "minimum attempts",
    "limit.slow_call_threshold": "seconds; an answer that takes longer is a sign of congestion",
    "limit.headroom_factor": "times the recent throughput, under congestion",
    "limit.headroom": "attempts on top",
    "adaptive_rate": "repeated 429s limit the send rate",
    "rate_limit.rpm": "requests per minute to one target",
    "rate_limit.tpm": "tokens per minute, prompts and answers together",
    "rate_limit.burst_seconds": "seconds of the rate in one burst",
    "rate_limit.learn_from_headers": "respect rate-limit headers",
    "process_share": "share of rate limits and of a fixed concurrency limit",
    "spend.max_usd": "US dollars for all attempts",
    "spend.period": "seconds, hour, day or month (UTC); none: the life of the process",
    "spend.max_output_tokens": "for requests without an output limit; none: reject them",
    "fleet.url": "the store; none: nothing is shared with other processes",
    "fleet.name": "processes with the same store and name share",
    "fleet.fallback": "of each limit, while the store does not answer",
    "fleet.on_store_loss": "calls that need more money than is granted",
    "fleet.spend": "also share spend limits",
    "queue.max_size": "calls that wait for one target",
    "queue.max_pause": "seconds; a longer cooldown rejects",
    "queue.min_share": "minimum share of service for each waiting priority",
    "hedge.delay": "seconds",
    "hedge.percentile": "share of recent attempts that were faster",
    "hedge.max_hedges": "hedges of one attempt",
    "fallback": "tried in this order",
    "fallback.on": "verdicts that trigger it",
    "fallback.max_wait": "maximum seconds of wait before the fallback",
    "fallback.text": "the answer",
    "fallback.order": "which target is first",
    "fallback.targets": "each in turn",
    "fallback.targets.provider": "by name; none: unchanged",
    "fallback.targets.base_url": "none: the provider's own",
    "fallback.targets.api_key_env": "the variable that holds the key; none: the provider's own",
    "fallback.targets.model": "none: the requested model",
    "fallback.targets.models": "by requested model; for others `model`, if any",
    "fallback.targets.weight": "weight in a weighted choice",
    "cache.path": "the file; none: in memory",
    "cache.max_age": "seconds until an answer expires",
    "cache.max_bytes": "of all answers together",
    "shadow": "reported, but not applied",
    "queue.tenant_weights": "weights; tenants that are not listed have 1",
}
"""The unit or meaning of each key."""

SETTINGS: Mapping[str, str] = {
    "targets.provider": "by name",
    "targets.base_url": "none: the provider's own",
    "targets.api_key_env": "the variable that holds the key; none: the provider's own",
    "targets.api_key_file": "the file that holds the key instead",
    "targets.model": "for payloads without a model; in a pool for all",
    "pools.targets": "each by its name",
    "pools.targets.target": "its name",
    "targets.policy": "default: the policy of the file",
    "targets.allow_http": "allow a key over plain http to another machine",
    "targets.stream_on_wire": "plain chat completions are sent as streams, and assembled",
    "pools.order": "which target is first",
    "pools.on": "verdicts after which the other targets are tried",
    "pools.max_wait": "maximum seconds of wait before the fallback",
    "pools.targets.weight": "weight in a weighted choice",
    "gateway.host": "address to listen on",
    "gateway.port": "0: a free one",
    "gateway.admin_host": "address of /live, /ready, /metrics and /state",
    "gateway.admin_port": "0: a free one; none: no admin port",
    "gateway.models": "target or pool, by the name that clients ask for; a * at the end: all that begin so",
    "gateway.on_disconnect": "what happens to the call of a client that disconnects",
    "gateway.waiting_comment": "seconds between comments in a stream without output; none: no comments",
    "gateway.grace": "seconds for answers to end after SIGTERM",
    "gateway.access_log": "a line for each request",
    "gateway.max_connections": "clients at once",
    "gateway.ledger": "file for what keys have spent; none: a restart forgets it",
    "keys.sha256": "digest of the key",
    "keys.models": "names that it may ask for; none: all",
    "keys.priority": "order of service in a queue; none: that of the policy",
    "keys.tenant": "shares are fair between tenants; none: the name of the key",
    "keys.labels": "labels of its calls",
    "keys.deadline": "seconds for a call; none: that of the policy",
    **{
        f"{table}.{name}": meaning
        for table in ("keys", "tenants")
        for name, meaning in {
            "rpm": "requests per minute",
            "tpm": UNITS["rate_limit.tpm"],
            "max_in_flight": "calls at once",
            "spend": "more is rejected",
            **{name: text for name, text in UNITS.items() if name.startswith("spend.")},
        }.items()
    },
}
"""The meaning of each key of a target, a pool, the gateway, a client key or a tenant."""


def describe(policy: Policy) -> str:
    """Write the policy as a file that `load_policy` reads back to an equal one (infinite numbers apart)."""
    return "\n".join(_lines(plain(policy), "")) + "\n"


def describe_settings(settings: Settings) -> str:
    """Write all settings as a file that `load_settings` reads back to equal ones."""
    prices = {"prices": list(settings.prices)} if settings.prices else {}
    lines = [*_lines(prices | plain(settings.policy), "")]
    for name, target in settings.targets.items():
        table = plain(target)
        policy = table.pop("policy")
        if target.policy != settings.policy:
            word = next((word for word, one in PRESETS.items() if one == target.policy), None)
            table["policy"] = word or policy
        lines += ["", f"[targets.{name}]", *_lines(table, f"targets.{name}")]
    tables: dict[str, object] = {f"pools.{name}": pool for name, pool in settings.pools.items()}
    if settings.gateway != GatewaySettings():
        tables["gateway"] = settings.gateway
    tables |= {f"keys.{name}": key for name, key in settings.keys.items()}
    tables |= {f"tenants.{name}": limits for name, limits in settings.tenants.items()}
    for path, value in tables.items():
        lines += ["", f"[{path}]", *_lines(plain(value), path)]
    return "\n".join(lines) + "\n"


def _lines(table: Mapping[str, Any], path: str) -> Iterator[str]:
    """Write values before tables, as TOML requires; numbers, booleans, texts and lists are as in JSON."""
    below = {
        key: value for key, value in table.items() if isinstance(value, dict) or _is_tables(value)
    }
    for key in (key for key in table if key not in below):
        yield f"{_written(key)} = {_value(table[key])}{_unit(join(path, key))}"
    for key, value in below.items():
        name = join(path, key)
        head, tables = (f"[{name}]", [value]) if isinstance(value, dict) else (f"[[{name}]]", value)
        for each in tables:
            yield f"\n{head}{_unit(name)}"
            yield from _lines(each, name)


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _unit(path: str) -> str:
    path = _NAMED.sub(r"\1", path)
    if path in SETTINGS:
        return f"  # {SETTINGS[path]}"
    path = path.removeprefix("targets.policy.")
    path = path.removeprefix("shadow.")  # the same parts
    path = path.replace(".rules.", ".")  # the same in a list of rules
    return f"  # {UNITS[path]}" if path in UNITS else ""


def _value(value: object) -> str:
    """Encode as JSON, but without surrogate pairs, which TOML lacks, and with DEL escaped, as TOML requires."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _written(key: str) -> str:
    """Quote a key if necessary; keys that are not fields may be any printable text."""
    return key if BARE.fullmatch(key) else json.dumps(key, ensure_ascii=False)
