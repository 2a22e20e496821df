"""The words that every part shares: verdicts and their treatment, targets, calls, outcomes, answers.

Values only. Nothing here decides, waits or talks: `llm` and `http` choose a verdict for what came back,
`core` acts on it, drivers carry it out. All points in time (`*_at`, `until`) are seconds on the driver's
monotonic clock; all spans are seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias


class Verdict(StrEnum):
    """What one attempt, or one call, came to."""

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
    REDIRECTED = "redirected"
    UNREPEATABLE = "unrepeatable"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


VERDICT_OK = Verdict.OK
"""For code on the way of every call: Python finds a name of a module several times faster than a member of an Enum."""


class Tally(Enum):
    """What a verdict tells a circuit breaker."""

    SUCCESS = "success"
    FAILURE = "failure"
    NOTHING = "nothing"


class Treatment(NamedTuple):
    """What the policies do about a verdict."""

    retry: bool
    tally: Tally
    cools: bool  # a time named by the server keeps every call away from the target until then


_FINAL = Treatment(retry=False, tally=Tally.NOTHING, cools=False)
_ILL = Treatment(retry=True, tally=Tally.FAILURE, cools=True)

TREATMENTS: Mapping[Verdict, Treatment] = MappingProxyType(
    {
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
        Verdict.REDIRECTED: _FINAL,
        Verdict.UNREPEATABLE: _ILL._replace(
            retry=False, cools=False
        ),  # failed, and must not be sent again
        Verdict.REJECTED: _FINAL,
        Verdict.CANCELLED: _FINAL,
    }
)
"""The verdict table. A policy may replace single rows (the `article` preset counts 429s as failures)."""


class Priority(IntEnum):
    """Who is served first when a queue stands; lower goes first."""

    INTERACTIVE = 0
    BATCH = 1
    BACKGROUND = 2


class Target(NamedTuple):
    """Where an attempt goes: a provider, a model, and a digest that tells keys apart without naming them.

    What a settings file names has that `name`, too; under another name it is another target. What is no LLM API has a
    name, as its provider, and no model.
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
        """Where it is, whichever key is used there."""
        named = f"{self.name}=" if self.name else ""
        return named + (f"{self.provider}/{self.model}" if self.model else self.provider)

    @property
    def account(self) -> "Target":
        """Whatever its model."""
        return self._replace(model="")


