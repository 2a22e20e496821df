"""Summarise a policy in sentences, one or two for each part; and tabulate the delays of its backoff.

Each kind of part has a template with every one of its fields; a test checks that. A field has a format::

    {patience:seconds}            10 minutes            {success_ratio:share}    50 %
    {calls:times call}            10 calls              {failures:several}       throttled and timeout
    {cooldown:either yes|no}      by a bool             {jitter:plain}           a number
    {spread:jittered}             with up to 50 % of jitter, without jitter
    {growth:grown}                2 times as long, as long as before
    {rules:parts}                 the texts of several parts
    {fallback:parts none}         the same, or this text if there are none
    {text:name}                   a text, unchanged     {longest_answer:bounded}  limited to 512 tokens
    {budget:part no budget}       the text of that part, or this text if there is none
    {deadline:seconds|none}       what follows | stands for None
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from string import Formatter
from types import MappingProxyType
from typing import Any, get_args

from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.backoff import Backoff, Kind
from stormbreak.core.circuit import BreakerPolicy
from stormbreak.core.concurrency_limit import AimdLimit, FixedLimit
from stormbreak.core.fallback import CachePolicy, Place, ToCache, ToDegraded, ToTargets
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.policy import Policy
from stormbreak.core.queue_order import QueuePolicy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.core.shadow import ShadowPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.trip import AnyRule, ConsecutiveFailures, DeadTarget, FailureRate, SlowRate
from stormbreak.toml_values import word_of

# ---------------------------------------------------------------- sentence templates
# The module docstring says how a place formats its value.

TEXTS: Mapping[type | str, str] = MappingProxyType(
    {
        Policy: """\
Deadline of a call: {deadline:seconds|none}. Maximum time in queue, cooldown and backoff: {patience:seconds|none}.
Timeout of an attempt: {attempt_timeout:seconds|none}; without a byte: {idle_timeout:seconds|none}; \
of a stream between two events: {stall_timeout:seconds|none}.
Default priority: {priority:word}.
{retry:part}
{retry_budget:part Retries are free.}
{breaker:part There is no circuit breaker.}
The breaker also counts as failures: {failures:several}; it ignores: {ignored:several}.
While the circuit is open, calls {fail_fast:either fail at once|wait}.
A Retry-After holds {cooldown:either all calls to the target|only the call that got it}.
{limit:part}
Repeated 429s {adaptive_rate:either limit the send rate|do not limit the send rate}.
{rate_limit:part}
This process may use {process_share:share} of rate limits and of a fixed concurrency limit.
{spend:part}
{fleet:part}
{queue:part}
{hedge:part There are no hedges.}
{fallback:parts There is no fallback.}
{cache:part}
{shadow:part There is no shadow policy.}""",
        RetryPolicy: """\
At most {max_attempts:times attempt} per call; a retry needs at least {min_time_left:seconds} before the deadline.
{backoff:part}
A Retry-After is followed {retry_after_jitter:jittered}; one of more than {max_wait:seconds} ends the call.
The delay is one step longer after these statuses: {longer_backoff_on:several}.""",
        "constant": "Delay before each retry: {initial_delay:seconds}.",
        "linear": "Delay before a retry: {initial_delay:seconds} times the number of the retry, at most {max_delay:seconds}.",
        "exponential": "Delay before the first retry: {initial_delay:seconds}, then {factor:plain} times the delay before, at most {max_delay:seconds}.",
        "proportional_jitter": """\
Delay before the first retry: {initial_delay:seconds}, then {factor:plain} times the delay before, at most {max_delay:seconds}; \
{jitter:jittered}, at least {min_delay:seconds}.""",
        "full_jitter": """\
Delay before the first retry: random up to {initial_delay:seconds}, then up to {factor:plain} times as much each time, at most {max_delay:seconds}.""",
        "equal_jitter": """\
Delay before the first retry: {initial_delay:seconds}, then {factor:plain} times as much each time, at most {max_delay:seconds}; \
half of it is fixed, the other half random.""",
        "decorrelated_jitter": """\
Delay before a retry: random from {initial_delay:seconds} to {factor:plain} times the delay before, at most {max_delay:seconds}.""",
        BudgetPolicy: """\
A call earns {ratio:plain} retries; at most {capacity:plain} are kept, and unspent ones decay by 63 % in {decay_time:seconds}.
A process with fewer than {low_traffic_calls:times answer} in {low_traffic_window:seconds} has {low_traffic_retries:times free retry} in a row, \
but not after a timeout.
{no_free_retries:either Every retry costs budget|A retry is free if the evidence shows that it does no harm}.""",
        BreakerPolicy: """\
