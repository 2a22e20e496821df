"""A policy in sentences: what it will do, one sentence or two for each part; and the delays of its backoff.

Each kind of part has a text with a place for every one of its fields; a test sees to it that none is
missing. A place says how its value is said::

    {patience:seconds}            10 minutes            {success_ratio:share}    50 %
    {calls:times call}            10 calls              {failures:several}  throttled and timeout
    {cooldown:either yes|no}      by a bool             {jitter:plain}      as it is
    {spread:moved stretched}      stretched by chance by up to 50 %, not stretched by chance
    {growth:grown}                2 times as long, as long again
    {rules:parts}                 the texts of several
    {fallback:parts none}         the same, or what is said where there are none
    {text:name}                   a text as it is       {longest_answer:bounded}  bounded to 512 tokens
    {budget:part no budget}       the text of that part, or what is said where there is none
    {deadline:seconds|no bound}   likewise after a |, for other values
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
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.policy import Policy
from stormbreak.core.queue import QueuePolicy
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
A call ends after {deadline:seconds|any time at all}, and waits unserved for {patience:seconds|as long as it takes}.
An attempt may take {attempt_timeout:seconds|any time}, and be silent for {idle_timeout:seconds|all of it}; \
a stream after its first output for {stall_timeout:seconds|any time}.
Its priority is {priority:word}, where it names none.
{retry:part}
{retry_budget:part Retries are free.}
{breaker:part There is no circuit breaker.}
The breaker also counts as failures: {failures:several}; and not at all: {ignored:several}.
While the circuit is open, calls {fail_fast:either fail at once|wait for it}.
A time that the server names keeps {cooldown:either every call away|only that call away}.
{limit:part}
429s that pile up {adaptive_rate:either teach a send rate|teach no send rate}.
{rate_limit:part}
Of quotas and a fixed limit, this process may use {process_share:share}.
{spend:part}
{queue:part}
{hedge:part No attempt gets another beside it.}
{fallback:parts There is no fallback.}
{cache:part}
{shadow:part Nothing decides in the shadow.}""",
        RetryPolicy: """\
A call is sent {max_attempts:times time} at most, with at least {min_time_left:seconds} left for a further attempt.
{backoff:part}
A wait that the server names is {retry_after_jitter:moved stretched}; beyond {max_wait:seconds} it ends the call.
After these statuses the delay is one step ahead: {longer_backoff_on:several}.""",
        "constant": "Retries come after {initial_delay:seconds} each.",
        "linear": "Retries come after {initial_delay:seconds}, and so much more each time, at most {max_delay:seconds}.",
        "exponential": "Retries come after {initial_delay:seconds}, then {factor:plain} times the delay before, at most {max_delay:seconds}.",
        "proportional_jitter": """\
Retries come after {initial_delay:seconds}, then {factor:plain} times the delay before, at most {max_delay:seconds}; \
{jitter:moved moved}, never below {min_delay:seconds}.""",
        "full_jitter": """\
Retries come after anything up to {initial_delay:seconds}, then up to {factor:plain} times as much each time, at most {max_delay:seconds}.""",
        "equal_jitter": """\
Retries come after {initial_delay:seconds}, then {factor:plain} times as much each time, at most {max_delay:seconds}; \
of that half for certain, the other half by chance.""",
        "decorrelated_jitter": """\
Retries come after anything from {initial_delay:seconds} to {factor:plain} times the delay before, at most {max_delay:seconds}.""",
        BudgetPolicy: """\
A call earns {ratio:plain} retries, {capacity:plain} are kept at most, and 63 % of what is unspent is gone after {decay_time:seconds}.
A process with fewer than {low_traffic_calls:times answer} in {low_traffic_window:seconds} has {low_traffic_retries:times free retry} in a row, \
none of them after a timeout.
{no_free_retries:either No retry is free, whatever the evidence|Retries are free while the evidence says that they do no harm}.""",
        BreakerPolicy: """\
The mode of the breaker is {mode:word}.
{trip:part}
It stays open for {open_duration:seconds}, {open_duration_jitter:moved moved}; after each failed trial {open_duration_factor:grown}, \
at most {max_open_duration:seconds}.
A time that a failure named {respect_retry_after:either may keep it open longer|does not keep it open}.
Then {probes:times probe}, {max_concurrent_probes:plain} at the same time, decide; each keeps its place for {probe_lease:seconds}.
It closes when {success_ratio:share} of them succeed, and {reopen_on_any_failure:either one failure|a failure too many} opens it again, \
as does a trial undecided after {max_half_open_duration:seconds|no time at all}.""",
        ConsecutiveFailures: "The circuit opens after {failure_threshold:times failure} in a row.",
        DeadTarget: "The circuit opens when nothing has been answered for longer than chance explains.",
        FailureRate: """\
The circuit opens when {ratio:share} of at least {min_calls:times outcome} {window_seconds:within|}{window_calls:latest|} are failures.""",
        SlowRate: """\
The circuit opens when {ratio:share} of at least {min_calls:times outcome} {window_seconds:within|}{window_calls:latest|} \
took {slow_call_threshold:seconds} or more.""",
        AnyRule: "Each of these rules may open the circuit:\n{rules:parts}",
        FixedLimit: "At most {max_in_flight:times attempt} to one target may be in flight.",
        AimdLimit: """\
In flight to one target may be {initial_in_flight:times attempt}, {increase:plain} more per round trip while that is reached, {max_in_flight:plain} at most.
A sign of congestion leaves {decrease_factor:share} of it, at least {min_in_flight:plain}; an answer is late after {slow_call_threshold:seconds|no time}.""",
        AutomaticLimit: """\
Up to {max_in_flight:times attempt} to one target may be in flight; under congestion {headroom_factor:plain} times what was just served, and {headroom:plain}.""",
        RateLimitPolicy: """\
Per minute {rpm:times request|any number of requests} and {tpm:times token|any number of tokens} may go to one target; \
where a number bounds them, that of {burst_seconds:seconds} may go at once.
What the headers of answers say of limits is {learn_from_headers:either obeyed|not heard}.""",
        SpendPolicy: """\
All attempts together may cost {max_usd:times US dollar|any sum} within {period:seconds|the life of the process}.
Under a limit, a request that does not bound its answer is {max_output_tokens:bounded|refused}.""",
        QueuePolicy: """\
At most {max_size:times call} wait for one target; a pause of more than {max_pause:seconds} rejects.
Each priority that waits gets {min_share:share} of what is served. Turns of tenants, where not 1: {tenant_weights:weights}.""",
        HedgePolicy: """\
An attempt that takes longer than {delay:seconds|no fixed time}, and than {percentile:share|no part} of the recent ones, gets another \
beside it, {max_hedges:times time} at most; the budget pays.""",
        ToTargets: """\
A call that ends as {on:several}, or would wait for more than {max_wait:seconds|any time at all}, goes to these targets, {order:word}:
{targets:parts}""",
        Place: """\
- {provider:name|the same provider}, {base_url:name|at its address}, with the key of {api_key_env:name|its own}, \
{model:name|the same model}, by the model of the call: {models:names}, weight {weight:plain};""",
        ToCache: """\
A call that ends as {on:several}, or would wait for more than {max_wait:seconds|any time at all}, gets the answer that the same \
request got before, where there is one.""",
        ToDegraded: """\
A call that ends as {on:several}, or would wait for more than {max_wait:seconds|any time at all}, gets as its answer: \
{text:name|what the program makes}.""",
        CachePolicy: """\
For a rule that gives answers of before, they are kept {path:name|in memory} for {max_age:seconds}, with {max_bytes:plain} bytes at most.""",
        ShadowPolicy: """\
In the shadow, reported and not obeyed:
{retry:part No retries are decided.}
{retry_budget:part Retries are free.}
{breaker:part There is no circuit breaker.}
{limit:part There is no limit.}
429s that pile up {adaptive_rate:either teach a send rate|teach no send rate}.
{rate_limit:part There are no quotas.}
Counted as failures, too: {failures:several|what is counted in force}; and not at all: {ignored:several|what is not in force}.
While the circuit is open, calls {fail_fast:either would fail at once|would wait for it, or do as in force}.""",
    }
)
"""By type of part, for a backoff by its kind. Lines are statements."""