Labels: TypeAlias = tuple[tuple[str, str], ...]
"""Names and what users say under them of their calls, in the order of the names; policies do not look at them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens as the provider counted them, or as many as they can be.

    Some of the input was read from a cache (`cached_input_tokens`), and some of the rest was written to one: in all
    (`cache_write_tokens`), and of these for an hour (`cache_write_1h_tokens`).
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0

    @property
    def total(self) -> int:
        """Prompt and answer together."""
        return self.input_tokens + self.output_tokens


class Call(NamedTuple):
    """What a caller asked for, as far as policies need to know. Times and timeouts are seconds.

    `number` is unique in one engine. Without a `deadline_at` or `patience` the call may take, or wait, for any time.
    """

    number: int
    target: Target
    deadline_at: float | None = None
    patience: float | None = None
    priority: Priority = Priority.INTERACTIVE
    fail_fast: bool = True  # an open circuit rejects at once; otherwise the call waits for it
    span: float | None = None  # the deadline is this long after the first attempt is sent
    max_attempts: int | None = None  # if it is lower than that of the policy
    tenant: str = ""  # on whose behalf: a queue serves tenants in fair shares
    streams: bool = False  # the sender reports the first output of each attempt
    tokens: int = 0  # estimate of what an attempt uses, prompt and answer together
    delivers: bool = False  # the caller reads the answer as a stream
    fallbacks: tuple[Any, ...] = ()  # of `core.fallback.Step`, in the order in which they are tried
    stream_deadline_at: float | None = (
        None  # of a delivery, where `deadline_at` is only that of its first output
    )
    races: bool = False  # its driver can run several attempts at once, for hedges
    labels: Labels = ()
    bound: Usage | None = None  # maximum tokens of one attempt; None: unknown
    operation: str = ""  # for tracing, such as "chat"; empty: unknown
    unbounded: str = ""  # why `bound` is unknown


class Rejection(NamedTuple):
    """Why nothing was sent: the policy that refused, and when to come back (None: no such time)."""

    policy: str
    reason: str
    retry_at: float | None = None


class RateLimitStatus(NamedTuple):
    """What a server said of one limit; None where it said nothing that can be true."""

    limit: float | None = None
    remaining: float | None = None
    reset: float | None = None  # seconds until all of it is there again
    window: float | None = None  # seconds that the limit is for
    flows: bool = True  # comes back evenly until the reset, and not all at once


class RateLimits(NamedTuple):
    """What the headers of one answer said of the limits of requests and of tokens."""

    requests: RateLimitStatus | None = None
    tokens: RateLimitStatus | None = None


class Outcome(NamedTuple):
    """What came of one attempt, as a value; exceptions appear only where a driver meets its user."""

    verdict: Verdict
    value: Any = None
    error: BaseException | None = None
    status: int | None = None
    code: str | None = None  # the provider's own error code or type; never its message
    detail: str | None = (
        None  # our words: "cut after 812 bytes"; never text of a prompt or an answer
    )
    retry_after: float | None = None  # seconds from now, named by the server
    maybe_processed: bool = False  # the server may have done (and billed) the work
    forbidden: bool = False  # the server, or the user, says that it must not be sent again
    own_deadline: bool = False  # ended by our own deadline: no evidence against the target
    committed: bool = False  # output has reached the caller
    rejection: Rejection | None = None
    usage: Usage | None = None  # where the provider said
    rate_limits: RateLimits | None = None  # what the headers reported

    @property
    def used(self) -> int | None:
        """Tokens, prompt and answer together, where the provider said."""
        return None if self.usage is None else self.usage.total


CANCELLED = Outcome(Verdict.CANCELLED)
CANCELLED_AFTER_SEND = Outcome(Verdict.CANCELLED, maybe_processed=True)
"""Cancelled after it was sent."""


TARGET, FALLBACK, CACHE, DEGRADED = "target", "fallback", "cache", "degraded"
"""Sources of an answer: the target that was asked first, another one, an answer of before, or one without a model."""


class CallResult(NamedTuple):
    """How a call ended: its last outcome, and what it took to get there."""

    outcome: Outcome
    attempts: int = 0
    waited: float = 0.0  # seconds spent unserved: queue, cooldown, backoff
    stopped: str | None = None  # the gate that refused a further retry; None after a success
    retry_at: float | None = None  # when it makes sense to come back, where that is known
    history: tuple[Any, ...] = ()  # the last events of this call, oldest first
    queued: float = 0.0  # of `waited`, what was spent in the queue: gates, cooldown, no backoff
    deadline_at: float | None = None  # None also if its `span` had not begun
    unconnected: int = 0  # attempts that never got a connection
    target: Target | None = None  # the last one, where it answered or failed
    source: str = TARGET  # where the answer comes from
    maybe_processed: int = (
        0  # attempts that may have been processed, and billed, besides the answer
    )


class Cost(Protocol):
    """What an answer costs."""

    @property
    def usd(self) -> Decimal | None:
        """In US dollars; None where that is not known."""
        ...


class FixedCost(NamedTuple):
    """What an answer costs, as far as that is known."""

    usd: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A complete, well-formed answer to one call.

    `raw` is the provider's JSON body as it came (bytes of one JSON value); a streamed answer is assembled
    into the body that the same call would have got unstreamed. `waited` is seconds spent unserved. Of the
    `attempts`, so many as `maybe_processed` may have been processed, and billed, besides the answer. `detail` says
    what is odd about the answer, such as "1 of 3 choices" where the server passed over `n`. Neither
    the text nor the body is in the repr: answers end up in logs, and what a provider wrote may repeat a prompt.
    """

    text: str = field(repr=False)
    usage: Usage
    target: Target
    attempts: int
    waited: float
    raw: bytes = field(repr=False)
    status: int = 200
    request_id: str | None = None
    source: str = (
        TARGET  # where it comes from: "target", "fallback" (another target), "cache", "degraded"
    )
    detail: str | None = None
    maybe_processed: int = 0
    costs: Cost = field(default=FixedCost(), repr=False, compare=False)

    @property
    def cost(self) -> Decimal | None:
        """What its own usage costs in US dollars, at the prices of its client; worked out when asked for, and never a guess.

        Nothing for an answer that no target gave. None where the usage is not known, or the price at the target that
        answered: it is not listed, or the list prices (the extra `cost`) are not installed. Other attempts are not in it.
        """
        return self.costs.usd