Mode of the circuit breaker: {mode:word}.
{trip:part}
It stays open for {open_duration:seconds}, {open_duration_jitter:jittered}; after each failed trial {open_duration_factor:grown}, \
at most {max_open_duration:seconds}.
A Retry-After of a failure {respect_retry_after:either can keep it open longer|does not keep it open longer}.
Then it sends {probes:times probe}, at most {max_concurrent_probes:plain} at once; an unanswered probe blocks its place for {probe_lease:seconds}.
It closes if {success_ratio:share} of the probes succeed; it reopens after {reopen_on_any_failure:either one failure|too many failures}, \
or without a decision after {max_half_open_duration:seconds|any time}.""",
        ConsecutiveFailures: "The circuit opens after {failure_threshold:times failure} in a row.",
        DeadTarget: "The circuit opens when the target answers nothing for longer than chance explains.",
        FailureRate: """\
The circuit opens when {ratio:share} of at least {min_calls:times outcome} {window_seconds:within|}{window_calls:latest|} are failures.""",
        SlowRate: """\
The circuit opens when {ratio:share} of at least {min_calls:times outcome} {window_seconds:within|}{window_calls:latest|} \
took {slow_call_threshold:seconds} or more.""",
        AnyRule: "Each of these rules can open the circuit:\n{rules:parts}",
        FixedLimit: "Maximum attempts in flight to one target: {max_in_flight:plain}.",
        AimdLimit: """\
Maximum attempts in flight to one target: {initial_in_flight:plain}, {increase:plain} more per round trip while all are in use, up to {max_in_flight:plain}.
Congestion reduces it to {decrease_factor:share}, at least {min_in_flight:plain}; an answer is late after {slow_call_threshold:seconds|any time}.""",
        AutomaticLimit: """\
Maximum attempts in flight to one target: {max_in_flight:plain}; under congestion {headroom_factor:plain} times the recent throughput, plus {headroom:plain}.""",
        RateLimitPolicy: """\
Rate limit of a target per minute: {rpm:times request|any number of requests} and {tpm:times token|any number of tokens}; \
a burst may use those of {burst_seconds:seconds} at once.
Rate-limit headers are {learn_from_headers:either respected|ignored}.""",
        SpendPolicy: """\
Spend limit of all attempts: {max_usd:times US dollar|none} in {period:seconds|the life of the process}.
Under a spend limit, a request without an output limit is {max_output_tokens:bounded|rejected}.""",
        FleetPolicy: """\
Limits are shared with other processes of the fleet {name:name} through a store: {url:name|none}; spend limits are {spend:either shared|not shared}.
While the store does not answer: the {fallback:name} of each process of each limit; {on_store_loss:name} calls that need more money.""",
        QueuePolicy: """\
At most {max_size:times call} wait for one target; a pause of more than {max_pause:seconds} rejects calls.
Each waiting priority gets at least {min_share:share} of the service. Weights of tenants, if not 1: {tenant_weights:weights}.""",
        HedgePolicy: """\
An attempt that takes longer than {delay:seconds|any fixed time}, and than {percentile:share|none} of recent attempts, is hedged, \
at most {max_hedges:times time}; hedges cost budget.""",
        ToTargets: """\
A call that ends as {on:several}, or would wait more than {max_wait:seconds|any time}, falls back to these targets, {order:word}:
{targets:parts}""",
        Place: """\
- {provider:name|the same provider}, {base_url:name|at its address}, with the key in {api_key_env:name|its own variable}, \
{model:name|the same model}; models by the model of the call: {models:names}; weight {weight:plain};""",
        ToCache: """\
A call that ends as {on:several}, or would wait more than {max_wait:seconds|any time}, gets the cached answer to the same \
request, if there is one.""",
        ToDegraded: """\
A call that ends as {on:several}, or would wait more than {max_wait:seconds|any time}, gets this answer: \
{text:name|made by the program}.""",
        CachePolicy: """\
Answers for fallbacks to the cache are kept {path:name|in memory} for {max_age:seconds}, at most {max_bytes:plain} bytes.""",
        ShadowPolicy: """\
