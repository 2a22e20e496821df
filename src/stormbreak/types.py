"""The shared types: verdicts and their treatment, targets, calls, outcomes, answers.

Values only: `llm` and `http` choose the verdict of a response, `core` decides what to do, drivers do it.
All points in time (`*_at`, `until`) are seconds on the driver's monotonic clock; all durations are seconds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from html import escape
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias

import msgspec


class Verdict(StrEnum):
    """The result of one attempt, or of one call."""

    OK = "ok"
    THROTTLED = "throttled"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    BROKEN = "broken"
    RESET = "reset"
    TIMEOUT = "timeout"
    CONNECT_FAILED = "connect_failed"
    BILLING = "billing"
    AUTH = "auth"
    NOT_FOUND = "not_found"
    TOO_LONG = "too_long"
    INVALID = "invalid"
    FILTERED = "filtered"
    SCHEMA_MISMATCH = "schema_mismatch"
    REDIRECTED = "redirected"
    UNREPEATABLE = "unrepeatable"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


VERDICT_OK = Verdict.OK
"""For code that every call runs: Python finds a name of a module several times faster than a member of an Enum."""


class Tally(Enum):
    """The meaning of a verdict for a circuit breaker."""

    SUCCESS = "success"
    FAILURE = "failure"
    NOTHING = "nothing"


class Treatment(NamedTuple):
    """How the policies treat a verdict."""

    retry: bool
    tally: Tally
    cools: bool  # a time named by the server delays every call to the target


_FINAL = Treatment(retry=False, tally=Tally.NOTHING, cools=False)
_ILL = Treatment(retry=True, tally=Tally.FAILURE, cools=True)

TREATMENTS: Mapping[Verdict, Treatment] = {
    Verdict.OK: Treatment(retry=False, tally=Tally.SUCCESS, cools=False),
    Verdict.THROTTLED: Treatment(retry=True, tally=Tally.NOTHING, cools=True),
    Verdict.OVERLOADED: _ILL,
    Verdict.SERVER_ERROR: _ILL,
    Verdict.BROKEN: _ILL,
    Verdict.RESET: _ILL,
    Verdict.TIMEOUT: _ILL._replace(cools=False),
    Verdict.CONNECT_FAILED: _ILL._replace(cools=False),
    Verdict.BILLING: _FINAL,
    Verdict.AUTH: _FINAL,
    Verdict.NOT_FOUND: _FINAL,
    Verdict.TOO_LONG: _FINAL,
    Verdict.INVALID: _FINAL,
    Verdict.FILTERED: _FINAL,
    Verdict.SCHEMA_MISMATCH: _FINAL._replace(tally=Tally.SUCCESS),  # the target has answered
    Verdict.REDIRECTED: _FINAL,
    Verdict.UNREPEATABLE: _FINAL._replace(tally=Tally.FAILURE),  # must not be retried
    Verdict.REJECTED: _FINAL,
    Verdict.CANCELLED: _FINAL,
}
"""The verdict table. A policy may replace single rows (the `article` preset counts 429s as failures)."""


class Priority(IntEnum):
    """The order of service in a queue; lower is first."""

    INTERACTIVE = 0
    BATCH = 1
    BACKGROUND = 2


class Target(NamedTuple):
    """Where an attempt goes: a provider, a model, and a digest that distinguishes keys.

    A target of a settings file also has its `name` there; a different name makes a different target. A target that is
    not an LLM API has its name as provider, and no model.
    """

    provider: str
    model: str
    key: str = ""
    name: str = ""

    def __str__(self) -> str:
        return self.place + (f"#{self.key}" if self.key else "")

    def __repr__(self) -> str:
        named = f", name={self.name!r}" if self.name else ""
        return f"Target(provider={self.provider!r}, model={self.model!r}, key={self.key!r}{named})"

    @property
    def place(self) -> str:
        """Provider and model, without the key."""
        named = f"{self.name}=" if self.name else ""
        return named + (f"{self.provider}/{self.model}" if self.model else self.provider)

    @property
    def account(self) -> "Target":
        """Provider and key, without the model."""
        return self._replace(model="")


Labels: TypeAlias = tuple[tuple[str, str], ...]
"""The user's labels of calls, sorted by name; policies ignore them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one attempt, as counted by the provider, or their upper bounds.

    `input_tokens` is the whole prompt, `output_tokens` the answer with its reasoning. Cached input was read from a cache;
    part of the rest was written to one (`cache_write_tokens`), some of that for an hour (`cache_write_1h_tokens`).
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0

    @property
    def total(self) -> int:
        return self.input_tokens + self.output_tokens