# ---------------------------------------------------------------- formats of numbers

_SPANS = (("hour", 3600.0), ("minute", 60.0))


def seconds(span: float) -> str:
    """Say a span in the largest unit that divides it: 600 is "10 minutes", 90 is "90 s"."""
    for name, length in _SPANS:
        count = span / length
        if count >= 1 and count == int(count):
            return times(int(count), name)
    return f"{span:g} s"


def share(part: float) -> str:
    """Say a part of one in per cent."""
    return f"{100 * part:g} %"


def moved(part: float, how: str) -> str:
    """Say by how much chance moves something, `how` it does."""
    return f"{how} by chance by up to {share(part)}" if part else f"not {how} by chance"


def grown(factor: float) -> str:
    """Say how long the next one is."""
    return "as long again" if factor == 1 else f"{factor:g} times as long"


def times(count: float, name: str) -> str:
    """Say how many: "1 minute", "3 minutes"."""
    if count == 1:
        return f"1 {name}"
    number = plain(count)
    return f"{number} {name[:-1]}ies" if name.endswith("ry") else f"{number} {name}s"


def plain(number: float) -> str:
    """Say a number: "268,435,456" if it is whole, "0.1" if not."""
    return f"{int(number):,}" if number == int(number) else f"{number:g}"


def several(items: Iterable[object]) -> str:
    """List them: "504", "throttled and timeout", "none"."""
    words = [word_of(item) if isinstance(item, Enum) else str(item) for item in items]
    *others, last = words or ["none"]
    return f"{', '.join(others)} and {last}" if others else last