The shadow policy is reported and not applied:
{retry:part It decides no retries.}
{retry_budget:part Retries are free.}
{breaker:part There is no circuit breaker.}
{limit:part There is no concurrency limit.}
Repeated 429s {adaptive_rate:either limit the send rate|do not limit the send rate}.
{rate_limit:part There are no rate limits.}
Its breaker also counts as failures: {failures:several|those of the policy}; it ignores: {ignored:several|those of the policy}.
While its circuit is open, calls {fail_fast:either would fail at once|would wait, or do as in the policy}.""",
    }
)
"""Templates by type of part; of a backoff, by its kind. Each line is a statement."""


# ---------------------------------------------------------------- formats of numbers

_SPANS = (("hour", 3600.0), ("minute", 60.0))


def seconds(span: float) -> str:
    """Format a duration in the largest unit that divides it: 600 is "10 minutes", 90 is "90 s"."""
    for name, length in _SPANS:
        count = span / length
        if count >= 1 and count == int(count):
            return times(int(count), name)
    return f"{span:g} s"


def share(part: float) -> str:
    """Format a share as a percentage."""
    return f"{100 * part:g} %"


def jittered(part: float) -> str:
    """Format an amount of jitter: "with up to 30 % of jitter"."""
    return f"with up to {share(part)} of jitter" if part else "without jitter"


def grown(factor: float) -> str:
    """Format a growth factor of a duration."""
    return "as long as before" if factor == 1 else f"{factor:g} times as long"


def times(count: float, name: str) -> str:
    """Format a count: "1 minute", "3 minutes"."""
    if count == 1:
        return f"1 {name}"
    number = plain(count)
    return f"{number} {name[:-1]}ies" if name.endswith("ry") else f"{number} {name}s"


def plain(number: float) -> str:
    """Format a number: "268,435,456" if it is whole, "0.1" if not."""
    return f"{int(number):,}" if number == int(number) else f"{number:g}"


def several(items: Iterable[object]) -> str:
    """Format a list: "504", "throttled and timeout", "none"."""
    words = [word_of(item) if isinstance(item, Enum) else str(item) for item in items]
    *others, last = words or ["none"]
    return f"{', '.join(others)} and {last}" if others else last


# ---------------------------------------------------------------- policy as text


def summarise(policy: Policy) -> Iterator[str]:
    """Return the statements of a policy, a line each."""
    return (line for line in text_of(policy).splitlines() if line)


def text_of(part: Any) -> str:
    """Return the statements of one part."""
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    text = TEXTS[part.kind if isinstance(part, Backoff) else type(part)]
    return _SentenceFormatter().vformat(text, (), values)


class _SentenceFormatter(Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        spec, _, absent = format_spec.partition("|")
        how, _, argument = spec.partition(" ")
        if how == "part":
            return text_of(value) if is_dataclass(value) else argument
        if how == "either":
            return argument if value else absent
        if value is None:
            return absent
        text: str = FORMATS[how](value, argument)
        return text


FORMATS: Mapping[str, Any] = MappingProxyType(
    {
        "seconds": lambda value, _: seconds(value),
        "within": lambda value, _: f"within {seconds(value)}",
        "latest": lambda value, _: f"among the last {plain(value)}",
        "share": lambda value, _: share(value),
        "jittered": lambda value, _: jittered(value),
        "grown": lambda value, _: grown(value),
        "times": times,
        "several": lambda value, _: several(value),
        "word": lambda value, _: word_of(value),
        "bounded": lambda value, _: f"limited to {times(value, 'token')}",
        "plain": lambda value, _: plain(value),
        "name": lambda value, _: value,
        "parts": lambda value, none: "\n".join(text_of(part) for part in value) or none,
        "names": lambda value, _: several(f"{there} for {model}" for model, there in value.items()),
        "weights": lambda value, _: several(
            f"{tenant} {plain(weight)}" for tenant, weight in value.items()
        ),
    }
)


# ---------------------------------------------------------------- backoff delays
# Of random delays, the range. A decorrelated delay depends on the one before: the minimum follows
# from the minimum, the maximum from the maximum.

RETRIES = 4  # the columns of the article's table

ARTICLE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "linear": ("1", "2", "3", "4"),
        "exponential": ("1", "2", "4", "8"),
        "proportional_jitter": ("0.8-1.2", "1.6-2.4", "3.2-4.8", "6.4-9.6"),
        "decorrelated_jitter": ("1-3", "3-9", "1-3", "3-9"),
    }
)
"""The article's delays in seconds. Its table has +-20 %, its code +-30 %; its decorrelated jitter alternates."""


def delays(backoff: Backoff) -> tuple[str, ...]:
    """Return the seconds before each of the first retries."""
    cells = []
    low = high = 0.0
    for retry in range(1, RETRIES + 1):
        low = backoff.delay(retry, 0.0, low)
        high = backoff.delay(retry, 1.0, high)
        cells.append(f"{low:.4g}" if low == high else f"{low:.4g}-{high:.4g}")
    return tuple(cells)


def table(own: Backoff) -> Iterator[str]:
    """Return the lines of the table: the policy's backoff, then every kind with its defaults."""
    heads = tuple(f"retry {retry}" for retry in range(1, RETRIES + 1))
    yield _row("seconds before", heads, "in the article")
    yield _row(f"here: {own.kind}", delays(own), "  ".join(ARTICLE.get(own.kind, ("-",))))
    for kind in get_args(Kind):
        yield _row(kind, delays(Backoff(kind=kind)), "  ".join(ARTICLE.get(kind, ("-",))))


def _row(name: str, cells: Sequence[str], last: str) -> str:
    return "".join([f"{name:<27}", *(f"{cell:<12}" for cell in cells), last])