class Call(NamedTuple):
    """A call, as far as policies need it. Times and timeouts are seconds.

    `number` is unique in one engine. Without a `deadline_at` or `patience` the call may take, or wait, for any time.
    """

    number: int
    target: Target
    deadline_at: float | None = None
    patience: float | None = None
    priority: Priority = Priority.INTERACTIVE
    fail_fast: bool = True  # an open circuit rejects at once; otherwise the call waits
    span: float | None = None  # the deadline is this long after the first attempt is sent
    max_attempts: int | None = None  # if it is lower than that of the policy
    tenant: str = ""  # the tenant of the call: a queue serves tenants in fair shares
    streams: bool = False  # the sender reports the first output of each attempt
    tokens: int = 0  # estimated usage of an attempt, prompt and answer together
    delivers: bool = False  # the caller reads the answer as a stream
    fallbacks: tuple[Any, ...] = ()  # of `core.fallback_policy.Step`, in their order
    stream_deadline_at: float | None = None  # of a stream; `deadline_at` bounds its first output
    races: bool = False  # its driver can run several attempts at once, for hedges
    labels: Labels = ()
    bound: Usage | None = None  # maximum tokens of one attempt; None: unknown
    operation: str = ""  # for tracing, such as "chat"; empty: unknown
    unbounded: str = ""  # why `bound` is unknown


class Rejection(NamedTuple):
    """Why nothing was sent: the policy, and when to retry (None: unknown)."""

    policy: str
    reason: str
    retry_at: float | None = None

    @property
    def text(self) -> str:
        """The reason as the caller gets it."""
        return self.reason


class TenantRejection(Rejection):
    """Rejected by a limit of a `tenant`, which is never in events."""

    tenant: str = ""

    @property
    def text(self) -> str:
        return f"tenant {self.tenant}: {self.reason}"


class RateLimitStatus(NamedTuple):
    """One limit as a server reported it; None for missing or impossible values."""

    limit: float | None = None
    remaining: float | None = None
    reset: float | None = None  # seconds until all of it is available again
    window: float | None = None  # seconds of the limit's period
    flows: bool = True  # refills evenly until the reset, not all at once


class RateLimits(NamedTuple):
    """The limits of requests and of tokens in the headers of one response."""

    requests: RateLimitStatus | None = None
    tokens: RateLimitStatus | None = None


class Repair(NamedTuple):
    """The next attempt shows the model why its answer does not match the schema: a new request, with its own usage."""

    tokens: int  # as `Call.tokens`
    bound: Usage | None  # as `Call.bound`


class Outcome(NamedTuple):
    """The result of one attempt as a value; only drivers turn it into an exception."""

    verdict: Verdict
    value: Any = None
    error: BaseException | None = None
    status: int | None = None
    code: str | None = None  # the provider's error code or type; never its message
    detail: str | None = None  # our words: "cut after 812 bytes"; no text of a prompt or answer
    retry_after: float | None = None  # seconds from now, named by the server
    maybe_processed: bool = False  # the server may have done (and billed) the work
    forbidden: bool = False  # the server, or the user, forbids a retry
    own_deadline: bool = False  # ended by our deadline: no evidence against the target
    committed: bool = False  # output has reached the caller
    rejection: Rejection | None = None
    usage: Usage | None = None  # if the provider reported it
    rate_limits: RateLimits | None = None  # limits from the headers
    repair: Repair | None = None  # of an answer that does not match its schema, if one is left

    @property
    def used(self) -> int | None:
        """Tokens, prompt and answer together, if the provider reported it."""
        return None if self.usage is None else self.usage.total


