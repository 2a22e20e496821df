"""The words for each part of a policy: see `account` for how a place says its value."""

from collections.abc import Mapping
from types import MappingProxyType

from stormbreak.core.aimd import AimdLimit
from stormbreak.core.automatic import AutomaticLimit
from stormbreak.core.backoff import (
    Constant,
    DecorrelatedJitter,
    EqualJitter,
    Exponential,
    FullJitter,
    Linear,
    ProportionalJitter,
)
from stormbreak.core.budget import BudgetPolicy
from stormbreak.core.circuit import BreakerPolicy
from stormbreak.core.concurrency import FixedLimit
from stormbreak.core.fallback import CachePolicy, Place, ToCache, ToDegraded, ToTargets
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.policy import Policy
from stormbreak.core.queueing import QueuePolicy
from stormbreak.core.quota import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.shadow import ShadowPolicy
from stormbreak.core.spend import SpendPolicy
from stormbreak.core.trip import (
    AnyRule,
    ConsecutiveFailures,
    DeadTarget,
    FailureRate,
    FailureRateOfLast,
    SlowRate,
    SlowRateOfLast,
)

TEXTS: Mapping[type, str] = MappingProxyType(
    {
        Policy: """\
A call ends after {deadline:seconds|any time at all}, and waits unserved for {patience:seconds|as long as it takes}.
An attempt may take {attempt_timeout:seconds|any time}, and be silent for {idle_timeout:seconds|all of it}; \
a stream after its first output for {stall_timeout:seconds|any time}.
Its priority is {priority:word}, where it names none.
{retry:part}
{budget:part Retries are free.}
{breaker:part There is no circuit breaker.}
The breaker also counts as failures: {failures:several}; and not at all: {uncounted:several}.
While the circuit is open, calls {fail_fast:either fail at once|wait for it}.
A time that the server names keeps {cooldown:either every call away|only that call away}.
{limit:part}
429s that pile up {learn_rate:either teach a send rate|teach no send rate}.
{quota:part}
Of quotas and a fixed limit, this process may use {share:share}.
{spend:part}
{queue:part}
{hedge:part No attempt gets another beside it.}
{fallback:parts There is no fallback.}
{cache:part}
{shadow:part Nothing decides in the shadow.}""",
        RetryPolicy: """\
A call is sent {attempts:times time} at most, with at least {min_time_left:seconds} left for a further attempt.
{backoff:part}
A wait that the server names is {spread:moved stretched}; beyond {longest_wait:seconds} it ends the call.
After these statuses the delay is one step ahead: {one_step_longer:several}.""",
        Constant: "Retries come after {seconds:seconds} each.",
        Linear: "Retries come after {base:seconds}, and so much more each time, at most {cap:seconds}.",
        Exponential: "Retries come after {base:seconds}, then {factor:plain} times the delay before, at most {cap:seconds}.",
        ProportionalJitter: """\
Retries come after {base:seconds}, then {factor:plain} times the delay before, at most {cap:seconds}; \
{share:moved moved}, never below {floor:seconds}.""",
        FullJitter: """\
Retries come after anything up to {base:seconds}, then up to {factor:plain} times as much each time, at most {cap:seconds}.""",
        EqualJitter: """\
Retries come after {base:seconds}, then {factor:plain} times as much each time, at most {cap:seconds}; \
of that half for certain, the other half by chance.""",
        DecorrelatedJitter: """\
Retries come after anything from {base:seconds} to {growth:plain} times the delay before, at most {cap:seconds}.""",
        BudgetPolicy: """\
A call earns {ratio:plain} retries, {cap:plain} are kept at most, and 63 % of what is unspent is gone after {decay:seconds}.
A process with fewer than {lone_calls:times answer} in {lone_seconds:seconds} has {lone_retries:times free retry} in a row, \
none of them after a timeout.
{always_paid:either No retry is free, whatever the evidence|Retries are free while the evidence says that they do no harm}.""",
        BreakerPolicy: """\
The mode of the breaker is {mode:word}.
{trip:part}
It stays open for {open_for:seconds}, {jitter:moved moved}; after each failed trial {growth:grown}, \
at most {longest_open:seconds}.
A time that a failure named {heed_server:either may keep it open longer|does not keep it open}.
Then {probes:times probe}, {at_once:plain} at the same time, decide; each keeps its place for {lease:seconds}.
It closes when {close_at:share} of them succeed, and {any_failure_reopens:either one failure|a failure too many} opens it again, \
as does a trial undecided after {longest_half_open:seconds|no time at all}.""",
        ConsecutiveFailures: "The circuit opens after {threshold:times failure} in a row.",
        DeadTarget: "The circuit opens when nothing has been answered for longer than chance explains.",
        FailureRate: """\
The circuit opens when {share:share} of at least {calls:times outcome} within {seconds:seconds} are failures.""",
        FailureRateOfLast: """\
The circuit opens when {share:share} of the last {last:times outcome}, at least {calls:plain}, are failures.""",
        SlowRate: """\
The circuit opens when {share:share} of at least {calls:times outcome} within {seconds:seconds} took {slower_than:seconds} or more.""",
        SlowRateOfLast: """\
The circuit opens when {share:share} of the last {last:times outcome}, at least {calls:plain}, took {slower_than:seconds} or more.""",
        AnyRule: "Each of these rules may open the circuit:\n{rules:parts}",
        FixedLimit: "At most {in_flight:times attempt} to one target may be in flight.",
        AimdLimit: """\
In flight to one target may be {start:times attempt}, {step:plain} more per round trip while that is reached, {ceiling:plain} at most.
A sign of congestion leaves {share:share} of it, at least {least:plain}; an answer is late after {slow:seconds|no time}.""",
        AutomaticLimit: """\
Up to {ceiling:times attempt} to one target may be in flight; under congestion {gain:plain} times what was just served, and {plus:plain}.""",
        RateLimitPolicy: """\
Per minute {rpm:times request|any number of requests} and {tpm:times token|any number of tokens} may go to one target; \
where a number bounds them, that of {burst:seconds} may go at once.
What the headers of answers say of limits is {learn:either obeyed|not heard}.""",
        SpendPolicy: """\
All attempts together may cost {usd:times US dollar|any sum} within {per:seconds|the life of the process}.
Under a limit, a request that does not bound its answer is {longest_answer:bounded|refused}.""",
        QueuePolicy: """\
At most {size:times call} wait for one target; a pause of more than {longest_pause:seconds} rejects.
Each priority that waits gets {least_share:share} of what is served. Turns of tenants, where not 1: {weights:weights}.""",
        HedgePolicy: """\
An attempt that takes longer than {after:seconds|no fixed time}, and than {percentile:share|no part} of the recent ones, gets another \
beside it, {most:times time} at most; the budget pays.""",
        ToTargets: """\
A call that ends as {on:several}, or would wait for more than {after:seconds|any time at all}, goes to these targets, {choose:word}:
{targets:parts}""",
        Place: """\
- {provider:name|the same provider}, {base_url:name|at its address}, with the key of {api_key_env:name|its own}, \
{model:name|the same model}, by the model of the call: {models:names}, weight {weight:plain};""",
        ToCache: """\
A call that ends as {on:several}, or would wait for more than {after:seconds|any time at all}, gets the answer that the same \
request got before, where there is one.""",
        ToDegraded: """\
A call that ends as {on:several}, or would wait for more than {after:seconds|any time at all}, gets as its answer: \
{text:name|what the program makes}.""",
        CachePolicy: """\
For a rule that gives answers of before, they are kept {path:name|in memory} for {max_age:seconds}, with {max_bytes:plain} bytes at most.""",
        ShadowPolicy: """\
In the shadow, reported and not obeyed:
{retry:part No retries are decided.}
{budget:part Retries are free.}
{breaker:part There is no circuit breaker.}
{limit:part There is no limit.}
429s that pile up {learn_rate:either teach a send rate|teach no send rate}.
{quota:part There are no quotas.}
Counted as failures, too: {failures:several|what is counted in force}; and not at all: {uncounted:several|what is not in force}.
While the circuit is open, calls {fail_fast:either would fail at once|would wait for it, or do as in force}.""",
    }
)
"""By kind of part. Lines are statements."""