# ---------------------------------------------------------------- policy as text


def account(policy: Policy) -> Iterator[str]:
    """Tell the policy, a line for each statement."""
    return (line for line in told(policy).splitlines() if line)


def told(part: Any) -> str:
    """Tell one part of it."""
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    text = TEXTS[part.kind if isinstance(part, Backoff) else type(part)]
    return _SentenceFormatter().vformat(text, (), values)


class _SentenceFormatter(Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        spec, _, absent = format_spec.partition("|")
        how, _, what = spec.partition(" ")
        if how == "part":
            return told(value) if is_dataclass(value) else what
        if how == "either":
            return what if value else absent
        if value is None:
            return absent
        said: str = _SAID[how](value, what)
        return said


_SAID: Mapping[str, Any] = MappingProxyType(
    {
        "seconds": lambda value, _: seconds(value),
        "within": lambda value, _: f"within {seconds(value)}",
        "latest": lambda value, _: f"among the last {plain(value)}",
        "share": lambda value, _: share(value),
        "moved": moved,
        "grown": lambda value, _: grown(value),
        "times": times,
        "several": lambda value, _: several(value),
        "word": lambda value, _: word_of(value),
        "bounded": lambda value, _: f"bounded to {times(value, 'token')}",
        "plain": lambda value, _: plain(value),
        "name": lambda value, _: value,
        "parts": lambda value, none: "\n".join(told(part) for part in value) or none,
        "names": lambda value, _: several(f"{there} for {asked}" for asked, there in value.items()),
        "weights": lambda value, _: several(
            f"{tenant} {plain(weight)}" for tenant, weight in value.items()
        ),
    }
)


# ---------------------------------------------------------------- backoff delays
# Where chance decides, the least and the most. A decorrelated delay depends on the one before: the
# least follows from the least, the most from the most.

RETRIES = 4  # the columns of the article's table

ARTICLE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "linear": ("1", "2", "3", "4"),
        "exponential": ("1", "2", "4", "8"),
        "proportional_jitter": ("0.8-1.2", "1.6-2.4", "3.2-4.8", "6.4-9.6"),
        "decorrelated_jitter": ("1-3", "3-9", "1-3", "3-9"),
    }
)
"""What the article says, in seconds. Its table has +-20 %, its code +-30 %; its decorrelated jitter alternates."""


def delays(backoff: Backoff) -> tuple[str, ...]:
    """Seconds before each of the first retries."""
    cells = []
    least = most = 0.0
    for retry in range(1, RETRIES + 1):
        least = backoff.delay(retry, 0.0, least)
        most = backoff.delay(retry, 1.0, most)
        cells.append(f"{least:.4g}" if least == most else f"{least:.4g}-{most:.4g}")
    return tuple(cells)


def table(own: Backoff) -> Iterator[str]:
    """Lines of the table: the policy's own backoff, then every kind with its defaults."""
    heads = tuple(f"retry {retry}" for retry in range(1, RETRIES + 1))
    yield _row("seconds before", heads, "in the article")
    yield _row(f"here: {own.kind}", delays(own), "  ".join(ARTICLE.get(own.kind, ("-",))))
    for kind in get_args(Kind):
        yield _row(kind, delays(Backoff(kind=kind)), "  ".join(ARTICLE.get(kind, ("-",))))


def _row(name: str, cells: Sequence[str], last: str) -> str:
    return "".join([f"{name:<27}", *(f"{cell:<12}" for cell in cells), last])