CANCELLED = Outcome(Verdict.CANCELLED)
CANCELLED_AFTER_SEND = Outcome(Verdict.CANCELLED, maybe_processed=True)
"""Cancelled after it was sent."""


TARGET, FALLBACK, CACHE, DEGRADED = "target", "fallback", "cache", "degraded"
"""Sources of an answer: the first target, another target, a cached answer, or a degraded one."""


class CallResult(NamedTuple):
    """The result of a call: its last outcome, attempts and waits."""

    outcome: Outcome
    attempts: int = 0
    waited: float = 0.0  # seconds spent unserved: queue, cooldown, backoff
    stopped: str | None = None  # the gate that refused a further retry; None after a success
    retry_at: float | None = None  # when a retry makes sense, if known
    history: tuple[Any, ...] = ()  # the last events of this call, oldest first
    queued: float = 0.0  # of `waited`, the part in the queue, cooldown included, without backoff
    deadline_at: float | None = None  # also None if its `span` had not begun
    unconnected: int = 0  # attempts that never got a connection
    target: Target | None = None  # the last target that answered or failed
    source: str = TARGET  # source of the answer
    maybe_processed: int = 0  # attempts that may have been processed and billed besides the answer
    of_tenant: bool = False  # `stopped` by a limit of its tenant


class Cost(msgspec.Struct, eq=False):  # its constructor is not written in Python
    """The cost of an answer; `find` computes it on demand."""

    _find: Callable[[], Decimal | None] = lambda: None

    @property
    def usd(self) -> Decimal | None:
        """In US dollars; None if unknown."""
        return self._find()

    def __deepcopy__(self, _: object) -> Self:
        return self  # it never changes, and prices may not be copyable

    def __reduce__(self) -> tuple[Any, ...]:
        return _known_cost, (self.usd,)


def _known_cost(usd: Decimal | None) -> Cost:
    return Cost(lambda: usd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A complete, well-formed answer to one call.

    `text` is that of the first choice, empty for embeddings and tool calls. `raw` is the provider's JSON body,
    unchanged; a streamed answer is assembled into the body of the same call without streaming. `parsed` is the answer
    to a call with a `schema`. `usage` is zero if the provider reports none. `detail` names anything unusual, such as "1
    of 3 choices" if the server ignored `n`. The other fields are as in `CallResult`.

    The repr has neither text nor body: answers end up in logs, and an answer may repeat a prompt. A notebook keeps what
    it shows in its file: it shows the text only after `Answer.show_in_notebooks = True`.
    """

    show_in_notebooks: ClassVar[bool] = False

    text: str = field(repr=False)
    usage: Usage
    target: Target
    attempts: int
    waited: float
    raw: bytes = field(repr=False)
    status: int = 200
    request_id: str | None = None
    source: str = TARGET  # source: "target", "fallback" (another target), "cache", "degraded"
    detail: str | None = None
    maybe_processed: int = 0
    parsed: Any = field(default=None, repr=False)
    costs: Cost = field(default=Cost(), repr=False, compare=False)

    def _repr_html_(self) -> str | None:
        return html_of(self.text)

    @property
    def cost(self) -> Decimal | None:
        """The cost of its usage in US dollars, at the prices of its client; other attempts are not included.

        None if the usage or the price is unknown: the model is not listed, or the extra `cost` is not installed.
        """
        return self.costs.usd


def html_of(text: str) -> str | None:
    """Return the text of an answer for a notebook; None unless `Answer.show_in_notebooks`."""
    if not Answer.show_in_notebooks:
        return None
    return f'<pre style="white-space: pre-wrap">{escape(text)}</pre>'
