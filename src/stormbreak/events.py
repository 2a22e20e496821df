"""Events as small immutable values: one stream, many listeners.

Events are built only for listeners, or for `explain`. They carry times,
targets, verdicts and reasons; never a key, a prompt or an answer. `call` numbers the calls of one engine.

`at` and `until` are seconds of the engine's clock (monotonic, virtual in a simulation); `after`, `took` and `waited`
are seconds; `attempt` counts from 1 within its call.
"""

from decimal import Decimal
from typing import NamedTuple

from stormbreak.types import Labels, Priority, Target, Usage, Verdict


class Labelled(NamedTuple):
    """A call with labels begins. A call without labels begins without an event."""

    at: float
    call: int
    target: Target
    labels: Labels


class Queued(NamedTuple):
    """A call could not be sent at once; `held_by` names the gate."""

    at: float
    call: int
    target: Target
    held_by: str


class Sent(NamedTuple):
    """An attempt was sent. `bound` is its maximum number of tokens, if known."""

    at: float
    call: int
    target: Target
    attempt: int
    priority: Priority = Priority.INTERACTIVE
    tenant: str = ""
    bound: Usage | None = None


class Returned(NamedTuple):
    """An attempt ended."""

    at: float
    call: int
    target: Target
    attempt: int
    verdict: Verdict
    status: int | None
    code: str | None
    took: float
    detail: str | None = None  # in our words
    usage: Usage | None = None  # if the provider reported it
    maybe_processed: bool = False  # ... and billed, although it failed


class Committed(NamedTuple):
    """The first output of an attempt goes to the caller: from now on there is no retry."""

    at: float
    call: int
    target: Target
    attempt: int
    took: float


class Hedged(NamedTuple):
    """A hedge: another attempt is sent while one is unanswered; `attempt` is its number."""

    at: float
    call: int
    target: Target
    attempt: int
    after: float


class HedgeRefused(NamedTuple):
    """A slow attempt was not hedged: `gate` refused."""

    at: float
    call: int
    target: Target
    attempt: int
    gate: str


class Overtaken(NamedTuple):
    """An attempt was dropped because another was answered first. It may have been processed, and billed."""

    at: float
    call: int
    target: Target
    attempt: int
    took: float


class RetryPlanned(NamedTuple):
    """A retry was allowed; `free` says that it cost no budget.

    `maybe_processed`: the attempt before may have been processed, and billed; `verdict` is its verdict.
    """

    at: float
    call: int
    target: Target
    attempt: int
    until: float
    free: bool
    maybe_processed: bool = False
    verdict: Verdict | None = None


class RetryRefused(NamedTuple):
    """A retry was refused by `gate`; `verdict` is the verdict of the attempt before."""

    at: float
    call: int
    target: Target
    attempt: int
    gate: str
    verdict: Verdict | None = None


class FellBack(NamedTuple):
    """A call falls back: to another target, or to an answer from "cache" or "degraded"."""

    at: float
    call: int
    target: Target
    to: str
    verdict: Verdict
    maybe_processed: bool = False  # as in a retry


class FallbackRefused(NamedTuple):
    """A call did not fall back to `to`: `gate` refused, or nothing was found there."""

    at: float
    call: int
    target: Target
    to: str
    gate: str


class CallRejected(NamedTuple):
    """Nothing (more) was sent: `policy` rejected the call."""

    at: float
    call: int
    target: Target
    policy: str
    reason: str
    retry_at: float | None


class CallEnded(NamedTuple):
    """A call ended; `maybe_processed` is as in `CallResult`, `usage` is that of the answer, from any source."""

    at: float
    call: int
    target: Target
    verdict: Verdict
    attempts: int
    waited: float
    maybe_processed: int = 0
    usage: Usage | None = None


class CallCancelled(NamedTuple):
    """A call was cancelled by its caller, or by a drain; with `sent`, an attempt was in flight."""

    at: float
    call: int
    target: Target
    sent: bool


class CircuitChanged(NamedTuple):
    """A circuit moved from one state to another."""

    at: float
    target: Target
    before: str
    after: str
    until: float | None


class CooldownStarted(NamedTuple):
    """A target's Retry-After starts a cooldown until `until`."""

    at: float
    target: Target
    until: float


class SpendReached(NamedTuple):
    """A percentage of a spend limit is reached; at 100 it holds calls. `target` had the last attempt.

    `of_tenant`: the limit is that of a tenant, which is not named.
    """

    at: float
    target: Target
    percent: int
    spent: Decimal  # US dollars
    limit: Decimal
    until: float | None  # the end of the period
    of_tenant: bool = False


class WouldHave(NamedTuple):
    """What a shadow policy would have done: see `docs/policies.md`."""

    at: float
    target: Target
    mechanism: str
    what: str
    until: float | None


Event = (
    Labelled | Queued | Sent | Returned | Committed | Hedged | HedgeRefused | Overtaken | RetryPlanned
    | RetryRefused | FellBack | FallbackRefused | CallRejected | CallEnded | CallCancelled | CircuitChanged
    | CooldownStarted | SpendReached | WouldHave
)  # fmt: skip
